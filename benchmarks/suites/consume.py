"""Consuming: CPU a message of `consume/batch` by hundreds, beside a fetch loop of nats-py (P6).

What enters: a scene and options. What leaves: CPU a message of both, over the same messages of one
stream, each with a new consumer group for every round. The floor cannot consume; it stores single
messages in rounds between, and what that costs tells how fast this machine is.
It must never count a message that the group did not take: the broker's own count is used.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.load.pace import Pace
from benchmarks.load.publish import fill
from benchmarks.processes import run_bounded
from benchmarks.report import Findings, SuiteOptions, Table
from benchmarks.scene import Round, Scene
from benchmarks.subjects import FLOOR, GATEWAY, Running
from benchmarks.targets import judge
from benchmarks.workloads import WORKLOADS, Request, Workload

SINGLE: Final = WORKLOADS["single"]
STORED: Final = Workload("stored", "stored", 1, True, "messages to be consumed")
BATCH: Final = 100
MESSAGES: Final = 200_000
LOOP_MESSAGES: Final = 30_000
"""WHY: the loop is slow, and its cost does not depend on how many come."""
CONNECTIONS: Final = 4
WAIT_MS: Final = 1000
SECONDS_MAX: Final = 30.0
LOOP_NAME: Final = "nats-py fetch loop"


@dataclass(frozen=True, slots=True)
class Taken:
    """One round: messages that were taken, CPU microseconds each, and how many a second."""

    messages: int
    cpu_us: float
    rate: float


def run_consume(scene: Scene, options: SuiteOptions) -> Findings:
    """Measure consuming and judge P6."""
    found = Findings()
    ours: list[Taken] = []
    loop: list[Taken] = []
    floor: list[Round] = []
    with scene.serve(GATEWAY, STORED) as server, scene.serve(FLOOR, SINGLE) as yardstick:
        single = scene.write("single", [SINGLE.build_request(yardstick.token)])
        pace = Pace(options.connections, scene.load_core, options.seconds)
        scene.say(f"storing {MESSAGES:,} messages")
        scene.bench.broker.purge(STORED.station)
        fill(scene.bench.broker, STORED.station, MESSAGES, scene.load_core)
        _consume(scene, server, "warm", BATCH * 50)
        for number in range(1, options.rounds + 1):
            scene.say(f"consume: round {number} of {options.rounds}, {GATEWAY}")
            ours.append(_consume(scene, server, f"group-{number}", MESSAGES))
            scene.say(f"consume: round {number} of {options.rounds}, {LOOP_NAME}")
            loop.append(_run_loop(scene, f"loop-{number}"))
            scene.say(f"consume: round {number} of {options.rounds}, {FLOOR} stores")
            floor.append(scene.load_well(yardstick, single, pace, SINGLE))
    cost = found.set("fastgw.cpu_us_per_message", median(one.cpu_us for one in ours))
    slow = found.set("nats_py.cpu_us_per_message", median(one.cpu_us for one in loop))
    floor_us = found.set(f"{FLOOR}.single.cpu_us", median(done.cpu_us for done in floor))
    found.notes.append(f"the floor spent {floor_us:.2f} \u00b5s on a single request between them")
    table = Table(
        f"Consuming by {BATCH}", ["subject", "messages", "CPU µs/msg", "of ours", "messages/s"]
    )
    for name, rounds, price in ((GATEWAY, ours, cost), (LOOP_NAME, loop, slow)):
        rate = found.set(f"{name.split()[0]}.rate", median(one.rate for one in rounds))
        messages = f"{sum(one.messages for one in rounds):,}"
        table.rows.append([name, messages, f"{price:.2f}", f"{price / cost:.1f}", f"{rate:,.0f}"])
    found.tables.append(table)
    found.verdicts += [judge("P6.cpu", cost), judge("P6.times", slow / cost)]
    return found


def _consume(scene: Scene, server: Running, group: str, messages: int) -> Taken:
    """Take messages through the gateway; the group is new, so it begins with the first one."""
    body = {
        "consumer_name": "bench",
        "consumer_group": group,
        "batch_size": BATCH,
        "batch_max_wait_time_ms": WAIT_MS,
    }
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.token}"}
    path = f"/stations/{STORED.station}/consume/batch"
    requests = scene.write("consume", [Request(path, headers, json.dumps(body).encode())])
    pace = Pace(CONNECTIONS, scene.load_core, SECONDS_MAX, warm_up_s=0, count=messages // BATCH)
    done = scene.load_well(server, requests, pace)
    taken = scene.bench.broker.count_delivered(STORED.station, f"{group}-rest-gateway")
    return Taken(taken, done.server_us / max(1, taken), taken / done.paced.window_s)


def _run_loop(scene: Scene, durable: str) -> Taken:
    """Run the loop of nats-py in a process of its own, on the server's core."""
    argv = [sys.executable, "-m", "benchmarks.peers.fetch_loop", STORED.station, durable]
    argv += [str(LOOP_MESSAGES), str(BATCH)]
    env = {"BENCH_NATS_URL": scene.bench.broker.url}
    text = run_bounded(argv, scene.bench.core, SECONDS_MAX, env)
    return Taken(**json.loads(text.strip().splitlines()[-1]))
