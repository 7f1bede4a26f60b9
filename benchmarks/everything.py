"""`python -m benchmarks all`: the comparison and every suite, one after another, then the table.

What enters: options that all of them take. What leaves: their results files, and an exit code.
Each runs in a process of its own, so that one that fails, in whatever way, leaves the others be.
It must never call a run good of which a part failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.compare import DocumentError
from benchmarks.machine import open_console
from benchmarks.processes import run_beside
from benchmarks.results import RESULTS_DIR
from benchmarks.subjects import find_left_out
from benchmarks.suite_command import bounded, parse_seconds, show_table, split_names
from benchmarks.table_command import show_targets

COMPARISON: Final = "comparison"
WITH_PEERS: Final = ("latency", "memory")
"""Suites of which a peer's figures are worth its time."""
PLACES: Final = ("floor", "fastgw", "rust", "go", "asgi-uvicorn", "fastapi")
"""Whom they measure, where they can be built here: the cheapest of each kind, and the dearest."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the run.

    Args:
        name: of the suite, or `COMPARISON`.
        arguments: its command line, beside what all take.
        expected_s: how long it takes on a machine like that of the first results.
    """

    name: str
    arguments: tuple[str, ...]
    expected_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a part ended."""

    part: Part
    code: int
    seconds: float


EXPECTED_S: Final = {
    COMPARISON: (100.0, 800.0),
    "latency": (30.0, 240.0),
    "consume": (20.0, 40.0),
    "pipeline": (10.0, 60.0),
    "bodies": (10.0, 50.0),
    "memory": (60.0, 4.0),
    "scale": (90.0, 60.0),
    "start": (10.0, 15.0),
}
"""Seconds to expect: what does not depend on the rounds, and what their default takes."""


def build_parts(names: Sequence[str], rounds: int | None, seconds: float | None) -> list[Part]:
    """Build the parts of the run, in the order in which they are done."""
    left_out = find_left_out()
    subjects = ",".join(name for name in PLACES if name not in left_out)
    parts = []
    for name in names:
        fixed_s, rounds_s = EXPECTED_S[name]
        arguments = [] if name == COMPARISON else [name]
        share = 1.0
        if rounds:
            arguments += ["--rounds", str(rounds)]
            share *= rounds / 3
        if seconds:
            # The comparison counts whole seconds.
            given = max(1, round(seconds)) if name == COMPARISON else seconds
            arguments += ["--seconds", f"{given:g}"]
            share *= given / (4 if name == COMPARISON else 2)
        if name in WITH_PEERS:
            arguments += ["--subjects", subjects]
        parts.append(Part(name, tuple(arguments), fixed_s + rounds_s * share))
    return parts


def foresee(ended: Sequence[Ended], parts: Sequence[Part]) -> float:
    """Foresee how long parts will take, by how long those that ended took."""
    took = sum(one.seconds for one in ended)
    expected = sum(one.part.expected_s for one in ended)
    pace = took / expected if took and expected else 1.0
    return pace * sum(part.expected_s for part in parts)


def format_minutes(seconds: float) -> str:
    """Format a time to come or gone: "40 s", "12 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


Run = Callable[[Sequence[str]], int]
"""Runs `python -m benchmarks` with arguments, and returns its exit code."""


def run_part(arguments: Sequence[str]) -> int:
    """Run one part in a process of its own, which writes to this one's screen."""
    return run_beside([sys.executable, "-m", "benchmarks", *arguments])


def run_parts(console: Console, parts: Sequence[Part], out: Path, run: Run) -> list[Ended]:
    """Run parts one after another, whatever becomes of each; return those that ended."""
    done: list[Ended] = []
    for index, part in enumerate(parts):
        rest = parts[index:]
        console.rule(
            f"{index + 1} of {len(parts)}: {part.name}, about "
            f"{format_minutes(foresee(done, [part]))}; "
            f"all that is left about {format_minutes(foresee(done, rest))}"
        )
        began = time.monotonic()
        try:
            code = run([*part.arguments, "--out", str(out.resolve())])
        except KeyboardInterrupt:
            console.print(f"interrupted in {part.name}; {len(rest) - 1} more were not begun")
            done.append(Ended(part, 1, time.monotonic() - began))
            break
        done.append(Ended(part, code, time.monotonic() - began))
        if code:
            console.print(f"{part.name} failed with exit code {code}; the rest goes on")
    return done


def run_everything(arguments: Sequence[str], run: Run = run_part) -> int:
    """Run all that the command line says; return the exit code: 1 when a part failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks all",
        description="Run the comparison and every suite, and print the table of targets.",
    )
    parser.add_argument("--parts", default=",".join(EXPECTED_S), help=f"of {', '.join(EXPECTED_S)}")
    parser.add_argument("--rounds", type=bounded(1, 50), help="of each part; default: its own")
    parser.add_argument(
        "--seconds", type=parse_seconds, help="of each round; default: the part's own"
    )
    parser.add_argument("--out", type=Path, default=RESULTS_DIR, help="folder of the results")
    given = parser.parse_args(arguments)
    names = split_names(parser, given.parts, EXPECTED_S)
    console = open_console()
    parts = build_parts(names, given.rounds, given.seconds)
    done = run_parts(console, parts, given.out, run)
    console.rule("done")
    rows = [
        [one.part.name, f"failed ({one.code})" if one.code else "good", format_minutes(one.seconds)]
        for one in done
    ]
    rows += [[part.name, "not begun", "-"] for part in parts[len(done) :]]
    try:
        show_targets(console, given.out)
    except DocumentError as error:
        console.print(str(error), markup=False)
        return 1
    show_table(console, "Parts of this run", ("part", "how it ended", "took"), rows)
    return 1 if len(done) < len(parts) or any(one.code for one in done) else 0
