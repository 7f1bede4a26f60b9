"""Log lines that repeat: told once, then counted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastgw.nats.quiet import INTERVAL_S, KEYS_MAX, QuietLog

if TYPE_CHECKING:
    import pytest


def test_warning_repeats_are_counted_until_the_interval_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [100.0]
    quiet = QuietLog(logging.getLogger("t"), lambda: now[0])
    for _ in range(5):
        quiet.warning("away")
    quiet.warning("other")
    assert caplog.messages == ["away", "other"]
    now[0] += INTERVAL_S
    quiet.warning("away")
    quiet.warning("away")
    assert caplog.messages[2:] == ["away (4 more like it)"]
    quiet.reset()
    quiet.warning("away")
    assert caplog.messages[3:] == ["away"]


def test_warning_endless_different_texts_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    quiet = QuietLog(logging.getLogger("t"), lambda: 100.0)
    for number in range(3 * KEYS_MAX):
        quiet.warning(str(number))
    assert len(quiet._told) <= KEYS_MAX
    assert len(caplog.messages) == 3 * KEYS_MAX
