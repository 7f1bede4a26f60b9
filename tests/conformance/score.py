"""What a suite says about a server, and the table that is printed.

What enters: names of cases with what went wrong. What leaves: lines of text, an exit code.
Called by `__main__` and filled by the suites.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Score:
    """One suite on one server.

    Args:
        suite: name of the suite.
        server: name of the server.
        passed: how many cases went as the suite wants.
        failed: name and what went wrong.
        different: name and reason of a documented difference, see docs/conformance.md.
        skipped: name, or how many, and why.
    """

    suite: str
    server: str
    passed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    different: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def note(self, name: str, problem: str | None, reason: str | None = None) -> None:
        """Count a case; with a `reason`, its problem is a documented difference."""
        if problem is None:
            self.passed += 1
        elif reason is not None:
            self.different.append((name, reason))
        else:
            self.failed.append((name, problem))

    @property
    def count(self) -> int:
        """How many cases ran."""
        return self.passed + len(self.failed) + len(self.different)


def show(scores: list[Score], *, names_max: int) -> str:
    """Return the table, and below it the names."""
    rows: list[tuple[str, ...]] = [
        ("suite", "server", "cases", "passed", "different", "failed", "skipped")
    ]
    rows += [
        (
            score.suite,
            score.server,
            *(str(n) for n in (score.count, score.passed, len(score.different))),
            str(len(score.failed)),
            str(len(score.skipped)),
        )
        for score in scores
    ]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for score in scores:
        for title, pairs in (
            ("failed", score.failed),
            ("different", score.different),
            ("skipped", score.skipped),
        ):
            if pairs:
                lines += ["", f"{score.suite} on {score.server}, {title}:"]
                lines += [f"  {name}: {text}" for name, text in pairs[:names_max]]
            if len(pairs) > names_max:
                lines.append(f"  … and {len(pairs) - names_max} more")
    return "\n".join(lines)
