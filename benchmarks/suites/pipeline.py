"""Pipelining: what a request costs when sixteen are sent without waiting for answers (P7).

What enters: a scene and options. What leaves: CPU a request by depth and number of connections,
the floor beside it. It must never count a depth at which an answer was refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from benchmarks.load.pace import Pace
from benchmarks.report import Findings, SuiteOptions, Table
from benchmarks.scene import Round, Scene
from benchmarks.subjects import GATEWAY
from benchmarks.targets import judge
from benchmarks.workloads import WORKLOADS

WORKLOAD: Final = WORKLOADS["single"]
DEPTHS: Final = (1, 16)
FEW: Final = 16
"""A second number of connections: 64 with 16 requests each are more than the 500 slots."""


def run_pipeline(scene: Scene, options: SuiteOptions) -> Findings:
    """Measure the cost of a request at depth 1 and 16, and judge P7."""
    found = Findings()
    table = Table(
        "CPU by depth of the pipeline",
        ["subject", "connections", "depth", "CPU µs/req", "of depth 1", "req/s"],
    )
    many = dict.fromkeys((options.connections, FEW))
    for name in options.subjects:
        with scene.serve(name, WORKLOAD) as server:
            requests = scene.write("pipeline", [WORKLOAD.build_request(server.token)])
            for connections in many:
                rounds: dict[int, list[Round]] = {depth: [] for depth in DEPTHS}
                for number in range(1, options.rounds + 1):
                    for depth in DEPTHS:
                        scene.say(f"{name}: {connections} connections, depth {depth}, {number}")
                        pace = Pace(connections, scene.load_core, options.seconds, depth=depth)
                        rounds[depth].append(scene.load_well(server, requests, pace, WORKLOAD))
                _add_rows(found, table, f"{name}.{connections}", rounds)
    found.tables.append(table)
    found.verdicts.append(
        judge("P7.cost", found.figures.get(f"{GATEWAY}.{options.connections}.ratio"))
    )
    return found


def _add_rows(
    found: Findings,
    table: Table,
    name: str,
    rounds: dict[int, Sequence[Round]] | dict[int, list[Round]],
) -> None:
    costs = {depth: median(done.cpu_us for done in rounds[depth]) for depth in DEPTHS}
    ratio = found.set(f"{name}.ratio", costs[DEPTHS[-1]] / costs[DEPTHS[0]])
    for depth, cost in costs.items():
        found.set(f"{name}.depth-{depth}.cpu_us", cost)
        rate = median(done.paced.rate for done in rounds[depth])
        part = "" if depth == DEPTHS[0] else f"{ratio:.2f}"
        subject, _, connections = name.partition(".")
        table.rows.append([subject, connections, str(depth), f"{cost:.2f}", part, f"{rate:,.0f}"])
