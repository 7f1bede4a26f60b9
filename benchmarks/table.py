"""The table of targets: each one with what was reached, floor, best peer, command, results file.

What enters: results files. What leaves: one line for each target, from the newest file that has it.
Every figure is read from a file, and judged here by the targets of today. All but `read_newest` is
pure. It must never show a figure without its file, nor hide that others used the machine meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.compare import Document, DocumentError, collect_figures, read_document
from benchmarks.report import Report
from benchmarks.results import (
    CONNECTIONS,
    OTHERS_PERCENT_MARKED,
    ROUNDS,
    SECONDS,
    Results,
    judge_rows,
)
from benchmarks.subjects import FLOOR, GATEWAY, SUBJECTS
from benchmarks.suite_command import SUITES
from benchmarks.targets import (
    REFERENCE_FLOOR_US,
    TARGETS,
    TIMES,
    Verdict,
    format_figure,
    judge,
    scale_to_reference,
)
from benchmarks.workloads import DEFAULT_WORKLOADS, TABLES

HEADINGS: Final = (
    "row", "what", "target", "reached", "floor", "best peer", "command", "results file",
)  # fmt: skip
ASGI: Final = ("asgi-uvicorn", "asgi-granian")
LABELS: Final = {
    **{name: subject.label for name, subject in SUBJECTS.items()},
    "nats_py": "nats-py fetch loop",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the figures of a target stand.

    Args:
        suite: that measures it, or the subcommand of the comparison.
        workload: of the comparison; empty for a suite.
        figure: what a subject's own figure is called, with its name in braces; empty without one.
        unit: of that figure.
        is_most: whether less of it is better.
        peers: whom the target names; empty for the best of all.
        yardstick: the figure of the floor's single request, where the target is CPU time.
    """

    suite: str
    workload: str = ""
    figure: str = ""
    unit: str = ""
    is_most: bool = True
    peers: tuple[str, ...] = ()
    yardstick: str = ""


_US: Final = " \u00b5s"
_SPEED: Final = " MB a CPU s"
_SINGLE: Final = f"single.{FLOOR}.cpu_us"
_MESSAGE: Final = "{subject}.cpu_us_per_message"
SOURCES: Final[Mapping[str, Source]] = {
    "P1.floor": Source("single", "schema", "schema.{subject}.cpu_us", _US),
    "P1.fastapi": Source("single", "schema", "schema.{subject}.cpu_us", _US, peers=("fastapi",)),
    "P1.asgi": Source("single", "schema", "schema.{subject}.cpu_us", _US, peers=ASGI),
    "P2.floor": Source("single", "single-plain", "single-plain.{subject}.cpu_us", _US),
    "P3.p50": Source("latency", "", "{subject}.alone.p50_us", _US),
    "P3.p99": Source("latency", "", "{subject}.alone.p99_us", _US),
    "P4.p99": Source("latency", "", "{subject}.half.p99_us", _US),
    "P5.plain": Source("batch", "batch", f"batch.{_MESSAGE}", _US, yardstick=_SINGLE),
    "P5.schema": Source(
        "batch", "schema-batch", f"schema-batch.{_MESSAGE}", _US, yardstick=_SINGLE
    ),
    "P5.rate": Source("batch", "batch-plain", "batch-plain.{subject}.rate", " batches/s", False),
    "P6.cpu": Source("consume", "", _MESSAGE, _US, yardstick=f"{FLOOR}.single.cpu_us"),
    "P6.times": Source("consume", "", _MESSAGE, _US),
    "P7.cost": Source("pipeline", "", "{subject}.{connections}.ratio", TIMES),
    "P8.1k": Source("bodies", "", "{subject}.1k.mb_a_cpu_second", _SPEED, is_most=False),
    "P8.64k": Source("bodies", "", "{subject}.64k.mb_a_cpu_second", _SPEED, is_most=False),
    "P8.1m": Source("bodies", "", "{subject}.1m.mb_a_cpu_second", _SPEED, is_most=False),
    "P9.worker": Source("memory", "", "{subject}.idle_rss_mb", " MB"),
    "P9.connection": Source("memory"),
    "P10.connections": Source("scale"),
    "P10.stations": Source("scale"),
    "P10.tokens": Source("scale"),
    "P11.start": Source("start"),
    "P12.workers": Source("scale"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table; `path` is None where no file has a figure.

    Args:
        verdict: the plain figure, judged.
        own: the gateway's figure behind a ratio.
        scaled: the figure of CPU time, as of the machine of the targets; judged as well.
    """

    verdict: Verdict
    command: str
    path: Path | None = None
    own: str = ""
    floor: str = ""
    peer: str = ""
    scaled: Verdict | None = None
    disturbed: str = ""


Found = Sequence[tuple[Path, Document]]
"""Results files and what they hold, the newest first."""


def read_newest(paths: Iterable[Path]) -> Found:
    """Read results files, and put the newest first.

    Raises:
        DocumentError: one of them holds no results.
    """
    documents = [(path, read_document(path)) for path in paths]
    return sorted(documents, key=lambda each: (each[1].started_at, each[0].name), reverse=True)


def find_lines(documents: Found) -> list[Line]:
    """Find one line for each target, in the order of the targets."""
    judged = [(path, document, find_verdicts(document)) for path, document in documents]
    lines = []
    for key, source in SOURCES.items():
        fitting = (
            build_line(key, path, document, verdicts[key])
            for path, document, verdicts in judged
            if key in verdicts
        )
        missing = Line(judge(key, None), f"python -m benchmarks {source.suite}")
        lines.append(next(fitting, missing))
    return lines


def find_verdicts(document: Document) -> dict[str, Verdict]:
    """Judge what a document has a figure of, by the targets of today."""
    if isinstance(document, Results):
        found = judge_rows(document.rows, document.publisher_rates)
    else:
        found = document.findings.verdicts
    known = ((each.key, each.value) for each in found if each.key in TARGETS)
    return {key: judge(key, value) for key, value in known if value is not None}


def build_line(key: str, path: Path, document: Document, verdict: Verdict) -> Line:
    """Build the line of one target from the one document that has it."""
    source = SOURCES[key]
    figures = collect_figures(document)
    own = _find(figures, source, document, GATEWAY)
    floor = _find(figures, source, document, FLOOR)
    best = find_peer(figures, source, document)
    peer = _format(_find(figures, source, document, best), source.unit)
    scaled = None
    if TARGETS[key].is_cpu and verdict.value and figures.get(source.yardstick):
        scaled = judge(key, scale_to_reference(verdict.value, figures[source.yardstick]))
    others = read_others(document, source.workload, [GATEWAY, FLOOR, best])
    is_ratio = TARGETS[key].unit == TIMES != source.unit
    return Line(
        verdict=verdict,
        command=format_command(document),
        path=path,
        own=_format(own, source.unit) if is_ratio else "",
        floor=_format(floor, source.unit),
        peer=f"{LABELS[best]}, {peer}" if best else "",
        scaled=scaled,
        disturbed=describe_disturbed(others),
    )


def _find(
    figures: Mapping[str, float], source: Source, document: Document, subject: str
) -> float | None:
    name = source.figure.format(subject=subject, connections=document.options.connections)
    return figures.get(name)


def find_peer(figures: Mapping[str, float], source: Source, document: Document) -> str:
    """Find the best peer: not the floor, not ours; one of those that the target names, if any."""
    names = source.peers or tuple(name for name in LABELS if name not in (FLOOR, GATEWAY))
    found = {name: _find(figures, source, document, name) for name in names}
    values = {name: value for name, value in found.items() if value is not None}
    choose = min if source.is_most else max
    return choose(values, key=lambda name: values[name]) if values else ""


def _format(value: float | None, unit: str) -> str:
    return "" if value is None else f"{format_figure(value)}{unit}"


def read_others(document: Document, workload: str, subjects: Sequence[str]) -> list[float]:
    """Read what others took of the server's core, in each round that a line rests on.

    WHY all rounds of a suite: it keeps none apart, and its subjects take turns in the same minutes.
    """
    if isinstance(document, Report):
        return document.findings.others_cpu_percent
    return [
        sample.figures.others_cpu_percent
        for sample in document.samples
        if sample.workload == workload and sample.subject in subjects
    ]


def describe_disturbed(others: Sequence[float]) -> str:
    """Say in how many rounds others took too much of the server's core; empty when in none."""
    noisy = [percent for percent in others if percent > OTHERS_PERCENT_MARKED]
    if not noisy:
        return ""
    return f"disturbed in {len(noisy)} of {len(others)} rounds, by up to {max(noisy):.0f} %"


def format_command(document: Document) -> str:
    """Format the command line that measures the same: the suite, and what is not its default."""
    asked = document.options
    words = ["python -m benchmarks"]
    rounds, seconds, subjects = ROUNDS, float(SECONDS), list(SUBJECTS)
    if isinstance(document, Report):
        suite = SUITES[document.suite]
        words.append(suite.name)
        rounds, seconds, subjects = suite.rounds, suite.seconds, list(suite.subjects or [GATEWAY])
    else:
        tables = {"": DEFAULT_WORKLOADS, **TABLES}
        workloads = document.options.workloads
        known = [name for name, names in tables.items() if list(names) == workloads]
        words += known if known else [f"--workload {','.join(workloads)}"]
    words += [f"--rounds {asked.rounds}"] if asked.rounds != rounds else []
    words += [f"--seconds {asked.seconds:g}"] if asked.seconds != seconds else []
    words += [f"--connections {asked.connections}"] if asked.connections != CONNECTIONS else []
    words += [f"--subjects {','.join(asked.subjects)}"] if asked.subjects != subjects else []
    return " ".join(word for word in words if word)


def format_reached(line: Line) -> str:
    """Format what was reached: the plain figure first, then the scaled one, then the verdict."""
    if line.path is None:
        return "no result"
    said = line.verdict.reached + (f" ({line.own})" if line.own else "")
    word = "reached" if line.verdict.is_met else "not reached"
    if line.scaled:
        said += f", scaled {line.scaled.reached}"
        if line.verdict.is_met:
            word = "reached as it is"
        elif line.scaled.is_met:
            word = "reached as scaled only"
        else:
            word = "not reached, nor as scaled"
    elif TARGETS[line.verdict.key].is_cpu:
        word += " as it is"
    said += f": **{word}**"
    return said + (f"; {line.disturbed}" if line.disturbed else "")


def format_cells(line: Line, folder: Path) -> list[str]:
    """Format one line in the order of `HEADINGS`, with links from a document in `folder`."""
    verdict = line.verdict
    link = "-" if line.path is None else format_link(line.path, folder)
    cells = [verdict.row, verdict.what, verdict.target, format_reached(line)]
    return [*cells, line.floor or "-", line.peer or "-", f"`{line.command}`", link]


def format_link(path: Path, folder: Path) -> str:
    """Format a Markdown link to a file, from a document in `folder`."""
    return f"[{path.stem}]({find_relative(path, folder)})"


def find_relative(path: Path, folder: Path) -> str:
    """Find how a document in `folder` names a file."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def format_row(cells: Iterable[str]) -> str:
    """Format one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def format_targets(lines: Sequence[Line], folder: Path) -> list[str]:
    """Format the table as Markdown, with the rules that its words follow below it."""
    rows = [format_row(HEADINGS), "|---" * len(HEADINGS) + "|"]
    rows += [format_row(format_cells(line, folder)) for line in lines]
    rows += [
        "",
        "In brackets, and for floor and peer: the figure behind the ratio, of the same run.",
    ]
    if any(line.scaled for line in lines):
        rows.append(
            f"*Scaled* is the figure times {REFERENCE_FLOOR_US:g} \u00b5s / the floor's CPU for a "
            "single request in the same run, "
            f"because these targets were set where the floor took {REFERENCE_FLOOR_US:g} \u00b5s; "
            "the verdict says which of the two it rests on."
        )
    if any(line.disturbed for line in lines):
        rows.append(
            "*Disturbed* are rounds in which other processes took more than "
            f"{OTHERS_PERCENT_MARKED:g} % of the server's core."
        )
    return rows


def format_peers(path: Path, results: Results, folder: Path) -> list[str]:
    """Format one comparison for a reader: what each subject spends on three kinds of work.

    Raises:
        DocumentError: the single message was not measured.
    """
    figures = collect_figures(results)
    names = [name for name in SUBJECTS if f"single.{name}.cpu_us" in figures]
    if not names:
        raise DocumentError(f"{path} has no figures of the single message")
    names.sort(key=lambda name: (name != FLOOR, figures[f"single.{name}.cpu_us"]))
    heads = {
        "CPU \u00b5s a request": ("single.{}.cpu_us", "{:.1f}"),
        "\u00d7 floor": ("single.{}.times_floor", "{:.1f}"),
        "requests/s": ("single.{}.rate", "{:,.0f}"),
        "p99, ms": ("single.{}.p99_us", "{:.1f}"),
        "with JSON Schema, \u00b5s": ("schema.{}.cpu_us", "{:.1f}"),
        "a message of 100, \u00b5s": ("batch.{}.cpu_us_per_message", "{:.2f}"),
        "MB": ("single.{}.rss_mb", "{:.0f}"),
    }
    rows = [format_row(["", *heads]), "|---" * (len(heads) + 1) + "|"]
    for name in names:
        cells = [LABELS[name]]
        for pattern, shape in heads.values():
            value = figures.get(pattern.format(name))
            scale = 1000 if pattern.endswith("p99_us") else 1
            cells.append("-" if value is None else shape.format(value / scale))
        rows.append(format_row([f"**{cell}**" for cell in cells] if name == GATEWAY else cells))
    machine, asked = results.machine, results.options
    shown = {pattern.partition(".")[0] for pattern, _ in heads.values()}
    others = [each for name in shown for each in read_others(results, name, names)]
    disturbed = describe_disturbed(others)
    return [
        *rows,
        "",
        f"From {format_link(path, folder)}: {machine.cpu_model}, {machine.cores} cores, "
        f"Linux {machine.kernel}, {asked.rounds} rounds of {asked.seconds} s, "
        f"load average before {machine.load_average:g}, commit {results.commit}"
        + (f"; {disturbed}." if disturbed else "."),
    ]
