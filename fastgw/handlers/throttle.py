"""Slows down password guessing: per user and address, per address, and per user.

What enters: a user's name and a client's address, before and after each password check.
What leaves: a wait before the check, once there were too many failures of late.
Called by `auth` alone. It must never let a stranger lock a user out: an address from which a user
has logged in is slowed by that user's failures from that address only, and failures elsewhere
never refuse anybody. It must never grow: all tables and waits are bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from fastgw._core import client_of
from fastgw.errors import UpstreamFault

if TYPE_CHECKING:
    from collections.abc import Callable

PAIR_FREE_COUNT: Final = 5
"""LIMIT: typing errors and a sender's retries after a password change stay unslowed."""

ADDRESS_FREE_COUNT: Final = 50
"""LIMIT: many senders may share an address; all their typing errors of a quarter of an hour."""

USER_FREE_COUNT: Final = 20
"""LIMIT: one user's senders after a password change, from some addresses."""

DELAY_S_MIN: Final = 0.25
PAIR_DELAY_S_MAX: Final = 2.0
ADDRESS_DELAY_S_MAX: Final = 1.0
USER_DELAY_S_MAX: Final = 2.0
WAIT_S_MAX: Final = 10.0
"""LIMIT: nobody waits longer; a pair or address with a longer queue of its own is refused."""

WAITING_COUNT_MAX: Final = 1000
"""LIMIT: requests that wait here at a time, from all addresses; more are refused."""

FORGET_S: Final = 900.0
ENTRIES_COUNT_MAX: Final = 10_000
"""LIMIT: per table, some MiB at most; the entry longest untouched is forgotten first."""

KNOWN_S: Final = 86_400.0
"""How long an address stays known for a user after a right password: senders log in each day."""

NAME_CHARS_MAX: Final = 128
"""LIMIT: no user has a longer name, so what is longer need not be told apart."""


_Key = TypeVar("_Key")


@dataclass(slots=True)
class _Failures:
    count: float
    seen_at: float
    next_at: float


class _Table(Generic[_Key]):
    """Failures of late by some key, and the turns that the attempts of a key take.

    Args:
        free_count: failures that slow nothing.
        delay_s_max: the longest distance between two turns.
        leaks: whether failures are forgiven steadily, all the free ones within `FORGET_S`; else
            they are forgotten at once after `FORGET_S` without one.
    """

    def __init__(self, free_count: int, delay_s_max: float, *, leaks: bool) -> None:
        self._free_count: Final = free_count
        self._delay_s_max: Final = delay_s_max
        self._leak_per_s: Final = free_count / FORGET_S if leaks else 0.0
        self._entries: Final[OrderedDict[_Key, _Failures]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find_slowed(self, key: _Key, now: float) -> _Failures | None:
        """Return the failures of `key` when there are enough of them to slow it."""
        entry = self._entries.get(key)
        return None if entry is None or self._count(entry, now) < self._free_count else entry

    def take_turn(self, entry: _Failures, turn_at: float, now: float) -> None:
        """Let the next attempt of `entry` wait behind one at `turn_at`."""
        doublings = min(int(self._count(entry, now)) - self._free_count, 10)
        entry.next_at = turn_at + min(self._delay_s_max, DELAY_S_MIN * 2**doublings)

    def add(self, key: _Key, now: float) -> None:
        entry = self._entries.pop(key, None) or _Failures(0, now, now)
        entry.count = self._count(entry, now) + 1
        entry.seen_at = now
        self._entries[key] = entry
        if len(self._entries) > ENTRIES_COUNT_MAX:
            self._entries.popitem(last=False)

    def forgive(self, key: _Key, now: float, count: float | None = None) -> float:
        """Take back `count` failures, or all; return how many there were."""
        entry = self._entries.get(key)
        if entry is None:
            return 0
        before = self._count(entry, now)
        entry.count, entry.seen_at = before - (before if count is None else count), now
        if entry.count <= 0:
            del self._entries[key]
        return before

    def _count(self, entry: _Failures, now: float) -> float:
        quiet_s = now - entry.seen_at
        if self._leak_per_s:
            return max(0.0, entry.count - quiet_s * self._leak_per_s)
        return 0 if quiet_s > FORGET_S else entry.count


class Throttle:
    """The failures of late; the attempts of what is slowed queue behind each other.

    Args:
        clock: monotonic seconds; tests pass their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pairs: _Table[tuple[str, str]] = _Table(
            PAIR_FREE_COUNT, PAIR_DELAY_S_MAX, leaks=False
        )
        self._addresses: _Table[str] = _Table(ADDRESS_FREE_COUNT, ADDRESS_DELAY_S_MAX, leaks=True)
        self._users: _Table[str] = _Table(USER_FREE_COUNT, USER_DELAY_S_MAX, leaks=True)
        # Where each user has logged in from, and when last.
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._waiting_count = 0

    async def wait(self, user: str, client: str) -> None:
        """Wait until this user may be tried from this address.

        Raises:
            UpstreamFault: "overloaded", when too many attempts of the pair or the address wait
                already, or too many altogether.
        """
        delay_s = self.reserve(user, client)
        if delay_s <= 0:
            return
        if self._waiting_count >= WAITING_COUNT_MAX:
            raise _refusal()
        self._waiting_count += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._waiting_count -= 1

    def reserve(self, user: str, client: str) -> float:
        """Take the next turn. Returns the seconds until then, 0 for at once."""
        now = self._clock()
        pair = _pair(user, client)
        entry = self._pairs.find_slowed(pair, now)
        if self._is_known(pair, now):
            # WHY no more: strangers at the same address, or after the same user, are others.
            by_address = by_user = None
        else:
            by_address = self._addresses.find_slowed(pair[1], now)
            by_user = self._users.find_slowed(pair[0], now)
        turn_at = now
        for own in (entry, by_address):
            if own is not None:
                turn_at = max(turn_at, own.next_at)
        if turn_at - now > WAIT_S_MAX:
            raise _refusal()
        if entry is not None:
            self._pairs.take_turn(entry, turn_at, now)
        if by_address is not None:
            self._addresses.take_turn(by_address, turn_at, now)
        if by_user is not None:
            # WHY never refused: strangers fill this queue, and the user may come from a new place.
            turn_at = min(max(turn_at, by_user.next_at), now + WAIT_S_MAX)
            self._users.take_turn(by_user, turn_at, now)
        return turn_at - now

    def note(self, user: str, client: str, *, is_good: bool) -> None:
        """Remember how a check ended; a right password forgives this pair's failures only."""
        now = self._clock()
        pair = _pair(user, client)
        if not is_good:
            self._pairs.add(pair, now)
            self._addresses.add(pair[1], now)
            self._users.add(pair[0], now)
            return
        count = self._pairs.forgive(pair, now)
        self._addresses.forgive(pair[1], now, count)
        self._users.forgive(pair[0], now, count)
        self._known.pop(pair, None)
        self._known[pair] = now
        if len(self._known) > ENTRIES_COUNT_MAX:
            self._known.popitem(last=False)

    def _is_known(self, pair: tuple[str, str], now: float) -> bool:
        seen_at = self._known.get(pair)
        return seen_at is not None and now - seen_at <= KNOWN_S


def _pair(user: str, client: str) -> tuple[str, str]:
    return user[: NAME_CHARS_MAX + 1], client_of(client)


def _refusal() -> UpstreamFault:
    return UpstreamFault("overloaded", "Too many failed attempts: try again later")
