"""Slow clients of each kind, on plain non-blocking sockets that one loop drives.

What enters: the gateway's addresses and a token. What leaves: for each client, when its connection
ended and what it was answered. `Crowd` calls every client once a tick; a client never blocks.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

TICK_S: Final = 0.25
"""How often bytes of a body just above the minimum are sent; the other kinds send once a second."""

TICKS_A_SECOND: Final = 4
RATE_MIN: Final = 512
"""LIMIT: limits.body_rate_bytes_min of the configuration."""
JUST_ABOVE: Final = (RATE_MIN + RATE_MIN // 8) // TICKS_A_SECOND
BODY_BYTES: Final = 100_000
SEGMENT_BYTES: Final = 1400
"""LIMIT: what a network carries in one piece."""

STATION: Final = b"/stations/slow/produce/single"


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of client behaves.

    Args:
        name: what the table calls it.
        first: what it sends at once.
        drip: what it sends from then on, over and over, `size` bytes every `ticks` ticks.
        reads: whether it reads what it is sent.
        half_closes: whether it says after `first` that nothing more comes.
        uses_tls_port: whether it connects to the listener with TLS.
    """

    name: str
    first: bytes = b""
    drip: bytes = b""
    size: int = 1
    ticks: int = TICKS_A_SECOND
    reads: bool = True
    half_closes: bool = False
    uses_tls_port: bool = False


def kinds(token: str) -> tuple[Kind, ...]:
    """Every kind; `token` is a good one, since nobody's body is read without."""
    head = b"POST %b HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer %b\r\n" % (
        STATION,
        token.encode(),
    )
    get = b"GET /monitoring/status HTTP/1.1\r\nHost: gw\r\n\r\n"
    length = b"Content-Length: %d\r\n\r\n" % BODY_BYTES
    return (
        Kind("head, a byte a second", b"GET / HTTP/1.1\r\nHost: gw\r\n", b"X-A: b\r\n"),
        Kind("half a head, silent", b"GET / HTTP/1.1\r\nHost:"),
        Kind("half a head, half-closed", b"GET / HTTP/1.1\r\nHost:", half_closes=True),
        Kind("body, a byte a second", head + length, b"a"),
        Kind("body, just above the rate", head + length, b"a" * JUST_ABOVE, JUST_ABOVE, 1),
        Kind(
            "chunks, a byte a second", head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"
        ),
        Kind("never reads", get * 2000, get * 200, 200 * len(get), reads=False),
        Kind("silent from the start"),
        Kind("keep-alive, then silent", get),
        Kind("no TLS handshake", b"\x16\x03\x01", uses_tls_port=True),
    )


@dataclass(slots=True)
class SlowClient:
    """One connection; `ended_s` and `answer` tell how it went."""

    kind: Kind
    address: tuple[str, int]
    ended_s: float | None = None
    answer: bytes = b""
    _sent: int = 0
    _owed: int = 0
    _ticks: int = 0
    _started: float = 0.0
    _socket: socket.socket = field(init=False)

    def open(self) -> int:
        """Connect and send the first bytes; return the descriptor to wait for."""
        self._socket = socket.socket()
        if not self.kind.reads:
            # WHY: the window is small, so that the answers soon wait at the gateway.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # WHY: the kernel's send buffer grows with the segment; loopback's is 64 KiB, and 2.5 MB
            # of answers would vanish there before the gateway had to wait for the reader.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        self._socket.settimeout(5)
        self._socket.connect(self.address)
        self._socket.setblocking(False)
        self._started = time.monotonic()
        self._owed = len(self.kind.first)
        self._pay()
        if self.kind.half_closes:
            self._socket.shutdown(socket.SHUT_WR)
        return self._socket.fileno()

    def is_reader(self) -> bool:
        """Whether it wants to know of bytes."""
        return self.kind.reads

    def port(self) -> int:
        """Its own port, by which the kernel's table knows it."""
        return int(self._socket.getsockname()[1])

    def tick(self) -> None:
        """Send the next bytes of the drip."""
        drip = self.kind.drip
        self._ticks += 1
        if self.ended_s is None and drip and self._ticks % self.kind.ticks == 0:
            self._owed += self.kind.size
            self._pay()

    def _pay(self) -> None:
        """Send what is due, and not a byte out of turn: a torn request would end the connection."""
        while self.ended_s is None and self._owed:
            data = self._next()
            sent = self._send(data)
            self._sent += sent
            self._owed -= sent
            if sent < len(data):
                # WHY: behind a full socket a client is slower, it does not make up leeway.
                rest = max(0, len(self.kind.first) - self._sent)
                self._owed = min(self._owed, rest + self.kind.size)
                return

    def _next(self) -> bytes:
        """The bytes that are due: of `first`, and behind it of the drip, over and over."""
        first, drip = self.kind.first, self.kind.drip
        if self._sent < len(first):
            return first[self._sent : self._sent + self._owed]
        at = (self._sent - len(first)) % len(drip)
        return (drip + drip)[at : at + min(self._owed, len(drip))]

    def _send(self, data: bytes) -> int:
        """Send what the socket takes; return how many bytes that were."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                self.end()
            return 0

    def on_event(self, events: int) -> bool:
        """Read, and notice the end; return whether it has come."""
        if events & select.POLLIN and self.kind.reads:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return False
            except OSError:
                data = b""
            self.answer = (self.answer + data)[:4096]
            if not data:
                self.end()
        elif events & (select.POLLHUP | select.POLLERR):
            self.end()
        return self.ended_s is not None

    def end(self) -> None:
        """The gateway has ended the connection."""
        if self.ended_s is None:
            self.ended_s = time.monotonic() - self._started

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


class Crowd:
    """Many clients in one loop.

    Args:
        clients: not opened yet.
    """

    def __init__(self, clients: list[SlowClient]) -> None:
        self.clients = clients
        self._by_fd: dict[int, SlowClient] = {}
        self._poll = select.poll()
        self._next_tick = 0.0
        self._ticks = 0

    def run(self, seconds: float) -> None:
        """Open all, drive them until each has ended or the time is over, and close all."""
        self._next_tick = time.monotonic()
        deadline = self._next_tick + seconds
        for client in self.clients:
            fd = client.open()
            self._by_fd[fd] = client
            self._poll.register(fd, select.POLLIN if client.is_reader() else 0)
        try:
            while self._by_fd and time.monotonic() < deadline:
                self._turn()
        finally:
            for client in self.clients:
                client.close()

    def _turn(self) -> None:
        """One tick: what has happened until then, then every client's next bytes."""
        # WHY: ticks that come late are caught up, or a client above the rate would fall below it.
        self._next_tick += TICK_S
        while (left_s := self._next_tick - time.monotonic()) > 0 and self._by_fd:
            for fd, events in self._poll.poll(left_s * 1000):
                client = self._by_fd[fd]
                if client.on_event(events):
                    self._poll.unregister(fd)
                    del self._by_fd[fd]
        self._ticks += 1
        established = established_ports() if self._ticks % TICKS_A_SECOND == 0 else frozenset()
        for client in self._by_fd.values():
            client.tick()
            if not client.kind.reads and established and client.port() not in established:
                # WHY: behind a full window no end can be seen from here; the kernel knows of it.
                client.end()


def established_ports() -> frozenset[int]:
    """The ports of peers of connections that are established, by the kernel's table of TCP."""
    ports = set()
    with suppress(FileNotFoundError), open("/proc/net/tcp", encoding="ascii") as table:
        next(table)
        for line in table:
            _, _, peer, state, *_ = line.split()
            if state == "01":
                ports.add(int(peer.rpartition(":")[2], 16))
    return frozenset(ports)
