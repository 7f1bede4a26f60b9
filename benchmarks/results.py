"""The results of a run: what is stored, how raw rounds become a row, how rows become Markdown.

What enters: one `Sample` per round. What leaves: rows of medians, a JSON document whose shape is
`Results`, and the same rows as a Markdown table. Everything here is pure.
It must never let an invalid round into a median, nor show a row without saying what was wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Final

import msgspec

from benchmarks.processes import ROOT
from benchmarks.subjects import FLOOR, GATEWAY, SUBJECTS
from benchmarks.targets import Verdict, judge
from benchmarks.targets import format_markdown as format_verdicts
from benchmarks.workloads import WORKLOADS

FORMAT: Final = 1
RESULTS_DIR: Final = ROOT / "benchmarks" / "results"
ROUNDS: Final = 3
SECONDS: Final = 4
CONNECTIONS: Final = 64
"""Of a run whose command line does not say otherwise."""
OTHERS_PERCENT_CALM: Final = 8.0
"""LIMIT: the kernel's own share of a core under load was 2 to 5 %; more is somebody else."""
OTHERS_PERCENT_MARKED: Final = 15.0
"""LIMIT: a round in which others took more is said in every line that rests on it."""


class Figures(msgspec.Struct, frozen=True):
    """What one round measured. Times are microseconds; memory is kilobytes."""

    requests: int
    rate: float
    cpu_us: float
    broker_cpu_us: float
    p50_us: int
    p90_us: int
    p99_us: int
    p999_us: int
    max_us: int
    rss_kb: int
    peak_kb: int
    stored: int
    others_cpu_percent: float
    """How busy the server's core was with anything but server and broker: noise."""
    problem: str = ""
    """Why this round does not count; empty when it does."""


class Sample(msgspec.Struct, frozen=True):
    """The raw figures of one round of one subject."""

    workload: str
    subject: str
    round: int
    figures: Figures


class Row(msgspec.Struct, frozen=True):
    """One subject under one workload: medians over its valid rounds."""

    workload: str
    subject: str
    rounds_valid: int
    cpu_us: float = 0.0
    cpu_us_min: float = 0.0
    cpu_us_max: float = 0.0
    cpu_us_per_message: float = 0.0
    times_floor: float | None = None
    broker_cpu_us: float = 0.0
    rate: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    idle_rss_mb: float = 0.0
    rss_mb: float = 0.0
    peak_mb: float = 0.0
    others_cpu_percent: float = 0.0
    problem: str = ""


class Machine(msgspec.Struct, frozen=True):
    """Where the figures come from."""

    cpu_model: str
    cores: int
    kernel: str
    memory_mb: int
    server_core: int
    load_core: int
    load_average: float


class Options(msgspec.Struct, frozen=True):
    """What was asked of the run."""

    workloads: list[str]
    subjects: list[str]
    rounds: int
    seconds: int
    connections: int


class Results(msgspec.Struct, frozen=True):
    """The whole of a results file."""

    format: int
    started_at: str
    commit: str
    options: Options
    machine: Machine
    versions: dict[str, str]
    rows: list[Row]
    samples: list[Sample]
    publisher_rates: dict[str, float] = {}
    """Messages a second that a raw publisher stored on the server's core, by workload."""
    verdicts: list[Verdict] = []


def build_rows(
    samples: Sequence[Sample],
    idle_rss_kb: dict[tuple[str, str], int],
    failures: dict[tuple[str, str], str],
) -> list[Row]:
    """Build one row per workload and subject, in the order in which they were tried."""
    keys = list(dict.fromkeys([*((s.workload, s.subject) for s in samples), *failures]))
    keys.sort(key=lambda key: (_position(WORKLOADS, key[0]), _position(SUBJECTS, key[1])))
    rows: list[Row] = []
    for workload, subject in keys:
        mine = [s for s in samples if (s.workload, s.subject) == (workload, subject)]
        problem = failures.get((workload, subject), "") or _join_problems(mine)
        valid = [sample.figures for sample in mine if not sample.figures.problem]
        if valid:
            row = Row(workload, subject, len(valid), problem=problem)
            row = _fill_row(row, valid, idle_rss_kb.get((workload, subject), 0))
        else:
            row = Row(workload, subject, 0, problem=problem or "no round counted")
        rows.append(row)
    return _compare_to_floor(rows)


def _position(table: Iterable[str], name: str) -> int:
    names = list(table)
    return names.index(name) if name in names else len(names)


def _join_problems(samples: Iterable[Sample]) -> str:
    return "; ".join(dict.fromkeys(s.figures.problem for s in samples if s.figures.problem))


def _fill_row(row: Row, rounds: Sequence[Figures], idle_rss_kb: int) -> Row:
    def middle(read: Callable[[Figures], float]) -> float:
        return round(median(read(figures) for figures in rounds), 2)

    costs = [figures.cpu_us for figures in rounds]
    messages = WORKLOADS[row.workload].messages
    return msgspec.structs.replace(
        row,
        cpu_us=middle(lambda figures: figures.cpu_us),
        cpu_us_min=round(min(costs), 2),
        cpu_us_max=round(max(costs), 2),
        cpu_us_per_message=round(median(costs) / messages, 3),
        broker_cpu_us=middle(lambda figures: figures.broker_cpu_us),
        rate=middle(lambda figures: figures.rate),
        p50_us=middle(lambda figures: figures.p50_us),
        p99_us=middle(lambda figures: figures.p99_us),
        idle_rss_mb=round(idle_rss_kb / 1024, 1),
        rss_mb=middle(lambda figures: figures.rss_kb / 1024),
        peak_mb=middle(lambda figures: figures.peak_kb / 1024),
        others_cpu_percent=middle(lambda figures: figures.others_cpu_percent),
    )


def _compare_to_floor(rows: list[Row]) -> list[Row]:
    """Add the ratio to the floor of the same workload, where the floor ran."""
    floors = {row.workload: row.cpu_us for row in rows if row.subject == FLOOR and row.cpu_us}
    return [
        msgspec.structs.replace(row, times_floor=round(row.cpu_us / floors[row.workload], 2))
        if row.workload in floors and row.rounds_valid
        else row
        for row in rows
    ]


def judge_rows(rows: Iterable[Row], publisher_rates: Mapping[str, float]) -> list[Verdict]:
    """Judge the targets whose workloads ran with the gateway and whom it is compared with."""
    found = {(row.workload, row.subject): row for row in rows if row.rounds_valid}

    def find_times(workload: str, *peers: str) -> float | None:
        costs = [found[workload, name].cpu_us for name in peers if (workload, name) in found]
        ours = found.get((workload, GATEWAY))
        return min(costs) / ours.cpu_us if costs and ours and ours.cpu_us else None

    verdicts: list[Verdict] = []
    if ours := found.get(("schema", GATEWAY)):
        verdicts += [
            judge("P1.floor", ours.times_floor),
            judge("P1.fastapi", find_times("schema", "fastapi")),
            judge("P1.asgi", find_times("schema", "asgi-uvicorn", "asgi-granian")),
        ]
    if ours := found.get(("single-plain", GATEWAY)):
        verdicts.append(judge("P2.floor", ours.times_floor))
    if ours := found.get(("batch", GATEWAY)):
        verdicts.append(judge("P5.plain", ours.cpu_us_per_message))
    if ours := found.get(("schema-batch", GATEWAY)):
        verdicts.append(judge("P5.schema", ours.cpu_us_per_message))
    if ours := found.get(("batch-plain", GATEWAY)):
        rate = publisher_rates.get("batch-plain")
        messages = ours.rate * WORKLOADS["batch-plain"].messages
        verdicts.append(judge("P5.rate", messages / rate if rate else None))
    return verdicts


HEADINGS: Final = (
    "subject",
    "CPU µs/req",
    "\u00d7 floor",
    "CPU µs/msg",
    "broker µs/req",
    "req/s",
    "p50",
    "p99",
    "RSS MB",
)


def format_cells(row: Row) -> list[str]:
    """Format one row in the order of `HEADINGS`; a row without a valid round says why."""
    label = SUBJECTS[row.subject].label
    if not row.rounds_valid:
        return [label, *["-"] * (len(HEADINGS) - 1)]
    times = "-" if row.times_floor is None else f"{row.times_floor:.2f}"
    return [
        label,
        f"{row.cpu_us:.2f}",
        times,
        f"{row.cpu_us_per_message:.3f}",
        f"{row.broker_cpu_us:.2f}",
        f"{row.rate:,.0f}",
        format_time(row.p50_us),
        format_time(row.p99_us),
        f"{row.rss_mb:.1f}",
    ]


def format_time(time_us: float) -> str:
    """Format microseconds for a reader: "950 µs", "1.25 ms"."""
    return f"{time_us:.0f} µs" if time_us < 1000 else f"{time_us / 1000:.2f} ms"


def format_title(name: str, connections: int) -> str:
    """Format the title of one workload's table."""
    return f"{name}: {WORKLOADS[name].about}; {connections} connections, keep-alive"


def format_machine(results: Results) -> str:
    """Format one line of where and how the figures were taken."""
    machine, options = results.machine, results.options
    return (
        f"{machine.cpu_model}, {machine.cores} cores, Linux {machine.kernel}; server and broker on "
        f"core {machine.server_core}, load on core {machine.load_core}; medians of "
        f"{options.rounds} rounds of {options.seconds} s; commit {results.commit}"
    )


def format_markdown(results: Results) -> str:
    """Format the tables of a run as Markdown, with the machine and every problem below."""
    lines: list[str] = [f"# Benchmark of {results.started_at}", "", format_machine(results), ""]
    lines += format_verdicts(results.verdicts)
    for name in dict.fromkeys(row.workload for row in results.rows):
        rows = [row for row in results.rows if row.workload == name]
        lines += [f"## {format_title(name, results.options.connections)}", ""]
        lines += ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
        lines += ["| " + " | ".join(format_cells(row)) + " |" for row in rows]
        lines += ["", *format_problems(rows)]
    for name, rate in results.publisher_rates.items():
        lines += [f"A raw publisher stored {rate:,.0f} messages a second beside {name}.", ""]
    lines += ["Versions: " + ", ".join(f"{k} {v}" for k, v in results.versions.items()), ""]
    return "\n".join(lines)


def format_problems(rows: Iterable[Row]) -> list[str]:
    """Format what went wrong or disturbed, one line per row that has something to say."""
    lines: list[str] = []
    for row in rows:
        if row.problem:
            lines.append(f"- {row.subject}, {row.workload}: {' '.join(row.problem.split())}")
        if row.others_cpu_percent > OTHERS_PERCENT_CALM:
            lines.append(
                f"- {row.subject}, {row.workload}: disturbed, other processes took "
                f"{row.others_cpu_percent:.0f} % of the server's core"
            )
    return [*lines, ""] if lines else []
