"""The typed configuration: frozen tables with a unit in each name and a range on each number.

What enters: values that `fastgw.config.load` gathered from the file, the environment and flags.
What leaves: one immutable `Config`, handed to every room of the gateway.
A table never shows its secrets: `repr` masks them, so that a log line or a traceback cannot leak.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

MASK: Final = "********"
KIB: Final = 1024
MIB: Final = 1024 * KIB
MINUTES_MAX: Final = 1000 * 366 * 24 * 60
"""LIMIT: a thousand years; an expiry in ms still fits into 64 bits, and clients do send decades."""

PORT_DEFAULT: Final = 4444
NATS_PORT_DEFAULT: Final = 4222
UNIX_PREFIX: Final = "unix:"
UNIX_PATH_BYTES_MAX: Final = 103
"""SOURCE: sockaddr_un, 108 bytes on Linux and 104 on macOS, with the closing zero."""

NATS_SCHEMES: Final = ("nats", "tls")

SECRETS: Final = frozenset(
    {
        "auth.jwt_secret",
        "auth.jwt_secrets_old",
        "auth.refresh_jwt_secret",
        "auth.refresh_jwt_secrets_old",
        "auth.admin_password",
        "nats.password",
        "nats.token",
        "nats.data_password",
    }
)
_SECRET_FIELDS: Final = frozenset(key.rpartition(".")[2] for key in SECRETS)
_USERINFO: Final = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://|^|,\s*)[^\s,]*@")


def mask_urls(text: str) -> str:
    """Return `text` with the user and password of each URL in it replaced by the mask."""
    return _USERINFO.sub(rf"\g<scheme>{MASK}@", text)


def mask(key: str, value: object) -> object:
    """Return `value` as it may be shown: secrets masked, and URLs without their user and password.

    Args:
        key: dotted name; a name without its table ("password") is masked as well.
    """
    if value is None or value == []:
        # An empty list of secrets holds none.
        return value
    if key in SECRETS or key in _SECRET_FIELDS:
        return MASK
    if key.rpartition(".")[2] == "url":
        if isinstance(value, list):
            return [mask_urls(str(item)) for item in value]
        return mask_urls(str(value))
    return value


def parse_address(text: str) -> tuple[str, int]:
    """Split "HOST:PORT" or "[IPV6]:PORT"; port 0 asks the system for a free one.

    Raises:
        ValueError: when a part is missing or the port is not 0 to 65535.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:4444")
    if not colon or not host or re.search(r"[\s/@\[\]]", host):
        raise ValueError("it must be HOST:PORT, as in 127.0.0.1:4444")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError("the port must be 0 to 65535")
    return host, int(port)


def parse_listen(text: str) -> tuple[str, int] | str:
    """Split "HOST:PORT", or return the path of "unix:PATH".

    Raises:
        ValueError: it is neither.
    """
    if not text.startswith(UNIX_PREFIX):
        return parse_address(text)
    path = text.removeprefix(UNIX_PREFIX)
    if not 0 < len(path.encode()) <= UNIX_PATH_BYTES_MAX or "\0" in path:
        raise ValueError(f"a socket's path has 1 to {UNIX_PATH_BYTES_MAX} bytes")
    return path


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_nats_url(text: str) -> str:
    """Return `text` as a URL with scheme, host and port, the defaults filled in.

    Raises:
        ValueError: when it is no NATS URL; the text never repeats the URL, which may hold a secret.
    """
    url = urlsplit(text if "://" in text else f"nats://{text}")
    if url.scheme not in NATS_SCHEMES:
        raise ValueError("the scheme must be nats:// or tls://")
    try:
        port = url.port
    except ValueError as error:
        raise ValueError("the port must be 1 to 65535") from error
    if not url.hostname or url.path.strip("/") or url.query or url.fragment or " " in text:
        raise ValueError("it must be nats://HOST:PORT or tls://HOST:PORT")
    if port == 0:
        raise ValueError("the port must be 1 to 65535")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    user, at, _ = url.netloc.rpartition("@")
    return f"{url.scheme}://{user}{at}{host}:{port or NATS_PORT_DEFAULT}"


def _range(low: int, high: int) -> Meta:
    return Meta(ge=low, le=high)


Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Secret = Annotated[str, Meta(min_length=8, max_length=4096)]
Minutes = Annotated[int, _range(1, MINUTES_MAX)]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the configuration; immutable, and masked when it is shown."""

    def __repr__(self) -> str:
        """Show the fields with the secrets masked."""
        fields = ((name, mask(name, getattr(self, name))) for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields)})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Give rich the same masked fields, which it would otherwise read past `repr`."""
        return [(name, mask(name, getattr(self, name))) for name in self.__struct_fields__]


class NatsConfig(Table, frozen=True, kw_only=True):
    """The broker: where it is, who we are there, and how we keep the connection."""

    # Empty starts the embedded broker.
    url: list[str] = []
    user: Text | None = None
    password: Text | None = None
    token: Text | None = None
    creds_file: Text | None = None
    nkey_seed_file: Text | None = None
    tls_ca_file: Text | None = None
    tls_cert_file: Text | None = None
    tls_key_file: Text | None = None
    tls_server_name: Text | None = None
    tls_handshake_first: bool = False
    # A second user, which may only publish and pull: the data plane logs in with it when it is set.
    data_user: Text | None = None
    data_password: Text | None = None
    connect_timeout_ms: Annotated[int, _range(100, 60_000)] = 5_000
    reconnect_wait_ms_min: Annotated[int, _range(1, 60_000)] = 50
    reconnect_wait_ms_max: Annotated[int, _range(1, 600_000)] = 5_000
    ping_interval_ms: Annotated[int, _range(100, 600_000)] = 30_000
    pings_out_max: Annotated[int, _range(1, 10)] = 2
    # Of the key-value bucket and of the streams that fastgw creates. LIMIT: JetStream allows 5.
    replicas: Annotated[int, _range(1, 5)] = 1
    # The four below shape the embedded broker only.
    server_path: Text | None = None
    # In nats-server's own form: "100ms", or "always" for a sync before each answer.
    sync_interval: Annotated[str, Meta(pattern=r"^(always|[1-9][0-9]{0,5}(ms|s|m))$")] = "100ms"
    # LIMIT: nats-server itself warns above 8 MiB and refuses more than 64 MiB.
    max_payload_bytes: Annotated[int, _range(KIB, 64 * MIB)] = MIB
    store_bytes_max: Annotated[int, _range(MIB, 1 << 62)] | None = None


class TlsConfig(Table, frozen=True, kw_only=True):
    """TLS of a listener: its certificate, and whether clients show one of theirs."""

    cert_file: Text | None = None
    key_file: Text | None = None
    client_ca_file: Text | None = None
    client_cert: Literal["none", "optional", "required"] = "none"
    # Which part of a client's certificate names the user; of URIs those of spiffe:// count.
    client_user: Literal["cn", "dns", "email", "uri"] = "cn"


class ListenerConfig(Table, frozen=True, kw_only=True):
    """One address to accept clients on, and what it is for."""

    # "HOST:PORT", or "unix:PATH".
    listen: Text
    # "data" serves producing, consuming and tokens; "admin" the rest; probes are served by each.
    serves: Literal["all", "data", "admin"] = "all"
    socket_mode: Annotated[str, Meta(pattern=r"^0?[0-7]{3}$")] = "0660"
    tls: TlsConfig = TlsConfig()
    # Addresses or networks of proxies, which must send a PROXY header; empty for no such protocol.
    proxy_from: list[str] = []

    def address(self) -> tuple[str, int] | str:
        """Return host and port, or the path of a unix socket."""
        return parse_listen(self.listen)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        address = self.address()
        return isinstance(address, str) or is_loopback(address[0])


Permission = Literal["produce", "consume", "admin"]


class IssuerConfig(Table, frozen=True, kw_only=True):
    """An outside issuer of tokens: where its keys are, and what its claims allow here."""

    # Stands before the user's name, as in "okta:ann".
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    issuer: Text
    audience: Annotated[list[Text], Meta(min_length=1, max_length=16)]
    jwks_file: Text | None = None
    jwks_url: Text | None = None
    algorithms: Annotated[
        list[Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]],
        Meta(min_length=1),
    ] = msgspec.field(default_factory=lambda: ["RS256", "ES256", "EdDSA"])
    leeway_s: Annotated[int, _range(0, 600)] = 60
    user_claim: Text = "sub"
    # "claims": the token says what its bearer may; "user": its claim names a user of fastgw.
    maps: Literal["claims", "user"] = "claims"
    permissions_claim: Text = "scope"
    # From a word of that claim to what it allows; without an entry nothing is allowed.
    permissions: dict[str, list[Permission]] = {}
    stations: list[str] = msgspec.field(default_factory=lambda: ["*"])
    stations_claim: Text | None = None
    refresh_s: Annotated[int, _range(10, 86_400)] = 300
    timeout_ms: Annotated[int, _range(100, 60_000)] = 5_000


OLD_SECRETS_MAX: Final = 15
"""LIMIT: a token that names no key is tried with each."""


class AuthConfig(Table, frozen=True, kw_only=True):
    """Who may call: tokens, their secrets and life times, and the first admin."""

    # "none" lets everyone in: refused unless only this machine can connect, or `insecure` is set.
    mode: Literal["users", "none"] = "users"
    insecure: bool = False
    # Without these two, secrets are made once and kept in the broker's key-value store.
    jwt_secret: Secret | None = None
    refresh_jwt_secret: Secret | None = None
    # Configured secrets of before, whose tokens still count.
    jwt_secrets_old: Annotated[list[Secret], Meta(max_length=OLD_SECRETS_MAX)] = []
    refresh_jwt_secrets_old: Annotated[list[Secret], Meta(max_length=OLD_SECRETS_MAX)] = []
    # Of the secrets that are made here; a configured one signs with HS256.
    algorithm: Literal["HS256", "HS384", "HS512", "EdDSA"] = "HS256"
    token_expiry_minutes: Minutes = 15
    refresh_token_expiry_minutes: Minutes = 300
    # A cap, when set, shortens what a client asks for; the answer tells the real value.
    token_expiry_minutes_max: Minutes | None = None
    refresh_token_expiry_minutes_max: Minutes | None = None
    admin_user: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    admin_password: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    account_id: Annotated[int, _range(1, (1 << 31) - 1)] = 1
    tokens_cached_max: Annotated[int, _range(1, 10_000_000)] = 100_000


class LimitsConfig(Table, frozen=True, kw_only=True):
    """Every bound that a client can reach; each one has a defined answer, never growth."""

    # Without it, the broker's own max_payload counts.
    body_bytes_max: Annotated[int, _range(1, 64 * MIB)] | None = None
    batch_bytes_max: Annotated[int, _range(1, 1024 * MIB)] = 8 * MIB
    batch_messages_max: Annotated[int, _range(1, 1_000_000)] = 10_000
    request_line_bytes_max: Annotated[int, _range(64, 64 * KIB)] = 8 * KIB
    headers_bytes_max: Annotated[int, _range(256, MIB)] = 16 * KIB
    headers_count_max: Annotated[int, _range(1, 1_000)] = 100
    head_timeout_ms: Annotated[int, _range(100, 600_000)] = 10_000
    idle_timeout_ms: Annotated[int, _range(100, 3_600_000)] = 75_000
    body_timeout_ms: Annotated[int, _range(100, 3_600_000)] = 60_000
    # A body must come at least this fast, measured once the grace is over; 0 for any pace.
    body_rate_bytes_min: Annotated[int, _range(0, MIB)] = 512
    body_rate_grace_ms: Annotated[int, _range(100, 600_000)] = 5_000
    ack_timeout_ms: Annotated[int, _range(10, 600_000)] = 5_000
    publishes_in_flight_max: Annotated[int, _range(1, 65_536)] = 500
    # Payloads that the broker has not confirmed; the next ones wait.
    publishes_in_flight_bytes_max: Annotated[int, _range(64 * KIB, 64 * 1024 * MIB)] = 64 * MIB
    # Bodies that wait for their rest, a verdict or the broker, over all connections of a worker.
    waiting_bytes_max: Annotated[int, _range(64 * KIB, 64 * 1024 * MIB)] = 64 * MIB
    # Answers that clients do not read, over all connections of a worker; then nobody consumes.
    unread_bytes_max: Annotated[int, _range(64 * KIB, 64 * 1024 * MIB)] = 64 * MIB
    waiting_ms_max: Annotated[int, _range(1, 600_000)] = 5_000
    pipelined_max: Annotated[int, _range(1, 10_000)] = 64
    connections_max: Annotated[int, _range(1, 1_000_000)] = 20_000
    # Of one address, an IPv6 one by its /64; loopback and unix sockets are not counted.
    connections_per_address_max: Annotated[int, _range(1, 1_000_000)] = 1_000
    tls_handshake_timeout_ms: Annotated[int, _range(100, 600_000)] = 10_000
    consume_batch_max: Annotated[int, _range(1, 100_000)] = 1_000
    consume_wait_ms_max: Annotated[int, _range(1, 600_000)] = 30_000
    consume_bytes_max: Annotated[int, _range(KIB, 1024 * MIB)] = 8 * MIB
    drain_grace_ms: Annotated[int, _range(0, 600_000)] = 10_000
    # How long readiness is off before nobody is accepted any more, for a load balancer to see it.
    drain_delay_ms: Annotated[int, _range(0, 600_000)] = 0
    # Of several workers, one whose event loop stands still for so long is killed and replaced.
    worker_silence_ms: Annotated[int, _range(2_000, 600_000)] = 30_000


Rate = Annotated[float, Meta(gt=0, le=1e12)]


class RateConfig(Table, frozen=True, kw_only=True):
    """How much one user, API key or client address may ask of one worker; unset for no bound."""

    user_requests_per_s: Rate | None = None
    user_bytes_per_s: Rate | None = None
    key_requests_per_s: Rate | None = None
    key_bytes_per_s: Rate | None = None
    address_requests_per_s: Rate | None = None
    address_bytes_per_s: Rate | None = None
    # How many seconds' worth may come at once.
    burst_s: Annotated[float, Meta(ge=0.01, le=3600)] = 1.0


class StationsConfig(Table, frozen=True, kw_only=True):
    """How stations come to be."""

    # Unset is true with the embedded broker and false otherwise; Config.auto_create tells.
    auto_create: bool | None = None


class CorsConfig(Table, frozen=True, kw_only=True):
    """Which web pages may call from a browser."""

    enabled: bool = True
    origins: list[str] = msgspec.field(default_factory=lambda: ["*"])


class LogConfig(Table, frozen=True, kw_only=True):
    """What is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsConfig(Table, frozen=True, kw_only=True):
    """What is told about the work done, and to whom."""

    enabled: bool = True
    # "auto": to everyone on listeners for administration, and on the others while only this machine
    # can reach them; else to administrators.
    auth: Literal["auto", "none", "admin"] = "auto"
    # GET /monitoring/getResourcesUtilization, for everyone.
    resources: bool = False


LISTENERS_MAX: Final = 16
ISSUERS_MAX: Final = 16


class Config(Table, frozen=True, kw_only=True):
    """The whole configuration; `fastgw.config.load` makes and checks it."""

    listen: str | None = None
    data: Text = "fastgw-data"
    workers: Annotated[int, _range(1, 256)] | Literal["auto"] = 1
    nats: NatsConfig = NatsConfig()
    auth: AuthConfig = AuthConfig()
    # Of the listener `listen`; those of [[listeners]] have their own.
    tls: TlsConfig = TlsConfig()
    listeners: Annotated[list[ListenerConfig], Meta(max_length=LISTENERS_MAX)] = []
    issuers: Annotated[list[IssuerConfig], Meta(max_length=ISSUERS_MAX)] = []
    rate: RateConfig = RateConfig()
    limits: LimitsConfig = LimitsConfig()
    stations: StationsConfig = StationsConfig()
    cors: CorsConfig = CorsConfig()
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()

    @property
    def embedded(self) -> bool:
        """Whether fastgw starts the broker itself, because no URL names one."""
        return not self.nats.url

    @property
    def auto_create(self) -> bool:
        """Whether a produce to an unknown station creates it."""
        configured = self.stations.auto_create
        return self.embedded if configured is None else configured

    @property
    def workers_count(self) -> int:
        """How many worker processes to run; "auto" is one for each core this process may use."""
        if self.workers != "auto":
            return self.workers
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def all_listeners(self) -> tuple[ListenerConfig, ...]:
        """Return every listener, the main one first.

        `[[listeners]]` without a `listen` beside them are all there is; without either, the main
        one is on loopback with the embedded broker, and on every interface otherwise.
        """
        if self.listen is None and self.listeners:
            return tuple(self.listeners)
        host = "127.0.0.1" if self.embedded else "0.0.0.0"
        listen = self.listen if self.listen is not None else f"{host}:{PORT_DEFAULT}"
        return (ListenerConfig(listen=listen, tls=self.tls), *self.listeners)

    def listen_address(self) -> tuple[str, int] | str:
        """Return the main listener's host and port, or the path of its unix socket."""
        return self.all_listeners()[0].address()
