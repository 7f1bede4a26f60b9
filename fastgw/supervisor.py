"""The parent of several workers: starts them, starts those again that die, ends them together.

What enters: how many, and what each of them runs. What leaves: the exit code.
`server` calls it in the process that owns the bound port and the embedded broker. It must never
run an event loop: the workers are forked from it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

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


class Terminal:
    """Tells a hang-up of the terminal that this process was started at from a signal to reload."""

    def __init__(self) -> None:
        self.is_there: Final = os.isatty(0)

    def is_gone(self) -> bool:
        """Whether there was a terminal and it is closed; its signal means the end then."""
        return self.is_there and not os.isatty(0)


class Supervisor:
    """Keeps `workers_count` forked workers alive.

    Args:
        workers_count: how many workers.
        run_worker: runs worker number i in the forked process and returns its exit code; calls its
            second argument when it serves.
        broker: the embedded broker, which is kept alive too; None when there is none.
        on_end: called once, before the workers are told to end: what they share is to be closed.
    """

    def __init__(
        self,
        workers_count: int,
        run_worker: Callable[[int, Callable[[], None]], int],
        broker: EmbeddedBroker | None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._count = workers_count
        self._run_worker = run_worker
        self._broker = broker
        self._close_shared = on_end
        self._workers: dict[int, tuple[int, float]] = {}
        self._due: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._is_ending = False
        self._has_served = False
        self._terminal = Terminal()
        self._ready_read, self._ready_write = os.pipe()
        os.set_blocking(self._ready_read, False)

    def run(self) -> int:
        """Return 0 after a wanted end, and 1 when the first workers could not start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_end)
        signal.signal(signal.SIGHUP, self._on_hang_up)
        for index in range(self._count):
            self._fork(index)
        code = 0
        while self._workers or (self._due and not self._is_ending):
            time.sleep(LOOK_S)
            self._has_served = self._has_served or self._is_one_ready()
            code = self._reap() or code
            if code and not self._has_served:
                # WHY: a worker that fails at the very start has said why; others would repeat it.
                self._end_workers()
            self._fork_due()
            self._check_broker()
        return code if not self._has_served else 0

    def _is_one_ready(self) -> bool:
        try:
            return bool(os.read(self._ready_read, 64))
        except BlockingIOError:
            return False

    def _say_ready(self) -> None:
        os.write(self._ready_write, b".")

    def _on_end(self, number: int, frame: object) -> None:
        self._end_workers()

    def _on_hang_up(self, number: int, frame: object) -> None:
        """Have every worker read renewed certificates; or end, when our terminal was closed."""
        if self._terminal.is_gone():
            self._end_workers()
        else:
            self._signal_workers(signal.SIGHUP)

    def _end_workers(self) -> None:
        if not self._is_ending:
            self._close_shared()
        self._is_ending = True
        self._signal_workers(signal.SIGTERM)

    def _signal_workers(self, number: signal.Signals) -> None:
        for pid in list(self._workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reap(self) -> int:
        """Collect ended workers and plan their replacement. Returns 1 if one gave up by itself."""
        for pid, (index, started) in list(self._workers.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done == 0:
                continue
            del self._workers[pid]
            code = os.waitstatus_to_exitcode(status)
            if self._is_ending:
                continue
            if code == 1 and not self._has_served:
                return 1
            now = time.monotonic()
            pause = self._pauses.get(index, 0.0)
            pause = RESPAWN_WAIT_S_MIN if now - started > STEADY_S else max(pause * 2, 0.1)
            self._pauses[index] = min(pause, RESPAWN_WAIT_S_MAX)
            self._due[index] = now + self._pauses[index]
            log.error(
                "worker %d (pid %d) ended with %d; starting it again in %.1f s",
                index, pid, code, self._pauses[index],
            )  # fmt: skip
        return 0

    def _fork_due(self) -> None:
        for index, due in list(self._due.items()):
            if not self._is_ending and time.monotonic() >= due:
                del self._due[index]
                self._fork(index)

    def _check_broker(self) -> None:
        if self._broker is None or self._is_ending or self._broker.poll() is None:
            return
        log.error("the embedded broker ended with code %s; starting it again", self._broker.poll())
        try:
            self._broker.restart()
        except EmbeddedError as error:
            log.error("%s", error)

    def _fork(self, index: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        end_with_parent = die_with_parent()
        pid = os.fork()
        if pid:
            self._workers[pid] = (index, time.monotonic())
            return
        code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            # WHY: until the worker can reload there is nothing to reload, and the default is death.
            signal.signal(signal.SIGHUP, lambda number, frame: None)
            if end_with_parent is not None:
                end_with_parent()
            code = self._run_worker(index, self._say_ready)
        except Exception:
            log.exception("worker %d failed", index)
        finally:
            # DANGER: a forked child must never return into its parent's code.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
