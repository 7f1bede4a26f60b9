"""The accept loop of listeners that ask something before HTTP begins: a PROXY header, TLS, or both.

What enters: a listening socket. What leaves: connections whose protocol comes from the ingress,
with the client's address and certificate known. `listeners` makes one for each such listener;
plain ones are accepted by the event loop itself, which is faster.
It must never let strangers hold what it has: who waits is bounded in number and in time.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from fastgw._core import client_of
from fastgw.door.proxy_protocol import PEEK_BYTES, ProxyError, ProxyHeader, normal_address
from fastgw.door.tls import NameOf, make_name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.config_types import LimitsConfig, ListenerConfig
    from fastgw.door.tls import Certificates

log: Final = logging.getLogger("fastgw.door.listeners")

LISTEN_BACKLOG: Final = 1024
"""LIMIT: connections that wait for accept; the kernel caps it at net.core.somaxconn."""

ACCEPTS_PER_TURN: Final = 64
"""LIMIT: how many connections are taken before others on the loop have their turn."""

ACCEPT_PAUSE_S: Final = 0.2
"""How long to leave the kernel's queue alone when this process has no descriptor left."""

HANDSHAKES_MAX: Final = 2048
"""LIMIT: connections before HTTP; at about 60 KiB each in a handshake, that is 120 MiB. One more
drops the oldest, so that who stalls cannot keep others out: a handshake takes milliseconds."""

HANDSHAKES_PER_ADDRESS_MAX: Final = 256
"""LIMIT: of them from one address; a network behind one address may still reconnect at once."""

TLS_SHUTDOWN_S: Final = 2.0
"""LIMIT: how long a closed connection waits for the client's own goodbye."""

LOG_PAUSE_S: Final = 1.0
"""Failed handshakes are told at most this often, with a count of those in between."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})


Serves = Literal["all", "data", "admin"]


class Door(Protocol):
    """What the listeners need of the ingress."""

    def protocol(
        self, *, serves: Serves = "all", client: str | None = None, name_of: NameOf | None = None
    ) -> Any:
        """Make the protocol of one accepted connection."""

    def has_room_for(self, address: str) -> bool:
        """Tell whether one more connection of `address` is welcome."""


class RefusedError(Exception):
    """The connection is closed without an answer; the text says why."""


class Acceptor:
    """Accepts the clients of one listener with TLS or the PROXY protocol.

    Args:
        sock: bound; owned from now on.
        config: the listener's table.
        certificates: of the listener; None without TLS.
        limits: for the deadlines.
        door: gives the protocols.
    """

    def __init__(
        self,
        sock: socket.socket,
        config: ListenerConfig,
        certificates: Certificates | None,
        limits: LimitsConfig,
        door: Door,
    ) -> None:
        self._sock = sock
        self._config: Final = config
        self._certificates: Final = certificates
        self._head_s: Final = limits.head_timeout_ms / 1000
        self._handshake_s: Final = limits.tls_handshake_timeout_ms / 1000
        self._door: Final = door
        self._name_of: Final = make_name_of(config.tls)
        self._networks: Final = [
            ipaddress.ip_network(text, strict=False) for text in config.proxy_from
        ]
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._is_accepting = False
        # In the order of arrival.
        self._pending: dict[asyncio.Task[None], None] = {}
        self._by_address: dict[str, int] = {}
        self._in_handshake: set[asyncio.Task[None]] = set()
        self.refused_count = 0
        self.exhausted_count = 0
        self._told_count = 0
        self._told_at = float("-inf")

    @property
    def handshakes_count(self) -> int:
        """How many clients are in the middle of a TLS handshake."""
        return len(self._in_handshake)

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Accept from now on."""
        self._sock.listen(LISTEN_BACKLOG)
        self._is_accepting = True
        self._loop.add_reader(self._sock, self._on_acceptable)

    def stop_accepting(self) -> None:
        """Close the listening socket, and those clients that have not begun to speak TLS."""
        if self._pause is not None:
            self._pause.cancel()
        if self._is_accepting:
            self._is_accepting = False
            self._loop.remove_reader(self._sock)
        self._sock.close()
        for task in list(self._pending):
            if task not in self._in_handshake:
                task.cancel()

    async def close(self) -> None:
        """End what is still under way."""
        self.stop_accepting()
        tasks = list(self._pending)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- accepting ------------------------------------------------------------------------------

    def _on_acceptable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                client, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._wait_for_room(error)
                    return
                continue  # That one client has left already.
            client.setblocking(False)
            self._take(client, peer[0])

    def _wait_for_room(self, error: OSError) -> None:
        """Leave the kernel's queue alone for a while: the event would come again at once."""
        self.exhausted_count += 1
        if self.exhausted_count == 1 or self.exhausted_count % 100 == 0:
            log.warning("%s: cannot accept: %s", self._config.listen, error.strerror)
        self._loop.remove_reader(self._sock)
        self._is_accepting = False
        self._pause = self._loop.call_later(ACCEPT_PAUSE_S, self._accept_again)

    def _accept_again(self) -> None:
        self._pause = None
        self._is_accepting = True
        self._loop.add_reader(self._sock, self._on_acceptable)

    def _take(self, client: socket.socket, peer: str) -> None:
        """Refuse what can be refused at once; have the rest admitted."""
        why = self._find_refusal(peer)
        if why is not None:
            client.close()
            self._note_refused(peer, why)
            return
        if len(self._pending) >= HANDSHAKES_MAX:
            # WHY: taken out here, as a cancelled task ends only later and must not count till then.
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            oldest.cancel()
        task = self._loop.create_task(self._admit(client, peer))
        self._pending[task] = None
        task.add_done_callback(functools.partial(self._on_admitted, client, peer))

    def _find_refusal(self, peer: str) -> str | None:
        if self._networks:
            address = ipaddress.ip_address(normal_address(peer.partition("%")[0]))
            if not any(address in network for network in self._networks):
                return "not in proxy_from"
            return None
        return None if self._door.has_room_for(peer) else "too many connections of this address"

    def _on_admitted(self, client: socket.socket, peer: str, task: asyncio.Task[None]) -> None:
        self._pending.pop(task, None)
        self._in_handshake.discard(task)
        if task.cancelled():
            # WHY: a task that is cancelled before its first step never sees its own `finally`.
            client.close()
            self._note_refused(peer, "dropped for a newer one, or at the end")
        elif (error := task.exception()) is not None:
            log.error("%s: admitting a client failed", self._config.listen, exc_info=error)

    def _note_refused(self, peer: str, why: str) -> None:
        self.refused_count += 1
        now = self._loop.time()
        if now < self._told_at + LOG_PAUSE_S:
            return
        more = self.refused_count - self._told_count - 1
        self._told_at, self._told_count = now, self.refused_count
        log.debug("%s: %s closed: %s (%d more before)", self._config.listen, peer, why, more)

    # --- one client -----------------------------------------------------------------------------

    async def _admit(self, client: socket.socket, peer: str) -> None:
        """Bring one client from its first byte to its protocol; close it when that fails."""
        is_handed_over = False
        try:
            told: str | None = None
            if self._networks:
                told = await self._read_proxy_header(client)
                if told is not None and not self._door.has_room_for(told):
                    raise RefusedError("too many connections of this address")
            make = functools.partial(
                self._door.protocol, serves=self._config.serves, client=told, name_of=self._name_of
            )
            if self._certificates is None:
                await self._loop.connect_accepted_socket(make, client)
            else:
                await self._shake_hands(client, told or peer, make)
            is_handed_over = True
        except (OSError, TimeoutError, ProxyError, RefusedError) as error:
            self._note_refused(peer, _why(error))
        finally:
            if not is_handed_over:
                client.close()

    async def _read_proxy_header(self, client: socket.socket) -> str | None:
        """Take exactly the header's bytes off the socket. Returns the told address."""
        header = ProxyHeader()
        async with asyncio.timeout(self._head_s):
            while not header.is_complete:
                await self._wait_readable(client)
                data = client.recv(PEEK_BYTES, socket.MSG_PEEK)
                if not data:
                    raise ProxyError("closed within the PROXY header")
                taken = header.feed_bytes(data)
                if len(client.recv(taken)) != taken:
                    raise ProxyError("bytes that were seen are gone")
        return header.client

    async def _shake_hands(
        self, client: socket.socket, address: str, make: Callable[[], asyncio.Protocol]
    ) -> None:
        """Begin TLS as soon as the client does; until then it costs a socket and no more."""
        assert self._certificates is not None
        task = asyncio.current_task()
        assert task is not None
        client_key = client_of(address)
        count = self._by_address.get(client_key, 0)
        if count >= HANDSHAKES_PER_ADDRESS_MAX and address not in LOOPBACK:
            raise RefusedError("too many handshakes of this address")
        self._by_address[client_key] = count + 1
        try:
            deadline = self._loop.time() + self._handshake_s
            async with asyncio.timeout_at(deadline):
                await self._wait_readable(client)
            self._in_handshake.add(task)
            await self._loop.connect_accepted_socket(
                make,
                client,
                ssl=self._certificates.context,
                ssl_handshake_timeout=max(deadline - self._loop.time(), 0.001),
                ssl_shutdown_timeout=TLS_SHUTDOWN_S,
            )
        finally:
            self._in_handshake.discard(task)
            self._by_address[client_key] -= 1
            if not self._by_address[client_key]:
                del self._by_address[client_key]

    async def _wait_readable(self, client: socket.socket) -> None:
        ready = self._loop.create_future()
        # DANGER: the reader is level-triggered: it must be gone before anything else is awaited.
        self._loop.add_reader(client, _wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(client)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error) or "too slow"
