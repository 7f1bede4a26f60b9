"""Child processes of the harness: started pinned to a core, and ended by their ids.

What enters: a command line, the core, a log file. What leaves: a `Child` with its process id.
A child gets SIGTERM when the harness dies, so that an interrupted run leaves nothing behind.
It must never end a process that it did not start, nor wait without a bound.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.proc import find_tree

ROOT: Final = Path(__file__).resolve().parent.parent
SETTINGS: Final = ("FASTGW_", "JWT_", "REFRESH_JWT_", "HTTP_PORT", "MEMPHIS_", "ROOT_")
"""Beginnings of the variables that the gateway reads: a run must not depend on the shell."""
# WHY: an installer has written the modules' bytecode, and the first start writes it here. Where the
# shell forbids that, each start compiles a hundred modules anew, which takes 0.1 s.
OTHERS: Final = ("PYTHONDONTWRITEBYTECODE",)
STOP_GRACE_S: Final = 5.0
"""LIMIT: how long a child may take to end after SIGTERM before it is killed."""
INTERRUPT_GRACE_S: Final = 30.0
"""LIMIT: how long a whole run may take to end its servers after an interrupt."""
LOG_LINES_SHOWN: Final = 12
READ_BYTES: Final = 1 << 16
LAUNCHER: Final = Path(__file__).with_name("launch.py")


Cores = int | tuple[int, ...]
"""Where a child may run: one core, or several."""


class Failed(Exception):
    """A part of the run could not be done; the text says which, and what it said."""


def find_free_port() -> int:
    """Find a TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def find_cores() -> tuple[int, int]:
    """Choose the core of server and broker, and the core of the load; equal when there is one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Copy this process' environment without what a run must not depend on, then add `extra`."""
    left_out = (*SETTINGS, *OTHERS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**kept, "PYTHONPATH": path, **extra}


def _pin(argv: Sequence[str], cores: Cores) -> list[str]:
    """Build the command line that runs `argv` on its cores for as long as this process lives."""
    names = ",".join(map(str, cores if isinstance(cores, tuple) else (cores,)))
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), names, str(os.getpid())]
    return [*launcher, *argv]


def run_bounded(argv: Sequence[str], core: int, timeout_s: float, env: Mapping[str, str]) -> str:
    """Run a command to its end on one core and return what it printed.

    Raises:
        Failed: it ended with an error, or did not end within `timeout_s`.
    """
    with subprocess.Popen(
        _pin(argv, core),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=clean_environment(env),
    ) as process:
        try:
            text = process.communicate(timeout=timeout_s)[0]
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{argv[0]} did not end within {timeout_s:.0f} s") from error
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode:
        raise Failed(f"{argv[0]} ended with {process.returncode}: {last_lines(text)}")
    return text


def run_beside(argv: Sequence[str]) -> int:
    """Run a command on every core, with this process' input and output; return its exit code.

    Raises:
        KeyboardInterrupt: it was interrupted, as this process was, and has ended.
    """
    cores = tuple(sorted(os.sched_getaffinity(0)))
    with subprocess.Popen(_pin(argv, cores), cwd=ROOT, env=clean_environment({})) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # WHY: the terminal told it as well, and it has processes of its own to end.
            try:
                process.wait(INTERRUPT_GRACE_S)
            except subprocess.TimeoutExpired:
                process.terminate()
            raise


@contextmanager
def open_dialogue(argv: Sequence[str], core: Cores, timeout_s: float) -> Iterator[Dialogue]:
    """Run a command that speaks in lines; it is told to end, by the end of its input, afterwards.

    Raises:
        Failed: it ended with an error, or was not done within `timeout_s`.
    """
    with subprocess.Popen(
        _pin(argv, core),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=clean_environment({}),
    ) as process:
        try:
            yield Dialogue(process, time.monotonic() + timeout_s, argv[0])
            process.communicate(timeout=STOP_GRACE_S)
        finally:
            if process.poll() is None:
                process.kill()


class Dialogue:
    """A running command: lines from it and to it, with a bound on all waiting."""

    def __init__(self, process: subprocess.Popen[bytes], deadline: float, name: str) -> None:
        self._process = process
        self._deadline = deadline
        self._name = name
        self._read = b""

    def read_line(self) -> str:
        """Wait for the next line; raise `Failed` with what it said when there is none."""
        output = self._process.stdout
        assert output is not None
        while b"\n" not in self._read:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0 or not select.select([output], [], [], left_s)[0]:
                raise Failed(f"{self._name} was not done in time")
            data = os.read(output.fileno(), READ_BYTES)
            if not data:
                errors = self._process.communicate(timeout=STOP_GRACE_S)[1]
                raise Failed(f"{self._name} ended: {last_lines(errors.decode(errors='replace'))}")
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def say(self, line: str) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()


def last_lines(text: str) -> str:
    """Cut a log to the lines that matter when something went wrong."""
    return "\n".join(text.strip().splitlines()[-LOG_LINES_SHOWN:])


class Child:
    """One server under test, or the broker.

    Args:
        argv: the command line.
        cores: the core it is pinned to, or several; its own children inherit that.
        log: the file that takes its standard output and error.
        env: variables added to a clean environment.
    """

    def __init__(
        self, argv: Sequence[str], cores: Cores, log: Path, env: Mapping[str, str]
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                _pin(argv, cores),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=clean_environment(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the root of the child's tree."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raise `Failed` with the end of the child's log when it has ended."""
        if self._process.poll() is not None:
            raise Failed(f"it ended with {self._process.returncode}: {self.read_log()}")

    def wait(self, timeout_s: float) -> None:
        """Wait until the child ends by itself; raise `Failed` when it does not."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"it did not end within {timeout_s:.0f} s") from error

    def read_log(self) -> str:
        """Read the last lines that the child printed."""
        return last_lines(self._log.read_text(errors="replace"))

    def stop(self) -> None:
        """End the child and what it started: SIGTERM, then SIGKILL after the grace."""
        if self._process.poll() is not None:
            return
        tree = [stat.pid for stat in find_tree(self.pid)]
        self._process.terminate()
        try:
            self._process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_GRACE_S)
        self._kill_orphans(tree[1:])

    def _kill_orphans(self, pids: Sequence[int]) -> None:
        for pid in pids:
            try:
                # WHY: the session is ours alone, so a recycled process id is never hit.
                if os.getsid(pid) == self.pid:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
