"""One keep-alive connection of a run: the request out, the answer's status and error code in.

What enters: the moment to send, and bytes from the server. What leaves: `on_answer` or `on_failure`
of its `Owner`, once per request. `session` owns the connections and decides who sends when.
It must never keep an answer's body, nor send a second request before the first was answered.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol, cast

import httptools

ANSWER_BYTES_MAX: Final = 1024 * 1024
"""LIMIT: an answer to a produce request has some hundred bytes; more is no gateway."""
CODE_CHARS_MAX: Final = 40
NOT_HTTP: Final = "the answer is not HTTP"
TOO_LONG: Final = f"an answer exceeds {ANSWER_BYTES_MAX} bytes"
UNASKED: Final = "an answer came unasked"
LOST: Final = "connection lost"


class Owner(Protocol):
    """Who hears of a connection's answers and of its end."""

    def on_answer(self, connection: Connection, status: int, code: str, now: int) -> None:
        """Take an answer; `code` is the value of Error-Code, or empty."""

    def on_failure(self, connection: Connection, reason: str) -> None:
        """Take the news that no answer will come: the connection is gone."""

    def on_gone(self, connection: Connection) -> None:
        """Take the news that the connection is gone, while no request was waiting."""


class Connection(asyncio.Protocol):
    """One connection; `due` and `sent` are the moments of its request, in nanoseconds.

    Args:
        owner: hears of answers.
        request: what is sent each time.
    """

    __slots__ = (
        "_code", "_owner", "_parser", "_request", "_status", "_stays", "_transport",
        "answer_bytes", "due", "has_answered", "is_busy", "is_finished", "is_over", "sent",
    )  # fmt: skip

    def __init__(self, owner: Owner, request: bytes) -> None:
        self._owner: Final = owner
        self._request: Final = request
        self._parser: Final = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._code = ""
        self._status = 0
        self._stays = True
        self.answer_bytes = 0
        self.has_answered = False
        self.is_busy = False
        self.is_finished = False
        self.is_over = False
        self.due = 0
        self.sent = 0

    def send(self, due: int, now: int) -> None:
        """Send the request that was due at `due`."""
        self.due = due
        self.sent = now
        self.is_busy = True
        self.is_finished = False
        self.answer_bytes = 0
        self._code = ""
        if self._transport is not None:
            self._transport.write(self._request)

    def end(self, reason: str = LOST) -> None:
        """Close at once, whatever is under way, and say why to the owner."""
        if self.is_over:
            return
        self.is_over = True
        if self._transport is not None:
            self._transport.abort()
        if self.is_busy:
            self.is_busy = False
            self._owner.on_failure(self, reason)
        else:
            self._owner.on_gone(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        """End, if that was not known yet."""
        self.end(LOST if error is None else f"{LOST}: {type(error).__name__}")

    def data_received(self, data: bytes) -> None:
        """Read what came, and tell the owner when it ends an answer."""
        if self.is_over:
            return
        self.answer_bytes += len(data)
        if not self.is_busy:
            self.end(UNASKED)
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError):
            self.end(NOT_HTTP)
            return
        except httptools.HttpParserUpgrade:
            self.end(NOT_HTTP)
            return
        if self.is_finished:
            self._finish()
        elif self.answer_bytes > ANSWER_BYTES_MAX:
            self.end(TOO_LONG)

    def _finish(self) -> None:
        self.is_busy = False
        self.has_answered = True
        if not self._stays:
            self.is_over = True
            if self._transport is not None:
                self._transport.abort()
        self._owner.on_answer(self, self._status, self._code, time.monotonic_ns())
        if self.is_over:
            self._owner.on_gone(self)

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the one header that tells failures apart."""
        if len(name) == 10 and name.lower() == b"error-code":
            text = value[:CODE_CHARS_MAX].decode("ascii", "replace")
            self._code = text if text.isprintable() else "unreadable"

    def on_message_complete(self) -> None:
        """Note that the answer is whole; an interim one (1xx) is none."""
        status = self._parser.get_status_code()
        if status >= 200:
            # WHY here: afterwards the parser has forgotten the message.
            self._status, self._stays = status, self._parser.should_keep_alive()
            self.is_finished = True
