"""The broker's servers: which ones there are, in which order to dial them, and how long to wait.

What enters: the URLs of the configuration and the `connect_urls` of each INFO.
What leaves: one shuffled round of servers after another, and the pause between two rounds.
Called by both planes. Pure: no clock, no socket; a URL's user and password never leave a `Server`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import msgspec

from fastgw.config_types import NATS_PORT_DEFAULT, parse_nats_url
from fastgw.nats.credentials import UserInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastgw.config_types import NatsConfig

DISCOVERED_MAX: Final = 64
"""LIMIT: more servers than any NATS cluster has; a broken INFO cannot make a round endless."""


class Server(msgspec.Struct, frozen=True):
    """One address of the broker.

    `tls_name` is what its certificate must be valid for: a discovered server is known by its
    address only, and keeps the name of the server that told us about it.
    """

    host: str
    port: int
    tls: bool = False
    tls_name: str = ""
    userinfo: UserInfo | None = None

    @property
    def label(self) -> str:
        """The address as it may be shown, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """What makes two servers the same one."""
        return self.host, self.port


def parse_server(url: str) -> Server:
    """Parse "nats://user:password@host:port"; see `fastgw.config_types.parse_nats_url`."""
    parts = urlsplit(parse_nats_url(url))
    host = parts.hostname or ""
    userinfo = None
    if parts.username is not None:
        password = None if parts.password is None else unquote(parts.password)
        userinfo = UserInfo(unquote(parts.username), password)
    return Server(host, parts.port or NATS_PORT_DEFAULT, parts.scheme == "tls", host, userinfo)


class ServerPool:
    """The configured servers and those that the cluster told us about.

    Args:
        servers: of the configuration, at least one.
        rng: the source of the order; tests give a seeded one.
    """

    def __init__(self, servers: Iterable[Server], rng: random.Random | None = None) -> None:
        self._configured = {server.address: server for server in servers}
        self._discovered: dict[tuple[str, int], Server] = {}
        self._rng = rng or random.Random()
        self._put_off: list[tuple[str, int]] = []

    @property
    def servers(self) -> list[Server]:
        """Every known server, the configured ones first."""
        return [*self._configured.values(), *self._discovered.values()]

    def merge(self, connect_urls: object, told_by: Server) -> None:
        """Take the cluster's present members from an INFO; the configured ones always stay.

        Args:
            connect_urls: the value of that key, or None when the INFO had no such key.
            told_by: the server that sent it; its user, TLS and certificate name are inherited.
        """
        if not isinstance(connect_urls, list):
            return
        discovered: dict[tuple[str, int], Server] = {}
        for url in connect_urls[:DISCOVERED_MAX]:
            try:
                found = parse_server(str(url))
            except ValueError:
                continue
            if found.address not in self._configured:
                discovered[found.address] = Server(
                    found.host, found.port, told_by.tls, told_by.tls_name, told_by.userinfo
                )
        self._discovered = discovered

    def put_off(self, server: Server) -> None:
        """Have `server` come last in each round, behind those that were put off before it."""
        known = {one.address for one in self.servers} - {server.address}
        self._put_off = [address for address in self._put_off if address in known]
        self._put_off.append(server.address)

    def forgive(self) -> None:
        """Treat all servers alike again."""
        self._put_off.clear()

    def round(self) -> list[Server]:
        """Return every server once, in random order; those that were put off come last."""
        order = self.servers
        self._rng.shuffle(order)
        place = {address: number for number, address in enumerate(self._put_off, 1)}
        order.sort(key=lambda server: place.get(server.address, 0))
        return order


class Backoff:
    """Exponential waits with full jitter, so that gateways do not return in step.

    Args:
        config: gives the shortest and the longest wait.
        rng: the source of the jitter.
    """

    ROUNDS_MAX: Final = 20

    def __init__(self, config: NatsConfig, rng: random.Random | None = None) -> None:
        self._min_s = config.reconnect_wait_ms_min / 1000
        self._max_s = max(config.reconnect_wait_ms_max / 1000, self._min_s)
        self._rng = rng or random.Random()
        self._rounds = 0

    def reset(self) -> None:
        """Start from the shortest wait again."""
        self._rounds = 0

    def next_s(self) -> float:
        """Return the next wait in seconds: random between the shortest and a doubling bound."""
        self._rounds = min(self._rounds + 1, self.ROUNDS_MAX)
        bound = min(self._max_s, self._min_s * 2.0**self._rounds)
        return self._rng.uniform(self._min_s, bound)
