"""The supervisor over toy workers: real processes and signals, without a gateway in them."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import fastgw
from fastgw.crew import AGAIN_S
from tests.integration.test_gateway_rolling import state_of
from tests.unit.crews import SILENCE_S
from tests.wire.gateway import ROOT, clean_env, is_pending, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S_MAX = 20.0


class Event(NamedTuple):
    """One line of a worker's or the crew's."""

    word: str
    number: str
    pid: int
    plan: str


class Toys:
    """A supervisor in a process of its own, with two toy workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes]

    def start(self) -> Toys:
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.unit.crews", str(self.folder)],
                env=clean_env(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def write(self, name: str, text: str = "") -> None:
        draft = self.folder / "draft"
        draft.write_text(text)
        draft.replace(self.folder / name)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def signal_alone(self, number: signal.Signals) -> None:
        """Send a signal and wait until it was noted, so that the next one is another."""
        self.signal(number)
        pid = self.process.pid
        wait_until(lambda: not is_pending(pid, number) and state_of(pid) == "S", WAIT_S_MAX)

    def stand_still(self) -> None:
        """Stop the supervisor until SIGCONT."""
        self.signal(signal.SIGSTOP)
        wait_until(lambda: state_of(self.process.pid) == "T", WAIT_S_MAX, "a standstill")

    def hang_up(self, count: int = 2) -> None:
        """Have a reload of the same plan reach each worker."""
        self.write("plan", "one")
        self.signal(signal.SIGHUP)
        self.wait(count, "SIGHUP")

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def events(self, *words: str) -> list[Event]:
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [
            Event(word, index, int(pid), plan) for word, index, pid, plan in map(str.split, lines)
        ]
        return [event for event in found if not words or event.word in words]

    def wait(self, count: int, *words: str) -> list[Event]:
        """Wait for so many events of these kinds."""
        what = f"{count} of {words}"
        wait_until(lambda: len(self.events(*words)) >= count, WAIT_S_MAX, what)
        return self.events(*words)

    def wait_log(self, pattern: str, count: int = 1) -> list[str]:
        wait_until(lambda: len(re.findall(pattern, self.log())) >= count, WAIT_S_MAX, pattern)
        return re.findall(pattern, self.log())

    def end(self) -> int:
        return self.process.wait(WAIT_S_MAX)


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[Toys]:
    """Not started; what is left of it at the end is killed, and its workers die with it."""
    found = Toys(tmp_path)
    yield found
    if found.process.poll() is None:
        found.process.kill()
        found.process.wait()


# --- start and end --------------------------------------------------------------------------------


def test_end_closes_sockets_before_workers_are_told(toys: Toys) -> None:
    toys.start().wait(2, "ready")
    toys.signal(signal.SIGTERM)
    assert toys.end() == 0
    words = [event.word for event in toys.events("close-sockets", "SIGTERM", "close-files")]
    assert words[0] == "close-sockets"
    assert words.count("SIGTERM") == 2
    assert "close-files" in words
    assert [event.word for event in toys.events("first", "later")] == ["first", "first"]


def test_first_workers_that_fail_end_with_their_code(toys: Toys) -> None:
    toys.write("dies-0", "1")
    toys.write("dies-1", "1")
    assert toys.start().end() == 1


def test_end_is_bounded_when_workers_do_not_end(toys: Toys) -> None:
    toys.write("deaf")
    toys.start().wait(2, "ready")
    toys.signal(signal.SIGTERM)
    assert toys.end() == 1
    assert toys.log().count("did not end in time") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(toys: Toys, number: signal.Signals) -> None:
    toys.write("deaf")
    toys.write("patient")
    toys.start()
    workers = [event.pid for event in toys.wait(2, "ready")]
    # WHY two: a terminal and whoever runs in it may each send one, and they count once. The
    # supervisor stands still meanwhile, so that they come at once on a busy machine, too.
    toys.stand_still()
    toys.signal(signal.SIGTERM)
    toys.signal(signal.SIGINT)
    toys.signal(signal.SIGCONT)
    toys.wait(2, "SIGTERM")
    counts_at = time.monotonic() + AGAIN_S
    wait_until(lambda: time.monotonic() > counts_at, WAIT_S_MAX)
    assert "once more" not in toys.log()
    toys.signal(number)
    assert toys.end() == 128 + number
    assert "once more" in toys.log()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


# --- workers that die or hang ---------------------------------------------------------------------


def test_worker_that_dies_at_once_is_started_again_more_and_more_slowly(toys: Toys) -> None:
    toys.start().wait(2, "ready")
    # Who hears this has said that it serves; before that, it would not come back as a later one.
    toys.hang_up()
    toys.write("dies-1", "3")
    victim = next(event.pid for event in toys.events("ready") if event.number == "1")
    os.kill(victim, signal.SIGKILL)
    pauses = [float(text) for text in toys.wait_log(r"again in ([\d.]+) s", 5)]
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    # Its clients go to the other worker once it is clear that it does not come back soon.
    assert {event.number for event in toys.events("forget")} == {"1"}
    (toys.folder / "dies-1").unlink()
    toys.wait(3, "ready")
    assert [event.number for event in toys.events("later")].count("1") >= 5
    toys.signal(signal.SIGTERM)
    assert toys.end() == 0


def test_worker_that_dies_once_leaves_its_clients_to_its_successor(toys: Toys) -> None:
    toys.start()
    first = toys.wait(2, "ready")[0]
    os.kill(first.pid, signal.SIGKILL)
    assert toys.wait(3, "ready")[2].number == first.number
    assert toys.events("forget") == []


def test_worker_whose_loop_stands_still_is_killed_and_replaced(toys: Toys) -> None:
    toys.start().wait(2, "ready")
    toys.write("mute-0")
    toys.wait_log(r"worker 0 \(pid \d+\) hangs: its event loop stood still for")
    (toys.folder / "mute-0").unlink()
    wait_until(lambda: [e.number for e in toys.events("ready")].count("0") > 1, WAIT_S_MAX)
    assert "worker 1" not in toys.log()
    toys.signal(signal.SIGTERM)
    assert toys.end() == 0


def test_supervisor_that_slept_does_not_blame_its_workers(toys: Toys) -> None:
    toys.start().wait(2, "ready")
    toys.write("mute-0")
    toys.write("mute-1")
    toys.stand_still()
    woken_at = time.monotonic() + SILENCE_S + 0.5
    wait_until(lambda: time.monotonic() > woken_at, WAIT_S_MAX, "longer than the allowed silence")
    (toys.folder / "mute-0").unlink()
    (toys.folder / "mute-1").unlink()
    # WHY before the signal: it is read as soon as the signal is there.
    toys.write("plan", "one")
    toys.signal(signal.SIGCONT)
    toys.signal(signal.SIGHUP)
    toys.wait(2, "SIGHUP")
    # The next reload is a turn later: who is to blame would be named by then.
    toys.hang_up(4)
    assert "hangs" not in toys.log()


# --- replacing ------------------------------------------------------------------------------------


def test_roll_replaces_one_after_another_each_ready_before_the_old_one_leaves(toys: Toys) -> None:
    toys.start()
    old = {event.number: event.pid for event in toys.wait(2, "ready")}
    toys.signal(signal.SIGUSR2)
    toys.wait_log("every worker was replaced")
    steps = [(event.word, event.number) for event in toys.events("ready", "SIGUSR2")]
    assert steps[2:] == [
        ("ready", "0"), ("SIGUSR2", "0"), ("ready", "1"), ("SIGUSR2", "1"),
    ]  # fmt: skip
    assert {event.number: event.pid for event in toys.events("SIGUSR2")} == old
    assert toys.events("SIGTERM", "forget") == []
    # A seat is taken again only after its worker was seen to leave it.
    assert [(event.word, event.number) for event in toys.events("seat", "left")][2:] == [
        ("seat", "2"), ("left", "0"), ("seat", "0"), ("left", "1"),
    ]  # fmt: skip


def test_old_worker_that_does_not_leave_is_killed_and_the_roll_goes_on(toys: Toys) -> None:
    toys.write("deaf")
    toys.start().wait(2, "ready")
    toys.signal(signal.SIGUSR2)
    toys.wait_log("every worker was replaced")
    assert toys.log().count("did not end in time") == 2


def test_signals_during_a_roll_wait_for_its_end_and_count_once(toys: Toys) -> None:
    toys.write("stays")
    toys.start().wait(2, "ready")
    toys.signal(signal.SIGUSR2)
    toys.wait(3, "ready")
    for _ in range(3):
        toys.signal_alone(signal.SIGUSR2)
    # Only now may the first of the old ones leave, and the roll go on.
    (toys.folder / "stays").unlink()
    toys.wait_log("every worker was replaced", 2)
    toys.hang_up()
    assert toys.log().count("every worker was replaced") == 2
    assert len(toys.events("ready")) == 6


def test_end_during_a_roll_ends_old_and_new(toys: Toys) -> None:
    toys.start().wait(2, "ready")
    toys.signal(signal.SIGUSR2)
    toys.wait(3, "ready")
    toys.signal(signal.SIGTERM)
    assert toys.end() == 0
    for event in toys.events("ready"):
        assert not Path(f"/proc/{event.pid}").exists()


@pytest.mark.parametrize(("plan", "count"), [("one", 2), ("bad", 0)])
def test_reload_without_a_new_plan_replaces_nobody(toys: Toys, plan: str, count: int) -> None:
    toys.start().wait(2, "ready")
    toys.write("plan", plan)
    toys.signal(signal.SIGHUP)
    toys.wait(1, "read")
    # Each has heard the first before the second comes: a signal that waits already is not doubled.
    toys.wait(count, "SIGHUP")
    toys.hang_up(count + 2)
    toys.signal(signal.SIGTERM)
    assert toys.end() == 0
    assert len(toys.events("ready")) == 2


def test_reload_with_a_new_plan_brings_it_to_every_worker(toys: Toys) -> None:
    toys.start().wait(2, "ready")
    toys.write("plan", "two")
    toys.signal(signal.SIGHUP)
    toys.wait_log("every worker was replaced")
    assert [event.plan for event in toys.events("ready")] == ["one", "one", "two", "two"]
    # One that dies comes back by the new plan.
    os.kill(toys.events("ready")[2].pid, signal.SIGKILL)
    assert toys.wait(5, "ready")[4].plan == "two"


def test_reload_whose_workers_do_not_come_to_serve_leaves_the_old_ones(toys: Toys) -> None:
    toys.start()
    first = toys.wait(2, "ready")[0]
    toys.write("dies-two", "1")
    toys.write("plan", "two")
    toys.signal(signal.SIGHUP)
    toys.wait_log("the workers that are there go on")
    assert len([event for event in toys.events("later") if event.plan == "two"]) == 3
    assert toys.events("SIGUSR2", "SIGTERM") == []
    # The old plan is still the one in force.
    os.kill(first.pid, signal.SIGKILL)
    assert toys.wait(3, "ready")[2].plan == "one"
    (toys.folder / "dies-two").unlink()
    toys.signal(signal.SIGHUP)
    toys.wait_log("every worker was replaced")
    toys.signal(signal.SIGTERM)
    assert toys.end() == 0


# --- clocks ---------------------------------------------------------------------------------------

WALL_CLOCK_READERS = {
    # Moments that people or tokens name; no wait depends on them.
    "cli/key.py", "control/issuers.py", "control/keys.py", "control/schemas.py",
    "control/secrets.py", "control/stations.py", "control/tokens.py", "control/users.py",
    "handlers/admin_access.py", "observe.py",
}  # fmt: skip


def test_only_moments_are_read_from_the_wall_clock_and_never_waits() -> None:
    """A clock that jumps must not lengthen or end a wait; who reads it is listed here."""
    package = Path(fastgw.__file__).parent
    readers = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            is_time = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if is_time and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now"):
                readers.add(path.relative_to(package).as_posix())
    assert readers <= WALL_CLOCK_READERS
