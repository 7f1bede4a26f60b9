"""The ledger of one run: every message with its answers, and when a 200 came last.

What enters: what the producers were answered. What leaves: counts, the longest time without a 200,
and the messages for the audit.
Written by the producers of one event loop; it must never drop an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Final

from tests.faults.audit import BROKEN, Message

LOOK_S: Final = 0.01
GAP_S_MIN: Final = 0.02
"""LIMIT: shorter times without a 200 are the pace of the load, not a fault."""


class Ledger:
    """What was sent and what was answered."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.statuses: Counter[int] = Counter()
        self.words: Counter[str] = Counter()
        self.refused_count = 0
        """Connections that could not be made."""
        self.hopeless_count = 0
        """Answers 429 and 503 that do not say when to come again."""
        self.started = time.monotonic()
        self.gaps: list[tuple[float, float]] = []
        """Times without a 200 above `GAP_S_MIN`: when each began, and how long it was."""
        self._last_ok: float | None = None
        self._is_closed = False

    def open(
        self, producer: str, number: int, msg_id: str | None, *, is_ordered: bool = True
    ) -> Message:
        """Enter a message that is about to be sent."""
        message = Message(f"{producer}:{number}", producer, number, msg_id, is_ordered)
        self.messages.append(message)
        return message

    def on_request(self, status: int, word: str = "") -> None:
        """Count the answer of one request; `BROKEN` when none came."""
        self.statuses[status] += 1
        if word:
            self.words[word] += 1
        if status != 200:
            return
        if not self._is_closed:
            now = time.monotonic()
            self._note_gap(now)
            self._last_ok = now

    def _note_gap(self, now: float) -> None:
        if self._last_ok is not None and now - self._last_ok >= GAP_S_MIN:
            self.gaps.append((self._last_ok, now - self._last_ok))

    def close(self) -> None:
        """The load ends now: a time without a 200 counts until here, and none from here on."""
        if not self._is_closed:
            self._note_gap(time.monotonic())
        self._is_closed = True

    @property
    def stored_count(self) -> int:
        """How many requests were answered 200."""
        return self.statuses[200]

    @property
    def requests_count(self) -> int:
        """How many requests were sent."""
        return self.statuses.total()

    def count(self, hundreds: int) -> int:
        """How many answers were of a class, as 4 for 4xx; 0 for none at all."""
        return sum(n for status, n in self.statuses.items() if status // 100 == hundreds)

    @property
    def broken_count(self) -> int:
        """How many requests got no answer."""
        return self.statuses[BROKEN]

    def longest_gap_s(self, since: float = 0.0) -> float:
        """The longest time without a 200 that ended after `since`."""
        lengths = [length for begun, length in self.gaps if begun + length >= since]
        if self._last_ok is not None and not self._is_closed:
            lengths.append(time.monotonic() - max(self._last_ok, since))
        return max(lengths, default=0.0)

    async def wait_stored(self, more: int, timeout_s: float) -> float | None:
        """Wait for so many more 200s; return how long it took, None when they did not come."""
        started, wanted = time.monotonic(), self.stored_count + more
        while self.stored_count < wanted:
            if time.monotonic() - started > timeout_s:
                return None
            await asyncio.sleep(LOOK_S)
        return time.monotonic() - started

    async def wait_word(self, word: str, count: int, timeout_s: float) -> bool:
        """Wait until so many answers had this word as their cause."""
        deadline = time.monotonic() + timeout_s
        while self.words[word] < count:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_S)
        return True
