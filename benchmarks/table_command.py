"""`python -m benchmarks table`: the table of targets, printed, stored, or put into documents.

What enters: results files, by default those of `results/`. What leaves: Markdown.
It runs nothing. It must never write into a document that it could not make anew as a whole.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.blocks import make_anew
from benchmarks.compare import DocumentError
from benchmarks.machine import open_console
from benchmarks.processes import ROOT
from benchmarks.results import RESULTS_DIR
from benchmarks.suite_command import show_table
from benchmarks.table import HEADINGS, find_lines, format_cells, format_targets, read_newest

IMAGES_DIR: Final = ROOT / "docs" / "images"


def run_targets(arguments: Sequence[str]) -> int:
    """Print the table, or write it where the options say; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks table",
        description="Print the table of targets as Markdown, each from the newest result it has.",
    )
    parser.add_argument("files", type=Path, nargs="*", help="results; default: all of the folder")
    parser.add_argument("--results", type=Path, default=RESULTS_DIR, help="folder of the results")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    parser.add_argument(
        "--write",
        type=Path,
        nargs="+",
        metavar="DOCUMENT",
        help="make what stands between the marks of these documents anew, such as README.md",
    )
    parser.add_argument("--images", type=Path, default=IMAGES_DIR, help="folder of the plots")
    given = parser.parse_args(arguments)
    console = open_console()
    try:
        found = read_newest(given.files or sorted(given.results.glob("*.json")))
        anew = {path: make_anew(path, found, given.images) for path in given.write or ()}
    except DocumentError as error:
        console.print(str(error), markup=False)
        return 2
    folder = given.out.parent if given.out else Path.cwd()
    text = "\n".join(format_targets(find_lines(found), folder)) + "\n"
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        anew[given.out] = text
    for path, written in anew.items():
        path.write_text(written, encoding="utf-8")
        console.print(f"written: {path}", markup=False)
    if not anew:
        print(text, end="")
    return 0


def show_targets(console: Console, folder: Path) -> None:
    """Print the table of what a folder has, for a reader at a terminal."""
    lines = find_lines(read_newest(sorted(folder.glob("*.json"))))
    rows = [format_cells(line, Path.cwd()) for line in lines]
    for row in rows:
        row[3], row[6] = row[3].replace("**", ""), row[6].strip("`")
    show_table(console, "Targets", HEADINGS[:-2], [row[:-2] for row in rows])
