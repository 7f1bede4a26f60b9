"""Latency: alone on one connection (P3), at half of the capacity (P4), and along the rate.

What enters: a scene and options. What leaves: findings with percentiles, a line per subject for the
plot, and every histogram. All subjects run beside each other, and take turns A B, A B.
It must never compare times of different rates: P4 is judged at one rate, half of the gateway's
capacity, which is the harder one for it. A peer that could hardly carry it is left out there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.load.histogram import Histogram
from benchmarks.load.pace import Pace
from benchmarks.report import Findings, Point, SuiteOptions, Table
from benchmarks.results import format_time
from benchmarks.scene import Round, Scene
from benchmarks.subjects import FLOOR, GATEWAY, Running
from benchmarks.targets import judge
from benchmarks.workloads import WORKLOADS

WORKLOAD: Final = WORKLOADS["single"]
FRACTIONS: Final = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)
"""Of each subject's own capacity: the rates of its line."""
HALF_PART_MAX: Final = 0.8
"""LIMIT: of its own capacity; a peer that half of the gateway's would load more is not compared."""
KNEE_TIMES: Final = 10.0
KNEE_RATE: Final = 0.98
"""The knee is the highest rate that was kept up to this part with a p99 of at most so many times
the p99 at the lowest rate."""
PERCENTS: Final = (50.0, 99.0, 99.9)
HEADINGS: Final = ["subject", "rate", "answered/s", "p50", "p99", "p99.9", "max", "CPU µs/req"]


@dataclass(slots=True)
class Line:
    """One subject: its server, and what its rounds gave."""

    name: str
    server: Running
    requests: Path
    capacity: float = 0.0
    rounds: dict[str, list[Round]] = field(default_factory=dict)


def run_latency(scene: Scene, options: SuiteOptions) -> Findings:
    """Measure latency and judge P3 and P4."""
    found = Findings()
    with _start_all(scene, options.subjects) as lines:
        alone = Pace(1, scene.load_core, options.seconds)
        for number in range(1, options.rounds + 1):
            for line in lines:
                scene.say(f"1 connection: round {number} of {options.rounds}, {line.name}")
                _load(scene, line, "alone", alone)
        full = Pace(options.connections, scene.load_core, options.seconds)
        for number in range(1, options.rounds + 1):
            for line in lines:
                scene.say(f"capacity: round {number} of {options.rounds}, {line.name}")
                _load(scene, line, "full", full)
        for line in lines:
            line.capacity = median(done.paced.rate for done in line.rounds["full"])
            found.set(f"{line.name}.capacity", line.capacity)
        half = found.figures.get(f"{GATEWAY}.capacity", 0) / 2
        judged = [line for line in lines if half and _can_carry(line, half)]
        for number in range(1, options.rounds + 1):
            for line in judged:
                scene.say(f"{half:,.0f}/s: round {number} of {options.rounds}, {line.name}")
                pace = Pace(options.connections, scene.load_core, options.seconds, half)
                _load(scene, line, "half", pace)
        for part in FRACTIONS:
            for line in lines:
                rate = line.capacity * part
                scene.say(f"{part:.0%} of its capacity, {rate:,.0f}/s: {line.name}")
                pace = Pace(options.connections, scene.load_core, options.seconds, rate)
                _add_point(found, line, _load(scene, line, f"at-{part:g}", pace), rate)
    _add_table(found, lines, "alone", "One connection, closed loop")
    if judged:
        title = f"Half of the gateway's capacity, {half:,.0f} requests a second at a constant rate"
        _add_table(found, judged, "half", f"{title}, {options.connections} connections")
    _add_sweep(found, lines)
    _judge(found)
    _note(found, lines)
    return found


def _can_carry(line: Line, rate: float) -> bool:
    return line.name in (FLOOR, GATEWAY) or rate <= HALF_PART_MAX * line.capacity


@contextmanager
def _start_all(scene: Scene, names: Sequence[str]) -> Iterator[list[Line]]:
    with ExitStack() as stack:
        lines = []
        for name in names:
            server = stack.enter_context(scene.serve(name, WORKLOAD))
            request = WORKLOAD.build_request(server.token)
            lines.append(Line(name, server, scene.write(f"latency-{name}", [request])))
        yield lines


def _load(scene: Scene, line: Line, kind: str, pace: Pace) -> Round:
    done = scene.load_well(line.server, line.requests, pace, WORKLOAD)
    line.rounds.setdefault(kind, []).append(done)
    return done


def _add_point(found: Findings, line: Line, done: Round, rate: float) -> None:
    """Keep one point of the subject's line."""
    p50_us, p99_us, p999_us = (done.paced.latency.percentile_us(percent) for percent in PERCENTS)
    point = Point(round(rate, 1), p50_us, p99_us, p999_us)
    found.series.setdefault(line.name, []).append(point)


def _add_table(found: Findings, lines: Sequence[Line], kind: str, title: str) -> None:
    """Add medians over the rounds of one kind, and the histogram of all of them together."""
    table = Table(title, HEADINGS)
    for line in lines:
        rounds = line.rounds[kind]
        times = [
            median(done.paced.latency.percentile_us(percent) for done in rounds)
            for percent in PERCENTS
        ]
        whole = Histogram()
        for done in rounds:
            whole.add(done.paced.latency)
        found.histograms[f"{line.name}.{kind}"] = whole.encode()
        for percent, time_us in zip(PERCENTS, times, strict=True):
            found.set(f"{line.name}.{kind}.p{percent:g}_us", time_us)
        cpu_us = found.set(f"{line.name}.{kind}.cpu_us", median(done.cpu_us for done in rounds))
        rate = median(done.paced.rate for done in rounds)
        cells = [line.name, "as it comes" if kind == "alone" else "constant", f"{rate:,.0f}"]
        cells += [*map(format_time, times), format_time(whole.max_us), f"{cpu_us:.2f}"]
        table.rows.append(cells)
    found.tables.append(table)


def _add_sweep(found: Findings, lines: Sequence[Line]) -> None:
    """Add the table of latency against rate, and where each subject's knee is."""
    table = Table("Latency against rate, each at parts of its own capacity", HEADINGS)
    for line in lines:
        points = found.series[line.name]
        rounds = [line.rounds[f"at-{part:g}"][0] for part in FRACTIONS]
        for point, done in zip(points, rounds, strict=True):
            times = [format_time(t) for t in (point.p50_us, point.p99_us, point.p999_us)]
            times.append(format_time(done.paced.latency.max_us))
            rates = [f"{point.rate:,.0f}", f"{done.paced.rate:,.0f}"]
            table.rows.append([line.name, *rates, *times, f"{done.cpu_us:.2f}"])
        knee = find_knee(points, [done.paced.rate for done in rounds])
        found.set(f"{line.name}.knee", knee)
        found.notes.append(
            f"{line.name}: capacity {line.capacity:,.0f}/s on {WORKLOAD.name}; its knee, the "
            f"highest rate kept up with a p99 of at most {KNEE_TIMES:g} times that of the lowest, "
            f"is {knee:,.0f}/s"
        )
    found.tables.append(table)


def find_knee(points: Sequence[Point], reached: Sequence[float]) -> float:
    """Find the highest rate before the first that was not kept up, or whose p99 had left the line.

    Args:
        points: of one subject, by rising rate.
        reached: answers a second at each of them.
    """
    knee = 0.0
    for point, rate in zip(points, reached, strict=True):
        if rate < KNEE_RATE * point.rate or point.p99_us > KNEE_TIMES * points[0].p99_us:
            break
        knee = point.rate
    return knee


def _judge(found: Findings) -> None:
    for key, kind, percent in (
        ("P3.p50", "alone", 50),
        ("P3.p99", "alone", 99),
        ("P4.p99", "half", 99),
    ):
        ours = found.figures.get(f"{GATEWAY}.{kind}.p{percent}_us")
        floor = found.figures.get(f"{FLOOR}.{kind}.p{percent}_us")
        found.verdicts.append(judge(key, ours / floor if ours and floor else None))


def _note(found: Findings, lines: Sequence[Line]) -> None:
    """Say who was left out, where the pacer was late, and how many requests had no answer."""
    for line in lines:
        if "half" not in line.rounds:
            found.notes.append(
                f"{line.name}: not at half of the gateway's capacity, which is more than "
                f"{HALF_PART_MAX:.0%} of its own"
            )
        rounds = [(kind, done) for kind, several in line.rounds.items() for done in several]
        late = [done.paced.lag.percentile_us(99) for _, done in rounds if done.paced.is_late]
        if late:
            found.notes.append(
                f"{line.name}: the pacer itself was late in {len(late)} of {len(rounds)} rounds, "
                f"p99 up to {max(late) / 1000:.2f} ms: something else ran on its core"
            )
        for kind, done in rounds:
            if done.paced.unanswered and kind != "full":
                found.notes.append(
                    f"{line.name}, {kind}: {done.paced.unanswered} requests had no answer at the "
                    "end and count with their age"
                )
