"""Tables and plots in documents, between two marks that name the results files they come from.

What enters: a Markdown document. What leaves: the same, with what stands between the marks made
anew: from the files that the mark names, or from others, which the mark names from then on. A mark:

    <!-- benchmarks: peers of benchmarks/results/2026-01-02-abc.json -->
    <!-- benchmarks: end -->

`targets` is the table of targets, `peers` what each subject spends, `plots` the images named there.
It must never change a byte outside the marks, nor leave a figure whose file the mark does not name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.compare import DocumentError
from benchmarks.plots import is_comparison
from benchmarks.results import Results
from benchmarks.table import (
    Found,
    find_lines,
    find_relative,
    format_peers,
    format_targets,
    read_newest,
)

MARK: Final = re.compile(
    r"<!-- benchmarks: (?P<kind>targets|peers|plots)(?: of (?P<names>[^>]*?))? -->\n"
    r"(?P<body>.*?)"
    r"<!-- benchmarks: end -->",
    re.DOTALL,
)
BEGIN: Final = "<!-- benchmarks:"
IMAGES: Final = {
    "cpu-per-request": "CPU per request, of each subject under three kinds of work",
    "latency-rate": "Latency along the rate of requests",
    "memory": "Resident memory of each subject under load",
}
"""Plots by the stem of their files, with the words for readers who see no image."""


def make_anew(path: Path, found: Found | None, images: Path) -> str:
    """Return the text of a document with every block made anew.

    Args:
        path: of the document; it is read, not written.
        found: the results, newest first; None takes for each block those that its mark names.
        images: the folder of the plots.

    Raises:
        DocumentError: it cannot be read, it has no marks, or a block cannot be made.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
    if text.count(BEGIN) != 2 * len(MARK.findall(text)) or BEGIN not in text:
        raise DocumentError(f"{path} has no marks, or one that is not a beginning and an end")
    return MARK.sub(lambda mark: _build(mark, path.parent, found, images), text)


def _build(mark: re.Match[str], folder: Path, found: Found | None, images: Path) -> str:
    kind, names = mark["kind"], (mark["names"] or "").split()
    if kind == "plots":
        lines = [line for name in names for line in format_image(name, folder, images)]
    else:
        known = read_newest(folder / name for name in names) if found is None else found
        sources, lines = _build_targets(known, folder)
        if kind == "peers":
            sources, lines = _build_peers(known, folder)
        names = [find_relative(path, folder) for path in sources]
    begin = f"<!-- benchmarks: {' of '.join(filter(None, [kind, ' '.join(names)]))} -->"
    # WHY the empty lines: without them a reader of Markdown takes a table for HTML.
    return "\n".join([begin, "", *lines, "", "<!-- benchmarks: end -->"])


def _build_targets(found: Found, folder: Path) -> tuple[Sequence[Path], list[str]]:
    lines = find_lines(found)
    sources = dict.fromkeys(line.path for line in lines if line.path)
    return list(sources), format_targets(lines, folder)


def _build_peers(found: Found, folder: Path) -> tuple[Sequence[Path], list[str]]:
    for path, document in found:
        if isinstance(document, Results) and is_comparison(document):
            return [path], format_peers(path, document, folder)
    raise DocumentError("no comparison of all kinds of work with peers is among the results")


def format_image(name: str, folder: Path, images: Path) -> list[str]:
    """Format one plot for light and dark pages; no line for one that was not drawn.

    Raises:
        DocumentError: no plot has this name.
    """
    if name not in IMAGES:
        raise DocumentError(f"there is no plot {name!r}; there are {', '.join(IMAGES)}")
    light, dark = images / f"{name}.svg", images / f"{name}-dark.svg"
    if not light.exists() or not dark.exists():
        return []
    return [
        "<picture>",
        f'<source media="(prefers-color-scheme: dark)" srcset="{find_relative(dark, folder)}">',
        f'<img alt="{IMAGES[name]}" src="{find_relative(light, folder)}">',
        "</picture>",
    ]
