"""The parent of several workers: starts, watches and replaces them, and ends them together.

What enters: a `Crew`, which knows how a worker runs. What leaves: the exit code.
`server` calls it in the process that owns the bound addresses and the embedded broker. It must
never run an event loop, nor threads: the workers are forked from it. Every wait here is measured
with the monotonic clock and bounded; a signal only leaves a note, which the one loop acts on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, NoReturn

from fastgw.crew import AGAIN_S, FORCED, READY_S_MAX, Crew, P, Terminal, Times, Voice
from fastgw.nats.binary import die_with_parent
from fastgw.nats.folder import EmbeddedError

if TYPE_CHECKING:
    from fastgw.nats.embedded import EmbeddedBroker

log: Final = logging.getLogger("fastgw.supervisor")

LOOK_S: Final = 0.1
"""How often the children are looked at; a dead worker is replaced within a second."""

RESPAWN_WAIT_S_MIN: Final = 0.1
RESPAWN_WAIT_S_MAX: Final = 10.0
"""LIMIT: the pause before a worker that dies at once is started again, doubled from the minimum."""

STEADY_S: Final = 5.0
"""A worker that lived this long did not die at once; the pause begins at the minimum again."""

ROLL_TRIES_MAX: Final = 3
"""LIMIT: how often a replacement that fails is tried before the old workers are left in place."""

END_MARGIN_S: Final = 5.0
"""LIMIT: what a worker may take beyond its grace period, to close what it has; then killed."""

FORCED_S_MAX: Final = 1.0
"""LIMIT: what a worker may take when a second signal said that nobody waits for it; then killed."""

ASLEEP_S: Final = 2.0
"""The parent itself did not run for so long: its workers' silence says nothing."""


@dataclass(slots=True, eq=False)
class Child(Generic[P]):
    """A forked worker as its parent sees it."""

    index: int
    seat: int
    pid: int
    pipe: int
    plan: P
    times: Times
    started: float
    heard: float
    is_ready: bool = False
    is_leaving: bool = False
    kill_at: float = float("inf")
    is_killed: bool = False


class Supervisor(Generic[P]):
    """Keeps `count` forked workers alive.

    Args:
        count: how many workers.
        crew: what they do.
        plan: what they run by at first.
        broker: the embedded broker, which is kept alive too; None when there is none.
    """

    def __init__(
        self, count: int, crew: Crew[P], plan: P, broker: EmbeddedBroker | None = None
    ) -> None:
        self._count: Final = count
        self._crew: Final = crew
        self._broker: Final = broker
        # In force; and the one that the present roll brings, until a worker serves by it.
        self._plan = plan
        self._candidate: P | None = None
        self._children: dict[int, Child[P]] = {}
        self._due: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._served: set[int] = set()
        self._to_roll: deque[int] = deque()
        self._incoming: Child[P] | None = None
        self._is_rolling = False
        self._roll_tries = 0
        self._roll_due = 0.0
        self._notes: deque[int] = deque()
        self._ends_at: float | None = None
        self._files_at = float("inf")
        self._forced_by = 0
        self._code = 0
        self._turned_at = time.monotonic()
        self._terminal = Terminal()

    def run(self) -> int:
        """Keep them until a signal ends it.

        Returns:
            0 after a wanted end; 1 when the first workers could not start, or when one had to be
            killed at the end; 128 and the signal's number when a second signal to end
            cut answers short.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, self._note)
        for index in range(self._count):
            self._fork(index, self._plan)
        while self._children or (self._due and self._ends_at is None):
            self._listen()
            self._act_on_notes()
            self._reap()
            if self._code and not self._served and self._ends_at is None:
                # WHY: a worker that fails at the very start has said why; others would repeat it.
                self._begin_end()
            self._kill_late()
            self._fork_due()
            self._roll_on()
            self._check_broker()
        self._crew.close_files()
        return self._code

    # --- what comes in --------------------------------------------------------------------------

    def _note(self, number: int, frame: object) -> None:
        self._notes.append(number)

    def _listen(self) -> None:
        """Wait a little for signs of life, and take all there are."""
        poll = select.poll()
        by_pipe = {child.pipe: child for child in self._children.values()}
        for pipe in by_pipe:
            poll.register(pipe, select.POLLIN)
        found = poll.poll(LOOK_S * 1000)
        now = time.monotonic()
        is_late = now - self._turned_at > ASLEEP_S
        self._turned_at = now
        for child in by_pipe.values() if is_late else ():
            child.heard = now
        is_ended = False
        for pipe, _ in found:
            said = os.read(pipe, 4096)
            by_pipe[pipe].heard = now
            is_ended = is_ended or not said
            if b"r" in said:
                by_pipe[pipe].is_ready = True
                self._served.add(by_pipe[pipe].index)
        if is_ended:
            # A closed pipe is readable for ever; the process behind it ends within moments.
            time.sleep(LOOK_S / 10)

    def _act_on_notes(self) -> None:
        """Do what signals asked for; a roll waits for the end of the one under way."""
        for _ in range(len(self._notes)):
            number = self._notes.popleft()
            if number in (signal.SIGTERM, signal.SIGINT):
                self._on_end(number)
            elif self._ends_at is not None:
                continue
            elif number == signal.SIGHUP and self._terminal.is_gone():
                self._on_end(number)
            elif self._is_rolling:
                if number not in self._notes:
                    self._notes.append(number)
            elif number == signal.SIGHUP:
                self._reload()
            else:
                log.info("rolling restart: %d workers, one after another", self._count)
                self._begin_roll(self._plan)

    def _on_end(self, number: int) -> None:
        now = time.monotonic()
        if self._ends_at is None:
            self._begin_end()
        elif now >= self._ends_at + AGAIN_S and not self._forced_by:
            log.warning("told to end once more: ending at once")
            self._forced_by = number
            for child in self._children.values():
                child.kill_at = min(child.kill_at, now + FORCED_S_MAX)
                self._signal(child, signal.SIGTERM)

    def _begin_end(self) -> None:
        """Have every worker answer what it accepted, and end."""
        now = self._ends_at = time.monotonic()
        self._due.clear()
        self._to_roll.clear()
        # WHY: a socket here would keep clients waiting whom no worker accepts any more.
        self._crew.close_sockets()
        self._files_at = now + self._crew.times(self._plan).delay_s
        for child in self._children.values():
            times = child.times
            end_s = times.delay_s + times.grace_s + END_MARGIN_S
            child.kill_at = min(child.kill_at, now + end_s)
            self._signal(child, signal.SIGTERM)

    def _reload(self) -> None:
        plan = self._crew.read_again(self._plan)
        if plan is self._plan:
            for child in self._children.values():
                self._signal(child, signal.SIGHUP)
        elif plan is not None:
            self._begin_roll(plan)

    def _signal(self, child: Child[P], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    def _kill(self, child: Child[P]) -> None:
        child.is_killed = True
        self._signal(child, signal.SIGKILL)

    # --- the end of a worker --------------------------------------------------------------------

    def _reap(self) -> None:
        """Collect ended workers and plan their replacement."""
        for pid, child in list(self._children.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done == 0:
                continue
            del self._children[pid]
            os.close(child.pipe)
            self._crew.left(child.seat)
            code = os.waitstatus_to_exitcode(status)
            if self._ends_at is not None:
                if self._forced_by and code != 0:
                    # WHY not always: it may have had nothing left but to close.
                    self._code = FORCED + self._forced_by
                elif child.is_killed:
                    self._code = self._code or 1
            elif child is self._incoming:
                self._on_failed_roll(child.index)
            elif child.is_leaving:
                log.info("worker %d (pid %d) was replaced", child.index, pid)
            elif code == 1 and not self._served:
                self._code = 1
            else:
                self._on_died(child, code)

    def _on_died(self, child: Child[P], code: int) -> None:
        index = child.index
        pause = self._plan_restart(index, time.monotonic() - child.started)
        log.error(
            "worker %d (pid %d) ended with %d; starting it again in %.1f s",
            index, child.pid, code, pause,
        )  # fmt: skip
        if self._incoming is None or self._incoming.index != index:
            self._due[index] = time.monotonic() + pause

    def _plan_restart(self, index: int, lived_s: float) -> float:
        """Return how long to wait before worker `index` is started again."""
        last = self._pauses.get(index, 0.0)
        if lived_s > STEADY_S or not last:
            pause = RESPAWN_WAIT_S_MIN
        else:
            pause = min(last * 2, RESPAWN_WAIT_S_MAX)
            if not self._has_worker(index):
                # WHY: those who wait in its socket's queue would wait as long as the pauses grow.
                self._crew.forget(index)
        self._pauses[index] = pause
        return pause

    def _has_worker(self, index: int) -> bool:
        return any(child.index == index for child in self._children.values())

    def _kill_late(self) -> None:
        """Kill those whose event loop stands still, and those who do not come to their end."""
        now = time.monotonic()
        for child in self._children.values():
            if child.is_killed:
                continue
            if now >= child.kill_at:
                log.error("worker %d (pid %d) did not end in time", child.index, child.pid)
                self._kill(child)
            elif now >= child.heard + child.times.silence_s:
                log.error(
                    "worker %d (pid %d) hangs: its event loop stood still for %.1f s",
                    child.index, child.pid, now - child.heard,
                )  # fmt: skip
                self._kill(child)
        if now >= self._files_at:
            self._files_at = float("inf")
            self._crew.close_files()

    # --- replacing one after another ------------------------------------------------------------

    def _begin_roll(self, plan: P) -> None:
        self._candidate = plan
        self._is_rolling = True
        self._roll_tries = 0
        self._roll_due = 0.0
        self._to_roll.extend(range(self._count))

    def _roll_on(self) -> None:
        """Take the next step: a new worker, then the old one's leave, then the next number."""
        now = time.monotonic()
        if not self._is_rolling or self._ends_at is not None:
            return
        child = self._incoming
        if child is not None:
            if child.is_ready:
                self._dismiss_old(child)
            elif now >= child.started + READY_S_MAX and not child.is_killed:
                log.error("worker %d (pid %d) is not ready in time", child.index, child.pid)
                self._kill(child)
        elif any(one.is_leaving for one in self._children.values()) or now < self._roll_due:
            return
        elif self._to_roll:
            index = self._to_roll.popleft()
            self._due.pop(index, None)
            assert self._candidate is not None
            self._incoming = self._try_fork(index, self._candidate)
            if self._incoming is None:
                self._on_failed_roll(index)
        else:
            self._is_rolling = False
            self._candidate = None
            log.info("every worker was replaced")

    def _dismiss_old(self, new: Child[P]) -> None:
        """Let the predecessor of a worker that serves answer what it accepted, and leave."""
        self._incoming = None
        self._roll_tries = 0
        self._plan = new.plan
        now = time.monotonic()
        for child in self._children.values():
            if child.index == new.index and child is not new:
                child.is_leaving = True
                # Twice: first its idle clients may ask once more, then come the last answers.
                child.kill_at = now + 2 * child.times.grace_s + END_MARGIN_S
                self._signal(child, signal.SIGUSR2)

    def _on_failed_roll(self, index: int) -> None:
        """Try a replacement again that did not come to serve, or leave the old workers in place."""
        self._incoming = None
        self._roll_tries += 1
        pause = self._plan_restart(index, 0.0)
        if self._roll_tries < ROLL_TRIES_MAX:
            log.error("new worker %d did not come to serve; trying again in %.1f s", index, pause)
            self._roll_due = time.monotonic() + pause
            self._to_roll.appendleft(index)
            return
        log.error("new worker %d did not come to serve: the workers that are there go on", index)
        self._to_roll.clear()
        self._is_rolling = False
        self._candidate = None
        for other in range(self._count):
            if not self._has_worker(other):
                self._due.setdefault(other, time.monotonic() + pause)

    # --- starting -------------------------------------------------------------------------------

    def _fork_due(self) -> None:
        for index, due in list(self._due.items()):
            if self._ends_at is None and time.monotonic() >= due:
                del self._due[index]
                if self._try_fork(index, self._plan) is None:
                    self._due[index] = time.monotonic() + RESPAWN_WAIT_S_MAX

    def _check_broker(self) -> None:
        if self._broker is None or self._ends_at is not None or self._broker.poll() is None:
            return
        log.error("the embedded broker ended with code %s; starting it again", self._broker.poll())
        try:
            self._broker.restart()
        except EmbeddedError as error:
            log.error("%s", error)

    def _try_fork(self, index: int, plan: P) -> Child[P] | None:
        """Start worker `index`, or return None when no process or descriptor is left."""
        try:
            return self._fork(index, plan)
        except OSError as error:
            log.error("worker %d cannot be started: %s", index, error)
            return None

    def _fork(self, index: int, plan: P) -> Child[P]:
        """Start worker `index`.

        Raises:
            OSError: no process or descriptor is left.
        """
        self._crew.open(index)
        seat = self._find_seat()
        sys.stdout.flush()
        sys.stderr.flush()
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        end_with_parent = die_with_parent()
        # DANGER: a signal between the fork and the worker's own handlers would be noted for the
        # parent's loop, which the worker never runs; so it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            pid = os.fork()
            if pid == 0:
                voice = Voice(write_end, seat=seat, is_first=index not in self._served)
                self._be_worker(index, plan, voice, end_with_parent)
        except OSError:
            os.close(read_end)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.close(write_end)
        now = time.monotonic()
        child = Child(index, seat, pid, read_end, plan, self._crew.times(plan), now, now)
        self._children[pid] = child
        return child

    def _find_seat(self) -> int:
        """Return the lowest number that no living worker has; there is one more than workers."""
        taken = {child.seat for child in self._children.values()}
        return next(seat for seat in range(len(taken) + 1) if seat not in taken)

    def _be_worker(
        self, index: int, plan: P, voice: Voice, end_with_parent: object
    ) -> NoReturn:  # pragma: no cover - runs in the forked child
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # WHY: until the worker can act on these the default would be its death; and Ctrl-C
            # reaches us too, but our parent says when to end. A function, unlike "ignore", is not
            # inherited by processes that a worker starts.
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
                signal.signal(number, _do_nothing)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            for child in self._children.values():
                os.close(child.pipe)
            if callable(end_with_parent):
                end_with_parent()
            code = self._crew.run(index, plan, voice)
        except Exception:
            log.exception("worker %d failed", index)
        finally:
            # DANGER: a forked child must never return into its parent's code.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _do_nothing(number: int, frame: object) -> None:
    """Take a signal."""
