"""Whether what came of a case is what must come of it.

What enters: a `Case` and what was seen: statuses, the messages that the application got.
What leaves: None, or one line that says what differs.
Called by the runners. It must never be kinder to fastgw than to others: ours is held to the first
outcome and the first status of each answer, others to any that the standard allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.corpus.case import Case, Outcome

Fields = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True)
class Seen:
    """What came of a case.

    Args:
        statuses: the final responses, that to the probe included.
        says_close: whether the last response carries `Connection: close`.
        messages: fields and body of each message that the application got; None when the server
            does not show them.
        trouble: what kept the answers from being read.
    """

    statuses: tuple[int, ...]
    says_close: bool = False
    messages: list[tuple[Fields, bytes]] | None = field(default_factory=list)
    trouble: str = ""


def judge(case: Case, seen: Seen, *, is_ours: bool = True) -> str | None:
    """Return None when `seen` is an outcome of `case`, else what differs from the first."""
    if seen.trouble:
        return seen.trouble
    first = _compare(case, case.outcome, seen, is_exact=is_ours)
    if first is None or is_ours:
        return first
    others = (_compare(case, outcome, seen, is_exact=False) for outcome in case.others)
    return None if any(problem is None for problem in others) else first


def _compare(case: Case, outcome: Outcome, seen: Seen, *, is_exact: bool) -> str | None:
    wanted = outcome.answers
    if not case.is_cut and not outcome.closes:
        wanted = (*wanted, (200,))
    allowed = [answer[:1] if is_exact else answer for answer in wanted]
    is_refusal = outcome.closes and bool(allowed) and min(allowed[-1]) >= 400
    if is_refusal and not is_exact and len(seen.statuses) == len(allowed) - 1:
        # SOURCE: RFC 9112 §2.2, to say 400 before closing is recommended, not required.
        allowed.pop()
    if len(seen.statuses) != len(allowed) or not all(
        status in answer for status, answer in zip(seen.statuses, allowed, strict=True)
    ):
        return f"answers {list(seen.statuses)} instead of {allowed}"
    is_told = not outcome.closes or not seen.statuses or seen.says_close
    # WHY: a client that has said its end itself need not be told.
    if is_exact and not is_told and (not case.is_cut or seen.statuses[-1] >= 400):
        return "the last answer does not say Connection: close"
    if seen.messages is None:
        return None
    return _compare_messages(case, outcome, seen.messages)


def _compare_messages(
    case: Case, outcome: Outcome, messages: list[tuple[Fields, bytes]]
) -> str | None:
    bodies = tuple(body for _, body in messages)
    if bodies != outcome.bodies:
        return f"bodies {_clip(bodies)} instead of {_clip(outcome.bodies)}"
    for pair in case.kept:
        if pair not in messages[0][0]:
            return f"{pair} is not among the fields {_clip(messages[0][0])}"
    for fields, _ in messages:
        for name, _ in fields:
            if name.lower() in case.dropped:
                return f"the field {name!r} reached the application"
    return None


def _clip(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:157] + "..."
