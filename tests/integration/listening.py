"""Listeners without a gateway behind them: a door that tells what it was told, and echoes.

What enters: listener tables. What leaves: served addresses on a uvloop loop in a thread of its own,
so that tests use plain blocking sockets. Called by the tests of the listeners.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import socket
import ssl
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvloop

from fastgw.config_types import Config, LimitsConfig, ListenerConfig
from fastgw.door.listeners import Bound, Listeners, bind_all, close_all

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from fastgw.door.tls import NameOf

WAIT_S_MAX: Final = 10.0


class Echo(asyncio.Protocol):
    """Says in one line what the listener told of the client, then sends back what comes."""

    def __init__(self, door: EchoDoor, told: dict[str, Any], name_of: NameOf | None) -> None:
        self._door = door
        self._told = told
        self._name_of = name_of
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        self._door.open_count += 1
        certificate = transport.get_extra_info("peercert")
        if self._name_of is not None:
            self._told["user"] = self._name_of(certificate or {})
        self._transport.write(json.dumps(self._told).encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        """Echo."""
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count."""
        self._door.open_count -= 1


class EchoDoor:
    """The ingress's face; `full` are the addresses that have no room."""

    def __init__(self) -> None:
        self.full: set[str] = set()
        self.open_count = 0

    def protocol(
        self, *, serves: str = "all", client: str | None = None, name_of: NameOf | None = None
    ) -> Echo:
        """Make an echoing protocol."""
        return Echo(self, {"serves": serves, "client": client}, name_of)

    def has_room_for(self, address: str) -> bool:
        """Whether a test left room."""
        return address not in self.full


class Served:
    """Listeners that are served in a thread, and their loop."""

    def __init__(self, bounds: list[Bound], limits: LimitsConfig) -> None:
        self.bounds = bounds
        self.door = EchoDoor()
        self.faults: list[dict[str, Any]] = []
        self.listeners: Listeners
        self._limits = limits
        self._ended: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda loop, context: self.faults.append(context))
        self._ended = asyncio.Event()
        self.listeners = Listeners(self.bounds, self._limits, self.door)
        await self.listeners.start()
        self._is_up.set()
        await self._ended.wait()
        await self.listeners.close()

    def start(self) -> None:
        """Return when clients are accepted."""
        self._thread.start()
        assert self._is_up.wait(WAIT_S_MAX)

    def stop(self) -> None:
        """End the thread; a fault that nobody handled fails the test."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(WAIT_S_MAX)
        assert not self._thread.is_alive()
        assert self.faults == []

    def call(self, function: Callable[[], Any]) -> Any:
        """Run `function` on the loop and return its result."""
        return self.run(_as_coroutine(function))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop and return its result."""
        done: concurrent.futures.Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result(WAIT_S_MAX)

    def connect(self, index: int = 0) -> socket.socket:
        """Connect to a listener."""
        bound = self.bounds[index]
        if bound.path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(WAIT_S_MAX)
            sock.connect(bound.path)
            return sock
        return socket.create_connection(bound.sock.getsockname()[:2], WAIT_S_MAX)

    def connect_tls(
        self, context: ssl.SSLContext, index: int = 0, before: bytes = b""
    ) -> ssl.SSLSocket:
        """Connect with TLS, behind bytes that come before it."""
        sock = self.connect(index)
        try:
            if before:
                sock.sendall(before)
            return context.wrap_socket(sock, server_hostname="localhost")
        except BaseException:
            sock.close()
            raise


async def _as_coroutine(function: Callable[[], Any]) -> Any:
    return function()


@contextmanager
def served(*listeners: ListenerConfig, **limits: int) -> Iterator[Served]:
    """Bind and serve listeners; all of them are gone at the end."""
    bounds = bind_all(Config(listeners=list(listeners)))
    try:
        found = Served(bounds, LimitsConfig(**limits))
        found.start()
        try:
            yield found
        finally:
            found.stop()
    finally:
        close_all(bounds)


def read_told(sock: socket.socket) -> dict[str, Any]:
    """Read the one line that the door says first."""
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        assert byte, f"closed after {line!r}"
        line += byte
    told = json.loads(line)
    assert isinstance(told, dict)
    return told


def echo(sock: socket.socket, data: bytes) -> bytes:
    """Send and read back."""
    sock.sendall(data)
    return read_exactly(sock, len(data))


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read `size` bytes."""
    found = b""
    while len(found) < size:
        data = sock.recv(size - len(found))
        assert data, f"closed after {found!r}"
        found += data
    return found


def is_closed(sock: socket.socket) -> bool:
    """Wait for the other side to close; a line that it says instead is a failure."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
