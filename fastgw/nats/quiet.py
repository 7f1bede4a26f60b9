"""Rate limits for log lines: a state that repeats is told once, then counted.

What enters: a key that names the state. What leaves: whether to write a line now, and how many
were held back since the last one. Called wherever an outside event can repeat without end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

INTERVAL_S: Final = 30.0
"""LIMIT: one line in half a minute shows that a fault lasts, without filling a disk."""

KEYS_MAX: Final = 256
"""LIMIT: keys hold error texts; when more than this many differ, the count starts anew."""


class QuietLog:
    """A logger that writes each distinct line at most once per interval.

    Args:
        log: where the lines go.
        clock: seconds, monotonic; tests give their own.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    def warning(self, text: str) -> None:
        """Write `text`, or count it when the same was written less than an interval ago."""
        now = self._clock()
        last, held_back = self._told.get(text, (now - INTERVAL_S, 0))
        if now - last < INTERVAL_S:
            self._told[text] = (last, held_back + 1)
            return
        if len(self._told) >= KEYS_MAX:
            self._told.clear()
        self._told[text] = (now, 0)
        self._log.warning("%s%s", text, f" ({held_back} more like it)" if held_back else "")

    def reset(self) -> None:
        """Forget what was told, because the state changed: the next fault is news again."""
        self._told.clear()
