"""Every address that clients are accepted on: bound once, served in each worker, closed in order.

What enters: the configuration's listeners. What leaves: connections, whose protocols the ingress
makes. `server` binds in the parent before anything else starts; `gateway` serves in each worker.
A TCP address has a socket of each worker's own (SO_REUSEPORT), a unix socket is inherited.
It must never delete a file that is not its own dead socket, nor let one be looser than asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastgw.door.accept import LISTEN_BACKLOG, Acceptor, Door
from fastgw.door.tls import Certificates, TlsFilesError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastgw.config import Config
    from fastgw.config_types import LimitsConfig, ListenerConfig

log: Final = logging.getLogger("fastgw.door.listeners")

WATCH_S: Final = 10.0
"""How often certificate files are looked at; who renews them often sends no signal."""

PROBE_S: Final = 1.0
"""LIMIT: how long a socket file's owner may take to show that it lives."""


class ListenError(Exception):
    """An address cannot be listened on; the text is one line."""


@dataclass(slots=True)
class Bound:
    """One bound address.

    Args:
        config: the listener's table.
        sock: bound; a unix socket and the socket of a single worker listen already.
        certificates: of a listener with TLS.
        inode: device and number of a unix socket's file while it is ours to unlink.
    """

    config: ListenerConfig
    sock: socket.socket
    certificates: Certificates | None = None
    inode: tuple[int, int] | None = None

    @property
    def path(self) -> str | None:
        """The file of a unix socket."""
        address = self.config.address()
        return address if isinstance(address, str) else None

    @property
    def url(self) -> str:
        """The address as a client on this machine writes it, the port resolved."""
        path = self.path
        if path is not None:
            return f"unix:{path}"
        host, port = self.sock.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        scheme = "http" if self.certificates is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def in_worker(self) -> Bound:
        """Return this address for one of several workers; it stays bound here meanwhile.

        A TCP socket is one more of the kernel's group, which gets clients as soon as it listens.
        """
        if self.path is not None:
            return Bound(self.config, self.sock, self.certificates)
        sock = socket.socket(self.sock.family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(self.sock.getsockname())
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        return Bound(self.config, sock, self.certificates)

    def again(self, config: ListenerConfig, certificates: Certificates | None) -> Bound:
        """Return this address under other settings: a second handle of the same socket.

        Both accept from one queue until one is closed, so that nobody in it is refused. The file
        of a unix socket stays this one's to unlink, until `pass_file`.
        """
        return Bound(config, self.sock.dup(), certificates)

    def pass_file(self, successor: Bound) -> None:
        """Leave the file of a unix socket to `successor`, to unlink it."""
        successor.inode, self.inode = self.inode, None

    def unlink(self) -> None:
        """Remove a unix socket's file if it is still ours; a forked worker's never is.

        DANGER: to be called before the socket is closed: only an open one keeps the system from
        giving its file's number to a file of somebody else's.
        """
        path, inode = self.path, self.inode
        self.inode = None
        if path is None or inode is None:
            return
        with contextlib.suppress(OSError):
            if _read_inode(path) == inode:
                os.unlink(path)

    def close(self) -> None:
        """Unlink what is ours, and close the socket."""
        self.unlink()
        self.sock.close()


# --- binding --------------------------------------------------------------------------------------


def bind_all(config: Config) -> list[Bound]:
    """Bind every listener, the main one first, so that a taken address is told before all else.

    Raises:
        ListenError: an address is taken, or its certificate cannot be used; none is bound then.
    """
    bounds: list[Bound] = []
    try:
        for listener in config.all_listeners():
            bounds.append(_bind(listener, config.workers_count))
    except BaseException:
        close_all(bounds)
        raise
    return bounds


def close_all(bounds: Iterable[Bound]) -> None:
    """Close what `bind_all` bound."""
    for bound in bounds:
        bound.close()


def _bind(config: ListenerConfig, workers_count: int) -> Bound:
    try:
        certificates = Certificates(config.tls, config.listen) if config.tls.cert_file else None
    except TlsFilesError as error:
        raise ListenError(f"cannot listen on {config.listen}: {error}") from error
    address = config.address()
    try:
        if isinstance(address, str):
            sock = _bind_unix(address, int(config.socket_mode, 8))
        else:
            sock = _bind_tcp(address, workers_count)
    except OSError as error:
        raise ListenError(f"cannot listen on {config.listen}: {error.strerror or error}") from error
    sock.setblocking(False)
    inode = _read_inode(address) if isinstance(address, str) else None
    return Bound(config, sock, certificates, inode)


def _bind_tcp(address: tuple[str, int], workers_count: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if workers_count > 1:
            # WHY: this socket stays unlistened, so that the port remains ours while every worker
            # has a socket of its own in the kernel's group.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        if workers_count == 1:
            # WHY: two sockets may be bound to one port until one listens; so listen here.
            sock.listen(1)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: str, mode: int) -> socket.socket:
    """Bind and listen; the file has `mode` from its first moment.

    Raises:
        OSError: it cannot be bound, another process listens there, or the file is no socket.
    """
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # WHY: bind makes the file; a mode set afterwards would be too late for who is quick.
    umask = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
        # WHY: the kernel asks for write permission when a client connects, and only then; and
        # who looks whether the socket is in use finds out only while it listens.
        sock.listen(LISTEN_BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on any more.

    Raises:
        OSError: the file is of another kind, or in use.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except (TimeoutError, BlockingIOError):
            pass  # Its queue is full, so it has an owner.
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _read_inode(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


# --- serving --------------------------------------------------------------------------------------


class Listeners:
    """Serves bound addresses in one worker.

    Args:
        bounds: as `bind_all` gave them, or `in_worker` of each; their sockets are owned from now.
        limits: for the deadlines before HTTP.
        door: the ingress.
    """

    def __init__(self, bounds: Sequence[Bound], limits: LimitsConfig, door: Door) -> None:
        self._bounds: Final = tuple(bounds)
        self._limits: Final = limits
        self._door: Final = door
        self._servers: list[asyncio.Server] = []
        self._acceptors: list[Acceptor] = []
        self._watch: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Accept clients on every address."""
        # WHY: a worker that is forked later inherits what its parent read at the start.
        self._watch_files()
        for bound in self._bounds:
            if bound.certificates is not None or bound.config.proxy_from:
                acceptor = Acceptor(
                    bound.sock, bound.config, bound.certificates, self._limits, self._door
                )
                acceptor.start()
                self._acceptors.append(acceptor)
            else:
                self._servers.append(await self._serve_plain(bound))

    async def _serve_plain(self, bound: Bound) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        make = functools.partial(self._door.protocol, serves=bound.config.serves)
        if bound.path is None:
            return await loop.create_server(make, sock=bound.sock, backlog=LISTEN_BACKLOG)
        return await loop.create_unix_server(make, sock=bound.sock, backlog=LISTEN_BACKLOG)

    def reload(self) -> None:
        """Read all certificates and keys again; what stands goes on, what is broken stays old."""
        for bound in self._bounds:
            if bound.certificates is not None:
                bound.certificates.reload()

    def look_again(self) -> None:
        """Read those certificates again whose files were replaced since."""
        for bound in self._bounds:
            if bound.certificates is not None:
                bound.certificates.reload_changed()

    def _watch_files(self) -> None:
        self.look_again()
        self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._watch_files)

    def stop_accepting(self) -> None:
        """Take no new clients; TLS handshakes under way may end well."""
        if self._watch is not None:
            self._watch.cancel()
        for bound in self._bounds:
            bound.unlink()
        for server in self._servers:
            server.close()
        for acceptor in self._acceptors:
            acceptor.stop_accepting()

    @property
    def handshakes_count(self) -> int:
        """How many clients are in a TLS handshake, and so in no protocol's count yet."""
        return sum(acceptor.handshakes_count for acceptor in self._acceptors)

    @property
    def refused_count(self) -> int:
        """How many clients were closed before HTTP: failed handshakes, bad headers, no room."""
        return sum(acceptor.refused_count for acceptor in self._acceptors)

    @property
    def exhausted_count(self) -> int:
        """How often a client could not be accepted for want of a descriptor or memory."""
        return sum(acceptor.exhausted_count for acceptor in self._acceptors)

    async def close(self) -> None:
        """End everything that is not yet a connection of the ingress."""
        self.stop_accepting()
        for acceptor in self._acceptors:
            await acceptor.close()
