"""Judging messages beside the traffic: to try a schema before it is attached.

What enters: a validator, and messages one by one. What leaves: a verdict for each, and counts.
Called by the admin routes, the command line, and what sends dead letters again. It must never keep
the event loop from others: between two messages it lets them run when its time is over.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw.errors import ClientFault

if TYPE_CHECKING:
    from fastgw.schema.base import Validator

SLICE_S: Final = 0.002
"""LIMIT: how long requests of others wait at most for this, beside the longest single message."""

BOM: Final = b"\xef\xbb\xbf"


class Judged(msgspec.Struct, frozen=True):
    """The verdict on one message; `stored` are the bytes that would be stored of a good one."""

    line: int
    reason: str | None
    stored: bytes

    @property
    def is_good(self) -> bool:
        """Whether the message satisfies the schema."""
        return self.reason is None


class Verdicts:
    """Judges messages by one validator, and counts.

    Args:
        validator: of the schema's version.
    """

    def __init__(self, validator: Validator) -> None:
        self.good_count = 0
        self.bad_count = 0
        self._validator = validator

    async def judge(
        self, messages: Iterable[tuple[int, bytes]], content_type: bytes | None
    ) -> AsyncIterator[Judged]:
        """Judge messages, each with the number of its line, in order."""
        slice_ends = time.monotonic() + SLICE_S
        for line, message in messages:
            yield await self.judge_one(line, message, content_type)
            if time.monotonic() > slice_ends:
                await asyncio.sleep(0)
                slice_ends = time.monotonic() + SLICE_S

    async def judge_one(self, line: int, message: bytes, content_type: bytes | None) -> Judged:
        """Judge one message."""
        try:
            found = self._validator.check(message, content_type)
            verdict = await found if inspect.isawaitable(found) else found
        except ClientFault as fault:
            verdict = fault.text
        if isinstance(verdict, str):
            self.bad_count += 1
            return Judged(line, verdict, message)
        self.good_count += 1
        return Judged(line, None, message if verdict is None else verdict)


def line_type(kind: str) -> bytes | None:
    """Return the Content-Type under which a line of text is judged by a schema of this type.

    WHY: a protobuf schema takes wire bytes by default, and those do not stand on lines.
    """
    return b"application/json" if kind == "protobuf" else None


def split_lines(body: bytes) -> list[tuple[int, bytes]]:
    """Return the lines that are not empty, each with its number from 1."""
    return list(number_lines(body.removeprefix(BOM).split(b"\n")))


def number_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Give each line its number from 1; blank ones count but do not appear."""
    for number, line in enumerate(lines, 1):
        stripped = line.strip(b"\r\n\t ")
        if stripped:
            yield number, stripped
