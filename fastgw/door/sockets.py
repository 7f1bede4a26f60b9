"""The listening sockets of several workers: made and held by their parent, one set for each.

What enters: the bound addresses. What leaves: for each worker its own TCP socket of every address,
and the unix sockets, which all of them share. The supervisor's crew opens them before a fork.
It must never close a TCP socket that a worker is to go on with: see WHY.

WHY the parent holds them: with SO_REUSEPORT the kernel gives each connection to one of the sockets
before anybody accepts it, and resets those that wait when their socket is closed (unless
net.ipv4.tcp_migrate_req is set). A worker's successor inherits its socket together with the queue,
so that nobody who connected is refused, whether a worker was replaced on purpose or has died.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastgw.door.listeners import Bound

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from fastgw.config_types import ListenerConfig
    from fastgw.door.tls import Certificates


class WorkerSockets:
    """The sockets by worker.

    Args:
        bounds: the addresses, which stay bound for as long as these live.
    """

    def __init__(self, bounds: Sequence[Bound]) -> None:
        self._bounds: Final = tuple(bounds)
        self._own: Final[dict[int, list[socket.socket]]] = {}

    def open(self, index: int) -> None:
        """Make the sockets of worker `index`, unless they are there. They do not listen yet.

        Raises:
            OSError: no descriptor is left.
        """
        if index not in self._own:
            self._own[index] = [bound.in_worker().sock for bound in self._bounds]

    def take(
        self,
        index: int,
        listeners: Sequence[ListenerConfig],
        certificates: Sequence[Certificates | None],
    ) -> list[Bound]:
        """Return the addresses of worker `index`, in the forked process.

        DANGER: of all others the copies are closed here: a socket that a sibling still held would
        stay in the kernel's group, and get clients that nobody accepts.
        """
        own = self._own.pop(index)
        for other in list(self._own):
            self.forget(other)
        self._close_addresses()
        told = zip(listeners, own, certificates, strict=True)
        return [Bound(config, sock, found) for config, sock, found in told]

    def forget(self, index: int) -> None:
        """Close the TCP sockets of worker `index`: its clients are the other workers' from now."""
        for bound, sock in zip(self._bounds, self._own.pop(index, []), strict=False):
            if bound.path is None:
                sock.close()

    def close(self) -> None:
        """Close every TCP socket here; workers go on with theirs."""
        for index in list(self._own):
            self.forget(index)
        self._close_addresses()

    def _close_addresses(self) -> None:
        for bound in self._bounds:
            if bound.path is None:
                bound.sock.close()
