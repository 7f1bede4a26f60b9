"""The control-plane client: nats-py, made to dial, speak and last as the data plane does.

What enters: the broker's table of the configuration. What leaves: a connected `ControlClient`.
Called by the gateway's assembly and by the command line. It must never send credentials in
plaintext where TLS is demanded, and never close for good because of something the broker said.

WHY a subclass: nats-py closes itself for ever on most -ERR lines (an expired JWT among them), goes
on in plaintext when a tls:// server offers no TLS, and reads a creds file in its own way. Each
override below replaces one of these; `tests/integration/test_control_client.py` fails when a new
nats-py no longer calls them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from typing import TYPE_CHECKING, Any, Final

from fastgw.errors import UpstreamFault, clip
from fastgw.nats import tls
from fastgw.nats.credentials import Credentials, CredentialsError, UserInfo, build_connect
from fastgw.nats.library import Client, Server, Srv, nats_errors
from fastgw.nats.quiet import QuietLog
from fastgw.nats.reasons import os_reason
from fastgw.nats.servers import Backoff, parse_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.config_types import NatsConfig

log = logging.getLogger("fastgw.nats")

PENDING_BYTES_MAX: Final = 2 * 1024 * 1024
"""LIMIT: nats-py's own default; control messages are small, and none is sent without a broker."""

CLOSE_S_MAX: Final = 2.0
ERROR_CHARS_MAX: Final = 200
_REFUSALS: Final = ("authorization violation", "authentication")

INBOX_PREFIX: Final = "_INBOX_fastgw"
"""WHY its own: records with password hashes arrive there, and the data plane's user must not hear
them; it may subscribe below `_INBOX.` only."""


class ControlClient(Client):
    """A nats-py client that never gives up.

    Args:
        config: the broker's table of the configuration.
        name: shown in the broker's list of connections.

    Raises:
        CredentialsError: a configured key file cannot be used.
    """

    def __init__(self, config: NatsConfig, name: str) -> None:
        super().__init__()
        self.on_reconnect: Final[list[Callable[[], None]]] = []
        self.last_text = ""
        self._settings = config
        self._identity = Credentials(config, "control")
        self._label_name = name
        self._backoff = Backoff(config)
        self._quiet = QuietLog(log)
        self._rng = random.Random()
        self._refusals = 0
        self._refusal_text = ""
        self._refused: asyncio.Future[None] | None = None
        self._avoided = ""

    async def leave(self, label: str) -> None:
        """Go to another server, if this connection is with the one at `label`."""
        if self.is_connected and self._where() == label:
            self._avoided = label
            await self._process_op_err(nats_errors.StaleConnectionError())

    async def open(self, timeout_s: float) -> None:
        """Connect, or raise UpstreamFault("broker-away") after `timeout_s` seconds at most."""
        config = self._settings
        self._refused = asyncio.get_running_loop().create_future()
        dialling = asyncio.ensure_future(
            self.connect(
                list(config.url),
                name=self._label_name,
                inbox_prefix=INBOX_PREFIX,
                error_cb=self._on_error,
                reconnected_cb=self._on_reconnected,
                disconnected_cb=self._on_disconnected,
                connect_timeout=max(1, round(config.connect_timeout_ms / 1000)),
                max_reconnect_attempts=-1,
                reconnect_time_wait=config.reconnect_wait_ms_min / 1000,  # type: ignore[arg-type]
                reconnect_to_server_handler=self._choose_server,
                ping_interval=config.ping_interval_ms / 1000,  # type: ignore[arg-type]
                max_outstanding_pings=config.pings_out_max,
                tls_hostname=config.tls_server_name,
                tls_handshake_first=config.tls_handshake_first,
                pending_size=PENDING_BYTES_MAX,
            )
        )
        try:
            await asyncio.wait(
                {dialling, self._refused},
                timeout=timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            if not dialling.done():
                dialling.cancel()
                await asyncio.wait({dialling}, timeout=CLOSE_S_MAX)
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(self.close(), CLOSE_S_MAX)
        if dialling.cancelled() or not self.is_connected:
            labels = ", ".join(parse_server(url).label for url in config.url)
            # The refusal comes first: what follows it is only the connection's end.
            reason = self._refusal_text or self.last_text or f"no answer within {timeout_s:g} s"
            raise UpstreamFault("broker-away", f"no broker at {labels}: {reason}")
        self._refused = None
        dialling.result()
        log.info("control plane connected to %s", self._where())

    async def close(self) -> None:
        """Close for good, also in the middle of a reconnect."""
        try:
            await super().close()
        except (OSError, RuntimeError) as error:
            # WHY: the library writes what is pending before it closes, and the transport may be
            # closed already; the connection is gone either way.
            log.debug("closing the control plane: %s", error)

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """A context made anew for each dial, so that renewed files are picked up."""
        try:
            return tls.build_context(self._settings)
        except tls.TlsError as error:
            raise nats_errors.Error(str(error)) from error

    async def _connect_to_server(self, s: Srv) -> None:
        """Close what an unfinished handshake left open (nats-py only forgets it), then dial."""
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    def _connect_command(self) -> bytes:
        """Build CONNECT as the data plane does (replaces nats-py's own)."""
        current = self._current_server
        userinfo = None
        if current is not None and current.uri.username is not None:
            userinfo = parse_server(current.uri.geturl()).userinfo
        elif current is not None:
            userinfo = self._configured_userinfo()
        try:
            return build_connect(self._identity, self._server_info, userinfo, self._label_name)
        except CredentialsError as error:
            # WHY: nats-py's dial loop survives its own errors only.
            raise nats_errors.Error(str(error)) from error

    def _configured_userinfo(self) -> UserInfo | None:
        """Return whom a discovered server takes us for: the user of the first URL that has one."""
        for url in self._settings.url:
            server = parse_server(url)
            if server.userinfo is not None:
                return server.userinfo
        return None

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Refuse plaintext where TLS is demanded, then let nats-py take the INFO."""
        if initial_connection and not self._settings.tls_handshake_first:
            assert self._current_server is not None
            server = parse_server(self._current_server.uri.geturl())
            try:
                info["tls_required"] = tls.is_used(self._settings, server, info)
            except tls.TlsError as error:
                raise nats_errors.Error(str(error)) from error
        await super()._process_info(info, initial_connection)

    async def _process_err(self, err_msg: str) -> None:
        """Dial again after an -ERR that ends the connection (nats-py closes for ever)."""
        error = nats_errors.Error(f"nats: {err_msg.strip(chr(39))}")
        if "permissions violation" in err_msg.lower():
            await self._on_error(error)
            return
        await self._on_error(error)
        await self._process_op_err(error)

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            text = os_reason(error)
        else:
            text = clip(str(error) or type(error).__name__, ERROR_CHARS_MAX)
            text = text.removeprefix("nats: ").strip("'")
        self.last_text = text
        if self._refused is None:
            self._quiet.warning(f"control plane: {text}")
        # WHY no line while it opens: the fault that `open` raises tells it, once.
        elif any(word in text.lower() for word in _REFUSALS):
            # WHY: a wrong password stays wrong; each server may say so once before we stop.
            self._refusals += 1
            self._refusal_text = text
            if self._refusals >= len(self._settings.url) and not self._refused.done():
                self._refused.set_result(None)

    async def _on_disconnected(self) -> None:
        if not self.is_closed:
            log.warning("control plane: lost the broker; dialling again")

    async def _on_reconnected(self) -> None:
        self._backoff.reset()
        self._quiet.reset()
        log.info("control plane connected to %s", self._where())
        for callback in self.on_reconnect:
            callback()

    def _choose_server(
        self, servers: list[Server], _info: dict[str, Any]
    ) -> tuple[Server | None, float]:
        """Take a server that failed least; the first try at once, later ones after a backoff."""
        others = [one for one in servers if parse_server(one.uri.geturl()).label != self._avoided]
        servers, self._avoided = others or servers, ""
        fewest = min(server.reconnects for server in servers)
        candidates = [server for server in servers if server.reconnects == fewest]
        wait_s = 0.0 if fewest == 0 else self._backoff.next_s()
        return self._rng.choice(candidates), wait_s

    def _where(self) -> str:
        url = self.connected_url
        return "the broker" if url is None else parse_server(url.geturl()).label


async def open_control(
    config: NatsConfig, *, name: str = "fastgw-control", timeout_s: float | None = None
) -> ControlClient:
    """Open the control-plane connection, which from then on reconnects for ever.

    Args:
        config: the broker's table of the configuration; `url` holds at least one server.
        name: shown in the broker's list of connections.
        timeout_s: how long to wait for the first connection; the connect timeout by default.

    Returns:
        The client; the caller closes it.

    Raises:
        CredentialsError: a configured key file cannot be used.
        UpstreamFault: "broker-away": no server took us in time, or all refused our credentials.
    """
    client = ControlClient(config, name)
    await client.open(config.connect_timeout_ms / 1000 if timeout_s is None else timeout_s)
    return client
