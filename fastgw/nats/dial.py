"""One dialled connection of the data plane: TCP, TLS, INFO, CONNECT, and the first PONG.

What enters: a `Server`, the settings, and a fresh link (the protocol object of `_core`).
What leaves: a `Session` whose link is authenticated, or a `DialError` with one clear line.
Called by `DataPlane` only. Every wait is inside `connect_timeout_ms`; a failed dial leaves no
socket behind; nothing secret is sent before TLS stands where TLS is demanded.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import msgspec

from fastgw.errors import clip
from fastgw.nats import tls
from fastgw.nats.credentials import Credentials, CredentialsError, build_connect
from fastgw.nats.reasons import os_reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.config_types import NatsConfig
    from fastgw.nats.servers import Server

ERROR_CHARS_MAX: Final = 200
"""LIMIT: the server's longest -ERR names a subject; what is longer is clipped in our texts."""


class Link(Protocol):
    """The face of `fastgw._core.BrokerLink`, as far as dialling and keeping alive need it."""

    on_info: Callable[[bytes], None]
    on_pong: Callable[[], None]
    on_error: Callable[[str], None]
    on_lost: Callable[[Exception | None], None]

    @property
    def transport(self) -> asyncio.BaseTransport | None:
        """The transport below, None before the connection stands."""

    @property
    def pings_out(self) -> int:
        """Our PINGs that no PONG answered yet."""

    @property
    def is_fruitful(self) -> bool:
        """Whether some stream has answered a publish."""

    @property
    def barren_ms(self) -> int:
        """For how long no stream has answered although there were publishes; 0 when one has."""

    @property
    def subscribe_line(self) -> bytes:
        """The SUB that the handshake carries."""

    def send(self, data: bytes) -> None:
        """Write `data` as it is."""

    def use_transport(self, transport: asyncio.BaseTransport) -> None:
        """Go on over the TLS transport that replaced the first one."""

    def go_live(self, info: dict[str, object]) -> None:
        """Start to carry publishes."""

    def ping(self) -> None:
        """Send a PING and count it."""

    def retire(self) -> None:
        """Send nothing new; close when what is in flight was answered."""

    def close(self) -> None:
        """Close the connection."""


class DialError(Exception):
    """A server could not be reached or refused us; the text is one line without secrets."""


class Session:
    """A link from its dial to its end.

    Args:
        loop: the loop of the worker.
        server: what is dialled.
        link: a fresh link; its four callbacks belong to the session from now on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server, link: Link) -> None:
        self.server: Final = server
        self.link: Final = link
        self.info: dict[str, object] = {}
        self.lost: Final[asyncio.Future[Exception | None]] = loop.create_future()
        self.lame: Final[asyncio.Future[None]] = loop.create_future()
        self.error: str | None = None
        # The door that DataPlane hangs itself into, once the session is live.
        self.on_update: Callable[[Session, dict[str, object]], None] | None = None
        self.on_down: Callable[[Session], None] | None = None
        self.on_error: Callable[[Session, str], None] | None = None
        self._loop = loop
        self._step: asyncio.Future[None] = loop.create_future()
        link.on_info = self._take_info
        link.on_pong = self._take_pong
        link.on_error = self._take_error
        link.on_lost = self._take_lost

    async def open(self, config: NatsConfig, credentials: Credentials, name: str) -> None:
        """Connect, upgrade, authenticate, and wait for PONG.

        Raises:
            DialError: whatever went wrong, as one line.
        """
        timeout_s = config.connect_timeout_ms / 1000
        label = self.server.label
        try:
            async with asyncio.timeout(timeout_s):
                await self._shake_hands(config, credentials, name)
        except TimeoutError as error:
            raise DialError(f"{label} did not answer within {timeout_s:g} s") from error
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or type(error).__name__
            raise DialError(f"TLS with {label} failed: {reason}") from error
        except OSError as error:
            raise DialError(f"cannot reach {label}: {os_reason(error)}") from error
        except (CredentialsError, tls.TlsError) as error:
            raise DialError(str(error)) from error

    async def _shake_hands(self, config: NatsConfig, credentials: Credentials, name: str) -> None:
        server, link = self.server, self.link
        protocol = cast("asyncio.BaseProtocol", link)
        if config.tls_handshake_first:
            await self._loop.create_connection(
                lambda: protocol,
                server.host,
                server.port,
                ssl=tls.build_context(config),
                server_hostname=tls.server_name(config, server),
            )
            await self._next_step("INFO")
            self.info["tls_required"] = True
        else:
            await self._loop.create_connection(lambda: protocol, server.host, server.port)
            await self._next_step("INFO")
            if tls.is_used(config, server, self.info):
                await self._upgrade(config, protocol)
                self.info["tls_required"] = True
        hello = build_connect(credentials, self.info, server.userinfo, name)
        # WHY in the handshake: a link that may not hear its acks must never go live.
        link.send(hello + link.subscribe_line + b"PING\r\n")
        await self._next_step("PONG")

    async def _upgrade(self, config: NatsConfig, protocol: asyncio.BaseProtocol) -> None:
        transport = await self._loop.start_tls(
            cast("asyncio.WriteTransport", self.link.transport),
            protocol,
            tls.build_context(config),
            server_hostname=tls.server_name(config, self.server),
        )
        if transport is None or self.lost.done():
            raise DialError(f"{self.server.label} closed the connection during the TLS handshake")
        self.link.use_transport(transport)

    async def _next_step(self, awaited: str) -> None:
        """Wait for the line that moves the handshake on, or for the connection's end."""
        either: set[asyncio.Future[Any]] = {self._step, self.lost}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self.error is not None:
            raise DialError(f"{self.server.label} refused the connection: {self.error}")
        if not self._step.done():
            raise DialError(f"{self.server.label} closed the connection before {awaited}")
        self._step.result()
        self._step = self._loop.create_future()

    def abort(self) -> None:
        """End the connection without waiting for anything; safe in every state."""
        transport = self.link.transport
        if transport is not None:
            cast("asyncio.WriteTransport", transport).abort()
        if not self._step.done():
            self._step.cancel()

    def _take_info(self, line: bytes) -> None:
        try:
            info = msgspec.json.decode(line.removeprefix(b"INFO "), type=dict[str, object])
        except msgspec.DecodeError as error:
            if not self._step.done():
                text = f"{self.server.label} sent no NATS INFO: {clip(error)}"
                self._step.set_exception(DialError(text))
            return
        if not self.info:
            self.info = info
            self._move_on()
        elif self.on_update is not None:
            self.on_update(self, info)

    def _take_pong(self) -> None:
        self._move_on()

    def _take_error(self, text: str) -> None:
        self.error = clip(text.strip("' \r\n"), ERROR_CHARS_MAX)
        if self.on_error is not None:
            self.on_error(self, self.error)
        else:
            self._move_on()

    def _take_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(error)
        if self.on_down is not None:
            self.on_down(self)

    def _move_on(self) -> None:
        if not self._step.done():
            self._step.set_result(None)
