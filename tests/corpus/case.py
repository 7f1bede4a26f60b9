"""What a case of the corpus is, and the short words that the tables of cases are written in.

What enters: raw bytes of one connection, the section of the standard, what must happen.
What leaves: a `Case`. Every module of this package is a table of them.
Called by the tables; the runners in tests/wire and tests/conformance read the fields.
It must never build a message from parts that hide its bytes: a case is what is on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

TARGET: Final = b"/stations/corpus/produce/single"
HOST: Final = b"Host: gw.test\r\n"
PROBE: Final = (
    b"GET /monitoring/status HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\nX-Probe: 1\r\n\r\n"
)
"""The request that the runners send behind a case: served, or not even seen."""

Statuses = tuple[int, ...]
"""One answer: the first status is what fastgw gives, the others are as good by the standard."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What may come of a case.

    Args:
        answers: the final responses, in order, without that to the probe.
        bodies: the bodies that the application must see, in order.
        closes: whether the connection ends with the case, so that the probe is not answered.
    """

    answers: tuple[Statuses, ...]
    bodies: tuple[bytes, ...] = ()
    closes: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Args:
        name: unique in the corpus: area, slash, words.
        raw: the bytes that a client sends.
        source: section of the standard.
        outcome: what fastgw does.
        others: what another server may do instead.
        methods: methods of the requests, where one is HEAD.
        is_cut: the client sends nothing more, and no probe.
        kept: fields that the first message must carry.
        dropped: names, in lower case, that no message may carry.
    """

    name: str
    raw: bytes
    source: str
    outcome: Outcome
    others: tuple[Outcome, ...] = ()
    methods: tuple[str, ...] = ()
    is_cut: bool = False
    kept: tuple[tuple[bytes, bytes], ...] = ()
    dropped: tuple[bytes, ...] = ()

    def or_else(self, *others: Outcome) -> Case:
        """Return the case with what another server may do instead."""
        return replace(self, others=(*self.others, *others))


def served(*bodies: bytes, closes: bool = False) -> Outcome:
    """Every message reaches the application."""
    return Outcome(tuple((200,) for _ in bodies), bodies, closes)


def answered(*statuses: int, closes: bool = False) -> Outcome:
    """One answer, and nothing for the application to read."""
    return Outcome((statuses,), (), closes)


def refused(*statuses: int) -> Outcome:
    """One answer, and the connection ends."""
    return Outcome((statuses or (400,),), (), closes=True)


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1", host: bytes = HOST) -> bytes:
    """A POST to the station; `lines` are whole header lines without their CR LF."""
    head = b"POST " + TARGET + b" HTTP/" + version + b"\r\n" + host
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def get(target: bytes = b"/", *lines: bytes, method: bytes = b"GET", host: bytes = HOST) -> bytes:
    """A request without a body."""
    head = method + b" " + target + b" HTTP/1.1\r\n" + host
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def shown(byte: int) -> str:
    """Name a byte in a case's name."""
    return f"{byte:02x}"


def check_names(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Return `cases` when no two have the same name."""
    seen: set[str] = set()
    for case in cases:
        assert case.name not in seen, case.name
        seen.add(case.name)
    return cases
