"""The one face of all validators: bytes in, verdict and reason out.

What enters: the text of a schema, then the bytes of messages. What leaves: a `Validator`, then None
for a good message or one line that says what is wrong. The compilers of the types live beside this
module. A validator must never raise for any bytes, fetch anything, or take unbounded time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, runtime_checkable

Resolve = Callable[[str], str | None]
"""Finds the text of a registered schema of the same type by its name or URI; never fetches."""

Verdict = str | bytes | None
"""None: good as it is. Bytes: good, and to be stored in this form. Text: refused, and why."""

REASON_CHARS_MAX: Final = 500
"""LIMIT: a reason names path, rule and clipped values; more would be the message itself."""


class SchemaError(Exception):
    """A schema that cannot be used.

    Args:
        reason: what is wrong, in one line.
        place: where in the schema, as its type writes places (a JSON pointer, `line 3`).
    """

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(f"{place}: {reason}" if place else reason)
        self.reason: Final = reason
        self.place: Final = place


class Validator(Protocol):
    """Judges messages of one schema version."""

    def check(self, message: bytes, content_type: bytes | None) -> Verdict | Awaitable[Verdict]:
        """Judge one message.

        Args:
            message: its bytes, as they would be stored.
            content_type: the request's Content-Type, which picks the form where a type has several.

        Returns:
            The verdict; an awaitable where judging takes so long that it runs off the event loop.

        Raises:
            ClientFault: "media-type-unsupported", when the Content-Type contradicts the type.
        """


@runtime_checkable
class LongValidator(Validator, Protocol):
    """A validator some of whose messages take so long that they are judged in a thread."""

    def is_long(self, message: bytes, content_type: bytes | None) -> bool:
        """Whether judging this message would keep an event loop waiting for milliseconds."""
