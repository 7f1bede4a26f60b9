"""What a web page may read: the CORS headers of every kind of answer, and of preflights."""

from __future__ import annotations

import itertools
import json
import signal
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import pytest

from tests.wire.gateway import ADMIN, PASSWORD, Broker, Gateway, nats_server_path, wait_until
from tests.wire.raw_http import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.wire.raw_http import Response

pytestmark = pytest.mark.skipif(nats_server_path() is None, reason="nats-server is not installed")

ORIGIN: Final = "https://shop.example"
OTHER: Final = "https://app.example:8443"
STRANGER: Final = "https://shop.example.evil.example"
EXPOSED: Final = "Nats-Stream, Nats-Sequence, Nats-Duplicate, Error-Code, Retry-After"
ALLOWED_METHODS: Final = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
ALLOWED_HEADERS: Final = "Authorization, Content-Type, *"
KINDS: Final = {"all": "*", "list": f"{ORIGIN},{OTHER}", "none": None}
SINGLE: Final = "/stations/cors/produce/single"
TIMEOUT_MS: Final = 500
BODY_BYTES_MAX: Final = 10_000


class World(NamedTuple):
    """A gateway with one way of treating origins, its broker, and keys for the answers."""

    kind: str
    gateway: Gateway
    broker: Broker
    consume_key: str
    rated_key: str

    def origin_header(self, asks: str = ORIGIN) -> list[str]:
        """The one value of Access-Control-Allow-Origin that an answer has, or none."""
        if self.kind == "all":
            return ["*"]
        return [asks] if self.kind == "list" and asks in (ORIGIN, OTHER) else []


@pytest.fixture(scope="module", params=list(KINDS))
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    origins = KINDS[request.param]
    folder = tmp_path_factory.mktemp("cors")
    env = {
        "FASTGW_STATIONS_AUTO_CREATE": "true",
        "FASTGW_LIMITS_HEAD_TIMEOUT_MS": str(TIMEOUT_MS),
        "FASTGW_LIMITS_BODY_TIMEOUT_MS": str(TIMEOUT_MS),
        "FASTGW_LIMITS_ACK_TIMEOUT_MS": str(TIMEOUT_MS),
        "FASTGW_LIMITS_BODY_BYTES_MAX": str(BODY_BYTES_MAX),
        "FASTGW_RATE_KEY_REQUESTS_PER_S": "0.001",
        "FASTGW_RATE_BURST_S": "1000",
        "FASTGW_NATS_RECONNECT_WAIT_MS_MAX": "200",
        **({"FASTGW_CORS_ENABLED": "false"} if origins is None else {}),
        **({"FASTGW_CORS_ORIGINS": origins} if origins is not None else {}),
    }
    broker = Broker(folder / "broker").start()
    gateway = Gateway(folder / "data", ("--nats", broker.url), env)
    try:
        gateway.start()
        keys = [make_key(gateway, name) for name in ("consumer", "rated")]
        gateway.produce("cors", b"first")
        quick = json.dumps({"allow_no_wait": True}).encode()
        gateway.ask("/stations/quick", quick, method="PUT", headers=gateway.auth())
        gateway.produce("quick", b"first")
        yield World(str(request.param), gateway, broker, *keys)
        assert gateway.stop() == 0, gateway.log_text()
        assert "Traceback" not in gateway.log_text(), gateway.log_text()
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.stop(signal.SIGKILL)
        broker.kill()


def make_key(gateway: Gateway, name: str) -> str:
    permissions = ["consume"] if name == "consumer" else ["produce"]
    body = json.dumps({"permissions": permissions}).encode()
    made = gateway.ask(f"/keys/{name}", body, method="PUT", headers=gateway.auth())
    assert made.status == 201, made
    text = made.json()["key"]
    assert isinstance(text, str)
    return text


def check(world: World, response: Response, asks: str = ORIGIN, *, is_known: bool = True) -> None:
    """Check the CORS headers of one answer.

    Args:
        is_known: whether the head was read as far as its Origin before the answer was made.
    """
    told = response.all("access-control-allow-origin")
    if is_known or world.kind != "list":
        assert told == world.origin_header(asks), response
    else:
        assert told in ([], world.origin_header(asks)), response
    assert response.all("access-control-expose-headers") == (
        [] if world.kind == "none" else [EXPOSED]
    )
    varies = [value.lower() for value in response.all("vary")]
    assert varies == (["origin"] if world.kind == "list" else []), response
    assert response.header("access-control-allow-credentials") is None
    if world.kind == "none":
        assert [n for n, _ in response.headers if n.startswith("access-control")] == []


# --- every kind of answer -------------------------------------------------------------------------


class Case(NamedTuple):
    """A request as bytes, and the status that it earns."""

    status: int
    data: Callable[[World], bytes]
    is_known: bool = True


def post(
    target: str = SINGLE, body: bytes | None = b"x", *, auth: bool = True, **more: Any
) -> Callable[[World], bytes]:
    """A request from a page; `more` are header fields, with underscores for hyphens."""
    method = more.pop("method", "POST")
    version = more.pop("version", "1.1")

    def make(world: World) -> bytes:
        headers = {"Origin": ORIGIN} | (world.gateway.auth() if auth else {})
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        return build(target, body, method=method, version=version, headers=headers)

    return make


def with_key(name: str, times: int = 1) -> Callable[[World], bytes]:
    def make(world: World) -> bytes:
        key = world.consume_key if name == "consumer" else world.rated_key
        return build(SINGLE, b"x", headers={"Origin": ORIGIN, "X-API-Key": key}) * times

    return make


def raw(lines: str, body: bytes = b"") -> Callable[[World], bytes]:
    return lambda world: lines.replace("\n", "\r\n").encode("latin-1") + body


_numbers = itertools.count(1)


def login(world: World, *, good: bool) -> bytes:
    body = {"username": ADMIN, "password": PASSWORD if good else "wrong"}
    return build("/auth/authenticate", json.dumps(body).encode(), headers={"Origin": ORIGIN})


def make_station(world: World) -> bytes:
    return post(f"/stations/made-{next(_numbers)}", b"{}", method="PUT")(world)


CHUNKED: Final[dict[str, Any]] = {"Transfer_Encoding": "chunked"}
CASES: Final = {
    "200 stored": Case(200, post()),
    "200 page": Case(200, post("/", None, method="GET", auth=False)),
    "200 head": Case(200, post("/", None, method="HEAD", auth=False)),
    "200 openapi": Case(200, post("/openapi.json", None, method="GET", auth=False)),
    "200 docs": Case(200, post("/docs", None, method="GET", auth=False)),
    "200 login": Case(200, lambda world: login(world, good=True)),
    "200 probe": Case(200, post("/readyz", None, method="GET", auth=False)),
    "200 list": Case(200, post("/stations", None, method="GET")),
    "200 handshake": Case(
        200,
        post(SINGLE, None, method="OPTIONS", auth=False, WebHook_Request_Origin="sender.example"),
    ),
    "200 batch": Case(200, post("/stations/cors/produce/batch", b"[1,2]")),
    "200 consume": Case(
        200,
        post("/stations/cors/consume/batch", b'{"consumer_name":"c","batch_max_wait_time_ms":9}'),
    ),
    "201 made": Case(201, make_station),
    "202 not waited for": Case(202, post("/stations/quick/produce/single?wait=false")),
    "204 preflight": Case(204, post(SINGLE, None, method="OPTIONS", auth=False)),
    "400 json": Case(400, post("/auth/authenticate", b"{", auth=False)),
    "400 batch": Case(400, post("/stations/cors/produce/batch", b"[1,")),
    "400 station": Case(400, post("/stations/-bad-/produce/single")),
    "400 coding": Case(400, post(Content_Encoding="gzip")),
    "400 field": Case(
        400, raw(f"POST {SINGLE} HTTP/1.1\nOrigin: {ORIGIN}\nHost: a\nBad Name: x\n\n")
    ),
    # WHY unknown: the parser tells a field when the next one has begun, and here none does.
    "400 field behind": Case(
        400, raw(f"POST {SINGLE} HTTP/1.1\nHost: a\nOrigin: {ORIGIN}\nBad Name: x\n\n"), False
    ),
    "400 twice host": Case(400, raw(f"GET / HTTP/1.1\nOrigin: {ORIGIN}\nHost: a\nHost: b\n\n")),
    "400 no host": Case(400, raw(f"GET / HTTP/1.1\nOrigin: {ORIGIN}\n\n")),
    "400 chunk": Case(400, lambda world: post(body=None, **CHUNKED)(world) + b"zz\r\n"),
    "400 line": Case(400, raw(f"GET  / HTTP/1.1\nHost: a\nOrigin: {ORIGIN}\n\n"), False),
    "400 no http": Case(400, lambda world: b"\x16\x03\x01\x02\x00\x01\r\n\r\n", False),
    "401 none": Case(401, post(auth=False)),
    "401 wrong": Case(401, post(auth=False, X_API_Key="fgw_wrong")),
    "401 login": Case(401, lambda world: login(world, good=False)),
    "401 path": Case(401, post("/nothing", None, method="GET", auth=False)),
    "401 basic": Case(401, post(auth=False, Authorization="Basic bm86Ym9keQ==")),
    "403": Case(403, with_key("consumer")),
    "404 path": Case(404, post("/nothing", None, method="GET")),
    "404 schema": Case(404, post("/schemas/none", None, method="GET")),
    "405 produce": Case(405, post(method="PUT")),
    "405 other": Case(405, post("/healthz", method="POST", auth=False)),
    "409": Case(409, post("/keys/rated", b'{"stations":["a"]}', method="PUT")),
    "413 told": Case(413, post(body=None, Content_Length="1000000000")),
    "413 streamed": Case(
        413,
        lambda world: post(body=None, **CHUNKED)(world) + b"4000\r\n" + b"x" * 0x4000 + b"\r\n",
    ),
    "413 without a credential": Case(413, post(body=None, auth=False, Content_Length="1" * 12)),
    "414": Case(414, post("/" + "a" * 9000, None, method="GET"), False),
    "415": Case(415, post(Content_Encoding="br")),
    "417": Case(417, post(Expect="200-maybe")),
    "429": Case(429, with_key("rated", 3)),
    "431 value": Case(431, post(X_Long="v" * 20_000)),
    "431 count": Case(431, post(**dict.fromkeys((f"X_{n}" for n in range(120)), cast("Any", "v")))),
    "501": Case(501, post(body=None, Transfer_Encoding="gzip, chunked")),
    "505": Case(505, post("/", None, method="GET", version="2.0"), False),
}


@pytest.mark.parametrize("name", CASES)
def test_answer_has_the_headers_of_its_origin(world: World, name: str) -> None:
    case = CASES[name]
    data = case.data(world)
    methods = ["HEAD"] if data.startswith(b"HEAD") else None
    responses = world.gateway.exchange(data, methods=methods)
    assert responses[-1].status == case.status, responses
    for response in responses:
        check(world, response, is_known=case.is_known)


@pytest.mark.parametrize("cut", [b"\r\n\r\n", b"x"], ids=["head", "body"])
def test_408_has_them_too(world: World, cut: bytes) -> None:
    whole = post(body=b"x")(world)
    with world.gateway.wire() as wire:
        wire.send(whole[: whole.rindex(cut)] + (b"\r\nX-Slow: " if cut != b"x" else b""))
        response = wire.expect(10)
    assert response.status == 408
    check(world, response)


@pytest.mark.parametrize("asks", [STRANGER, "null", "https://SHOP.example", "http://shop.example"])
@pytest.mark.parametrize("status", [200, 401])
def test_other_origins_are_told_nothing(world: World, asks: str, status: int) -> None:
    data = post(auth=status == 200, Origin=asks)(world)
    (response,) = world.gateway.exchange(data)
    assert response.status == status, "who may read is the browser's business"
    check(world, response, asks)


def test_second_named_origin_and_no_origin(world: World) -> None:
    (response,) = world.gateway.exchange(post(Origin=OTHER)(world))
    check(world, response, OTHER)
    response = world.gateway.ask("/", None, method="GET")
    check(world, response, "")


def test_origins_of_one_connection_are_not_mixed_up(world: World) -> None:
    asked = [ORIGIN, STRANGER, OTHER, "null", ORIGIN]
    data = b"".join(post(Origin=origin)(world) for origin in asked)
    responses = world.gateway.exchange(data)
    assert len(responses) == len(asked)
    for origin, response in zip(asked, responses, strict=True):
        check(world, response, origin)


# --- preflights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        SINGLE,
        "/stations/unknown/produce/batch",
        "/auth/authenticate",
        "/users/root",
        "/nothing",
        "/",
    ],
)
@pytest.mark.parametrize("asks", [ORIGIN, STRANGER])
def test_preflight_is_204_before_any_credential(world: World, target: str, asks: str) -> None:
    headers = {
        "Origin": asks,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-api-key,x-own",
    }
    response = world.gateway.ask(target, None, method="OPTIONS", headers=headers)
    assert (response.status, response.body) == (204, b"")
    assert response.header("content-length") is None
    assert response.header("www-authenticate") is None
    check(world, response, asks)
    told = {n: v for n, v in response.headers if n.startswith("access-control-")}
    expected = {
        "access-control-allow-methods": ALLOWED_METHODS,
        "access-control-allow-headers": ALLOWED_HEADERS,
        "access-control-max-age": "86400",
        "access-control-expose-headers": EXPOSED,
    }
    for value in world.origin_header(asks):
        expected["access-control-allow-origin"] = value
    assert told == ({} if world.kind == "none" else expected)


def test_preflight_keeps_its_connection_for_the_request(world: World) -> None:
    with world.gateway.wire() as wire:
        wire.send(post(SINGLE, None, method="OPTIONS", auth=False)(world))
        assert wire.expect().status == 204
        wire.send(post()(world))
        response = wire.expect()
        assert response.status == 200
        check(world, response)


# --- the broker away; last, since it is not quick to come back ------------------------------------


def test_answers_without_a_broker_have_them(world: World) -> None:
    world.broker.freeze()
    (late,) = world.gateway.exchange(post()(world))
    assert late.status in (503, 504)
    check(world, late)
    world.broker.kill()

    def is_away() -> bool:
        (found,) = world.gateway.exchange(post()(world))
        check(world, found)
        return found.header("error-code") == "broker-away"

    wait_until(is_away, 15, "the broker is known to be away")
    (ready,) = world.gateway.exchange(post("/readyz", None, method="GET", auth=False)(world))
    assert ready.status == 503
    check(world, ready)
