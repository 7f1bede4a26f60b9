"""The bounds of a request: each has its status, and none costs the next request its meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from tests.wire.gateway import Gateway, serving, wait_until
from tests.wire.raw_http import Mode, build

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = get_args(Mode)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with small bounds, and timeouts that no test reaches."""
    env = {
        "FASTGW_LIMITS_BODY_BYTES_MAX": "1000",
        "FASTGW_LIMITS_CONNECTIONS_MAX": "50",
        "FASTGW_LIMITS_PIPELINED_MAX": "2",
        "FASTGW_CORS_ORIGINS": "https://a.test,https://b.test",
    }
    with serving(tmp_path_factory.mktemp("small") / "data", env=env) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with short timeouts. WHY not `small`: a slow machine would reach them by itself."""
    env = {
        "FASTGW_LIMITS_HEAD_TIMEOUT_MS": "600",
        "FASTGW_LIMITS_BODY_TIMEOUT_MS": "600",
        "FASTGW_LIMITS_IDLE_TIMEOUT_MS": "900",
    }
    with serving(tmp_path_factory.mktemp("hasty") / "data", env=env) as running:
        yield running


@pytest.mark.parametrize("mode", MODES)
def test_long_target_is_414(gateway: Gateway, mode: Mode) -> None:
    data = build("/" + "a" * 9000, None, method="GET")
    responses = gateway.exchange(data, mode)
    assert [response.status for response in responses] == [414]
    assert responses[0].header("connection") == "close"


def test_target_below_the_limit_is_served(gateway: Gateway) -> None:
    assert gateway.ask("/?" + "a" * 8000, None, method="GET").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Long", "v" * 17_000)],
        [("X" * 17_000, "v")],
        [(f"X-{n}", "v" * 400) for n in range(50)],
        [(f"X-{n}", "v") for n in range(101)],
    ],
    ids=["value", "name", "sum", "count"],
)
@pytest.mark.parametrize("mode", MODES)
def test_large_head_is_431(
    gateway: Gateway, station: str, headers: list[tuple[str, str]], mode: Mode
) -> None:
    auth = list(gateway.auth().items())
    data = build(f"/stations/{station}/produce/single", b"x", headers=auth + headers)
    responses = gateway.exchange(data, mode)
    assert [response.status for response in responses] == [431]
    assert responses[0].header("connection") == "close"
    assert gateway.stored(station) == []


def test_head_that_never_ends_is_refused_and_closed(gateway: Gateway) -> None:
    for endless in (b"GET /" + b"a" * 3_000_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 3_000_000):
        responses = gateway.exchange(endless)
        assert [response.status for response in responses] in ([414], [431])


def test_head_of_100_fields_is_served(gateway: Gateway, station: str) -> None:
    headers = list(gateway.auth().items()) + [(f"X-{n}", "v") for n in range(96)]
    data = build(f"/stations/{station}/produce/single", b"x", headers=headers)
    assert [response.status for response in gateway.exchange(data)] == [200]
    assert len([n for n, _ in gateway.stored(station)[0].headers if n.startswith("X-")]) == 96


def test_good_then_large_head_is_200_then_431(gateway: Gateway, station: str) -> None:
    good = build(f"/stations/{station}/produce/single", b"x", headers=gateway.auth())
    responses = gateway.exchange(good + build("/", headers={"X": "v" * 20_000}))
    assert [response.status for response in responses] == [200, 431]
    assert len(gateway.stored(station)) == 1


@pytest.mark.parametrize("mode", MODES)
def test_body_limit_by_length(small: Gateway, station: str, mode: Mode) -> None:
    target = f"/stations/{station}/produce/single"
    for size, status in ((1000, 200), (1001, 413), (5000, 413)):
        data = build(target, b"x" * size, headers=small.auth())
        responses = small.exchange(data, mode)
        assert [response.status for response in responses] == [status]
    assert len(small.stored(station)) == 1


def test_body_limit_is_judged_before_the_body_comes(small: Gateway, station: str) -> None:
    headers = small.auth(Content_Length="1001")
    with small.wire() as wire:
        wire.send(build(f"/stations/{station}/produce/single", None, headers=headers))
        assert wire.expect().status == 413


@pytest.mark.parametrize("size", [1, 100, 1001])
def test_body_limit_while_streaming(small: Gateway, station: str, size: int) -> None:
    headers = small.auth(Transfer_Encoding="chunked")
    head = build(f"/stations/{station}/produce/single", None, headers=headers)
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    responses = small.exchange(head + chunk * (1001 // size + 1) + b"0\r\n\r\n")
    assert [response.status for response in responses] == [413]
    assert small.stored(station) == []


def test_body_that_streams_for_ever_is_413_and_closed(small: Gateway, station: str) -> None:
    headers = small.auth(Transfer_Encoding="chunked")
    head = build(f"/stations/{station}/produce/single", None, headers=headers)
    with small.wire() as wire:
        wire.send(head)
        for _ in range(2000):
            wire.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        wire.half_close()
        statuses = [response.status for response in wire.drain()]
    # A reset may have overtaken the answer when we kept sending long after it.
    assert statuses in ([413], [])


def test_chunk_overhead_is_bounded(small: Gateway, station: str) -> None:
    headers = small.auth(Transfer_Encoding="chunked")
    head = build(f"/stations/{station}/produce/single", None, headers=headers)
    responses = small.exchange(head + b"1;" + b"e" * 1_000_000 + b"\r\nx\r\n0\r\n\r\n")
    assert [response.status for response in responses] in ([400], [413], [431])
    trailers = b"1\r\nx\r\n0\r\n" + b"X-T: t\r\n" * 100_000 + b"\r\n"
    responses = small.exchange(head + trailers)
    assert [response.status for response in responses] in ([400], [413], [431])
    assert small.stored(station) == []


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\n"])
def test_slow_head_is_408(hasty: Gateway, part: bytes) -> None:
    with hasty.wire() as wire:
        wire.send(part)
        response = wire.expect(5)
        assert response.status == 408
        assert response.header("connection") == "close"
        assert wire.drain() == []


def test_slow_body_is_408(hasty: Gateway, station: str) -> None:
    whole = build(f"/stations/{station}/produce/single", b"0123456789", headers=hasty.auth())
    with hasty.wire() as wire:
        wire.send(whole[:-5])
        assert wire.expect(5).status == 408
        assert wire.drain() == []
    assert hasty.stored(station) == []


def test_idle_connection_is_closed_without_an_answer(hasty: Gateway) -> None:
    with hasty.wire() as wire:
        wire.send(build("/", None, method="GET"))
        assert wire.expect().status == 200
        assert wire.drain() == []
    with hasty.wire() as wire:
        statuses = [response.status for response in wire.drain()]
        assert statuses in ([], [408])


def test_pipelining_above_a_small_bound_is_served_in_order(small: Gateway, station: str) -> None:
    small.produce(station, b"first")
    target = f"/stations/{station}/produce/single"
    data = b"".join(build(target, b"%d" % n, headers=small.auth()) for n in range(40))
    assert [response.status for response in small.exchange(data)] == [200] * 40
    stored = [message.data for message in small.stored(station)]
    assert stored == [b"first"] + [b"%d" % n for n in range(40)]


def test_connections_above_the_bound_are_refused_not_queued(small: Gateway) -> None:
    wires = [small.wire() for _ in range(50)]
    try:
        for wire in wires:
            wire.send(build("/", None, method="GET"))
            assert wire.expect().status == 200
        with small.wire() as late:
            late.send(build("/", None, method="GET"))
            statuses = [response.status for response in late.drain()]
            assert statuses in ([], [503])
    finally:
        for wire in wires:
            wire.close()

    def has_room() -> bool:
        answers = small.exchange(build("/", None, method="GET"))
        assert [answer.status for answer in answers] in ([200], [503], [])
        return [answer.status for answer in answers] == [200]

    # Their ends are seen a moment after the next one may come.
    wait_until(has_room, what="room for another connection")


def test_refused_request_keeps_its_connection(gateway: Gateway, station: str) -> None:
    target = f"/stations/{station}/produce/single"
    with gateway.wire() as wire:
        for _ in range(3):
            wire.send(build(target, b"a body to be read and dropped"))
            assert wire.expect().status == 401
            wire.send(build("/nothing", b"x" * 1000, headers=gateway.auth()))
            assert wire.expect().status == 404
        wire.send(build(target, b"good", headers=gateway.auth()))
        assert wire.expect().status == 200
    assert [message.data for message in gateway.stored(station)] == [b"good"]


@pytest.mark.parametrize("origin", ["https://a.test", "https://b.test"])
def test_cors_of_named_origins_names_the_one_that_asks(small: Gateway, origin: str) -> None:
    for path, status in (("/", 200), ("/nothing", 401)):
        response = small.ask(path, None, method="GET", headers={"Origin": origin})
        assert response.status == status
        assert response.all("access-control-allow-origin") == [origin]
        assert "origin" in (response.header("vary") or "").lower()
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    preflight = small.ask("/nothing", None, method="OPTIONS", headers=asked)
    assert preflight.status == 204
    assert preflight.all("access-control-allow-origin") == [origin]


@pytest.mark.parametrize("origin", [None, "https://c.test", "https://a.test.evil", "null", "*"])
def test_cors_of_named_origins_tells_others_nothing(small: Gateway, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    response = small.ask("/", None, method="GET", headers=headers)
    assert response.status == 200
    assert response.header("access-control-allow-origin") is None
    assert "origin" in (response.header("vary") or "").lower()
