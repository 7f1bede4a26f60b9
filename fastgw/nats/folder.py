"""The data folder of the embedded broker: its lock, its private files, and who runs there.

What enters: the folder's path. What leaves: the locked file, the address of a running broker, the
port and the last log line of a starting one. Called by `embedded.py` and, through it, by every
command that looks for a running broker. It must never take a left-behind file for a running broker,
and never write a file that another user could read, not even for a moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.config_types import NatsConfig

LOCK_S_MAX: Final = 10.0
"""LIMIT: how long a broker whose parent was killed may take to finish before a new start fails."""

POLL_S: Final = 0.005
LOG_LINE_CHARS_MAX: Final = 300
LOG_TAIL_BYTES: Final = 4096


class EmbeddedError(Exception):
    """The embedded broker could not be started; the text is one line for the operator."""


class BrokerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a broker that a fastgw started on this machine."""

    url: str
    user: str
    password: str
    data_user: str
    data_password: str
    pid: int
    # Empty for a broker of an older fastgw, which did not tell.
    sync_interval: str = ""

    def __repr__(self) -> str:
        """Hide the passwords."""
        return f"BrokerAddress(url={self.url!r}, pid={self.pid})"

    def apply(self, config: NatsConfig) -> NatsConfig:
        """Return `config` with this broker's address and users in it."""
        return msgspec.structs.replace(
            config,
            url=[self.url],
            user=self.user,
            password=self.password,
            data_user=self.data_user,
            data_password=self.data_password,
            sync_interval=self.sync_interval or config.sync_interval,
        )


def running_broker(data_dir: str | os.PathLike[str]) -> BrokerAddress | None:
    """Return the address of the broker that another fastgw runs on `data_dir`, if one does.

    A `broker.json` that was left behind (its process is gone, or nobody holds the lock) is no
    running broker.

    Raises:
        EmbeddedError: the file is there but may not be read by this user.
    """
    folder = Path(data_dir)
    try:
        address = msgspec.json.decode((folder / "broker.json").read_bytes(), type=BrokerAddress)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    except OSError as error:
        raise EmbeddedError(f"cannot read {folder / 'broker.json'}: {error.strerror}") from error
    return address if _is_alive(address.pid) and _is_locked(folder / "lock") else None


def take_lock(folder: Path) -> int:
    """Return the open, locked file; wait only for a broker whose fastgw is gone already."""
    path = folder / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _wait_until(lambda: _try_lock(fd) or _is_alive(_owner(fd)), LOCK_S_MAX):
            raise EmbeddedError(_orphan_text(folder))
        if not _try_lock(fd):
            raise EmbeddedError(
                f"the data folder {folder} is in use by fastgw process {_owner(fd)}"
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _orphan_text(folder: Path) -> str:
    with contextlib.suppress(EmbeddedError):
        orphan = running_broker(folder)
        if orphan is not None:
            return (
                f"the data folder {folder} is in use by nats-server process {orphan.pid}, "
                f"left behind by a fastgw that is gone; stop it with: kill {orphan.pid}"
            )
    return f"the data folder {folder} is locked by a process that does not tell its number"


def _try_lock(fd: int) -> bool:
    try:
        # Taking a lock that this open file holds already succeeds again.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _wait_until(condition: Callable[[], bool], seconds_max: float) -> bool:
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def read_port(path: Path) -> int | None:
    """Return the port from the ports file, None while it is missing or half written."""
    try:
        listed = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
        return int(listed["nats"][0].rpartition(":")[2])
    except (FileNotFoundError, msgspec.DecodeError, KeyError, IndexError, ValueError):
        return None


def write_private(path: Path, content: bytes) -> None:
    """Replace the file whole, readable by this user alone from its first byte on."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    part.replace(path)


def last_line(path: Path, offset: int) -> str:
    """Return the last line that the log got after `offset`, clipped."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(offset, end - LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:LOG_LINE_CHARS_MAX].strip() if lines else "nothing in its log"
