"""The command line of the benchmarks: options in, progress and tables out.

What enters: arguments. What leaves: an exit code, tables on the screen, and two files: JSON with
every raw round, Markdown for a reader. `__main__` calls it once the packages are there.
It must never let a subject vanish from the table without a word.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.compare import run_compare
from benchmarks.everything import run_everything
from benchmarks.harness import Record, run_harness
from benchmarks.machine import describe_machine, find_commit, open_console, warn
from benchmarks.needs import find_missing, read_versions
from benchmarks.plots import run_plots
from benchmarks.processes import Failed
from benchmarks.results import (
    CONNECTIONS,
    FORMAT,
    HEADINGS,
    RESULTS_DIR,
    ROUNDS,
    SECONDS,
    Options,
    Results,
    build_rows,
    format_cells,
    format_machine,
    format_markdown,
    format_problems,
    format_title,
    judge_rows,
)
from benchmarks.subjects import SUBJECTS, find_left_out
from benchmarks.suite_command import SUITES, bounded, run_suite, show_verdicts, split_names
from benchmarks.table_command import run_targets
from benchmarks.workloads import DEFAULT_WORKLOADS, TABLES, WORKLOADS

EPILOG: Final = """\
Instead of options, one of these may come first (each takes --help):
  all             the comparison and every suite, then the table of targets
  single, batch   the comparison with these workloads alone
  {suites}
  table           print the table of targets, or put it into documents
  plots           draw PNG and SVG from results
  compare A B     print how two results files differ (also --compare A B)
"""


def parse_options(
    arguments: Sequence[str], default: Sequence[str] = DEFAULT_WORKLOADS
) -> tuple[Options, Path]:
    """Parse the command line into options and the folder of the results (exit 2 when wrong)."""
    suites = "\n  ".join(f"{suite.name:15} {suite.about}" for suite in SUITES.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare the gateway with the floor and its peers.",
        epilog=EPILOG.format(suites=suites),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    left_out = find_left_out()
    workloads = ",".join(default)
    subjects = ",".join(name for name in SUBJECTS if name not in left_out)
    names = parser.add_argument_group("what (names, separated by commas)")
    names.add_argument("--workload", default=workloads, help=f"of {', '.join(WORKLOADS)}")
    names.add_argument("--subjects", default=subjects, help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--rounds", type=bounded(1, 50), default=ROUNDS)
    parser.add_argument("--seconds", type=bounded(1, 60), default=SECONDS, help="of each round")
    parser.add_argument("--connections", type=bounded(1, 10_000), default=CONNECTIONS)
    parser.add_argument("--out", type=Path, default=RESULTS_DIR, help="folder of the results")
    given = parser.parse_args(arguments)
    options = Options(
        workloads=split_names(parser, given.workload, WORKLOADS),
        subjects=split_names(parser, given.subjects, SUBJECTS),
        rounds=given.rounds,
        seconds=given.seconds,
        connections=given.connections,
    )
    return options, given.out


def run_command(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit code."""
    first, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if first in SUITES:
        return run_suite(SUITES[first], rest)
    if first in TABLES:
        return run_table(rest, TABLES[first], first)
    if first in ("compare", "--compare"):
        return run_compare(rest)
    if first == "plots":
        return run_plots(rest)
    if first == "table":
        return run_targets(rest)
    if first == "all":
        return run_everything(rest)
    return run_table(arguments, DEFAULT_WORKLOADS)


def run_table(arguments: Sequence[str], workloads: Sequence[str], name: str = "") -> int:
    """Run the comparison, by default with `workloads`; return the exit code.

    Args:
        arguments: options of the command line.
        workloads: which ones, unless the options say otherwise.
        name: the subcommand, which the results file is called after.
    """
    options, out = parse_options(arguments, workloads)
    console = open_console()
    needs = dict.fromkeys(need for name in options.subjects for need in SUBJECTS[name].needs)
    missing = find_missing((), needs)
    if missing:
        console.print("cannot run all subjects:", *missing, sep="\n- ", markup=False)
        console.print("or leave some out: --subjects " + ",".join(options.subjects), markup=False)
        return 2
    machine = describe_machine()
    warn(console, machine)
    for name, line in find_left_out().items():  # Named ones would have ended the run above.
        console.print(f"left out: {name}: {line}", markup=False)
    started_at = datetime.datetime.now(datetime.UTC)
    try:
        record = run_with_progress(console, options)
    except Failed as failure:
        console.print(f"the run failed: {failure}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was stored")
        return 1
    rows = build_rows(record.samples, record.idle_rss_kb, record.failures)
    rates = {name: round(median(rates), 1) for name, rates in record.publisher_rates.items()}
    results = Results(
        format=FORMAT,
        started_at=started_at.isoformat(timespec="seconds"),
        commit=find_commit(),
        options=options,
        machine=machine,
        versions=read_versions(needs),
        rows=rows,
        samples=record.samples,
        publisher_rates=rates,
        verdicts=judge_rows(rows, rates),
    )
    show(console, results)
    path = store(results, out, started_at, name)
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


def show(console: Console, results: Results) -> None:
    """Print one table per workload, every problem, and the verdicts."""
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
    show_verdicts(console, results.verdicts)
    console.print(format_machine(results), markup=False)


def store(results: Results, out: Path, started_at: datetime.datetime, name: str = "") -> Path:
    """Write the JSON document and the Markdown beside it; return the former's path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{started_at:%Y-%m-%d}-{results.commit}{name and f'-{name}'}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    path.with_suffix(".md").write_text(format_markdown(results))
    return path
