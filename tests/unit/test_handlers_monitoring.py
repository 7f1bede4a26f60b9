"""The probes: three that always answer, one that tells the trouble; and who may read metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from fastgw import _core
from fastgw.config_types import AuthConfig, Config, ListenerConfig, MetricsConfig
from fastgw.errors import ClientFault, UpstreamFault
from fastgw.handlers.monitoring import (
    METRICS_PATH,
    RESOURCES_PATH,
    Metrics,
    Monitoring,
    are_metrics_open,
)
from fastgw.handlers.openapi import build_document
from tests.unit.handler_fakes import FakeRequest

if TYPE_CHECKING:
    from fastgw.handlers import Request
    from fastgw.handlers.monitoring import AdminHandler

TEXT = b"fastgw_connections 1\n"
USED = {"cpu": 1.5, "memory": 0.2, "storage": 0}
LOOPBACK = ListenerConfig(listen="127.0.0.1:4444")
UNIX = ListenerConfig(listen="unix:/run/fastgw.sock")
PUBLIC = ListenerConfig(listen="0.0.0.0:4444")
FOR_DATA = ListenerConfig(listen="0.0.0.0:4444", serves="data")
FOR_ADMIN = ListenerConfig(listen="0.0.0.0:4445", serves="admin")


@dataclass
class Scrape(FakeRequest):
    """A request whose answer need not be JSON; who asks is found when somebody wants to know."""

    method: str = "GET"
    path: str = METRICS_PATH
    client: str = "127.0.0.1"
    fields: dict[bytes, bytes] = field(default_factory=lambda: {b"host": b"127.0.0.1:4444"})
    asker: _core.Principal | None = None
    raw: tuple[int, bytes, tuple[tuple[bytes, bytes], ...], bytes] | None = None

    def respond(
        self,
        status: int,
        body: bytes = b"",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        content_type: bytes = b"application/json",
    ) -> None:
        assert self.raw is None, "answered twice"
        self.raw = (status, body, headers, content_type)


def for_admin(handler: AdminHandler) -> AdminHandler:
    async def handle(request: Request) -> None:
        assert isinstance(request, Scrape)
        if request.asker is None:
            raise ClientFault("unauthorized", "no valid credential")
        request.principal = request.asker
        await handler(request)

    return handle


def make(*listeners: ListenerConfig, **settings: Any) -> Metrics:
    config = Config(listeners=list(listeners or (LOOPBACK,)), metrics=MetricsConfig(**settings))
    return Metrics(config, lambda: TEXT, lambda: USED, for_admin)


async def scrape(metrics: Metrics, **fields: Any) -> str:
    """Ask for metrics; return "text", or the word of the refusal."""
    request = Scrape(**fields)
    try:
        waiting = metrics.metrics(request)
        if waiting is not None:
            await waiting
    except ClientFault as fault:
        assert request.raw is None
        return fault.kind.word
    headers = ((b"Cache-Control", b"no-store"),)
    assert request.raw == (200, TEXT, headers, b"text/plain; version=0.0.4; charset=utf-8")
    return "text"


def test_probes_say_ok() -> None:
    monitoring = Monitoring(lambda: None)
    for probe in (monitoring.root, monitoring.status, monitoring.healthz, monitoring.readyz):
        request = FakeRequest()
        probe(request)
        assert request.answer == (200, {"status": "ok"}, {})


def test_readyz_alone_tells_the_trouble() -> None:
    trouble = UpstreamFault("draining", "stopping")
    monitoring = Monitoring(lambda: trouble)
    for probe in (monitoring.root, monitoring.status, monitoring.healthz):
        request = FakeRequest()
        probe(request)
        assert request.answer[0] == 200
    request = FakeRequest()
    monitoring.readyz(request)
    assert request.answer == (503, trouble, {})


@pytest.mark.parametrize(
    ("listeners", "serves", "word"),
    [
        ((LOOPBACK,), "all", "text"),
        ((UNIX,), "all", "text"),
        ((LOOPBACK, UNIX), "all", "text"),
        ((PUBLIC,), "all", "unauthorized"),
        ((LOOPBACK, PUBLIC), "all", "unauthorized"),
        ((PUBLIC, FOR_ADMIN), "all", "unauthorized"),
        ((PUBLIC, FOR_ADMIN), "admin", "text"),
        ((FOR_DATA, LOOPBACK), "all", "text"),
    ],
)
async def test_metrics_are_nameless_where_only_this_machine_can_ask(
    listeners: tuple[ListenerConfig, ...], serves: str, word: str
) -> None:
    assert await scrape(make(*listeners), serves=serves) == word


@pytest.mark.parametrize(
    ("fields", "client"),
    [
        ({b"host": b"127.0.0.1:4444", b"origin": b"https://evil.example"}, "127.0.0.1"),
        ({b"host": b"localhost:4444", b"x-forwarded-for": b"192.0.2.7"}, "127.0.0.1"),
        ({b"host": b"localhost:4444", b"forwarded": b"for=192.0.2.7"}, "127.0.0.1"),
        ({b"host": b"localhost", b"x-forwarded-for": b"192.0.2.7"}, "unix"),
        ({b"host": b"rebound.example:4444"}, "127.0.0.1"),
        ({b"host": b"127.0.0.1.evil.example"}, "127.0.0.1"),
        ({b"host": b"localhost.evil.example"}, "127.0.0.1"),
        ({}, "127.0.0.1"),
    ],
)
async def test_metrics_for_a_page_or_through_a_proxy_need_a_credential(
    fields: dict[bytes, bytes], client: str
) -> None:
    assert await scrape(make(), fields=fields, client=client) == "unauthorized"
    admin = _core.Principal("ann", 1, _core.ADMIN)
    assert await scrape(make(), fields=fields, client=client, asker=admin) == "text"


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:1", b"127.0.0.1", b"127.9.9.9:80", b"[::1]", b"[::1]:4444"]
)
async def test_metrics_know_this_machine_by_each_of_its_names(host: bytes) -> None:
    assert await scrape(make(), fields={b"host": host}) == "text"


async def test_metrics_over_a_unix_socket_need_no_host_of_this_machine() -> None:
    fields = {b"host": b"gateway"}
    assert await scrape(make(UNIX), fields=fields, client="unix") == "text"


async def test_metrics_on_an_admin_listener_are_no_web_page_s() -> None:
    metrics = make(FOR_ADMIN)
    fields = {b"host": b"gateway.example:4445"}
    assert await scrape(metrics, serves="admin", fields=fields) == "text"
    fields[b"origin"] = b"https://evil.example"
    assert await scrape(metrics, serves="admin", fields=fields) == "unauthorized"


async def test_metrics_setting_overrules_the_listeners() -> None:
    page = {b"host": b"rebound.example", b"origin": b"https://evil.example"}
    assert await scrape(make(PUBLIC, auth="none"), fields=page) == "text"
    for serves in ("all", "admin"):
        assert await scrape(make(LOOPBACK, auth="admin"), serves=serves) == "unauthorized"


async def test_metrics_want_the_permission_admin_of_any_station() -> None:
    metrics = make(auth="admin")
    narrow = _core.Principal("key:prometheus", 1, _core.ADMIN, ("no-such-station",))
    assert await scrape(metrics, asker=narrow) == "text"
    other = _core.Principal("ann", 1, _core.PRODUCE | _core.CONSUME)
    assert await scrape(metrics, asker=other) == "forbidden"


def test_resources_are_told_in_the_reference_s_fields() -> None:
    metrics = make(resources=True)
    request = Scrape()
    metrics.resources(request)
    assert request.raw is not None
    assert request.raw[:2] == (200, b'{"cpu":1.5,"memory":0.2,"storage":0}')


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        ({}, [METRICS_PATH]),
        ({"enabled": False}, []),
        ({"resources": True}, [METRICS_PATH, RESOURCES_PATH]),
        ({"enabled": False, "resources": True}, [RESOURCES_PATH]),
    ],
)
def test_routes_and_document_hold_what_is_enabled(
    settings: dict[str, Any], paths: list[str]
) -> None:
    table = make(**settings).table()
    assert list(table) == paths
    assert all(list(methods) == ["GET"] for methods in table.values())
    document = build_document(Config(metrics=MetricsConfig(**settings)))
    told = [path for path in (METRICS_PATH, RESOURCES_PATH) if path in document["paths"]]
    assert told == paths


@pytest.mark.parametrize("listener", [LOOPBACK, PUBLIC])
@pytest.mark.parametrize("auth", ["auto", "none", "admin"])
@pytest.mark.parametrize("mode", ["users", "none"])
def test_document_tells_whether_a_credential_is_needed(
    listener: ListenerConfig, auth: Any, mode: Any
) -> None:
    config = Config(
        listeners=[listener],
        metrics=MetricsConfig(auth=auth),
        auth=AuthConfig(mode=mode, insecure=True),
    )
    document = build_document(config)
    told = document["paths"][METRICS_PATH]["get"].get("security", document["security"])
    assert (told == []) == (are_metrics_open(config) or mode == "none")
