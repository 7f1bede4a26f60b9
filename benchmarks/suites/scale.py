"""Scale: CPU a request as connections, stations and tokens grow (P10), and with two workers (P12).

What enters: a scene and options. What leaves: CPU a request along each growth, in rounds that take
turns, so that a noisy minute hits small and large alike.
It must never compare costs at different rates of arrival: a busier turn is a cheaper one, so the
connections and the stations are compared at one constant rate; the closed loop stands beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.load.pace import Pace
from benchmarks.proc import find_tree, measure_cpu_us_finely
from benchmarks.report import Findings, SuiteOptions, Table
from benchmarks.scene import EVERYWHERE, Scene
from benchmarks.subjects import GATEWAY, Running, Setup
from benchmarks.suites.populate import (
    MAKE_S_MAX,
    SINGLE,
    add_stations,
    bound_connections,
    build_setup,
    build_token_requests,
    mint_tokens,
)
from benchmarks.targets import judge
from benchmarks.workloads import Workload

CONNECTIONS: Final = (1, 64, 1_000, 10_000)
RATE: Final = 2_000.0
"""WHY: one connection must be able to carry it, and 10,000 must each be used now and then."""
STATIONS_RATE: Final = 5_000.0
"""WHY: the broker must be able to carry it with 10,000 streams, which cost it more than one."""
STATIONS: Final = (1, 100, 10_000)
TOKENS: Final = (1, 1_000, 100_000)
HEADINGS: Final = ["of what", "how many", "load", "CPU µs/req", "of the first", "req/s", "p99 ms"]


def run_scale(scene: Scene, options: SuiteOptions) -> Findings:
    """Measure growth, and judge P10 and P12."""
    found = Findings()
    table = Table("CPU a request as things grow", HEADINGS)
    with scene.serve(GATEWAY, SINGLE, build_setup(scene)) as server:
        _grow_connections(scene, options, server, found, table)
        _grow_tokens(scene, options, server, found, table)
    with scene.serve(GATEWAY, EVERYWHERE) as server:
        _grow_stations(scene, options, server, found, table)
    found.tables.append(table)
    _compare_workers(scene, options, found)
    for what in ("connections", "stations", "tokens"):
        found.verdicts.append(judge(f"P10.{what}", found.figures.get(f"{what}.growth")))
    found.verdicts.append(judge("P12.workers", found.figures.get("workers.capacity_times")))
    return found


def _grow(
    scene: Scene,
    server: Running,
    found: Findings,
    table: Table,
    *,
    key: str,
    load: str,
    steps: Mapping[int, tuple[Path, Pace]],
    stores: Workload,
    rounds: int,
) -> None:
    """Load each step in turn, and add its row and the growth from the first step to the last."""
    what = key.partition(".")[0]
    costs: dict[int, list[float]] = {count: [] for count in steps}
    rates: dict[int, list[float]] = {count: [] for count in steps}
    times: dict[int, list[float]] = {count: [] for count in steps}
    for number in range(1, rounds + 1):
        for count, (path, pace) in steps.items():
            scene.say(f"{count:,} {what}, {load}: round {number} of {rounds}")
            done = scene.load_well(server, path, pace, stores)
            costs[count].append(done.cpu_us)
            rates[count].append(done.paced.rate)
            times[count].append(done.paced.latency.percentile_us(99))
            if done.paced.unanswered:
                found.notes.append(
                    f"{count:,} {what}, {load}: {done.paced.unanswered} requests had no answer "
                    "in time"
                )
    first = median(next(iter(costs.values())))
    for count, several in costs.items():
        cost = found.set(f"{key}.{count}.cpu_us", median(several))
        cells = [what, f"{count:,}", load, f"{cost:.2f}", f"{cost / first:.2f}"]
        table.rows.append(
            [*cells, f"{median(rates[count]):,.0f}", f"{median(times[count]) / 1000:.2f}"]
        )
    found.set(f"{key}.growth", median(costs[list(costs)[-1]]) / first)


def _grow_connections(
    scene: Scene, options: SuiteOptions, server: Running, found: Findings, table: Table
) -> None:
    path = scene.write("connections", [SINGLE.build_request(server.token)])
    counts = list(dict.fromkeys(bound_connections(count) for count in CONNECTIONS))
    if counts[-1] < CONNECTIONS[-1]:
        found.notes.append(f"only {counts[-1]} connections: the system allows no more open files")
    core, seconds = scene.load_core, options.seconds
    steady = {count: (path, Pace(count, core, seconds, RATE)) for count in counts}
    _grow(
        scene, server, found, table, key="connections", load=f"{RATE:,.0f}/s constant",
        steps=steady, stores=SINGLE, rounds=options.rounds,
    )  # fmt: skip
    closed = {count: (path, Pace(count, core, seconds)) for count in counts[1:]}
    _grow(
        scene, server, found, table, key="connections.closed", load="closed loop",
        steps=closed, stores=SINGLE, rounds=options.rounds,
    )  # fmt: skip


def _grow_tokens(
    scene: Scene, options: SuiteOptions, server: Running, found: Findings, table: Table
) -> None:
    """Compare one token with many that were all seen before."""
    scene.say(f"signing {TOKENS[-1]:,} tokens")
    requests = build_token_requests(mint_tokens(server.token, scene.bench.secret, TOKENS[-1]))
    pace = Pace(options.connections, scene.load_core, options.seconds)
    steps = {n: (scene.write(f"tokens-{n}", requests[:n]), pace) for n in TOKENS}
    scene.say("showing the gateway every token once")
    once = Pace(16, scene.load_core, MAKE_S_MAX, warm_up_s=0, count=TOKENS[-1])
    scene.load_well(server, steps[TOKENS[-1]][0], once, SINGLE)
    _grow(
        scene, server, found, table, key="tokens", load="closed loop",
        steps=steps, stores=SINGLE, rounds=options.rounds,
    )  # fmt: skip


def _grow_stations(
    scene: Scene, options: SuiteOptions, server: Running, found: Findings, table: Table
) -> None:
    """Compare one station with many, once before the others exist, and then in turns."""
    steady = Pace(options.connections, scene.load_core, options.seconds, STATIONS_RATE)
    closed = Pace(options.connections, scene.load_core, options.seconds)
    load = f"{STATIONS_RATE:,.0f}/s constant"
    scene.say("one station, the only one")
    alone = scene.write("station", [EVERYWHERE.build_request(server.token)])
    cost = scene.load_well(server, alone, steady, EVERYWHERE).cpu_us
    found.set("stations.only.cpu_us", cost)
    table.rows.append(["stations", "1, the only one", load, f"{cost:.2f}", "", "", ""])
    scene.say(f"making {STATIONS[-1]:,} stations")
    requests = add_stations(scene, server, STATIONS[-1])
    files = {n: scene.write(f"stations-{n}", requests[:n]) for n in STATIONS}
    for key, words, pace in (
        ("stations", load, steady),
        ("stations.closed", "closed loop", closed),
    ):
        _grow(
            scene, server, found, table, key=key, load=words,
            steps={n: (path, pace) for n, path in files.items()},
            stores=EVERYWHERE, rounds=options.rounds,
        )  # fmt: skip


def _compare_workers(scene: Scene, options: SuiteOptions, found: Findings) -> None:
    """Compare two workers with one by the CPU that a request costs.

    WHY by cost: on a machine of few cores the broker and the load take a share of the second core.
    Two workers on two cores have twice the CPU of one, so capacity grows by 2 x the ratio of costs.
    """
    cores = tuple(sorted(os.sched_getaffinity(0)))[:2]
    costs: dict[int, list[float]] = {1: [], 2: []}
    rates: dict[int, list[float]] = {1: [], 2: []}
    shares: list[float] = []
    for number in range(1, options.rounds + 1):
        for workers in (1, 2):
            scene.say(f"workers: {workers}, round {number} of {options.rounds}")
            setup = Setup(workers=workers, cores=cores[:workers])
            with scene.serve(GATEWAY, SINGLE, setup) as server:
                path = scene.write("workers", [SINGLE.build_request(server.token)])
                # WHY: each worker keeps as many connections as the one has alone.
                pace = Pace(options.connections * workers, scene.load_core, options.seconds)
                before = _measure_each(server)
                done = scene.load_well(server, path, pace, SINGLE)
                spent = [now - before.get(pid, 0) for pid, now in _measure_each(server).items()]
            costs[workers].append(done.cpu_us)
            rates[workers].append(done.paced.rate)
            if workers > 1:
                shares.append(max(spent) / max(1, sum(spent)))
    one, two = (found.set(f"workers.{n}.cpu_us", median(costs[n])) for n in costs)
    times = found.set("workers.capacity_times", 2 * one / two)
    found.set("workers.2.busiest_share", median(shares))
    rows = [
        [str(n), f"{median(costs[n]):.2f}", f"{median(rates[n]):,.0f}", f"{part:.0%}", text]
        for n, part, text in ((1, 1.0, "1.00"), (2, median(shares), f"{times:.2f}"))
    ]
    heads = ["workers", "CPU µs/req", "req/s here", "CPU of the busiest", "capacity, accounted"]
    found.tables.append(Table("Two workers against one", heads, rows))
    if len(os.sched_getaffinity(0)) < 4:
        found.notes.append(
            "workers: the machine has no cores to spare, so broker and load share those of the "
            "workers; capacity is accounted by CPU a request, and req/s is what was left"
        )


def _measure_each(server: Running) -> dict[int, int]:
    """Measure the CPU time of each process of the tree."""
    children = find_tree(server.child.pid)
    leaves = {stat.pid for stat in children} - {stat.parent for stat in children}
    return {pid: measure_cpu_us_finely(pid) for pid in leaves}
