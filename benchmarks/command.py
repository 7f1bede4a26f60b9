"""The command line of the benchmarks: options in, progress and tables out.

What enters: arguments. What leaves: an exit code, tables on the screen, and two files: JSON with
every raw round, Markdown for a reader. `__main__` calls it once the packages are there.
It must never let a subject vanish from the table without a word.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.harness import Record, run_harness
from benchmarks.needs import find_missing, first_line, read_versions
from benchmarks.proc import parse_cpu_model
from benchmarks.processes import ROOT, Failed, find_cores
from benchmarks.results import (
    FORMAT,
    HEADINGS,
    Machine,
    Options,
    Results,
    build_rows,
    format_cells,
    format_machine,
    format_markdown,
    format_problems,
    format_title,
)
from benchmarks.subjects import SUBJECTS
from benchmarks.workloads import DEFAULT_WORKLOADS, WORKLOADS

RESULTS_DIR: Final = ROOT / "benchmarks" / "results"
PLAIN_COLUMNS: Final = 140
"""WHY: a log file has no width, and a table cut to 80 columns shows no figures."""
LOAD_AVERAGE_CALM: Final = 0.7
"""LIMIT: above this, something else ran in the minute before the run; the run says so."""


def parse_options(arguments: Sequence[str]) -> tuple[Options, Path]:
    """Parse the command line into options and the folder of the results (exit 2 when wrong)."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Compare the gateway with the floor and its peers."
    )
    workloads, subjects = ",".join(DEFAULT_WORKLOADS), ",".join(SUBJECTS)
    names = parser.add_argument_group("what (names, separated by commas)")
    names.add_argument("--workload", default=workloads, help=f"of {', '.join(WORKLOADS)}")
    names.add_argument("--subjects", default=subjects, help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--rounds", type=_bounded(1, 50), default=3)
    parser.add_argument("--seconds", type=_bounded(1, 60), default=4, help="of each round")
    parser.add_argument("--connections", type=_bounded(1, 10_000), default=64)
    parser.add_argument("--out", type=Path, default=RESULTS_DIR, help="folder of the results")
    given = parser.parse_args(arguments)
    options = Options(
        workloads=_split_names(parser, given.workload, WORKLOADS),
        subjects=_split_names(parser, given.subjects, SUBJECTS),
        rounds=given.rounds,
        seconds=given.seconds,
        connections=given.connections,
    )
    return options, given.out


def _bounded(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not between {least} and {most}")
        return value

    return parse


def _split_names(
    parser: argparse.ArgumentParser, text: str, known: Mapping[str, object]
) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"{name!r} is unknown; known are {', '.join(known)}")
    if not names:
        parser.error("at least one name is needed")
    return list(dict.fromkeys(names))


def run_command(arguments: Sequence[str]) -> int:
    """Run the comparison as the command line says; return the exit code."""
    options, out = parse_options(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, PLAIN_COLUMNS))
    needs = dict.fromkeys(need for name in options.subjects for need in SUBJECTS[name].needs)
    missing = find_missing((), needs)
    if missing:
        console.print("cannot run all subjects:", *missing, sep="\n- ", markup=False)
        console.print("or leave some out: --subjects " + ",".join(options.subjects), markup=False)
        return 2
    machine = describe_machine()
    warn(console, machine)
    started_at = datetime.datetime.now(datetime.UTC)
    try:
        record = run_with_progress(console, options)
    except Failed as failure:
        console.print(f"the run failed: {failure}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was stored")
        return 1
    results = Results(
        format=FORMAT,
        started_at=started_at.isoformat(timespec="seconds"),
        commit=find_commit(),
        options=options,
        machine=machine,
        versions=read_versions(needs),
        rows=build_rows(record.samples, record.idle_rss_kb, record.failures),
        samples=record.samples,
    )
    show(console, results)
    path = store(results, out, started_at)
    console.print(f"stored: {path} and {path.with_suffix('.md').name}", markup=False)
    return 0 if all(row.rounds_valid == options.rounds for row in results.rows) else 1


def run_with_progress(console: Console, options: Options) -> Record:
    """Run the harness under a progress bar that counts its steps."""
    # Each subject of a workload is started, warmed up, and then loaded once per round.
    steps = len(options.workloads) * len(options.subjects) * (2 + options.rounds)
    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    text = TextColumn("{task.description}", markup=False)
    # WHY: the display shares a core with the load generator; two pictures a second cost nothing.
    with Progress(*columns, text, console=console, refresh_per_second=2) as progress:
        task = progress.add_task("starting the broker", total=steps)

        def say(line: str) -> None:
            progress.update(task, description=line.partition("\n")[0], advance=1)

        record = run_harness(options, say)
        progress.update(task, completed=steps, description="done")
        return record


def describe_machine() -> Machine:
    """Describe this machine as far as it matters to the figures."""
    server_core, load_core = find_cores()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cpu_model=parse_cpu_model(Path("/proc/cpuinfo").read_text()),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        memory_mb=memory // 1024**2,
        server_core=server_core,
        load_core=load_core,
        load_average=round(os.getloadavg()[0], 2),
    )


def warn(console: Console, machine: Machine) -> None:
    """Say what makes the figures of this run weaker than they could be."""
    if machine.server_core == machine.load_core:
        console.print("warning: one core only; the load generator shares it with the server")
    if machine.load_average > LOAD_AVERAGE_CALM:
        console.print(
            f"warning: the load average is {machine.load_average}; something else is running"
        )


def find_commit() -> str:
    """Find the short hash of the checkout, with "-dirty" when files differ from it."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    commit = first_line([*git, "rev-parse", "--short=10", "HEAD"])
    if not commit.isalnum() or commit == "unknown":
        return "uncommitted"
    changed = first_line([*git, "status", "--porcelain", "--untracked-files=no"])
    return commit if changed == "unknown" else f"{commit}-dirty"


def show(console: Console, results: Results) -> None:
    """Print one table per workload, then every problem."""
    for name in results.options.workloads:
        rows = [row for row in results.rows if row.workload == name]
        table = Table(title=format_title(name, results.options.connections), title_justify="left")
        for index, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*format_cells(row), style="bold" if row.subject == "fastgw" else None)
        console.print(table)
        for line in format_problems(rows):
            console.print(line, markup=False)
    console.print(format_machine(results), markup=False)


def store(results: Results, out: Path, started_at: datetime.datetime) -> Path:
    """Write the JSON document and the Markdown beside it; return the former's path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{started_at:%Y-%m-%d}-{results.commit}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    path.with_suffix(".md").write_text(format_markdown(results))
    return path
