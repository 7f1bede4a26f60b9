"""The targets: what each figure must reach, and the verdict on one that was measured.

What enters: the key of a target and a figure. What leaves: a `Verdict` for tables and files.
Targets are ratios wherever they can be, because machines differ. Everything here is pure.
It must never call a target reached that was not measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table of targets.

    Args:
        row: its number, "P1" to "P12".
        what: the figure, for a reader.
        limit: the number to keep.
        unit: stands behind the number, as in "\u00d7 floor" or " µs".
        is_most: whether the figure may be at most `limit`; else it must be at least that.
        is_cpu: whether it is CPU time itself, not a ratio, and so depends on the machine.
    """

    row: str
    what: str
    limit: float
    unit: str
    is_most: bool = True
    is_cpu: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """What was wanted, what was reached; `is_met` is null where nothing was measured.

    Args:
        key: of the target in `TARGETS`; with `value`, a later reader can judge anew.
        value: the figure itself, as `reached` shows it rounded.
    """

    row: str
    what: str
    target: str
    reached: str
    is_met: bool | None
    key: str = ""
    value: float | None = None


KB: Final = 1024
TIMES: Final = " \u00d7"
REFERENCE_FLOOR_US: Final = 4.2
"""SOURCE: CPU of the floor for a single request where the targets of CPU time were set."""
TARGETS: Final[Mapping[str, Target]] = {
    "P1.floor": Target("P1", "single with JSON Schema: CPU against the floor", 1.5, TIMES),
    "P1.fastapi": Target("P1", "the same: cheaper than FastAPI", 20, TIMES, is_most=False),
    "P1.asgi": Target("P1", "the same: cheaper than raw ASGI", 6, TIMES, is_most=False),
    "P2.floor": Target("P2", "single, API key, no headers: CPU against the floor", 1.3, TIMES),
    "P3.p50": Target("P3", "1 connection: p50 against the floor", 1.15, TIMES),
    "P3.p99": Target("P3", "1 connection: p99 against the floor", 1.5, TIMES),
    "P4.p99": Target("P4", "half of capacity, constant rate: p99 against the floor", 2, TIMES),
    "P5.plain": Target("P5", "batch of 100: CPU a message", 0.6, " µs", is_cpu=True),
    "P5.schema": Target(
        "P5", "batch of 100 with JSON Schema: CPU a message", 0.9, " µs", is_cpu=True
    ),
    "P5.rate": Target("P5", "batch of 100: of a raw publisher's rate", 0.9, TIMES, is_most=False),
    "P6.cpu": Target("P6", "consume 100: CPU a message", 1.5, " µs", is_cpu=True),
    "P6.times": Target("P6", "the same: cheaper than nats-py", 10, TIMES, is_most=False),
    "P7.cost": Target("P7", "pipelined 16 deep: of the unpipelined CPU", 0.6, TIMES),
    "P8.1k": Target("P8", "bodies of 1 KB: of the floor's bytes a CPU second", 0.85, TIMES, False),
    "P8.64k": Target("P8", "bodies of 64 KB: the same", 0.85, TIMES, is_most=False),
    "P8.1m": Target("P8", "bodies of 1 MB: the same", 0.85, TIMES, is_most=False),
    "P9.worker": Target("P9", "idle worker: resident memory", 40, " MB"),
    "P9.connection": Target("P9", "idle connection, of 10,000: resident memory", 6 * KB, " bytes"),
    "P10.connections": Target("P10", "CPU a request, 1 to 10,000 connections", 1.3, TIMES),
    "P10.stations": Target("P10", "CPU a request, 1 to 10,000 stations", 1.3, TIMES),
    "P10.tokens": Target("P10", "CPU a request, 1 to 100,000 cached tokens", 1.3, TIMES),
    "P11.start": Target("P11", "start beside a running broker: first 200", 300, " ms"),
    "P12.workers": Target("P12", "2 workers against 1: capacity", 1.8, TIMES, is_most=False),
}


def judge(key: str, reached: float | None) -> Verdict:
    """Judge one figure against its target; None means that it could not be measured."""
    target = TARGETS[key]
    sign = "\u2264" if target.is_most else "\u2265"
    wanted = f"{sign} {target.limit:g}{target.unit}"
    if reached is None:
        return Verdict(target.row, target.what, wanted, "-", None, key)
    is_met = reached <= target.limit if target.is_most else reached >= target.limit
    said = f"{format_figure(reached)}{target.unit}"
    return Verdict(target.row, target.what, wanted, said, is_met, key, reached)


def scale_to_reference(value: float, floor_us: float) -> float:
    """Scale CPU time to the machine of the targets, by the floor's single request in the run."""
    return value * REFERENCE_FLOOR_US / floor_us


def format_figure(value: float) -> str:
    """Format a figure with three digits that count, or all that stand before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


HEADINGS: Final = ("target", "what", "wanted", "reached", "")


def format_verdict(verdict: Verdict) -> list[str]:
    """Format one verdict in the order of `HEADINGS`."""
    word = {True: "reached", False: "not reached", None: "not measured"}[verdict.is_met]
    return [verdict.row, verdict.what, verdict.target, verdict.reached, word]


def format_markdown(verdicts: Iterable[Verdict]) -> list[str]:
    """Format verdicts as the lines of a Markdown table; no lines without any."""
    rows = [format_verdict(verdict) for verdict in verdicts]
    if not rows:
        return []
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]
