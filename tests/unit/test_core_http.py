"""Corners of the client's side that a real socket cannot hold still: time, parser, order."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from fastgw import _core
from fastgw.errors import ClientFault, InternalError
from fastgw.inflate import inflate
from tests.unit.dialogue import BATCH, HEAD, Client, Dialogue, request


def sweep_until(dialogue: Dialogue, done: Callable[[], bool]) -> None:
    """Sweep as the gateway does until `done`, within ten seconds."""

    async def wait() -> None:
        while not done():
            await asyncio.sleep(0.02)
            dialogue.ingress.sweep()
            dialogue.run_turns()

    asyncio.run(asyncio.wait_for(wait(), 10))


def test_head_too_slow_is_408() -> None:
    dialogue = Dialogue(head_timeout_ms=100)
    client = dialogue.client()
    client.send(HEAD[:30])
    sweep_until(dialogue, lambda: bool(client.transport.written))
    assert [a.status for a in client.answers()] == [408]
    assert client.transport.is_eof_sent


def test_body_too_slow_is_408() -> None:
    dialogue = Dialogue(body_timeout_ms=100)
    client = dialogue.client()
    client.send(request(b"hello")[:-2])
    sweep_until(dialogue, lambda: bool(client.transport.written))
    assert [a.status for a in client.answers()] == [408]
    assert dialogue.frames() == []


def test_idle_connection_is_closed_without_words() -> None:
    dialogue = Dialogue(idle_timeout_ms=100)
    client = dialogue.client()
    sweep_until(dialogue, lambda: client.transport.is_closed)
    assert client.transport.take() == b""


def test_reader_that_stalls_is_let_go() -> None:
    dialogue = Dialogue(idle_timeout_ms=100)
    client = dialogue.client()
    client.send(request())
    client.protocol.pause_writing()
    sweep_until(dialogue, lambda: client.transport.is_closed)


def test_refused_connection_lingers_and_is_then_ended() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(b"NONSENSE\r\n\r\n")
    assert [a.status for a in client.answers()] == [400]
    client.send(b"more of it")
    sweep_until(dialogue, lambda: client.transport.is_closed)


def test_connections_bound_reached_answers_503() -> None:
    dialogue = Dialogue(connections_max=16)
    clients = [dialogue.client() for _ in range(17)]
    assert [a.status for a in clients[-1].answers()] == [503]
    clients[0].send(request())
    assert len(dialogue.frames()) == 1


def test_publishes_waiting_too_long_are_refused() -> None:
    dialogue = Dialogue(publishes_in_flight_max=16, waiting_ms_max=100)
    client = dialogue.client()
    client.send(request() * 17)
    dialogue.frames()
    sweep_until(dialogue, lambda: dialogue.ingress.stats()["waiting_bytes"] == 0)
    assert len(dialogue.frames()) == 0
    assert dialogue.ingress.stats()["in_flight"] == 16


def test_publishes_waiting_of_a_client_that_left_are_not_sent() -> None:
    dialogue = Dialogue(publishes_in_flight_max=16)
    first, second = dialogue.client(), dialogue.client()
    first.send(request() * 16)
    second.send(request(b"never"))
    frames = dialogue.frames()
    second.protocol.connection_lost(None)
    dialogue.store(frames[0], 1)
    assert dialogue.frames() == []
    assert dialogue.ingress.stats()["waiting_bytes"] == 0


def test_drain_closes_idle_connections_and_the_busy_one_behind_its_answer() -> None:
    dialogue = Dialogue()
    idle, busy, new = dialogue.client(), dialogue.client(), dialogue.client()
    idle.send(b"OPTIONS / HTTP/1.1\r\nHost: g\r\n\r\n")
    assert [a.status for a in idle.answers()] == [204]
    busy.send(request())
    (frame,) = dialogue.frames()
    dialogue.ingress.begin_drain()
    assert idle.transport.is_closed
    assert not new.transport.is_closed
    new.send(b"OPTIONS / HTTP/1.1\r\nHost: g\r\n\r\n")
    assert [a.headers["Connection"] for a in new.answers()] == ["close"]
    assert not busy.transport.is_closed
    dialogue.store(frame, 1)
    (answer,) = busy.answers()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert busy.transport.is_eof_sent


def test_query_with_too_many_fields_is_400() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    head = HEAD.replace(b"single", b"single?" + b"&".join([b"a=1"] * 65))
    client.send(request(head=head.replace(b"Authorization: Bearer good\r\n", b"")))
    assert [a.status for a in client.answers()] == [400]
    assert dialogue.defects == []


def test_chunk_overhead_is_bounded() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;")
    for _ in range(10):
        client.send(b"x" * 16000)
    assert [a.status for a in client.answers()] == [400]


def test_head_without_end_is_bounded() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(HEAD + b"X-Long: ")
    for _ in range(4):
        client.send(b"x" * 16000)
    assert [a.status for a in client.answers()] == [431]


def test_handler_answers_other_paths_and_sees_the_request() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(
        b"POST /a%20b?x=1 HTTP/1.1\r\nHost: g\r\nX-API-Key: k\r\nX-A: 1\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 4\r\n\r\nbody"
    )
    (asked,) = dialogue.dispatched
    assert (asked.method, asked.path, asked.raw_path) == ("POST", "/a b", b"/a%20b")
    assert (asked.query, asked.body, asked.client) == (b"x=1", b"body", "192.0.2.7")
    assert asked.header(b"x-a") == b"1"
    assert asked.header(b"x-api-key") == b"k"
    assert asked.header(b"content-type") == b"text/plain"
    assert asked.header(b"absent") is None
    assert (b"X-A", b"1") in asked.headers
    assert asked.record is None
    assert asked.principal is None
    asked.respond(201, b"made", ((b"Location", b"/x"),), b"text/plain")
    with pytest.raises(InternalError):
        asked.respond(200)
    (answer,) = client.answers()
    assert (answer.status, answer.body, answer.headers["Location"]) == (201, b"made", "/x")
    assert asked.closed
    asked.respond(200)
    asked.fail(ClientFault("not-found", "gone"))
    asked.resume()


def test_handler_may_not_forge_a_response_header() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
    with pytest.raises(InternalError):
        dialogue.dispatched[0].respond(200, b"", ((b"X", b"a\r\nSet-Cookie: b"),))


def test_handler_that_fails_answers_500_and_is_reported() -> None:
    dialogue = Dialogue()
    dialogue.ingress.put_station(
        _core.Station("orders", "orders", "orders", check=lambda message, kind: str(1 // 0))
    )
    client = dialogue.client()
    client.send(request())
    assert [a.status for a in client.answers()] == [500]
    assert len(dialogue.defects) == 1
    assert dialogue.ingress.stats()["defects"] == 1


def test_request_resumes_when_its_station_was_made() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    extra = b"X-A: 1\r\nIdempotency-Key: i\r\nConnection: X-B\r\nX-B: 2\r\nCookie: c\r\n"
    client.send(request(b"late", head=HEAD.replace(b"orders", b"new"), extra=extra))
    (asked,) = dialogue.dispatched
    dialogue.ingress.put_station(_core.Station("new", "new", "new"))
    assert asked.admit(dialogue.principal)
    asked.resume()
    (frame,) = dialogue.frames()
    assert frame.headers == [
        (b"Host", b"gateway"),
        (b"X-A", b"1"),
        (b"Idempotency-Key", b"i"),
        (b"Nats-Msg-Id", b"i"),
    ]


def test_request_resumed_without_station_is_404() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(head=HEAD.replace(b"orders", b"new")))
    dialogue.dispatched[0].resume()
    assert [a.status for a in client.answers()] == [404]


def test_station_dropped_is_served_no_more() -> None:
    dialogue = Dialogue()
    dialogue.ingress.drop_station("orders")
    client = dialogue.client()
    client.send(request())
    assert len(dialogue.dispatched) == 1


def test_anonymous_principal_serves_without_credentials() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    bare = HEAD.replace(b"Authorization: Bearer good\r\n", b"")
    client.send(request(head=bare))
    assert [a.status for a in client.answers()] == [401]
    dialogue.ingress.allow_anonymous(dialogue.principal, any_host=True)
    client.send(request(head=bare))
    assert len(dialogue.frames()) == 1


def cors_dialogue(*origins: str) -> Client:
    dialogue = Dialogue()
    from fastgw.config_types import LimitsConfig, RateConfig

    dialogue.ingress = _core.Ingress(
        dialogue.loop,  # type: ignore[arg-type]
        LimitsConfig(),
        RateConfig(),
        tokens_max=0,
        cors_origins=origins,
        identify=lambda request: None,
        dispatch=lambda request: request.respond(200, b"{}"),
        consume=lambda request: None,
        inflate=inflate,
        refused=lambda request, block, message, reason: None,
        report=lambda text, error: None,
    )
    return dialogue.client()


def test_cors_of_named_origins_is_told_to_them_alone() -> None:
    client = cors_dialogue("https://a.example", "https://b.example")
    get = b"GET / HTTP/1.1\r\nHost: g\r\nOrigin: %s\r\n\r\n"
    client.send(get % b"https://b.example" + get % b"https://c.example")
    allowed, other = client.answers()
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://b.example"
    assert allowed.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Origin" not in other.headers


def test_cors_off_says_nothing() -> None:
    client = cors_dialogue()
    client.send(b"OPTIONS / HTTP/1.1\r\nHost: g\r\n\r\n")
    (answer,) = client.answers()
    assert answer.status == 204
    assert not [name for name in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    ("host", "is_good"),
    [
        (b"a", True),
        (b"a.b-c:80", True),
        (b"[::1]", True),
        (b"[::1]:4444", True),
        (b"127.0.0.1:1", True),
        (b"a%41", True),
        (b"a:", True),
        (b"", False),
        (b"a b", False),
        (b"a:80x", False),
        (b"a:123456", False),
        (b"[::1", False),
        (b"[]", False),
        (b"[::1]x", False),
        (b"a%4", False),
        (b"a/b", False),
        (b"a@b", False),
    ],
)
def test_host_is_checked(host: bytes, is_good: bool) -> None:
    client = cors_dialogue()
    client.send(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert [a.status for a in client.answers()] == [200 if is_good else 400]


@pytest.mark.parametrize(
    ("target", "is_good"),
    [
        (b"/", True),
        (b"http://a/", True),
        (b"HTTPS://a:1/x?y", True),
        (b"http://a", True),
        (b"/#x", False),
        (b"http://a/#x", False),
        (b"http:///x", False),
        (b"ftp://a/", False),
        (b"*", False),
        (b"http://a b/", False),
    ],
)
def test_target_is_checked(target: bytes, is_good: bool) -> None:
    client = cors_dialogue()
    client.send(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [a.status for a in client.answers()] == [200 if is_good else 400]


def test_connection_lost_leaves_nothing_behind() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request() + request()[:-1])
    asked = weakref.ref(client.transport)
    client.protocol.connection_lost(None)
    assert dialogue.ingress.stats()["connections"] == 0
    for frame in dialogue.frames():
        dialogue.store(frame, 1)
    del client
    gc.collect()
    assert asked() is None


def test_body_in_many_pieces_is_one_message() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    data = request(b"0123456789" * 5000)
    for at in range(0, len(data), 7):
        client.send(data[at : at + 7])
    (frame,) = dialogue.frames()
    assert frame.payload == b"0123456789" * 5000


def test_refused_request_with_a_short_body_keeps_the_connection() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    bad = HEAD.replace(b"good", b"bad")
    client.send(request(b"x" * 1000, head=bad) + request(b"next"))
    (frame,) = dialogue.frames()
    assert frame.payload == b"next"
    dialogue.store(frame, 1)
    assert [a.status for a in client.answers()] == [401, 200]


@pytest.mark.parametrize(
    "extra", [b"Content-Length: 100000\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_refused_request_with_a_long_body_is_answered_at_once(extra: bytes) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(HEAD.replace(b"good", b"bad") + extra + b"\r\n")
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Connection"]) == (401, "close")


@pytest.mark.parametrize("coding", [b"br", b"compress", b"gzip, zstd", b"gzip, gzip", b"*"])
def test_content_encoding_that_is_not_served_is_415(coding: bytes) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(b"[1]", head=BATCH, extra=b"Content-Encoding: %s\r\n" % coding))
    assert [a.status for a in client.answers()] == [415]
    client.send(request(b"[1]", head=BATCH, extra=b"Content-Encoding: identity\r\n"))
    assert len(dialogue.frames()) == 1


def test_subject_of_a_station_is_checked() -> None:
    for subject in ("$JS.API.STREAM.DELETE.x", "_INBOX.x", "a..b", "a b", "", "x" * 513, "a.*"):
        with pytest.raises(ClientFault):
            _core.Station("x", "x", subject)


def test_unknown_station_without_credential_is_refused_before_its_body() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    head = HEAD.replace(b"orders", b"elsewhere").replace(b"good", b"bad")
    client.send(head + b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Connection"]) == (401, "close")
    assert dialogue.dispatched == []


def test_body_of_a_path_without_credential_is_bounded() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(b"POST /auth/authenticate HTTP/1.1\r\nHost: g\r\nContent-Length: 65537\r\n\r\n")
    assert [a.status for a in client.answers()] == [413]


@pytest.mark.parametrize("field", [b"n=%C3%A9", b"%FF=1", b"="])
def test_query_fields_of_others_may_hold_any_byte(field: bytes) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(head=HEAD.replace(b"single", b"single?subject=a&" + field)))
    (frame,) = dialogue.frames()
    assert frame.subject == b"orders.a"


def test_envelope_type_of_a_batch_is_415() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    head = BATCH.replace(b"application/json", b"application/vnd.fastgw.batch+json")
    client.send(request(b'[{"message":1}]', head=head))
    assert [a.status for a in client.answers()] == [415]
    assert dialogue.frames() == []


def test_pipelined_flood_leaves_turns_to_the_others() -> None:
    dialogue = Dialogue(pipelined_max=1000)
    flood, other = dialogue.client(), dialogue.client()
    flood.send(request(b"x") * 400)
    other.send(request(b"y"))
    payloads = [frame.payload for frame in dialogue.frames()]
    assert payloads.index(b"y") < 30
    assert payloads.count(b"x") == 400


def test_pipelined_rest_that_waits_for_its_turn_is_read_to_its_end() -> None:
    dialogue = Dialogue(pipelined_max=1000)
    client = dialogue.client()
    data = request(b"x") * 100
    client.send(data[:-3])
    assert client.transport.is_reading_paused
    assert len(dialogue.frames()) == 99
    assert not client.transport.is_reading_paused
    client.send(data[-3:])
    assert len(dialogue.frames()) == 1


def test_pipelined_client_that_left_while_it_waited_for_its_turn() -> None:
    dialogue = Dialogue(pipelined_max=1000)
    client = dialogue.client()
    client.send(request(b"x") * 100)
    client.protocol.connection_lost(None)
    assert len(dialogue.frames()) < 100
    assert dialogue.ingress.stats()["connections"] == 0


def test_half_read_request_behind_the_only_one_allowed_is_read_on() -> None:
    dialogue = Dialogue(pipelined_max=1)
    client = dialogue.client()
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    client.send(chunked + chunked[:-10])
    for number, frame in enumerate(dialogue.frames(), 1):
        dialogue.store(frame, number)
    assert [answer.status for answer in client.answers()] == [200]
    assert not client.transport.is_reading_paused
    client.send(chunked[-10:])
    assert [frame.payload for frame in dialogue.frames()] == [b"ok"]
