"""Guessing is slowed per pair, per address and per user, by a fake clock."""

from __future__ import annotations

import asyncio

import pytest

from fastgw._core import client_of
from fastgw.errors import UpstreamFault
from fastgw.handlers import throttle as throttle_module
from fastgw.handlers.throttle import (
    ADDRESS_FREE_COUNT,
    FORGET_S,
    KNOWN_S,
    PAIR_FREE_COUNT,
    USER_FREE_COUNT,
    WAIT_S_MAX,
    Throttle,
)


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
    for _ in range(PAIR_FREE_COUNT):
        assert throttle.reserve("ann", "here") == 0
        throttle.note("ann", "here", is_good=False)
    return throttle


@pytest.fixture
def sprayed(clock: Clock) -> Throttle:
    """One address has guessed a password for many users."""
    throttle = Throttle(clock)
    for n in range(ADDRESS_FREE_COUNT):
        assert throttle.reserve(f"user {n}", "here") == 0
        throttle.note(f"user {n}", "here", is_good=False)
    return throttle


@pytest.fixture
def hunted(clock: Clock) -> Throttle:
    """Many addresses have guessed the password of one user."""
    throttle = Throttle(clock)
    for n in range(USER_FREE_COUNT):
        assert throttle.reserve("ann", f"192.0.2.{n}") == 0
        throttle.note("ann", f"192.0.2.{n}", is_good=False)
    return throttle


# --- one pair -----------------------------------------------------------------------------------


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
    clock.now += FORGET_S + 1
    assert [guessed.reserve("ann", "here") for _ in range(2)] == [0, 0]
    guessed.note("ann", "here", is_good=False)
    assert guessed.reserve("ann", "here") == 0


def test_reserve_too_many_waiting_is_refused(guessed: Throttle) -> None:
    while guessed.reserve("ann", "here") < WAIT_S_MAX:
        pass
    for _ in range(2):
        with pytest.raises(UpstreamFault, match="Too many failed attempts") as caught:
            guessed.reserve("ann", "here")
        assert caught.value.kind.status == 503


def test_reserve_refused_attempt_takes_no_other_turn(guessed: Throttle, clock: Clock) -> None:
    while guessed.reserve("ann", "here") < WAIT_S_MAX:
        pass
    for n in range(USER_FREE_COUNT):
        guessed.note("ann", f"192.0.2.{n}", is_good=False)
    clock.now += 0.1
    with pytest.raises(UpstreamFault):
        guessed.reserve("ann", "here")
    assert guessed.reserve("ann", "there") == 0


# --- one address, many users --------------------------------------------------------------------


def test_reserve_address_that_sprays_is_slowed_for_every_name(sprayed: Throttle) -> None:
    assert [sprayed.reserve(f"other {n}", "here") for n in range(4)] == [0, 0.25, 0.5, 0.75]
    assert sprayed.reserve("other", "there") == 0


def test_reserve_address_that_sprays_is_refused_at_the_bound(sprayed: Throttle) -> None:
    while sprayed.reserve("someone", "here") < WAIT_S_MAX:
        pass
    with pytest.raises(UpstreamFault, match="Too many failed attempts"):
        sprayed.reserve("someone else", "here")


def test_reserve_sprayed_address_leaves_known_users_alone(sprayed: Throttle) -> None:
    sprayed.note("ann", "here", is_good=True)
    assert [sprayed.reserve("ann", "here") for _ in range(9)] == [0] * 9


def test_note_own_account_does_not_forgive_the_address(sprayed: Throttle) -> None:
    for _ in range(ADDRESS_FREE_COUNT):
        sprayed.note("mallory", "here", is_good=True)
    assert [sprayed.reserve(f"other {n}", "here") for n in range(3)] == [0, 0.25, 0.5]


def test_note_right_password_takes_back_its_typing_errors(clock: Clock) -> None:
    throttle = Throttle(clock)
    for n in range(ADDRESS_FREE_COUNT):
        throttle.note(f"user {n}", "here", is_good=False)
        throttle.note(f"user {n}", "here", is_good=True)
    assert [throttle.reserve("other", "here") for _ in range(3)] == [0, 0, 0]
    assert (len(throttle._addresses), len(throttle._users)) == (0, 0)


def test_reserve_address_recovers_steadily(sprayed: Throttle, clock: Clock) -> None:
    clock.now += FORGET_S / ADDRESS_FREE_COUNT + 0.1
    assert [sprayed.reserve("other", "here") for _ in range(3)] == [0, 0, 0]
    sprayed.note("other", "here", is_good=False)
    sprayed.note("another", "here", is_good=False)
    assert [sprayed.reserve("a third", "here") for _ in range(2)] == [0, 0.25]
    clock.now += 2 * FORGET_S
    assert [sprayed.reserve("other", "here") for _ in range(3)] == [0, 0, 0]


def test_reserve_ipv6_addresses_of_one_site_are_one(clock: Clock) -> None:
    throttle = Throttle(clock)
    for n in range(ADDRESS_FREE_COUNT):
        throttle.note(f"user {n}", f"2001:db8:1:2::{n:x}", is_good=False)
    waits = [throttle.reserve("other", f"2001:db8:1:2:ffff::{n}") for n in range(3)]
    assert waits == [0, 0.25, 0.5]
    assert [throttle.reserve("other", "2001:db8:1:3::1") for _ in range(2)] == [0, 0]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_client_of(address: str, client: str) -> None:
    assert client_of(address) == client


# --- one user, many addresses -------------------------------------------------------------------


def test_reserve_hunted_user_is_slowed_from_new_addresses(hunted: Throttle) -> None:
    waits = [hunted.reserve("ann", f"198.51.100.{n}") for n in range(4)]
    assert waits == [0, 0.25, 0.5, 0.75]
    assert hunted.reserve("bob", "198.51.100.1") == 0


def test_reserve_hunted_user_is_never_refused(hunted: Throttle) -> None:
    waits = [hunted.reserve("ann", f"198.51.{n // 250}.{n % 250}") for n in range(2000)]
    assert max(waits) == WAIT_S_MAX
    assert hunted.reserve("ann", "203.0.113.1") == WAIT_S_MAX


def test_reserve_hunted_user_is_free_where_he_has_been(hunted: Throttle, clock: Clock) -> None:
    hunted.note("ann", "home", is_good=True)
    for n in range(100):
        hunted.reserve("ann", f"198.51.100.{n}")
        hunted.note("ann", f"198.51.100.{n}", is_good=False)
    assert [hunted.reserve("ann", "home") for _ in range(9)] == [0] * 9
    clock.now += KNOWN_S + 1
    for n in range(USER_FREE_COUNT):
        hunted.note("ann", f"198.51.100.{n}", is_good=False)
    assert [hunted.reserve("ann", "home") for _ in range(2)] == [0, 0.25]


def test_reserve_known_address_is_slowed_by_its_own_failures(hunted: Throttle) -> None:
    hunted.note("ann", "home", is_good=True)
    for _ in range(PAIR_FREE_COUNT):
        hunted.note("ann", "home", is_good=False)
    assert [hunted.reserve("ann", "home") for _ in range(3)] == [0, 0.25, 0.5]


# --- bounds -------------------------------------------------------------------------------------


def test_note_tables_are_bounded(monkeypatch: pytest.MonkeyPatch, guessed: Throttle) -> None:
    monkeypatch.setattr(throttle_module, "ENTRIES_COUNT_MAX", 10)
    for n in range(50):
        guessed.note(f"user {n}", f"address {n}", is_good=False)
        guessed.note(f"friend {n}", f"address {n}", is_good=True)
    tables = (guessed._pairs, guessed._addresses, guessed._users, guessed._known)
    assert [len(table) for table in tables] == [10, 10, 10, 10]
    assert guessed.reserve("ann", "here") == 0


def test_note_long_names_are_not_kept_whole(clock: Clock) -> None:
    throttle = Throttle(clock)
    for end in "abcdef":
        throttle.note("x" * 100_000 + end, "here", is_good=False)
    assert [len(name) for name in throttle._users._entries] == [129]
    assert [throttle.reserve("x" * 500, "here") for _ in range(2)] == [0, 0.5]


async def test_wait_first_tries_are_at_once(clock: Clock) -> None:
    throttle = Throttle(clock)
    await throttle.wait("ann", "here")


async def test_wait_counts_those_who_wait(
    monkeypatch: pytest.MonkeyPatch, guessed: Throttle
) -> None:
    monkeypatch.setattr(throttle_module, "WAITING_COUNT_MAX", 3)
    guessed.reserve("ann", "here")
    waiting = [asyncio.ensure_future(guessed.wait("ann", "here")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(UpstreamFault, match="Too many failed attempts"):
        await guessed.wait("ann", "here")
    await guessed.wait("bob", "here")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert guessed._waiting_count == 0
