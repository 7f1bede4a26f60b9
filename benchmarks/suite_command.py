"""The subcommands that run one suite each: options in, progress, tables and a report out.

What enters: a suite and arguments. What leaves: an exit code, tables on the screen, and two files:
JSON with every figure and histogram, Markdown for a reader. `command` calls it.
It must never store a report of a suite that failed half-way.
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.machine import describe_machine, find_commit, open_console, warn
from benchmarks.needs import find_missing, read_versions
from benchmarks.processes import Failed
from benchmarks.report import FORMAT, Findings, Report, SuiteOptions, format_machine, format_report
from benchmarks.results import RESULTS_DIR
from benchmarks.scene import Say, Scene, open_scene
from benchmarks.subjects import FLOOR, GATEWAY, SUBJECTS
from benchmarks.suites.bodies import run_bodies
from benchmarks.suites.consume import run_consume
from benchmarks.suites.latency import run_latency
from benchmarks.suites.memory import run_memory
from benchmarks.suites.pipeline import run_pipeline
from benchmarks.suites.scale import run_scale
from benchmarks.suites.start import run_start
from benchmarks.targets import HEADINGS, Verdict, format_verdict

SECONDS_MAX: Final = 60.0
FIGURE: Final = re.compile(r"-?|[+-]?\d[\d,.e+]*( \S+){0,2}")
"""A cell that holds a number, perhaps with its unit, or nothing."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One subcommand.

    Args:
        name: what stands on the command line and in the results file's name.
        about: one line for the help and the report.
        run: measures it.
        rounds: how many by default, so that the whole takes less than about two minutes.
        seconds: of each round by default.
        subjects: by default; empty where the gateway alone is measured.
    """

    name: str
    about: str
    run: Callable[[Scene, SuiteOptions], Findings]
    rounds: int
    seconds: float
    subjects: tuple[str, ...] = ()


_BOTH: Final = (FLOOR, GATEWAY)
SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite(
            "latency",
            "latency at constant rates, beside the floor (P3, P4)",
            run_latency,
            3,
            2,
            _BOTH,
        ),
        Suite("consume", "consuming by hundreds, beside nats-py (P6)", run_consume, 3, 2),
        Suite("pipeline", "pipelined requests, 16 deep (P7)", run_pipeline, 3, 2, _BOTH),
        Suite("bodies", "bodies of 1 KB, 64 KB and 1 MB (P8)", run_bodies, 3, 2, _BOTH),
        Suite(
            "memory", "of a worker, a connection, a station, a token (P9)", run_memory, 1, 2, _BOTH
        ),
        Suite("scale", "growth of everything, and two workers (P10, P12)", run_scale, 2, 1),
        Suite("start", "from the command line to the first answer (P11)", run_start, 3, 2),
    )
}


def bounded(least: int, most: int) -> Callable[[str], int]:
    """Build the parser of a whole number between two bounds."""

    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not between {least} and {most}")
        return value

    return parse


def parse_seconds(text: str) -> float:
    """Parse the length of a round: half a second to a minute."""
    value = float(text)
    if not 0.5 <= value <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.5 and {SECONDS_MAX:g}")
    return value


def split_names(
    parser: argparse.ArgumentParser, text: str, known: Mapping[str, object]
) -> list[str]:
    """Split names at commas; one that is not known ends the program with what is."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"{name!r} is unknown; known are {', '.join(known)}")
    if not names:
        parser.error("at least one name is needed")
    return list(dict.fromkeys(names))


def parse_suite_options(suite: Suite, arguments: Sequence[str]) -> tuple[SuiteOptions, Path]:
    """Parse a suite's options and the folder of the results (exit 2 when wrong)."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {suite.name}", description=f"Measure {suite.about}."
    )
    parser.add_argument("--rounds", type=bounded(1, 50), default=suite.rounds)
    parser.add_argument(
        "--seconds", type=parse_seconds, default=suite.seconds, help="of each round"
    )
    parser.add_argument("--connections", type=bounded(1, 10_000), default=64)
    parser.add_argument("--out", type=Path, default=RESULTS_DIR, help="folder of the results")
    if suite.subjects:
        known = f"of {', '.join(SUBJECTS)}"
        parser.add_argument("--subjects", default=",".join(suite.subjects), help=known)
    given = parser.parse_args(arguments)
    subjects = split_names(parser, given.subjects, SUBJECTS) if suite.subjects else [GATEWAY]
    return SuiteOptions(given.rounds, given.seconds, given.connections, subjects), given.out


def run_suite(suite: Suite, arguments: Sequence[str]) -> int:
    """Run one suite as the command line says; return the exit code."""
    options, out = parse_suite_options(suite, arguments)
    console = open_console()
    needs = ["hdrhistogram", *(need for name in options.subjects for need in SUBJECTS[name].needs)]
    missing = find_missing(("cc",), dict.fromkeys(needs))
    if missing:
        console.print(f"cannot run {suite.name}:", *missing, sep="\n- ", markup=False)
        return 2
    machine = describe_machine()
    warn(console, machine)
    started_at = datetime.datetime.now(datetime.UTC)
    try:
        found = run_with_steps(console, suite, options)
    except Failed as failure:
        console.print(f"the run failed: {failure}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was stored")
        return 1
    report = Report(
        format=FORMAT,
        suite=suite.name,
        started_at=started_at.isoformat(timespec="seconds"),
        commit=find_commit(),
        options=options,
        machine=machine,
        versions=read_versions(dict.fromkeys([*needs, *SUBJECTS[GATEWAY].needs])),
        findings=found,
    )
    show_report(console, report)
    path = store_report(report, suite.about, out, started_at)
    console.print(f"stored: {path} and {path.with_suffix('.md').name}", markup=False)
    return 0


def run_with_steps(console: Console, suite: Suite, options: SuiteOptions) -> Findings:
    """Run a suite under a display that names each step; a log gets a line for each instead."""
    if not console.is_terminal:
        return run_in_scene(
            suite, options, lambda line: console.print(f"{suite.name}: {line}", markup=False)
        )
    text = TextColumn("{task.description}", markup=False)
    # WHY: the display shares a core with the load generator; two pictures a second cost nothing.
    columns = (BarColumn(), TimeElapsedColumn(), text)
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        task = progress.add_task(suite.name, total=None)

        def say(line: str) -> None:
            progress.update(task, description=f"{suite.name}: {line}")

        return run_in_scene(suite, options, say)


def run_in_scene(suite: Suite, options: SuiteOptions, say: Say) -> Findings:
    """Run a suite in a scene of its own, and note what disturbed it."""
    with open_scene(say) as scene:
        found = suite.run(scene, options)
        found.notes += scene.describe_noise()
        found.others_cpu_percent = [round(percent, 1) for percent in scene.others]
        return found


def show_report(console: Console, report: Report) -> None:
    """Print a report's tables, notes and verdicts."""
    for found in report.findings.tables:
        show_table(console, found.title, found.headings, found.rows)
    for note in report.findings.notes:
        console.print(f"- {note}", markup=False)
    show_verdicts(console, report.findings.verdicts)
    console.print(format_machine(report), markup=False)


def show_table(
    console: Console, title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """Print one table; columns of figures stand to the right."""
    table = Table(title=title, title_justify="left")
    kept = [list(row) for row in rows]
    for index, heading in enumerate(headings):
        is_figures = all(FIGURE.fullmatch(row[index]) for row in kept)
        table.add_column(heading, justify="right" if is_figures else "left")
    for row in kept:
        table.add_row(*row)
    console.print(table)


def show_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Print what was wanted beside what was reached, if any target was measured."""
    if verdicts:
        show_table(console, "Targets", HEADINGS, map(format_verdict, verdicts))


def store_report(report: Report, about: str, out: Path, started_at: datetime.datetime) -> Path:
    """Write the JSON document and the Markdown beside it; return the former's path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{started_at:%Y-%m-%d}-{report.commit}-{report.suite}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    path.with_suffix(".md").write_text(format_report(report, about))
    return path
