"""The plots: latency against rate, CPU a request by peer, memory by peer, as PNG and SVG.

What enters: results files, by default the newest of each kind. What leaves: image files, each with
the name of its results file in it, for light and for dark pages. matplotlib is loaded only here.
It must never draw a figure that is not in the file it names.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.compare import Document, DocumentError, read_document
from benchmarks.machine import open_console
from benchmarks.needs import find_missing
from benchmarks.report import Report
from benchmarks.results import RESULTS_DIR, Results, Row
from benchmarks.subjects import FLOOR, GATEWAY, SUBJECTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_INCHES: Final = 8.0
PNG_DPI: Final = 160
BAR_INCHES: Final = 0.27
BAR_TITLES: Final = {
    "single": "one message",
    "schema": "one message against a JSON Schema",
    "batch": "100 messages in one request",
}
"""The workloads whose costs are drawn, with their panels' titles."""
MEMORY_WORKLOAD: Final = "single"
SALT: Final = "fastgw"
"""WHY: so that the same figures give the same SVG."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of one kind of page. SOURCE: GitHub's own, so that an image has no visible edge."""

    suffix: str
    page: str
    text: str
    faint: str
    colours: dict[str, str]


LIGHT: Final = Theme(
    "",
    "#ffffff",
    "#1f2328",
    "#59636e",
    {
        FLOOR: "#818b98",
        GATEWAY: "#cf222e",
        "asgi-uvicorn": "#0969da",
        "asgi-granian": "#54aeff",
        "aiohttp": "#8250df",
        "fastapi": "#1a7f37",
        "go": "#0a8a8a",
        "rust": "#bc4c00",
    },
)
DARK: Final = Theme(
    "-dark",
    "#0d1117",
    "#f0f6fc",
    "#9198a1",
    {
        FLOOR: "#9198a1",
        GATEWAY: "#ff7b72",
        "asgi-uvicorn": "#4493f8",
        "asgi-granian": "#a5d6ff",
        "aiohttp": "#bc8cff",
        "fastapi": "#56d364",
        "go": "#39c5cf",
        "rust": "#f0a05a",
    },
)
THEMES: Final = (LIGHT, DARK)


def run_plots(arguments: Sequence[str]) -> int:
    """Draw what the results hold; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks plots", description="Draw PNG and SVG from results."
    )
    parser.add_argument("files", type=Path, nargs="*", help="results; default: the newest")
    parser.add_argument("--results", type=Path, default=RESULTS_DIR, help="folder of the results")
    parser.add_argument("--out", type=Path, default=RESULTS_DIR, help="folder of the images")
    given = parser.parse_args(arguments)
    console = open_console()
    missing = find_missing((), ("matplotlib",))
    if missing:
        console.print("cannot draw:", *missing, sep="\n- ", markup=False)
        return 2
    try:
        paths = given.files or find_newest(given.results)
        documents = {path: read_document(path) for path in paths}
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
        is_whole = isinstance(document, Results) and is_comparison(document)
        kind = document.suite if isinstance(document, Report) else "comparison" * is_whole
        if kind in ("latency", "comparison"):
            newest[kind] = max(newest.get(kind, ("", path)), (document.started_at, path))
    return [path for _, path in newest.values()]


def is_comparison(results: Results) -> bool:
    """Tell a comparison with peers under every workload that is drawn from a part of one."""
    valid = {(row.workload, row.subject) for row in results.rows if row.rounds_valid}
    subjects = [{name for kind, name in valid if kind == each} for each in BAR_TITLES]
    return all(GATEWAY in names and names - {FLOOR, GATEWAY} for names in subjects)


def draw(path: Path, document: Document, out: Path) -> list[Path]:
    """Draw what one document has for a plot, for each theme; return the image files."""
    import matplotlib as mpl  # WHY: here, so that nothing else needs it.

    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    return [image for theme in THEMES for image in _draw_in(theme, path, document, out)]


def _draw_in(theme: Theme, path: Path, document: Document, out: Path) -> Iterator[Path]:
    """Draw each plot of a document in one theme."""
    import matplotlib as mpl

    with mpl.rc_context(_build_style(theme)):
        if isinstance(document, Report):
            if document.findings.series:
                yield from draw_latency(theme, path, document, out)
            return
        rows = [row for row in document.rows if row.rounds_valid]
        if names := [name for name in BAR_TITLES if any(row.workload == name for row in rows)]:
            yield from draw_costs(theme, path, rows, names, out)
        if mine := [row for row in rows if row.workload == MEMORY_WORKLOAD]:
            yield from draw_memory(theme, path, mine, out)


def _build_style(theme: Theme) -> Any:  # A mapping whose many keys matplotlib types one by one.
    # WHY text as paths in SVG: an image in a page gets none of the page's fonts.
    return {
        "svg.hashsalt": SALT,
        "svg.fonttype": "path",
        "font.size": 10,
        "figure.facecolor": theme.page,
        "savefig.facecolor": theme.page,
        "axes.facecolor": theme.page,
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.faint,
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "xtick.labelcolor": theme.text,
        "ytick.labelcolor": theme.text,
        "grid.color": theme.faint,
        "grid.alpha": 0.25,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "legend.frameon": False,
    }


def draw_latency(theme: Theme, path: Path, report: Report, out: Path) -> list[Path]:
    """Draw p99 and p50 of each subject along the rate."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(WIDTH_INCHES, 4.8))
    for name, points in report.findings.series.items():
        rates = [point.rate / 1000 for point in points]
        look: dict[str, Any] = {
            "color": theme.colours[name],
            "linewidth": 2.4 if name == GATEWAY else 1.6,
        }
        label = SUBJECTS[name].label
        axes.plot(rates, [p.p99_us / 1000 for p in points], "-o", markersize=4, label=label, **look)
        axes.plot(rates, [p.p50_us / 1000 for p in points], ":", **look)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(left=0)
    axes.set_xlabel("thousand requests a second, at a constant rate")
    axes.set_ylabel("latency, ms: p99 as a line, p50 dotted")
    count = report.options.connections
    axes.set_title(f"Latency against rate, {count} connections, up to each one's own capacity")
    axes.grid(visible=True, which="major")
    axes.legend(fontsize=9, ncols=3, loc="upper left", bbox_to_anchor=(-0.02, -0.16))
    return _save(figure, axes, path, out / f"latency-rate{theme.suffix}")


def draw_costs(
    theme: Theme, path: Path, rows: Sequence[Row], names: Sequence[str], out: Path
) -> list[Path]:
    """Draw CPU a request of each subject, a panel for each workload."""
    from matplotlib import pyplot

    panels = [[row for row in rows if row.workload == name] for name in names]
    heights = [len(mine) * BAR_INCHES + 0.75 for mine in panels]
    figure, all_axes = pyplot.subplots(
        len(names), 1, figsize=(WIDTH_INCHES, sum(heights) + 0.3), squeeze=False,
        height_ratios=heights,
    )  # fmt: skip
    for axes, name, mine in zip(all_axes[:, 0], names, panels, strict=True):
        ordered = sorted(mine, key=lambda row: (row.subject == FLOOR, -row.cpu_us))
        _draw_bars(theme, axes, ordered, lambda row: row.cpu_us)
        axes.set_title(f"{BAR_TITLES[name]}: CPU \u00b5s a request")
    return _save(figure, all_axes[-1, 0], path, out / f"cpu-per-request{theme.suffix}")


def draw_memory(theme: Theme, path: Path, rows: Sequence[Row], out: Path) -> list[Path]:
    """Draw the resident memory of each subject under load."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(WIDTH_INCHES, len(rows) * BAR_INCHES + 1.2))
    ordered = sorted(rows, key=lambda row: (row.subject == FLOOR, -row.rss_mb))
    _draw_bars(theme, axes, ordered, lambda row: row.rss_mb)
    axes.set_title("Resident memory under load, MB")
    return _save(figure, axes, path, out / f"memory{theme.suffix}")


def _draw_bars(theme: Theme, axes: Axes, rows: Sequence[Row], read: Callable[[Row], float]) -> None:
    """Draw one bar a subject, ours in a colour of its own, each with its figure."""
    labels = [SUBJECTS[row.subject].label for row in rows]
    colours = [theme.colours[row.subject if row.subject == GATEWAY else FLOOR] for row in rows]
    bars = axes.barh(labels, [read(row) for row in rows], color=colours, height=0.72)
    axes.bar_label(bars, fmt="{:,.1f}", padding=4, fontsize=9)
    axes.margins(x=0.12, y=0.02)
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.subject == GATEWAY else "normal")


def _save(figure: Any, axes: Axes, source: Path, stem: Path) -> list[Path]:
    """Save a figure in both forms, with the name of its results file below."""
    from matplotlib import pyplot

    axes.annotate(
        f"results: {source.name}", (1, 0), (0, -34), xycoords="axes fraction",
        textcoords="offset points", ha="right", va="top", fontsize=7,
        color=pyplot.rcParams["xtick.color"],
    )  # fmt: skip
    figure.tight_layout()
    images = [stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")]
    figure.savefig(images[0], metadata={"Date": None}, bbox_inches="tight")
    figure.savefig(images[1], dpi=PNG_DPI, bbox_inches="tight")
    pyplot.close(figure)
    return images
