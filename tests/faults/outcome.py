"""What one fault did: figures, what the audit found, and the row of the table.

What enters: a run's ledger, findings and whatever else was measured. What leaves: a row, and JSON.
A fault has failed when it has a problem; notes are figures without a judgement.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.faults.audit import Findings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.ledger import Ledger

COLUMNS: Final = (
    ("fault", 26),
    ("rounds", 6),
    ("requests", 8),
    ("200", 8),
    ("4xx", 6),
    ("5xx", 6),
    ("cut", 5),
    ("refused", 7),
    ("unknown", 7),
    ("there", 6),
    ("lost", 5),
    ("doubled", 7),
    ("phantom", 7),
    ("order", 5),
    ("gap s", 7),
    ("verdict", 8),
)


@dataclass(slots=True)
class Outcome:
    """The result of one fault.

    Args:
        fault: its name.
        rounds: how often it was done.
        figures: what the ledger counted.
        findings: what the audit found; None where nothing was audited.
        notes: other figures.
        problems: what was not as promised.
    """

    fault: str
    rounds: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    findings: Findings | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def take(self, ledgers: Sequence[Ledger], findings: Findings) -> None:
        """Take over what a run was answered and what became of it; the gap is the first's."""
        self.findings = findings
        self.problems.extend(findings.texts())
        self.figures = {
            "requests": sum(ledger.requests_count for ledger in ledgers),
            "200": sum(ledger.stored_count for ledger in ledgers),
            "4xx": sum(ledger.count(4) for ledger in ledgers),
            "5xx": sum(ledger.count(5) for ledger in ledgers),
            "cut": sum(ledger.broken_count for ledger in ledgers),
            "refused": sum(ledger.refused_count for ledger in ledgers),
            "messages": sum(len(ledger.messages) for ledger in ledgers),
            "gap s": round(ledgers[0].longest_gap_s(), 3),
            "words": dict(sum((ledger.words for ledger in ledgers), Counter())),
        }

    def row(self) -> dict[str, Any]:
        """The row of the table."""
        row: dict[str, Any] = {"fault": self.fault, "rounds": self.rounds, **self.figures}
        if self.findings is not None:
            row |= {
                "unknown": self.findings.unknown,
                "there": self.findings.unknown_found,
                "lost": len(self.findings.lost),
                "doubled": len(self.findings.doubled),
                "phantom": len(self.findings.phantom),
                "order": len(self.findings.disordered),
            }
        row["verdict"] = "FAILED" if self.problems else "held"
        return row

    def to_json(self) -> dict[str, Any]:
        """The row with everything that does not fit into the table."""
        return self.row() | {"notes": self.notes, "problems": self.problems}


def head() -> str:
    """The head of the table."""
    return _line(dict(zip((name for name, _ in COLUMNS), (n for n, _ in COLUMNS), strict=True)))


def show(outcome: Outcome) -> str:
    """The lines of one fault."""
    lines = [_line(outcome.row())]
    words = outcome.figures.get("words")
    if words:
        told = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
        lines.append(f"    answers: {told}")
    lines.extend(f"    {note}" for note in outcome.notes)
    lines.extend(f"    FAILED: {problem}" for problem in outcome.problems)
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    cells = []
    for name, width in COLUMNS:
        text = str(row.get(name, "-"))
        cells.append(text.ljust(width) if name == "fault" else text.rjust(width))
    return " ".join(cells)
