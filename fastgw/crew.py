"""What a supervisor and its workers have in common: the words they exchange, and their bounds.

What enters: nothing but numbers and a pipe. What leaves: `Voice`, by which a worker tells how it
is, `Times`, within which it acts, and `Crew`, by which its parent starts it.
`supervisor`, `shift` and `server` use it. Nothing here forks, waits or knows the gateway.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

BEAT_S: Final = 1.0
"""How often a worker's event loop says that it turns."""

AGAIN_S: Final = 0.5
"""A second signal to end counts only this much later. WHY: a terminal and whoever runs in it may
each send one for a single Ctrl-C."""

READY_S_MAX: Final = 60.0
"""LIMIT: for the start of a worker that is to replace one which serves; its waits for the broker
are shorter, but thousands of schemas are compiled too."""

FORCED: Final = 128
"""Added to the number of the signal that ended us by force, as a shell does."""


class Terminal:
    """Tells a hang-up of the terminal that this process was started at from a signal to reload."""

    def __init__(self) -> None:
        self.is_there: Final = os.isatty(0)

    def is_gone(self) -> bool:
        """Whether there was a terminal and it is closed; its signal means the end then."""
        return self.is_there and not os.isatty(0)


class Voice:
    """What a worker tells its parent: that it serves, and that its loop turns.

    Args:
        pipe: where to write; -1 when nobody listens.
        seat: a number from 0 to the number of workers that no other living one has. WHY beside the
            worker's own: one that leaves shares that with its successor, and both still count.
        is_first: whether no worker of this number has served before.
    """

    def __init__(self, pipe: int = -1, *, seat: int = 0, is_first: bool = True) -> None:
        self._pipe: Final = pipe
        self.seat: Final = seat
        self.is_first: Final = is_first

    def say_ready(self) -> None:
        """Say that clients are answered from now on."""
        self._say(b"r")

    def beat(self) -> None:
        """Say that the loop turns; called every `BEAT_S`."""
        self._say(b".")

    def _say(self, word: bytes) -> None:
        if self._pipe >= 0:
            # WHY: a full pipe means a parent that does not read, and its end is our end anyway.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._pipe, word)


@dataclass(frozen=True, slots=True)
class Times:
    """How long a worker may take, in seconds.

    Args:
        delay_s: from the signal to end until nobody is accepted any more.
        grace_s: from then until the last answer.
        silence_s: between two signs of its event loop.
    """

    delay_s: float
    grace_s: float
    silence_s: float


P = TypeVar("P")


class Crew(Protocol[P]):
    """What `server` brings: how a worker runs by a plan, and what its parent holds for it."""

    def times(self, plan: P) -> Times:
        """Return the bounds of a worker that runs by `plan`."""

    def open(self, index: int) -> None:
        """Open what worker `index` inherits; called in the parent, before each fork."""

    def forget(self, index: int) -> None:
        """Close that again, because the worker dies each time."""

    def run(self, index: int, plan: P, voice: Voice) -> int:
        """Be worker `index` in the forked process; return its exit code."""

    def left(self, seat: int) -> None:
        """Take note that the worker in this seat has ended."""

    def read_again(self, plan: P) -> P | None:
        """Read the configuration: the next plan, the same one, or None for a bad one."""

    def close_sockets(self) -> None:
        """Close the parent's sockets, before the workers are told to end."""

    def close_files(self) -> None:
        """Unlink unix sockets, when the workers accept nobody any more."""
