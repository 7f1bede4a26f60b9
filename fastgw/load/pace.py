"""A tick for the sender: as even as the system's timers can be, and as seldom as the rate allows.

What enters: an event loop, the moment of the first tick, the time between two, and what to call.
What leaves: calls. On Linux a timer of the kernel becomes readable in the loop, good to some ten
microseconds; the loop's own timers, which are used elsewhere, count whole milliseconds.
It must never decide what is due: whoever is called looks at the clock.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Final, Protocol

TICK_NS_MIN: Final = 100_000
"""LIMIT: 10,000 wake-ups a second; at higher rates a tick sends several requests."""
LOOP_TIMER_S_MIN: Final = 0.001
"""LIMIT: the loop's timers count milliseconds, and a loop that never sleeps helps nobody."""
_ABSOLUTE: Final = 1
_CLOEXEC_NONBLOCK: Final = os.O_CLOEXEC | os.O_NONBLOCK
_EXPIRATIONS_BYTES: Final = 8


class Ticker(Protocol):
    """Calls until it is closed."""

    def close(self) -> None:
        """Stop the calls."""


def choose_tick_ns(rate: float) -> int:
    """Choose the nanoseconds between two ticks: each request has one, unless they are too many."""
    return max(round(1e9 / rate), TICK_NS_MIN)


def start_ticker(
    loop: asyncio.AbstractEventLoop, first_ns: int, tick_ns: int, call: Callable[[], None]
) -> Ticker:
    """Start to call at `first_ns` of the monotonic clock, with the best timer that is here."""
    if sys.platform == "linux":
        try:
            return KernelTicker(loop, first_ns, tick_ns, call)
        except OSError:
            pass  # A sandbox may forbid it.
    return LoopTicker(loop, first_ns, tick_ns, call)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Interval(ctypes.Structure):
    _fields_ = (("every", _Timespec), ("first", _Timespec))


class KernelTicker:
    """A timerfd. SOURCE: timerfd_create(2); Python has it from 3.13 on, hence ctypes."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, first_ns: int, tick_ns: int, call: Callable[[], None]
    ) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._loop: Final = loop
        self._call: Final = call
        self._fd = libc.timerfd_create(time.CLOCK_MONOTONIC, _CLOEXEC_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        every, first = (_Timespec(*divmod(value, 10**9)) for value in (tick_ns, first_ns))
        setting = _Interval(every, first)
        if libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(setting), None) < 0:
            number = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(number, "timerfd_settime")
        loop.add_reader(self._fd, self._on_tick)

    def _on_tick(self) -> None:
        try:
            os.read(self._fd, _EXPIRATIONS_BYTES)
        except BlockingIOError:
            return
        self._call()

    def close(self) -> None:
        """Stop the calls and give the timer back."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class LoopTicker:
    """The loop's own timers."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, first_ns: int, tick_ns: int, call: Callable[[], None]
    ) -> None:
        self._loop: Final = loop
        self._tick_ns: Final = tick_ns
        self._next_ns = first_ns
        self._call: Final = call
        self._plan()

    def _plan(self) -> None:
        delay_s = (self._next_ns - time.monotonic_ns()) / 1e9
        self._timer = self._loop.call_later(max(delay_s, LOOP_TIMER_S_MIN), self._on_tick)

    def _on_tick(self) -> None:
        now = time.monotonic_ns()
        if now >= self._next_ns:  # They may also come too early.
            self._next_ns += self._tick_ns * ((now - self._next_ns) // self._tick_ns + 1)
            self._call()
        self._plan()

    def close(self) -> None:
        """Stop the calls."""
        self._timer.cancel()
