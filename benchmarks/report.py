"""The report of one suite: what is stored as JSON, and how a reader sees it.

What enters: figures, tables and verdicts of a suite, with machine, versions and commit.
What leaves: a JSON document whose shape is `Report`, and the same as Markdown. All of it is pure.
It must never show a figure without saying what was wrong with it: that is what `notes` are for.
"""

from __future__ import annotations

from typing import Final

import msgspec

from benchmarks.results import Machine
from benchmarks.targets import Verdict, format_markdown

FORMAT: Final = 1


class Table(msgspec.Struct):
    """Rows for a reader; every cell is formatted."""

    title: str
    headings: list[str]
    rows: list[list[str]] = []


class Point(msgspec.Struct, frozen=True):
    """One point of a plotted line: requests a second, and latencies in microseconds there."""

    rate: float
    p50_us: float
    p99_us: float
    p999_us: float


class Findings(msgspec.Struct):
    """What a suite found out.

    Args:
        figures: every number by a dotted name, for comparison with other runs.
        tables: the same for a reader.
        verdicts: on the targets that the suite measures.
        series: lines to be plotted, by their name.
        histograms: latencies in HdrHistogram's compressed form, by their name; nanoseconds.
        notes: what disturbed or failed, one sentence each.
        others_cpu_percent: how busy the server's core was with others, in each round of load.
    """

    figures: dict[str, float] = {}
    tables: list[Table] = []
    verdicts: list[Verdict] = []
    series: dict[str, list[Point]] = {}
    histograms: dict[str, str] = {}
    notes: list[str] = []
    others_cpu_percent: list[float] = []

    def set(self, name: str, value: float) -> float:
        """Keep a figure under its name, rounded, and return it."""
        self.figures[name] = round(value, 4)
        return value


class SuiteOptions(msgspec.Struct, frozen=True):
    """What was asked of a suite."""

    rounds: int
    seconds: float
    connections: int
    subjects: list[str]


class Report(msgspec.Struct, frozen=True):
    """The whole of a suite's results file."""

    format: int
    suite: str
    started_at: str
    commit: str
    options: SuiteOptions
    machine: Machine
    versions: dict[str, str]
    findings: Findings


def format_machine(report: Report) -> str:
    """Format one line of where and how the figures were taken."""
    machine, options = report.machine, report.options
    return (
        f"{machine.cpu_model}, {machine.cores} cores, Linux {machine.kernel}; server and broker on "
        f"core {machine.server_core}, load on core {machine.load_core}; {options.rounds} rounds of "
        f"{options.seconds:g} s; load average before {machine.load_average}; "
        f"commit {report.commit}"
    )


def format_report(report: Report, about: str) -> str:
    """Format a report as Markdown: verdicts first, then the tables, then what disturbed."""
    found = report.findings
    lines = [f"# {report.suite}: {about}", "", f"{report.started_at}. {format_machine(report)}", ""]
    lines += format_markdown(found.verdicts)
    for table in found.tables:
        lines += [f"## {table.title}", "", "| " + " | ".join(table.headings) + " |"]
        lines += ["|---" * len(table.headings) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        lines.append("")
    lines += [f"- {note}" for note in found.notes]
    lines += [""] if found.notes else []
    lines += ["Versions: " + ", ".join(f"{k} {v}" for k, v in report.versions.items()), ""]
    return "\n".join(lines)
