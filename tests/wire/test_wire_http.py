"""HTTP as clients really speak it: versions, framing, pipelining, and the end of a connection."""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING, get_args

import pytest

from tests.wire.raw_http import Mode, build, chunked

if TYPE_CHECKING:
    from tests.wire.gateway import Gateway

MODES = get_args(Mode)


def single(gateway: Gateway, station: str, body: bytes, **headers: str) -> bytes:
    return build(f"/stations/{station}/produce/single", body, headers=gateway.auth(**headers))


def datas(gateway: Gateway, station: str) -> list[bytes]:
    return [message.data for message in gateway.stored(station)]


@pytest.mark.parametrize("mode", MODES)
def test_keep_alive_serves_one_after_the_other(gateway: Gateway, station: str, mode: Mode) -> None:
    with gateway.wire() as wire:
        for n in range(3):
            wire.send(single(gateway, station, b"%d" % n), mode)
            response = wire.expect()
            assert (response.status, response.version) == (200, "HTTP/1.1")
            assert response.header("connection") is None
    assert datas(gateway, station) == [b"0", b"1", b"2"]


def test_connection_close_is_obeyed(gateway: Gateway, station: str) -> None:
    with gateway.wire() as wire:
        wire.send(single(gateway, station, b"x", Connection="close"))
        assert wire.expect().header("connection") == "close"
        assert wire.drain() == []


def test_request_behind_a_close_is_dropped(gateway: Gateway, station: str) -> None:
    last = single(gateway, station, b"last", Connection="close")
    for behind in (single(gateway, station, b"behind"), b"rubbish\0", b"\r\n\r\n"):
        responses = gateway.exchange(last + behind)
        assert [response.status for response in responses] == [200]
    assert datas(gateway, station) == [b"last"] * 3


def test_answers_that_nobody_reads_wait_without_loss(gateway: Gateway) -> None:
    count = 5000
    data = build("/monitoring/status", None, method="GET") * count
    with gateway.wire() as wire:
        wire.socket.setblocking(False)
        sent = 0
        while sent < len(data):
            if not select.select([], [wire.socket], [], 0.3)[1]:
                break  # Our answers unread, the gateway has stopped reading us.
            sent += wire.socket.send(data[sent : sent + 65536])
        wire.socket.setblocking(True)
        # The rest goes out while we read.
        sender = threading.Thread(target=wire.socket.sendall, args=(data[sent:],))
        sender.start()
        for _ in range(count):
            assert wire.expect().status == 200
        sender.join(10)
        assert not sender.is_alive()


def test_http_1_0_closes_unless_asked(gateway: Gateway, station: str) -> None:
    target = f"/stations/{station}/produce/single"
    with gateway.wire() as wire:
        wire.send(build(target, b"x", headers=gateway.auth(), version="1.0"))
        assert wire.expect().status == 200
        assert wire.drain() == []
    with gateway.wire() as wire:
        headers = gateway.auth(Connection="keep-alive")
        for _ in range(2):
            wire.send(build(target, b"x", headers=headers, version="1.0"))
            response = wire.expect()
            assert response.status == 200
            assert response.header("connection") == "keep-alive"
    assert len(gateway.stored(station)) == 3


def test_http_1_0_without_host_is_served(gateway: Gateway) -> None:
    (response,) = gateway.exchange(b"GET / HTTP/1.0\r\n\r\n")
    assert response.status == 200


@pytest.mark.parametrize("mode", MODES)
def test_pipelined_answers_come_in_order(gateway: Gateway, station: str, mode: Mode) -> None:
    # The station is there first: what waits for its creation has no order among itself.
    gateway.produce(station, b"first")
    count = 30
    data = b"".join(
        single(gateway, station, b"%d" % n) + build(f"/no{n}", b"x", headers=gateway.auth())
        for n in range(count)
    )
    responses = gateway.exchange(data, mode)
    assert [response.status for response in responses] == [200, 404] * count
    numbers = [response.header("nats-sequence") for response in responses[::2]]
    assert numbers == [str(n + 2) for n in range(count)]
    assert datas(gateway, station)[1:] == [b"%d" % n for n in range(count)]


def test_pipelined_more_than_the_limit_are_all_served(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"first")
    count = 500
    data = b"".join(single(gateway, station, b"%d" % n) for n in range(count))
    responses = gateway.exchange(data)
    assert [response.status for response in responses] == [200] * count
    assert datas(gateway, station)[1:] == [b"%d" % n for n in range(count)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "broken", [b"\0\0\0\r\n\r\n", b"BROKEN\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"]
)
def test_good_then_broken_is_200_then_400(
    gateway: Gateway, station: str, mode: Mode, broken: bytes
) -> None:
    responses = gateway.exchange(single(gateway, station, b"good") + broken, mode)
    assert [response.status for response in responses] == [200, 400]
    assert responses[1].header("connection") == "close"
    assert datas(gateway, station) == [b"good"]


@pytest.mark.parametrize("mode", MODES)
def test_half_close_still_gets_the_answer(gateway: Gateway, station: str, mode: Mode) -> None:
    for _ in range(5):
        responses = gateway.exchange(single(gateway, station, b"x"), mode)
        assert [response.status for response in responses] == [200]
    assert len(gateway.stored(station)) == 5


def test_body_cut_short_stores_nothing(gateway: Gateway, station: str) -> None:
    whole = single(gateway, station, b"0123456789")
    for cut in (1, 5, 9):
        responses = gateway.exchange(whole[:-cut])
        assert [response.status for response in responses] in ([], [400])
    head = build(
        f"/stations/{station}/produce/single",
        None,
        headers=gateway.auth(Transfer_Encoding="chunked"),
    )
    for part in (b"5\r\nabc", b"5\r\nabcde\r\n", b"5\r\nabcde\r\n0\r\n", b"5"):
        responses = gateway.exchange(head + part)
        assert [response.status for response in responses] in ([], [400])
    assert gateway.stored(station) == []


def test_client_that_resets_leaves_the_gateway_well(gateway: Gateway, station: str) -> None:
    whole = single(gateway, station, b"0123456789")
    for end in (1, 20, len(whole) - 5, len(whole)):
        with gateway.wire() as wire:
            wire.send(whole[:end])
            wire.reset()
    gateway.produce(station, b"after")
    assert b"after" in datas(gateway, station)


def test_connection_without_bytes_is_closed_quietly(gateway: Gateway) -> None:
    assert gateway.exchange(b"") == []
    assert gateway.exchange(b"\r\n") == []


def test_empty_lines_before_a_request_are_skipped(gateway: Gateway) -> None:
    (response,) = gateway.exchange(b"\r\n\r\n" + build("/", None, method="GET"))
    assert response.status == 200


CHUNKED = {
    "plain": chunked(b"hello chunks", 5),
    "one": b"c\r\nhello chunks\r\n0\r\n\r\n",
    "upper case": b"C\r\nhello chunks\r\n0\r\n\r\n",
    "zeros": b"00000c\r\nhello chunks\r\n000\r\n\r\n",
    "extension": b'c;a=b;c="d"\r\nhello chunks\r\n0;e\r\n\r\n',
    "trailers": b"c\r\nhello chunks\r\n0\r\nX-Trailer: late\r\n\r\n",
    "evil trailers": b"c\r\nhello chunks\r\n0\r\nNats-Rollup: all\r\nHost: b\r\n\r\n",
}


@pytest.mark.parametrize("kind", CHUNKED)
@pytest.mark.parametrize("mode", MODES)
def test_chunked_body_arrives(gateway: Gateway, station: str, kind: str, mode: Mode) -> None:
    headers = gateway.auth(Transfer_Encoding="chunked")
    head = build(f"/stations/{station}/produce/single", None, headers=headers)
    behind = build("/", None, method="GET")
    responses = gateway.exchange(head + CHUNKED[kind] + behind, mode)
    if kind == "evil trailers" and responses[0].status == 400:
        assert gateway.stored(station) == []
        return
    assert [response.status for response in responses] == [200, 200]
    (message,) = gateway.stored(station)
    assert message.data == b"hello chunks"
    names = {name.lower() for name, _ in message.headers}
    assert not names & {"x-trailer", "nats-rollup", "transfer-encoding"}
    assert [value for name, value in message.headers if name == "Host"] in ([], ["fastgw.test"])


def test_chunked_body_arrives_at_every_split(gateway: Gateway, station: str) -> None:
    headers = {"Authorization": f"x {gateway.token()}", "Transfer-Encoding": "chunked"}
    target = f"/stations/{station}/produce/single"
    data = build(target, None, headers=headers) + chunked(b"hello chunks", 5)
    for split in range(1, len(data)):
        responses = gateway.exchange(data, split=split)
        assert [response.status for response in responses] == [200], split
    assert datas(gateway, station) == [b"hello chunks"] * (len(data) - 1)


def test_body_arrives_at_every_split(gateway: Gateway, station: str) -> None:
    data = single(gateway, station, b"0123456789")
    data += build("/", None, method="GET")
    for split in range(1, len(data)):
        responses = gateway.exchange(data, split=split)
        assert [response.status for response in responses] == [200, 200], split
    assert datas(gateway, station) == [b"0123456789"] * (len(data) - 1)


BAD_FRAMING = {
    "two lengths": "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length list": "Content-Length: 3, 4\r\n\r\nabcd",
    "length sign": "Content-Length: +3\r\n\r\nabc",
    "length minus": "Content-Length: -3\r\n\r\nabc",
    "length hex": "Content-Length: 0x3\r\n\r\nabc",
    "length empty": "Content-Length:\r\n\r\nabc",
    "length huge": "Content-Length: 99999999999999999999999\r\n\r\nabc",
    "length and chunked": "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunked not last": "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked odd": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "folded": "X-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "bare cr": "X-Bare: a\rb\r\nContent-Length: 0\r\n\r\n",
    "bare lf": "X-Bare: a\nContent-Length: 0\r\n\r\n",
    "nul": "X-Nul: a\0b\r\nContent-Length: 0\r\n\r\n",
    "space before colon": "X-Space : a\r\nContent-Length: 0\r\n\r\n",
    "space in name": "X Space: a\r\nContent-Length: 0\r\n\r\n",
    "no name": ": a\r\nContent-Length: 0\r\n\r\n",
    "second host": "Host: other.test\r\nContent-Length: 0\r\n\r\n",
    "chunk size bad": "Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n",
    "chunk size sign": "Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    "chunk size space": "Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n",
    "chunk size huge": "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "chunk too long": "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "chunk bare lf": "Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
}


@pytest.mark.parametrize("kind", BAD_FRAMING)
@pytest.mark.parametrize("mode", MODES)
def test_bad_framing_is_400_and_close(
    gateway: Gateway, station: str, kind: str, mode: Mode
) -> None:
    smuggled = single(gateway, station, b"smuggled").decode("latin-1")
    head = f"POST /stations/{station}/produce/single HTTP/1.1\r\nHost: fastgw.test\r\n"
    head += f"Authorization: Bearer {gateway.token()}\r\n"
    responses = gateway.exchange((head + BAD_FRAMING[kind] + smuggled).encode("latin-1"), mode)
    statuses = [response.status for response in responses]
    # A length that is no error of framing but above every bound may be 413 as well.
    allowed = ([400], [413]) if "huge" in kind else ([400], [501]) if "odd" in kind else ([400],)
    assert statuses in allowed
    assert responses[0].header("connection") == "close"
    assert gateway.stored(station) == []


BAD_HOSTS = ["", "a b", "a:b", "a:1:2", "a:123456", "[::1", "a/b", "a@b", "%zz", "a\tb", "?"]


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_bad_host_is_400(gateway: Gateway, host: str) -> None:
    responses = gateway.exchange(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert [response.status for response in responses] == [400]
    assert responses[0].header("connection") == "close"


@pytest.mark.parametrize("host", ["a", "a.b:80", "[::1]:4444", "127.0.0.1", "a-b.c_d", "%41"])
def test_good_host_is_served(gateway: Gateway, host: str) -> None:
    (response,) = gateway.exchange(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert response.status == 200


def test_missing_host_is_400(gateway: Gateway) -> None:
    responses = gateway.exchange(b"GET / HTTP/1.1\r\n\r\n")
    assert [response.status for response in responses] == [400]


BAD_LINES = {
    b"GET /\r\nHost: a\r\n\r\n": {400, 505},
    b"GET / HTTP/0.9\r\nHost: a\r\n\r\n": {400, 505},
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n": {400, 505},
    b"GET / HTTP/1.2\r\nHost: a\r\n\r\n": {200, 400, 505},
    b"GET / RTSP/1.0\r\nHost: a\r\n\r\n": {400, 505},
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n": {400},
    b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n": {400},
    b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n": {400},
    b"get / HTTP/1.1\r\nHost: a\r\n\r\n": {400, 405, 501},
    b"GET * HTTP/1.1\r\nHost: a\r\n\r\n": {400},
    b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n": {400},
    b"GET noslash HTTP/1.1\r\nHost: a\r\n\r\n": {400},
    b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n": {400, 405, 501},
    b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n": {400, 405, 501},
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": {400, 405, 505},
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": {400},
}


@pytest.mark.parametrize("data", BAD_LINES)
@pytest.mark.parametrize("mode", MODES)
def test_bad_request_line_is_refused_and_closed(gateway: Gateway, data: bytes, mode: Mode) -> None:
    responses = gateway.exchange(data, mode)
    assert len(responses) == 1, responses
    assert responses[0].status in BAD_LINES[data]
    assert responses[0].json()["success"] is False or responses[0].status == 200


@pytest.mark.parametrize("mode", MODES)
def test_expect_continue_is_answered_at_once(gateway: Gateway, station: str, mode: Mode) -> None:
    body = b"the body comes later"
    data = single(gateway, station, body, Expect="100-continue")
    with gateway.wire() as wire:
        wire.send(data[: -len(body)], mode)
        # WHY: a client may wait for this before it sends the first byte of the body.
        assert wire.socket.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(body, mode)
        assert wire.expect().status == 200
    assert datas(gateway, station) == [body]


def test_expect_continue_is_refused_early(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"first")
    target = f"/stations/{station}/produce/single"
    for headers, status in (
        ({"Expect": "100-continue", "Content-Length": "5"}, 401),
        (gateway.auth(Expect="100-continue", Content_Length="99999999999"), 413),
        (gateway.auth(Expect="200-maybe", Content_Length="5"), 417),
    ):
        with gateway.wire() as wire:
            wire.send(build(target, None, headers=headers))
            response = wire.expect()
            assert (response.status, response.interim) == (status, ())
    assert datas(gateway, station) == [b"first"]


def test_expect_continue_never_stands_before_earlier_answers(
    gateway: Gateway, station: str
) -> None:
    first = single(gateway, station, b"1")
    second = single(gateway, station, b"2", Expect="100-continue")
    responses = gateway.exchange(first + second)
    assert [response.status for response in responses] == [200, 200]
    assert responses[0].interim == ()


def test_expect_from_http_1_0_is_ignored(gateway: Gateway, station: str) -> None:
    target = f"/stations/{station}/produce/single"
    headers = gateway.auth(Expect="100-continue")
    (response,) = gateway.exchange(build(target, b"x", headers=headers, version="1.0"))
    assert (response.status, response.interim) == (200, ())
