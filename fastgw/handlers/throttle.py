"""Slows down password guessing, per user and address.

What enters: a user's name and a client's address, before and after each password check.
What leaves: a wait before the check, once a pair of the two has failed too often.
Called by `auth` alone. It must never refuse a sender whose password is right for long, never
let one address slow another's checks, and never grow: the table of failures is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastgw.errors import UpstreamFault

if TYPE_CHECKING:
    from collections.abc import Callable

FREE_FAILURES_COUNT: Final = 5
"""LIMIT: typing errors and a sender's retries after a password change stay unslowed."""

DELAY_S_MIN: Final = 0.25
DELAY_S_MAX: Final = 2.0
WAIT_S_MAX: Final = 10.0
"""LIMIT: longer queues than this are refused, so that waiting requests cannot pile up."""

FORGET_S: Final = 900.0
PAIRS_COUNT_MAX: Final = 10_000
"""LIMIT: one MiB of failures; the oldest pair is forgotten first."""


@dataclass(slots=True)
class _Failures:
    count: int
    seen_at: float
    next_at: float


class Throttle:
    """The failures of late, by (user, address); attempts of one pair queue behind each other.

    Args:
        clock: monotonic seconds; tests pass their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    async def wait(self, user: str, client: str) -> None:
        """Wait until this pair may try again.

        Raises:
            UpstreamFault: "overloaded", when too many attempts of the pair wait already.
        """
        delay_s = self.reserve(user, client)
        if delay_s > 0:
            await asyncio.sleep(delay_s)

    def reserve(self, user: str, client: str) -> float:
        """Take the pair's next turn. Returns the seconds until then, 0 for at once."""
        entry = self._failures.get((user, client))
        now = self._clock()
        if entry is None or entry.count < FREE_FAILURES_COUNT or now - entry.seen_at > FORGET_S:
            return 0.0
        turn_at = max(now, entry.next_at)
        if turn_at - now > WAIT_S_MAX:
            raise UpstreamFault("overloaded", "Too many failed attempts: try again later")
        doublings = min(entry.count - FREE_FAILURES_COUNT, 10)
        entry.next_at = turn_at + min(DELAY_S_MAX, DELAY_S_MIN * 2**doublings)
        return turn_at - now

    def note(self, user: str, client: str, *, is_good: bool) -> None:
        """Remember how a check ended; a right password forgives the pair."""
        key = (user, client)
        if is_good:
            self._failures.pop(key, None)
            return
        now = self._clock()
        entry = self._failures.pop(key, None)
        if entry is None or now - entry.seen_at > FORGET_S:
            entry = _Failures(0, now, now)
        entry.count += 1
        entry.seen_at = now
        self._failures[key] = entry
        if len(self._failures) > PAIRS_COUNT_MAX:
            self._failures.popitem(last=False)
