"""The parts that are counted: each prepares its input and returns a function of a count.

What enters: a part's name and how often to do it, or `--each` and names (as `python -m
benchmarks.micro.parts …`, run under callgrind by the runner). What leaves: the instructions spent
are the result; `--each` says which process spent which.
The core has no door between two steps of a produce, so most parts begin and end at a socket, and
the runner takes differences of parts: see `DERIVED`.
It must never let the collector run: it would land in one count and not in the next.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks.micro.stage import MESSAGE, UNBOUNDED, Stage, build_http
from benchmarks.workloads import BATCH_MESSAGES
from fastgw._core import split_batch

CONNECTIONS: Final = 64
PIPELINED: Final = 100
BATCH: Final = b"[" + b",".join([MESSAGE] * BATCH_MESSAGES) + b"]"
CONSUME: Final = b'{"consumer_name":"bench"}'

Run = Callable[[int], None]


def prepare_http_request() -> Run:
    """Read requests of eight headers up to step 2; an OPTIONS needs no more."""
    stage = Stage(pipelined_max=UNBOUNDED)
    data = build_http("/stations/bench/produce/single", method="OPTIONS")

    def run(count: int) -> None:
        for _ in range(count):
            connection = stage.connect()
            for _ in range(PIPELINED):
                connection.data_received(data)
            connection.connection_lost(None)
            stage.loop.run_turn()
        stage.check(count * PIPELINED)

    return run


def prepare_http_answer() -> Run:
    """Read the same requests, and answer each in a turn of its own."""
    stage = Stage()
    data = build_http("/stations/bench/produce/single", method="OPTIONS")

    def run(count: int) -> None:
        for _ in range(count):
            connection = stage.connect()
            for _ in range(PIPELINED):
                connection.data_received(data)
                stage.loop.run_turn()
            connection.connection_lost(None)
        stage.check(count * PIPELINED)

    return run


def prepare_authorize() -> Run:
    """Find the principal of a cached credential (its bytes are hashed only the first time)."""
    stage = Stage()
    stage.connect().data_received(build_http("/elsewhere"))
    request = stage.dispatched.pop()
    find = stage.ingress.find_principal

    def run(count: int) -> None:
        for _ in range(count):
            for _ in range(100):
                find(request)

    return run


def prepare_batch_split() -> Run:
    """Split a batch into messages; this face also makes an object of each."""

    def run(count: int) -> None:
        for _ in range(count):
            split_batch(BATCH)

    return run


def _prepare_batch(path: str, with_acks: bool) -> Run:
    in_flight = BATCH_MESSAGES if with_acks else 65_536
    stage = Stage(publishes_in_flight_max=in_flight, pipelined_max=UNBOUNDED)
    if "typed" in path:
        stage.put_typed_station()
    data, connection = build_http(path, BATCH), stage.connect()
    acks = stage.build_acks(path.split("/")[2], BATCH_MESSAGES)

    def run(count: int) -> None:
        for _ in range(count):
            connection.data_received(data)
            stage.loop.run_turn()
            if with_acks:
                stage.link.data_received(acks)
                stage.loop.run_turn()
        stage.check(count, in_flight=0 if with_acks else count * BATCH_MESSAGES)

    return run


def prepare_batch_frames() -> Run:
    """Read batches and write their frames; no ack comes."""
    return _prepare_batch("/stations/plain/produce/batch", with_acks=False)


def prepare_batch_whole() -> Run:
    """Read batches, write their frames, read the acks, answer."""
    return _prepare_batch("/stations/plain/produce/batch", with_acks=True)


def prepare_batch_frames_headers() -> Run:
    """Read batches and write their frames with forwarded headers; no ack comes."""
    return _prepare_batch("/stations/bench/produce/batch", with_acks=False)


def _prepare_single(path: str, heads_count: int = 1) -> Run:
    stage = Stage()
    if "typed" in path:
        stage.put_typed_station()
    ids = [f"72d3162e-cc78-11e3-81ab-{n:012x}" for n in range(heads_count)]
    heads = (
        [build_http(path, request_id=one) for one in ids] if heads_count > 1 else [build_http(path)]
    )
    receive = [stage.connect().data_received for _ in range(CONNECTIONS)]
    acks = stage.build_acks(path.split("/")[2], CONNECTIONS)
    # The numbers of the acks fit, because each turn gives back what it took.
    run_turn, acknowledge = stage.loop.run_turn, stage.link.data_received

    def run(count: int) -> None:
        for number in range(count):
            data = heads[number % heads_count]
            for feed in receive:
                feed(data)
            run_turn()
            acknowledge(acks)
            run_turn()
        stage.check(count * CONNECTIONS)

    return run


def prepare_whole_request() -> Run:
    """Take requests of 64 connections through all nine steps, headers forwarded."""
    return _prepare_single("/stations/bench/produce/single")


def prepare_whole_request_plain() -> Run:
    """Take requests of 64 connections through all nine steps, no headers forwarded."""
    return _prepare_single("/stations/plain/produce/single")


def prepare_whole_request_new_head() -> Run:
    """Take requests through all nine steps with heads that differ, as those of webhooks do."""
    return _prepare_single("/stations/bench/produce/single", heads_count=2)


def prepare_whole_request_schema() -> Run:
    """Take requests of 64 connections through all nine steps, each judged by a JSON schema."""
    return _prepare_single("/stations/typed/produce/single")


def prepare_batch_schema() -> Run:
    """Read batches, judge each message by a JSON schema, and go all the way to the answer."""
    return _prepare_batch("/stations/typed/produce/batch", with_acks=True)


def prepare_consume() -> Run:
    """Read deliveries, write them as JSON, answer, acknowledge."""
    stage = Stage()
    connection = stage.connect()
    data = build_http("/stations/bench/consume/batch", CONSUME)
    block = b"NATS/1.0\r\nX-Request-Id: 72d3162e-cc78\r\nContent-Type: application/json\r\n\r\n"
    sizes = b"%d %d" % (len(block), len(block) + len(MESSAGE))
    reply = b"$JS.ACK.bench.rest-gateway.1.1234567.1234567.1700000000000000000.0"
    message = b"HMSG bench 2 %s %s\r\n%s%s\r\n" % (reply, sizes, block, MESSAGE)
    messages = message * BATCH_MESSAGES

    def run(count: int) -> None:
        for _ in range(count):
            connection.data_received(data)
            request = stage.consumed.pop()
            stage.ingress.pull(request, "bench", "d", BATCH_MESSAGES, 1000, False, lambda: None)
            stage.loop.run_turn()
            stage.link.data_received(messages)
            stage.loop.run_turn()
            stage.loop.run_turn()
        stage.check(count)

    return run


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to count.

    Args:
        prepare: builds the input, and returns what is run with a count.
        per_count: how many requests or messages one count stands for.
        counts: the count of the first run; the second does twice as many.
        unit: what the figure is per.
        is_judged: whether a count that moved is a fault. WHY not always: what makes a list of many
            objects costs what the allocator's state makes it cost, 3 % more or less.
    """

    prepare: Callable[[], Run]
    per_count: int
    counts: int
    unit: str
    is_judged: bool = True


PARTS: Final = {
    "http_request": Part(prepare_http_request, PIPELINED, 30, "request"),
    "http_answer": Part(prepare_http_answer, PIPELINED, 30, "request"),
    "authorize": Part(prepare_authorize, 100, 100, "request"),
    "batch_split": Part(prepare_batch_split, BATCH_MESSAGES, 80, "message", is_judged=False),
    "batch_frames": Part(prepare_batch_frames, BATCH_MESSAGES, 80, "message"),
    "batch_frames_headers": Part(prepare_batch_frames_headers, BATCH_MESSAGES, 80, "message"),
    "batch_whole": Part(prepare_batch_whole, BATCH_MESSAGES, 80, "message"),
    "whole_request": Part(prepare_whole_request, CONNECTIONS, 60, "request"),
    "whole_request_plain": Part(prepare_whole_request_plain, CONNECTIONS, 60, "request"),
    "whole_request_new_head": Part(prepare_whole_request_new_head, CONNECTIONS, 60, "request"),
    "whole_request_schema": Part(prepare_whole_request_schema, CONNECTIONS, 60, "request"),
    "batch_schema": Part(prepare_batch_schema, BATCH_MESSAGES, 80, "message"),
    "consume": Part(prepare_consume, BATCH_MESSAGES, 80, "message"),
}
DERIVED: Final = {
    "http_response": ("http_answer", "http_request"),
    "nats_ops_and_ack": ("batch_whole", "batch_frames"),
    "encode_headers": ("batch_frames_headers", "batch_frames"),
    "forward_headers": ("whole_request", "whole_request_plain"),
    "judge_json": ("batch_schema", "batch_whole"),
}
"""Differences of two parts: the steps that have no door of their own."""


def run_apart(work: Callable[[], None]) -> int:
    """Do some work in a process of its own; return its id. Raises SystemExit when it failed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit(1)
    return child


def count_each(names: list[str]) -> None:
    """Run each part with its count and with twice as much, and say which process did which.

    WHY processes: callgrind counts each for itself, both begin with the same memory, and the
    interpreter, whose start costs more than most parts, is started once.
    """

    def count_part(name: str) -> None:
        part = PARTS[name]
        run = part.prepare()
        gc.disable()
        for count in (part.counts, 2 * part.counts):
            child = run_apart(partial(run, count))
            print("counted", name, count, child, flush=True)

    for name in names:
        run_apart(partial(count_part, name))


def main() -> None:
    """Run one part as often as the second argument says, or `--each` of the parts named."""
    if sys.argv[1] == "--each":
        count_each(sys.argv[2:])
        return
    name, count = sys.argv[1], int(sys.argv[2])
    run = PARTS[name].prepare()
    gc.disable()
    run(count)


if __name__ == "__main__":
    main()
