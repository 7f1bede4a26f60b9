"""The consumer that nats-py's own pages show: fetch a batch, acknowledge each message, again.

What enters: stream, durable name, how many messages, how many at once; the broker's URL from the
environment. What leaves: one line of JSON with messages, CPU microseconds a message and the rate.
It runs on uvloop, its best configuration, and counts the loop alone, not its start.
"""

from __future__ import annotations

import json
import os
import sys
import time

import nats
import uvloop


async def consume(stream: str, durable: str, count: int, batch: int) -> dict[str, float]:
    """Take `count` messages and return what they cost."""
    client = await nats.connect(os.environ["BENCH_NATS_URL"])
    taken = 0
    try:
        group = await client.jetstream().pull_subscribe(stream, durable, stream=stream)
        began, cpu = time.monotonic(), time.process_time()
        while taken < count:
            messages = await group.fetch(batch, timeout=5)
            for message in messages:
                await message.ack()
            taken += len(messages)
        await client.flush()
        cpu_us, seconds = (time.process_time() - cpu) * 1e6, time.monotonic() - began
    finally:
        await client.close()
    return {"messages": taken, "cpu_us": cpu_us / taken, "rate": taken / seconds}


if __name__ == "__main__":
    name, group_name, many, at_once = sys.argv[1:]
    print(json.dumps(uvloop.run(consume(name, group_name, int(many), int(at_once)))))
