"""The audit: what producers were answered, beside what the stream holds.

What enters: every message that was sent, with all answers to it, and every message of the stream.
What leaves: `Findings`: what was lost, doubled, stored although refused, out of order, misnamed.
Called by `scene` after each fault, and by the tests with planted defects. It must never forgive:
what the documentation calls "not stored" may not be there, whatever happened meanwhile.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BROKEN: Final = 0
"""The status of a request whose connection ended before its answer."""

NOT_STORED: Final = frozenset({"broker-away", "stream-full", "overloaded", "draining"})
"""SOURCE: docs/http.md, Error-Code of a 503 that promises that nothing was stored."""

SHOWN_MAX: Final = 5
"""LIMIT: how many cases of one kind a text names; the rest is counted."""


BROKEN_PROMISES: Final = ("lost", "doubled", "phantom", "disordered", "misnamed")


class Answer(NamedTuple):
    """One answer to one message; an element of a batch has one of its own."""

    status: int
    word: str = ""
    seq: int = 0
    is_duplicate: bool = False

    @property
    def is_stored(self) -> bool:
        """Whether the gateway promised that the message is there."""
        return self.status == 200

    @property
    def is_refused(self) -> bool:
        """Whether the gateway promised that this request stored nothing."""
        if 400 <= self.status < 500:
            return True
        return self.status == 503 and self.word in NOT_STORED


@dataclass(slots=True)
class Message:
    """One message with a payload that no other has; a repeat with the same id is one more answer.

    Args:
        key: the payload.
        producer: who sent it; a producer sends the next message when this one is settled.
        number: its place among the producer's messages.
        id: its message id, without which it was sent once only.
        is_ordered: whether it was sent after the one before it was settled, or behind it on the
            same connection without ever being repeated.
    """

    key: str
    producer: str
    number: int
    id: str | None = None
    is_ordered: bool = True
    answers: list[Answer] = field(default_factory=list)

    @property
    def is_stored(self) -> bool:
        """Whether an answer said that it is there."""
        return any(answer.is_stored for answer in self.answers)

    @property
    def is_refused(self) -> bool:
        """Whether every answer said that it is not there."""
        return bool(self.answers) and all(answer.is_refused for answer in self.answers)


class Found(NamedTuple):
    """One message of the stream."""

    seq: int
    key: str
    id: str | None = None


@dataclass(slots=True)
class Findings:
    """What is wrong, by kind, and how much nobody can know.

    Args:
        lost: answered 200 and not there.
        doubled: there more often than it may be: once, or once a request without an id.
        phantom: there although every answer refused it, or although nobody sent it.
        disordered: acknowledged, and stored before an earlier one of the same producer.
        misnamed: another message stands at the sequence that the answer named.
        unknown: neither promised nor refused; `unknown_found` of them are there.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)
    unknown: int = 0
    unknown_found: int = 0

    def add(self, other: Findings) -> None:
        """Add what was found in another stream."""
        for kind in BROKEN_PROMISES:
            getattr(self, kind).extend(getattr(other, kind))
        self.unknown += other.unknown
        self.unknown_found += other.unknown_found

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return not self.texts()

    def texts(self) -> list[str]:
        """One line for each kind of broken promise."""
        lines = []
        for kind in BROKEN_PROMISES:
            cases: list[str] = getattr(self, kind)
            if cases:
                more = " …" if len(cases) > SHOWN_MAX else ""
                lines.append(f"{len(cases)} {kind}: {', '.join(cases[:SHOWN_MAX])}{more}")
        return lines


def judge(sent: Iterable[Message], found: Sequence[Found]) -> Findings:
    """Compare what was promised with what is there."""
    messages = {message.key: message for message in sent}
    counts = Counter(one.key for one in found)
    findings = Findings()
    for message in messages.values():
        _judge_one(message, counts[message.key], findings)
    findings.phantom.extend(f"{key} (nobody sent it)" for key in counts if key not in messages)
    _judge_ids(found, findings)
    _judge_sequences(messages.values(), found, findings)
    _judge_order(messages.values(), found, findings)
    return findings


def _judge_one(message: Message, count: int, findings: Findings) -> None:
    if message.is_stored:
        if count == 0:
            findings.lost.append(message.key)
    elif message.is_refused:
        if count:
            words = ",".join(f"{answer.status} {answer.word}" for answer in message.answers)
            findings.phantom.append(f"{message.key} ({words})")
    else:
        findings.unknown += 1
        findings.unknown_found += count > 0
    may_be = sum(not answer.is_refused for answer in message.answers)
    if count > (1 if message.id is not None else max(1, may_be)):
        findings.doubled.append(f"{message.key} ({count} times)")


def _judge_ids(found: Sequence[Found], findings: Findings) -> None:
    """Under one message id there is at most one message, whatever its payload."""
    keys: dict[str, set[str]] = {}
    for one in found:
        if one.id is not None:
            keys.setdefault(one.id, set()).add(one.key)
    for name, payloads in keys.items():
        if len(payloads) > 1:
            findings.doubled.append(f"id {name} ({len(payloads)} payloads)")


def _judge_sequences(
    messages: Iterable[Message], found: Sequence[Found], findings: Findings
) -> None:
    """Whoever was told a sequence finds his message there."""
    at = {one.seq: one.key for one in found}
    there = {one.key: one.seq for one in reversed(found)}
    for message in messages:
        for answer in message.answers:
            is_wrong = answer.is_stored and answer.seq and at.get(answer.seq) != message.key
            if is_wrong and message.key in there:
                other = at.get(answer.seq, "nothing")
                told = f"told {answer.seq}{' as a duplicate' * answer.is_duplicate}"
                before = ",".join(str(one.status) for one in message.answers)
                findings.misnamed.append(
                    f"{message.key} ({told}, there is {other}; it is at {there[message.key]}; "
                    f"answers {before})"
                )


def _judge_order(messages: Iterable[Message], found: Sequence[Found], findings: Findings) -> None:
    """A producer waits for each answer, so what was acknowledged stands in his order."""
    first: dict[str, int] = {}
    for one in found:
        first.setdefault(one.key, one.seq)
    last: dict[str, int] = {}
    for message in sorted(messages, key=lambda one: one.number):
        seq = first.get(message.key)
        if seq is None or not message.is_stored or not message.is_ordered:
            continue
        if seq < last.get(message.producer, 0):
            findings.disordered.append(message.key)
        else:
            last[message.producer] = seq
