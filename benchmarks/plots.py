"""The plots: latency against rate, and CPU a request by peer, as PNG and SVG.

What enters: results files, by default the newest of each kind. What leaves: image files, each with
the name of its results file in it. matplotlib is loaded only here.
It must never draw a figure that is not in the file it names.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.compare import Document, DocumentError, read_document
from benchmarks.machine import open_console
from benchmarks.needs import find_missing
from benchmarks.report import Report
from benchmarks.results import RESULTS_DIR, Results
from benchmarks.subjects import FLOOR, GATEWAY, SUBJECTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE: Final = (7.0, 4.2)
PNG_DPI: Final = 130
BAR_WORKLOADS: Final = ("single", "schema", "batch")
COLOURS: Final = {FLOOR: "#7f7f7f", GATEWAY: "#d62728"}
OTHERS: Final = ("#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf")
SALT: Final = "fastgw"
"""WHY: so that the same figures give the same SVG."""


def run_plots(arguments: Sequence[str]) -> int:
    """Draw what the results hold; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks plots", description="Draw PNG and SVG from results."
    )
    parser.add_argument("files", type=Path, nargs="*", help="results; default: the newest")
    parser.add_argument("--out", type=Path, default=RESULTS_DIR, help="folder of the images")
    given = parser.parse_args(arguments)
    console = open_console()
    missing = find_missing((), ("matplotlib",))
    if missing:
        console.print("cannot draw:", *missing, sep="\n- ", markup=False)
        return 2
    try:
        documents = {path: read_document(path) for path in given.files or find_newest(RESULTS_DIR)}
    except DocumentError as error:
        console.print(str(error), markup=False)
        return 2
    drawn = [
        image for path, document in documents.items() for image in draw(path, document, given.out)
    ]
    for image in drawn:
        console.print(f"drawn: {image}", markup=False)
    if not drawn:
        console.print("no results that can be drawn: run the comparison or `latency` first")
    return 0 if drawn else 1


def find_newest(folder: Path) -> list[Path]:
    """Find the newest results of the latency suite and of the comparison, by when they started."""
    newest: dict[str, tuple[str, Path]] = {}
    for path in sorted(folder.glob("*.json")):
        document = read_document(path)
        kind = document.suite if isinstance(document, Report) else find_kind(document)
        if kind in ("latency", "table"):
            newest[kind] = max(newest.get(kind, ("", path)), (document.started_at, path))
    return [path for _, path in newest.values()]


def find_kind(results: Results) -> str:
    """Tell a comparison with peers, which is worth a plot, from one of a part of them."""
    subjects = {row.subject for row in results.rows if row.rounds_valid}
    return "table" if GATEWAY in subjects and subjects - {FLOOR, GATEWAY} else "part"


def draw(path: Path, document: Document, out: Path) -> list[Path]:
    """Draw what one document has for a plot; return the image files."""
    import matplotlib as mpl  # WHY: here, so that nothing else needs it.

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": SALT, "svg.fonttype": "none", "font.size": 9})
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(document, Report):
        return draw_latency(path, document, out) if document.findings.series else []
    return draw_costs(path, document, out)


def draw_latency(path: Path, report: Report, out: Path) -> list[Path]:
    """Draw p50 and p99 of each subject along the rate."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=SIZE)
    for name, points in report.findings.series.items():
        rates = [point.rate / 1000 for point in points]
        colour = find_colour(name, report.findings.series)
        label = find_label(name)
        axes.plot(
            rates, [p.p99_us / 1000 for p in points], "-o", color=colour, label=f"{label}, p99"
        )
        axes.plot(
            rates, [p.p50_us / 1000 for p in points], ":", color=colour, label=f"{label}, p50"
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(left=0)
    axes.set_xlabel("thousand requests a second, at a constant rate")
    axes.set_ylabel("latency, ms")
    axes.set_title(f"Latency against rate, {report.options.connections} connections")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
    return _save(figure, axes, path, out / "latency-rate")


def draw_costs(path: Path, results: Results, out: Path) -> list[Path]:
    """Draw CPU a request of each subject, a panel for each workload."""
    from matplotlib import pyplot

    rows = [row for row in results.rows if row.rounds_valid]
    names = [name for name in BAR_WORKLOADS if any(row.workload == name for row in rows)]
    if not names:
        return []
    figure, panels = pyplot.subplots(
        len(names), 1, figsize=(SIZE[0], 0.6 + 1.9 * len(names)), squeeze=False
    )
    for axes, name in zip(panels[:, 0], names, strict=True):
        mine = [row for row in rows if row.workload == name][::-1]
        labels = [find_label(row.subject) for row in mine]
        colours = [find_colour(row.subject, SUBJECTS) for row in mine]
        bars = axes.barh(labels, [row.cpu_us for row in mine], color=colours)
        axes.bar_label(bars, fmt="{:,.1f}", padding=3, fontsize=8)
        axes.margins(x=0.15)
        axes.set_title(f"{name}: CPU \u00b5s a request", fontsize=9)
        axes.grid(visible=True, axis="x", alpha=0.25)
    return _save(figure, panels[-1, 0], path, out / "cpu-per-request")


def find_label(name: str) -> str:
    """Find what the tables call a subject."""
    return SUBJECTS[name].label if name in SUBJECTS else name


def find_colour(name: str, names: Iterable[str]) -> str:
    """Choose the colour of a subject: its own, or the next of the others'."""
    others = [other for other in names if other not in COLOURS]
    return COLOURS.get(name) or OTHERS[others.index(name) % len(OTHERS)]


def _save(figure: Any, axes: Axes, source: Path, stem: Path) -> list[Path]:
    """Save a figure in both forms, with the name of its results file below."""
    from matplotlib import pyplot

    axes.annotate(
        f"results: {source.name}", (1, 0), (0, -30), xycoords="axes fraction",
        textcoords="offset points", ha="right", va="top", fontsize=6, color="#666666",
    )  # fmt: skip
    figure.tight_layout()
    images = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    figure.savefig(images[0], metadata={"Date": None})
    figure.savefig(images[1], dpi=PNG_DPI)
    pyplot.close(figure)
    return images
