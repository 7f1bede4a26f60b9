"""Bodies of 1 KB, 64 KB and 1 MB: bytes stored for each second of CPU (P8).

What enters: a scene and options. What leaves: MB a CPU second of the gateway and the floor.
A size that the broker's max_payload would refuse is never sent: 1 MB is 1,000,000 bytes, because
the message's headers count too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Final

from benchmarks.load.pace import Pace
from benchmarks.report import Findings, SuiteOptions, Table
from benchmarks.scene import Round, Scene
from benchmarks.subjects import FLOOR, GATEWAY
from benchmarks.targets import judge
from benchmarks.workloads import WORKLOADS, Request

WORKLOAD: Final = WORKLOADS["single"]
SIZES: Final = {"1k": 1024, "64k": 64 * 1024, "1m": 1_000_000}
CONNECTIONS_BYTES_MAX: Final = 16 * 1000**2
"""LIMIT: bodies in flight over all connections; the gateway holds 64 MiB back at most."""
MB: Final = 1e6


def run_bodies(scene: Scene, options: SuiteOptions) -> Findings:
    """Measure bytes a CPU second by size of the body, and judge P8."""
    found = Findings()
    table = Table(
        "Bytes stored for each second of CPU",
        ["body", "subject", "connections", "MB a CPU second", "of the floor", "MB/s", "CPU µs/req"],
    )
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(scene.serve(name, WORKLOAD)) for name in options.subjects
        }
        for word, size in SIZES.items():
            connections = max(1, min(options.connections, CONNECTIONS_BYTES_MAX // size))
            rounds: dict[str, list[Round]] = {name: [] for name in servers}
            for number in range(1, options.rounds + 1):
                for name, server in servers.items():
                    scene.say(f"bodies of {word}: round {number} of {options.rounds}, {name}")
                    asked = WORKLOAD.build_request(server.token)
                    body = build_body(size)
                    path = scene.write("bodies", [Request(asked.path, asked.headers, body)])
                    pace = Pace(connections, scene.load_core, options.seconds)
                    rounds[name].append(scene.load_well(server, path, pace, WORKLOAD))
            _add_rows(found, table, word, rounds, connections)
    scene.bench.broker.purge(WORKLOAD.station)
    found.tables.append(table)
    for word in SIZES:
        found.verdicts.append(judge(f"P8.{word}", found.figures.get(f"{word}.ratio")))
    return found


def build_body(size: int) -> bytes:
    """Build a JSON object of exactly `size` bytes."""
    return b'{"a":"' + b"x" * (size - 8) + b'"}'


def _add_rows(
    found: Findings, table: Table, word: str, rounds: dict[str, list[Round]], connections: int
) -> None:
    size = SIZES[word]
    speeds = {
        name: found.set(f"{name}.{word}.mb_a_cpu_second", _measure_speed(done, size))
        for name, done in rounds.items()
    }
    if FLOOR in speeds and GATEWAY in speeds:
        found.set(f"{word}.ratio", speeds[GATEWAY] / speeds[FLOOR])
    for name, done in rounds.items():
        part = f"{speeds[name] / speeds[FLOOR]:.2f}" if FLOOR in speeds else "-"
        rate = median(one.paced.rate for one in done) * size / MB
        cost = median(one.cpu_us for one in done)
        cells = [word, name, str(connections), f"{speeds[name]:,.0f}", part, f"{rate:,.0f}"]
        table.rows.append([*cells, f"{cost:,.1f}"])


def _measure_speed(rounds: Sequence[Round], size: int) -> float:
    """Return MB a CPU second: bytes a microsecond are MB a second."""
    return median(size / done.cpu_us for done in rounds)
