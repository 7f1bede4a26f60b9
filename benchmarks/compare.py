"""What changed between two results files: every figure that both have, and by how much.

What enters: two JSON files, of the comparison or of a suite. What leaves: a table on the screen.
It must never hide that the files come from different machines, versions or options.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from benchmarks.machine import open_console
from benchmarks.report import Report
from benchmarks.results import Results
from benchmarks.suite_command import show_table

ROW_FIGURES: Final = (
    "cpu_us", "times_floor", "cpu_us_per_message", "broker_cpu_us",
    "rate", "p50_us", "p99_us", "rss_mb",
)  # fmt: skip
CHANGE_PERCENT_SHOWN: Final = 5.0
"""LIMIT: rounds of one run differ by about as much; less is not marked."""
HEADINGS: Final = ("figure", "A", "B", "change")
Document = Results | Report


class DocumentError(Exception):
    """A file holds no results."""


def read_document(path: Path) -> Document:
    """Read a results file of either kind.

    Raises:
        DocumentError: it cannot be read, or it is none.
    """
    try:
        data = path.read_bytes()
        kind = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if "suite" in kind:
            return msgspec.json.decode(data, type=Report)
        return msgspec.json.decode(data, type=Results)
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise DocumentError(f"{path} holds no results: {error}") from error


def collect_figures(document: Document) -> dict[str, float]:
    """Collect every figure of a document by its dotted name."""
    if isinstance(document, Report):
        return dict(document.findings.figures)
    figures: dict[str, float] = {}
    for row in document.rows:
        for name in ROW_FIGURES if row.rounds_valid else ():
            value = getattr(row, name)
            if value is not None:
                figures[f"{row.workload}.{row.subject}.{name}"] = value
    for workload, rate in document.publisher_rates.items():
        figures[f"{workload}.publisher.rate"] = rate
    return figures


def compare_figures(a: Mapping[str, float], b: Mapping[str, float]) -> list[list[str]]:
    """Compare two sets of figures; rows are in the order of A, then what B has alone."""
    rows: list[list[str]] = []
    for name in [*a, *(name for name in b if name not in a)]:
        before, after = a.get(name), b.get(name)
        cells = [name, *("-" if value is None else f"{value:,.6g}" for value in (before, after))]
        change = ""
        if before and after is not None:
            percent = 100 * (after - before) / before
            mark = " *" if abs(percent) > CHANGE_PERCENT_SHOWN else ""
            change = f"{percent:+.1f} %{mark}"
        rows.append([*cells, change])
    return rows


def find_differences(a: Document, b: Document) -> list[str]:
    """Say what makes two documents hard to compare, one sentence each."""
    said: list[str] = []
    for name, mine, other in (
        ("machine", a.machine.cpu_model, b.machine.cpu_model),
        ("cores", a.machine.cores, b.machine.cores),
        ("kernel", a.machine.kernel, b.machine.kernel),
        ("options", a.options, b.options),
    ):
        if mine != other:
            said.append(f"the {name} differ: A {mine}, B {other}")
    for name in [*a.versions, *(name for name in b.versions if name not in a.versions)]:
        mine, other = a.versions.get(name, "absent"), b.versions.get(name, "absent")
        if mine != other:
            said.append(f"{name} differs: A {mine}, B {other}")
    return said


def run_compare(arguments: Sequence[str]) -> int:
    """Print how two results files differ; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description="Compare two results files."
    )
    parser.add_argument("a", type=Path, metavar="A.json")
    parser.add_argument("b", type=Path, metavar="B.json")
    given = parser.parse_args(arguments)
    console: Console = open_console()
    try:
        a, b = read_document(given.a), read_document(given.b)
    except DocumentError as error:
        console.print(str(error), markup=False)
        return 2
    rows = compare_figures(collect_figures(a), collect_figures(b))
    title = f"A {a.commit} of {a.started_at}, B {b.commit} of {b.started_at}"
    show_table(console, title, HEADINGS, rows)
    console.print(f"* more than {CHANGE_PERCENT_SHOWN:g} %", markup=False)
    for line in find_differences(a, b):
        console.print(f"- {line}", markup=False)
    return 0
