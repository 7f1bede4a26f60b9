"""The typed face of the compiled core; `mypy.stubtest` keeps it true."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Literal, final

from fastgw.config_types import LimitsConfig, RateConfig
from fastgw.errors import Fault
from fastgw.schema.base import Verdict
from fastgw.schema.json_fast import Node
from fastgw.senders.signatures import Verifier

PRODUCE: Final[int]
CONSUME: Final[int]
ADMIN: Final[int]

def client_of(address: str) -> str: ...

@final
class Principal:
    user: str
    account_id: int
    permissions: int
    stations: tuple[str, ...]
    epoch: int
    expires_at: float
    key: str | None
    def __init__(
        self,
        user: str,
        account_id: int,
        permissions: int,
        stations: tuple[str, ...] = ...,
        epoch: int = ...,
        expires_at: float = ...,
        *,
        origins: tuple[str, ...] | None = ...,
        key: str | None = ...,
    ) -> None: ...
    def may(self, permission: int, station: str) -> bool: ...

@final
class Station:
    name: str
    stream: str
    record: Any
    def __init__(
        self,
        name: str,
        stream: str,
        subject: str,
        headers: str | tuple[str, ...] = ...,
        header_allow: tuple[str, ...] = ...,
        record: object = ...,
        check: Callable[[bytes, bytes | None], Verdict | Awaitable[Verdict]] | None = ...,
        *,
        accepts: JsonWalker | None = ...,
        message_bytes_max: int = ...,
        allow_suffix: bool = ...,
        allow_no_wait: bool = ...,
        keeps_refused: bool = ...,
        ack_fsync: bool = ...,
        verifier: Verifier | None = ...,
    ) -> None: ...

@final
class Request:
    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> bytes: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def principal(self) -> Principal | None: ...
    def admit(self, principal: Principal) -> bool: ...
    @property
    def record(self) -> Any: ...
    @property
    def subject(self) -> str | None: ...
    @property
    def message_id(self) -> str | None: ...
    @property
    def client(self) -> str: ...
    @property
    def credential_sent(self) -> tuple[str, bytes] | None: ...
    @property
    def serves(self) -> Literal["all", "data", "admin"]: ...
    @property
    def closed(self) -> bool: ...
    def header(self, name: bytes) -> bytes | None: ...
    def respond(
        self,
        status: int,
        body: bytes = ...,
        headers: tuple[tuple[bytes, bytes], ...] = ...,
        content_type: bytes = ...,
    ) -> None: ...
    def fail(self, fault: Fault) -> None: ...
    def resume(self) -> None: ...

@final
class HttpConnection(asyncio.Protocol): ...

@final
class BrokerLink(asyncio.Protocol):
    on_info: Callable[[bytes], None]
    on_pong: Callable[[], None]
    on_error: Callable[[str], None]
    on_lost: Callable[[Exception | None], None]
    transport: asyncio.Transport | None
    pings_out: int
    is_live: bool
    is_fruitful: bool
    @property
    def barren_ms(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    def use_transport(self, transport: asyncio.BaseTransport) -> None: ...
    def send(self, data: bytes) -> None: ...
    @property
    def subscribe_line(self) -> bytes: ...
    def ping(self) -> None: ...
    def go_live(self, info: dict[str, object]) -> None: ...
    def retire(self) -> None: ...
    def close(self) -> None: ...

@final
class Ingress:
    requests_count: int
    faults_count: int
    defects_count: int
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: LimitsConfig,
        rates: RateConfig,
        *,
        tokens_max: int,
        cors_origins: tuple[str, ...],
        identify: Callable[[Request], Principal | Awaitable[Principal | None] | None],
        dispatch: Callable[[Request], None],
        consume: Callable[[Request], None],
        inflate: Callable[[bytes, bytes, int], bytes | Awaitable[bytes]],
        refused: Callable[[Request, bytes, bytes, str], None],
        report: Callable[[str, BaseException | None], None],
        board: memoryview | None = ...,
    ) -> None: ...
    def refresh_gauges(self, *, is_exhausted: bool = ...) -> None: ...
    @property
    def is_broker_live(self) -> bool: ...
    def protocol(
        self,
        *,
        serves: Literal["all", "data", "admin"] = ...,
        client: str | None = ...,
        name_of: Callable[[dict[str, Any]], str | None] | None = ...,
    ) -> HttpConnection: ...
    def has_room_for(self, address: str) -> bool: ...
    def make_link(self) -> BrokerLink: ...
    def put_station(self, station: Station) -> None: ...
    def drop_station(self, name: str) -> None: ...
    def forget_user(self, user: str) -> None: ...
    def forget_everyone(self) -> None: ...
    def allow_anonymous(self, principal: Principal, *, any_host: bool = ...) -> None: ...
    def find_principal(
        self, request: Request
    ) -> Principal | Awaitable[Principal | None] | None: ...
    def held_streams(self) -> set[str]: ...
    def note_window(self, stream: str, window_ms: int) -> None: ...
    def begin_drain(self, *, closes_idle: bool = True) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def sweep(self) -> None: ...
    def turn(self) -> None: ...
    def next_verdicts(self, request: Request) -> None: ...
    def on_awaited_verdict(
        self, request: Request, index: int, message: bytes, done: asyncio.Future[Verdict]
    ) -> None: ...
    def on_identified(
        self, request: Request, done: asyncio.Future[Principal | None], forgets_count: int
    ) -> None: ...
    def on_inflated(self, request: Request, done: asyncio.Future[bytes]) -> None: ...
    def publish(
        self, station: Station, fields: bytes, payload: bytes, on_done: Callable[[bool], None]
    ) -> None: ...
    def pull(
        self,
        request: Request,
        stream: str,
        durable: str,
        batch: int,
        wait_ms: int,
        metadata: bool,
        on_missing: Callable[[], None],
    ) -> None: ...

METRICS: Final[tuple[tuple[str, tuple[tuple[str, str], ...], str], ...]]
AVRO_RULES: Final[tuple[str, ...]]
JSON_FORMATS: Final[tuple[str, ...]]

@final
class AvroWalker:
    def __init__(self, nodes: list[tuple[int, tuple[int, ...], int, int, bytes]]) -> None: ...
    def find_fault(
        self, message: bytes, start: int = ...
    ) -> tuple[str, int, int, int, list[tuple[int, int] | str]] | None: ...

@final
class JsonWalker:
    def __init__(self, nodes: list[Node]) -> None: ...
    def is_surely_good(self, message: bytes) -> bool: ...

def build_fields(headers: Iterable[tuple[bytes, bytes]]) -> bytes: ...
def check_subject(subject: bytes) -> bytes: ...
def split_batch(body: bytes, by_lines: bool = ...) -> list[bytes]: ...
