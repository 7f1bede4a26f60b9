"""Guessing is slowed per pair of user and address, by a fake clock."""

from __future__ import annotations

import pytest

from fastgw.errors import UpstreamFault
from fastgw.handlers import throttle as throttle_module
from fastgw.handlers.throttle import FREE_FAILURES_COUNT, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guessed(clock: Clock) -> Throttle:
    throttle = Throttle(clock)
    for _ in range(FREE_FAILURES_COUNT):
        assert throttle.reserve("ann", "here") == 0
        throttle.note("ann", "here", is_good=False)
    return throttle


def test_reserve_attempts_queue_behind_each_other(guessed: Throttle) -> None:
    waits = [guessed.reserve("ann", "here") for _ in range(4)]
    assert waits == [0.0, 0.25, 0.5, 0.75]


def test_reserve_waits_double_up_to_a_bound(guessed: Throttle, clock: Clock) -> None:
    steps = []
    for _ in range(6):
        guessed.note("ann", "here", is_good=False)
        clock.now += 100
        assert guessed.reserve("ann", "here") == 0
        steps.append(guessed.reserve("ann", "here"))
    assert steps == [0.5, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_reserve_other_pairs_are_not_slowed(guessed: Throttle) -> None:
    guessed.reserve("ann", "here")
    assert guessed.reserve("ann", "there") == 0
    assert guessed.reserve("bob", "here") == 0


def test_note_right_password_forgives(guessed: Throttle) -> None:
    guessed.reserve("ann", "here")
    guessed.note("ann", "here", is_good=True)
    assert [guessed.reserve("ann", "here") for _ in range(2)] == [0, 0]


def test_reserve_old_failures_are_forgotten(guessed: Throttle, clock: Clock) -> None:
    guessed.reserve("ann", "here")
    clock.now += throttle_module.FORGET_S + 1
    assert [guessed.reserve("ann", "here") for _ in range(2)] == [0, 0]
    guessed.note("ann", "here", is_good=False)
    assert guessed.reserve("ann", "here") == 0


def test_reserve_too_many_waiting_is_refused(guessed: Throttle) -> None:
    while guessed.reserve("ann", "here") < throttle_module.WAIT_S_MAX:
        pass
    with pytest.raises(UpstreamFault, match="Too many failed attempts") as caught:
        guessed.reserve("ann", "here")
    assert caught.value.kind.status == 503


def test_note_table_is_bounded(monkeypatch: pytest.MonkeyPatch, guessed: Throttle) -> None:
    monkeypatch.setattr(throttle_module, "PAIRS_COUNT_MAX", 10)
    for n in range(50):
        guessed.note(f"user {n}", "here", is_good=False)
    assert len(guessed._failures) == 10
    assert guessed.reserve("ann", "here") == 0


async def test_wait_first_tries_are_at_once(clock: Clock) -> None:
    throttle = Throttle(clock)
    await throttle.wait("ann", "here")
