"""A plain-Python link with the face that `DataPlane` needs, and a record of what happened to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from fastgw import _core
from fastgw.config_types import LimitsConfig, RateConfig
from fastgw.inflate import inflate
from fastgw.nats.connection import DataPlane
from tests.integration.brokers import WAIT_S_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.config_types import NatsConfig


class PlainLink(asyncio.Protocol):
    """Reads INFO, PING, PONG, -ERR and MSG lines; publishes one message when told."""

    def __init__(self) -> None:
        self.on_info: Callable[[bytes], None] = lambda _: None
        self.on_pong: Callable[[], None] = lambda: None
        self.on_error: Callable[[str], None] = lambda _: None
        self.on_lost: Callable[[Exception | None], None] = lambda _: None
        self.transport: Any = None
        self.pings_out = 0
        self.live_info: dict[str, object] = {}
        self.retired = False
        self.stays_busy = False
        self.closed = False
        self.errors: list[str] = []
        self.acks: list[bytes] = []
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def use_transport(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n" in self._buffer:
            line, self._buffer = self._buffer.split(b"\r\n", 1)
            self._on_line(line)

    def _on_line(self, line: bytes) -> None:
        if line.startswith(b"INFO "):
            self.on_info(line[5:])
        elif line == b"PING":
            self.send(b"PONG\r\n")
        elif line == b"PONG":
            self.pings_out = 0
            self.on_pong()
        elif line.startswith(b"-ERR"):
            text = line[5:].decode()
            self.errors.append(text)
            self.on_error(text)
        elif line.startswith((b"{", b"NATS/1.0")):
            self.acks.append(line)

    def connection_lost(self, error: Exception | None) -> None:
        self.on_lost(error)

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def publish(self, subject: str) -> None:
        self.send(b"PUB %s _INBOX.t 1\r\nx\r\n" % subject.encode())

    barren_ms = 0
    is_fruitful = True

    @property
    def subscribe_line(self) -> bytes:
        return b"SUB _INBOX.t 1\r\n"

    def ping(self) -> None:
        self.pings_out += 1
        self.send(b"PING\r\n")

    def go_live(self, info: dict[str, object]) -> None:
        self.live_info = info

    def retire(self) -> None:
        self.retired = True
        if not self.stays_busy:
            self.close()

    def close(self) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.close()


class Recorder:
    """A `DataPlane` with plain links, or with the core's own, that notes what it was told."""

    def __init__(self, config: NatsConfig, *, core: bool = False) -> None:
        self.links: list[Any] = []
        self.events: list[str] = []
        self._ingress = self._make_ingress() if core else None
        self.plane = DataPlane(
            asyncio.get_running_loop(), config, self._make, self._on_live, self._on_lost
        )

    @staticmethod
    def _make_ingress() -> Any:
        return _core.Ingress(
            asyncio.get_running_loop(),
            LimitsConfig(),
            RateConfig(),
            tokens_max=10,
            cors_origins=(),
            identify=lambda _: None,
            dispatch=lambda _: None,
            consume=lambda _: None,
            inflate=inflate,
            refused=lambda request, block, message, reason: None,
            report=lambda *_: None,
        )

    def _make(self) -> Any:
        link = PlainLink() if self._ingress is None else self._ingress.make_link()
        self.links.append(link)
        return link

    def _on_live(self, link: Any) -> None:
        self.events.append("live")
        self.live = link

    def _on_lost(self) -> None:
        self.events.append("lost")

    async def __aenter__(self) -> Self:
        self.plane.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.plane.stop()
        # What was told as live was told as lost, once each, in turn.
        assert self.events == ["live", "lost"] * (len(self.events) // 2)
        assert self.plane.link is None

    async def live_link(self) -> Any:
        await self.plane.wait_live(WAIT_S_MAX)
        return self.plane.link
