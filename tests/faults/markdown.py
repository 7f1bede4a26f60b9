"""`python -m tests.faults.markdown FILE...`: results of `--json` as a table of the documentation.

What enters: the files, in the order of the rows. What leaves: Markdown on standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

HEAD: Final = (
    "fault",
    "rounds",
    "requests",
    "200",
    "4xx",
    "5xx",
    "cut",
    "unknown (there)",
    "longest gap",
    "verdict",
)
ELECTIONS: Final = "interruption / election: "
"""How a note begins whose figures stand in the place of the longest gap."""


def table(results: list[dict[str, Any]]) -> str:
    """Return a table with one row for each fault that was audited; the notes of each below it."""
    lines = [_row(HEAD), _row(["---"] * len(HEAD))]
    notes: list[str] = []
    for result in results:
        if "unknown" in result:
            lines.append(_row(_cells(result)))
        others = [note for note in result["notes"] if not note.startswith(ELECTIONS)]
        others += [f"**FAILED**: {problem}" for problem in result["problems"]]
        notes.extend(f"- {result['fault']}: {note}" for note in others)
    return "\n".join([*lines, "", *notes])


def _cells(result: dict[str, Any]) -> list[str]:
    elections = [note for note in result["notes"] if note.startswith(ELECTIONS)]
    gap = elections[0].removeprefix(ELECTIONS) if elections else f"{result['gap s']:.2f} s"
    counts = [f"{result[name]:,}" for name in ("requests", "200", "4xx", "5xx", "cut")]
    unknown = f"{result['unknown']:,} ({result['there']:,})"
    return [result["fault"], str(result["rounds"]), *counts, unknown, gap, result["verdict"]]


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Read the files and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.markdown", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    results = []
    for file in parser.parse_args().files:
        results.extend(json.loads(file.read_text())["faults"])
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
