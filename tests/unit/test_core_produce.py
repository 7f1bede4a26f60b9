"""The way of a produced message through the core, as dialogues of bytes."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import _core
from fastgw.config_types import LimitsConfig, RateConfig
from fastgw.errors import ClientFault
from fastgw.inflate import inflate
from tests.unit.dialogue import BATCH, HEAD, Dialogue, request


def error_ack(code: int, err_code: int) -> bytes:
    """An ack that refuses the message."""
    error = {"code": code, "err_code": err_code, "description": "refused"}
    return json.dumps({"error": error}).encode()


SCHEMA = "Schema validation has failed: "
STORED = b'{"error":null,"success":true}'


def test_single_acked_answers_200_with_sequence() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(b"hello"))
    (frame,) = dialogue.frames()
    assert (frame.subject, frame.payload) == (b"orders", b"hello")
    assert client.answers() == []
    dialogue.store(frame, 7)
    (answer,) = client.answers()
    assert (answer.status, answer.body) == (200, STORED)
    assert answer.headers["Nats-Stream"] == "orders"
    assert answer.headers["Nats-Sequence"] == "7"
    assert "Date" in answer.headers
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_single_second_request_uses_the_token_cache() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request() + request())
    assert len(dialogue.frames()) == 2
    assert len(dialogue.identified) == 1
    dialogue.ingress.forget_user("ann")
    client.send(request())
    assert len(dialogue.identified) == 2


def test_token_cache_full_drops_the_oldest() -> None:
    dialogue = Dialogue()
    ingress = _core.Ingress(
        dialogue.loop,  # type: ignore[arg-type]
        LimitsConfig(),
        RateConfig(),
        tokens_max=2,
        cors_origins=(),
        identify=lambda request: dialogue.principal,
        dispatch=lambda request: None,
        consume=lambda request: None,
        inflate=inflate,
        refused=lambda request, block, message, reason: None,
        report=lambda text, error: None,
    )
    ingress.put_station(_core.Station("orders", "orders", "orders"))
    dialogue.ingress = ingress
    client = dialogue.client()
    for name in (b"a", b"b", b"c"):
        client.send(request(head=HEAD.replace(b"good", name)))
    assert ingress.stats()["tokens_cached"] == 2


def test_token_expired_asks_again() -> None:
    dialogue = Dialogue()
    dialogue.principal = _core.Principal("ann", 1, _core.PRODUCE, expires_at=1.0)
    client = dialogue.client()
    client.send(request() + request())
    assert len(dialogue.identified) == 2


def test_turn_writes_once_to_the_broker_and_once_per_client() -> None:
    dialogue = Dialogue()
    clients = [dialogue.client() for _ in range(3)]
    for client in clients:
        client.send(request() * 4)
    frames = dialogue.frames()
    assert len(frames) == 12
    assert len(dialogue.broker.write_sizes) == 1
    for number, frame in enumerate(frames):
        dialogue.store(frame, number + 1)
    for client in clients:
        assert [answer.status for answer in client.answers()] == [200] * 4
        assert len(client.transport.write_sizes) == 1


def test_pipelined_answers_come_in_request_order() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(b"1") + request(b"2") + request(b"3"))
    one, two, three = dialogue.frames()
    dialogue.store(three, 3)
    dialogue.store(two, 2)
    assert client.answers() == []
    dialogue.store(one, 1)
    assert [answer.headers["Nats-Sequence"] for answer in client.answers()] == ["1", "2", "3"]


def test_pipelined_good_then_broken_answers_200_then_400() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request() + b"BROKEN \x00\r\n\r\n")
    (frame,) = dialogue.frames()
    dialogue.store(frame, 1)
    good, bad = client.answers()
    assert (good.status, bad.status) == (200, 400)
    assert bad.headers["Connection"] == "close"
    assert client.transport.is_eof_sent
    client.send(request())
    assert dialogue.frames() == []


def test_reply_numbers_are_recycled() -> None:
    dialogue = Dialogue(publishes_in_flight_max=16)
    client = dialogue.client()
    replies = set()
    for number in range(100):
        client.send(request())
        (frame,) = dialogue.frames()
        replies.add(frame.reply)
        dialogue.store(frame, number + 1)
        client.answers()
    assert len(replies) == 1


def test_ring_full_waits_for_free_slots_in_order() -> None:
    dialogue = Dialogue(publishes_in_flight_max=16)
    client = dialogue.client()
    client.send(b"".join(request(b"%d" % i) for i in range(40)))
    frames = dialogue.frames()
    assert len(frames) == 16
    assert dialogue.ingress.stats()["waiting_bytes"] > 0
    stored = []
    while frames:
        for frame in frames:
            stored.append(frame.payload)
            dialogue.store(frame, len(stored))
        frames = dialogue.frames()
    assert stored == [b"%d" % i for i in range(40)]
    assert dialogue.ingress.stats()["waiting_bytes"] == 0
    assert len(client.answers()) == 40


def test_waiting_bytes_bound_reached_answers_503() -> None:
    dialogue = Dialogue(
        publishes_in_flight_max=16, waiting_bytes_max=1048576, batch_bytes_max=8388608
    )
    client = dialogue.client()
    client.send(request(b"x") * 16)
    dialogue.frames()
    body = b"y" * 600_000
    client.send(request(body))
    client.send(request(body))
    dialogue.run_turns()
    assert dialogue.ingress.stats()["waiting_bytes"] == len(body)
    for number, frame in enumerate(dialogue.frames()):
        dialogue.store(frame, number)
    assert dialogue.loop.ready == []


def test_ack_late_answers_504_and_is_ignored() -> None:
    dialogue = Dialogue(ack_timeout_ms=100)
    client = dialogue.client()
    client.send(request())
    (frame,) = dialogue.frames()

    async def wait() -> None:
        while dialogue.link.in_flight:
            await asyncio.sleep(0.01)
            dialogue.ingress.sweep()

    asyncio.run(asyncio.wait_for(wait(), 10))
    (answer,) = client.answers()
    assert answer.status == 504
    assert answer.headers["Error-Code"] == "ack-timeout"
    dialogue.store(frame, 1)
    assert client.answers() == []
    client.send(request())
    (again,) = dialogue.frames()
    assert again.reply != frame.reply
    dialogue.store(again, 2)
    assert [a.status for a in client.answers()] == [200]


def test_link_lost_in_flight_answers_503_unknown_and_waiting_answers_not_sent() -> None:
    dialogue = Dialogue(publishes_in_flight_max=16)
    client = dialogue.client()
    client.send(request() * 17)
    assert len(dialogue.frames()) == 16
    dialogue.link.connection_lost(None)
    answers = client.answers()
    assert [a.status for a in answers] == [503] * 17
    assert [a.headers["Error-Code"] for a in answers] == ["outcome-unknown"] * 16 + ["broker-away"]
    assert all(a.headers["Retry-After"] for a in answers)
    client.send(request())
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Error-Code"]) == (503, "broker-away")


def test_retired_link_takes_no_publish_and_closes_when_idle() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request())
    (frame,) = dialogue.frames()
    dialogue.link.retire()
    client.send(request())
    assert dialogue.frames() == []
    assert not dialogue.broker.is_closed
    dialogue.store(frame, 1)
    assert [a.status for a in client.answers()] == [200, 503]
    assert dialogue.broker.is_closed


@pytest.mark.parametrize(
    ("ack", "status", "word"),
    [
        (error_ack(400, 10071), 409, "sequence-differs"),
        (error_ack(503, 10077), 503, "stream-full"),
        (error_ack(400, 10054), 413, "message-too-large"),
        (error_ack(400, 10109), 400, "broker-refused"),
        (error_ack(500, 99999), 503, "stream-full"),
        (error_ack(429, 99998), 429, "broker-busy"),
        (b"not json", 503, "outcome-unknown"),
    ],
)
def test_ack_error_maps_to_status(ack: bytes, status: int, word: str) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request())
    (frame,) = dialogue.frames()
    dialogue.ack(frame, ack)
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Error-Code"]) == (status, word)
    assert json.loads(answer.body)["success"] is False


def test_ack_duplicate_is_told() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(extra=b"nats-msg-id: a\r\n"))
    (frame,) = dialogue.frames()
    assert (b"Nats-Msg-Id", b"a") in frame.headers
    dialogue.ack(frame, b'{"stream":"orders","seq":2,"duplicate": true}')
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Nats-Duplicate"]) == (200, "true")


def test_ack_of_another_stream_names_it() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request())
    (frame,) = dialogue.frames()
    dialogue.ack(frame, b'{"stream":"mirror","domain":"hub","seq":9}')
    (answer,) = client.answers()
    assert (answer.headers["Nats-Stream"], answer.headers["Nats-Sequence"]) == ("mirror", "9")


@pytest.mark.parametrize(("code", "status"), [(b"503", 503), (b"429 Too Many Requests", 429)])
def test_ack_status_block_maps_to_status(code: bytes, status: int) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request())
    (frame,) = dialogue.frames()
    block = b"NATS/1.0 " + code + b"\r\n\r\n"
    text = b"" if status == 503 else b'{"error":{"code":429,"err_code":10167,"description":"x"}}'
    dialogue.link.data_received(
        b"HMSG %s 1 %d %d\r\n%s%s\r\n"
        % (frame.reply, len(block), len(block) + len(text), block, text)
    )
    (answer,) = client.answers()
    assert answer.status == status


def test_broker_ops_split_at_every_byte_are_read() -> None:
    for split in range(1, 60):
        dialogue = Dialogue()
        client = dialogue.client()
        client.send(request() + request())
        one, two = dialogue.frames()
        data = b"".join(
            b'MSG %s 1  27\r\n{"stream":"orders","seq":%d}\r\n' % (frame.reply, number)
            for number, frame in ((1, one), (2, two))
        )
        data = b"PING\r\n" + data
        dialogue.link.data_received(data[:split])
        for at in range(split, len(data)):
            dialogue.link.data_received(data[at : at + 1])
        assert [a.status for a in client.answers()] == [200, 200]
        assert b"PONG\r\n" in dialogue.broker.take()


@pytest.mark.parametrize("line", [b"NONSENSE 1\r\n", b"MSG a b\r\n", b"x" * 70000])
def test_broker_garbage_drops_the_link(line: bytes) -> None:
    dialogue = Dialogue()
    dialogue.link.data_received(line)
    assert dialogue.broker.is_closed
    assert dialogue.defects


def test_client_gone_in_flight_is_harmless() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request() + request())
    one, two = dialogue.frames()
    client.protocol.connection_lost(None)
    dialogue.store(one, 1)
    dialogue.store(two, 2)
    dialogue.run_turns()
    assert client.transport.take() == b""
    assert dialogue.ingress.stats()["in_flight"] == 0


def test_slow_reader_is_written_to_when_it_resumes() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request())
    (frame,) = dialogue.frames()
    client.protocol.pause_writing()
    dialogue.store(frame, 1)
    assert client.answers() == []
    client.protocol.resume_writing()
    assert [a.status for a in client.answers()] == [200]


def test_pipelining_bound_pauses_reading() -> None:
    dialogue = Dialogue(pipelined_max=4)
    client = dialogue.client()
    client.send(request() * 4)
    assert client.transport.is_reading_paused
    for number, frame in enumerate(dialogue.frames()):
        dialogue.store(frame, number + 1)
    assert len(client.answers()) == 4
    assert not client.transport.is_reading_paused


# --- headers --------------------------------------------------------------------------------------


def test_headers_are_forwarded_in_order_but_the_private_ones() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    extra = (
        b"X-B: 2 \t\r\nCookie: secret\r\nX-API-Key: k\r\nProxy-Authorization: p\r\nx-a: 1\r\n"
        b"Nats-Rollup: all\r\nNATS-Schedule-Target: x\r\nTE: trailers\r\nKeep-Alive: 5\r\n"
        b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\ntraceparent: 00-1-2-01\r\n"
        b"Nats-Expected-Last-Sequence: 4\r\nHTTP2-Settings: AAA\r\n"
    )
    client.send(request(extra=extra))
    (frame,) = dialogue.frames()
    assert frame.headers == [
        (b"Host", b"gateway"),
        (b"X-B", b"2"),
        (b"x-a", b"1"),
        (b"traceparent", b"00-1-2-01"),
    ]


def test_headers_none_sends_plain_publish_but_keeps_the_trace() -> None:
    dialogue = Dialogue()
    dialogue.ingress.put_station(_core.Station("orders", "orders", "orders", headers="none"))
    client = dialogue.client()
    client.send(request(extra=b"X-A: 1\r\n") + request(extra=b"tracestate: a=b\r\n"))
    plain, traced = dialogue.frames()
    assert plain.headers == []
    assert traced.headers == [(b"tracestate", b"a=b")]


def test_headers_globs_pick() -> None:
    dialogue = Dialogue()
    station = _core.Station(
        "orders", "orders", "orders", headers=("X-*",), header_allow=("Nats-TTL",)
    )
    dialogue.ingress.put_station(station)
    client = dialogue.client()
    client.send(request(extra=b"X-A: 1\r\nY-A: 2\r\nnats-ttl: 10\r\n"))
    (frame,) = dialogue.frames()
    assert frame.headers == [(b"X-A", b"1"), (b"Nats-TTL", b"10")]


def test_headers_globs_pick_whatever_names_came_before() -> None:
    dialogue = Dialogue()
    dialogue.ingress.put_station(_core.Station("orders", "orders", "orders", headers=("X-*",)))
    client = dialogue.client()
    long_name = b"X-" + b"a" * 100
    for number in range(300):
        extra = b"X-%d: 1\r\nY-%d: 2\r\n%s: 3\r\n" % (number, number, long_name)
        client.send(request(extra=extra) * 2)
        frames = dialogue.frames()
        assert [frame.headers for frame in frames] == [
            [(b"X-%d" % number, b"1"), (long_name, b"3")]
        ] * 2
        for frame in frames:
            dialogue.store(frame, 1)
        client.answers()


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (b"Nats-Msg-Id: n\r\nIdempotency-Key: i\r\nmsg-id: m\r\nwebhook-id: w\r\n", b"n"),
        (b"webhook-id: w\r\nmsg-id: m\r\nIdempotency-Key: i\r\n", b"i"),
        (b"webhook-id: w\r\nmsg-id: m\r\n", b"m"),
        (b"webhook-id: w\r\n", b"w"),
    ],
)
def test_message_id_strongest_name_wins(extra: bytes, expected: bytes) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(extra=extra) + request(b"[1,2]", head=BATCH, extra=extra))
    single, first, second = dialogue.frames()
    ids = [dict(frame.headers)[b"Nats-Msg-Id"] for frame in (single, first, second)]
    assert ids == [expected, expected + b".0", expected + b".1"]


def test_message_id_too_long_is_refused() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(extra=b"Nats-Msg-Id: " + b"x" * 513 + b"\r\n"))
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Error-Code"]) == (400, "bad-header")
    assert dialogue.frames() == []


@pytest.mark.parametrize(
    ("suffix", "status"),
    [
        (b"eu.west", 0),
        (b"a.*", 400),
        (b">", 400),
        (b"a..b", 400),
        (b"a%20b", 400),
        (b"a%00", 400),
        (b"", 400),
        (b"x" * 600, 400),
    ],
)
def test_subject_suffix_is_checked(suffix: bytes, status: int) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(head=HEAD.replace(b"single", b"single?subject=" + suffix)))
    frames = dialogue.frames()
    if status:
        assert [a.status for a in client.answers()] == [status]
        assert frames == []
    else:
        assert frames[0].subject == b"orders." + suffix


def test_station_name_escaped_is_found() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(head=HEAD.replace(b"orders", b"%6frders")))
    client.send(request(head=HEAD.replace(b"/stations", b"http://gateway/stations")))
    assert len(dialogue.frames()) == 2


# --- permissions ----------------------------------------------------------------------------------


def test_principal_without_permission_gets_403() -> None:
    dialogue = Dialogue()
    for principal in (
        _core.Principal("ann", 1, _core.CONSUME),
        _core.Principal("ann", 1, _core.PRODUCE, ("eu-*",)),
    ):
        dialogue.principal = principal
        dialogue.ingress.forget_user("ann")
        client = dialogue.client()
        client.send(request())
        (answer,) = client.answers()
        assert answer.status == 403
        assert json.loads(answer.body)["success"] is False
    assert dialogue.frames() == []


def test_principal_with_a_glob_may() -> None:
    principal = _core.Principal("ann", 1, _core.PRODUCE, ("ord*",))
    assert principal.may(_core.PRODUCE, "orders")
    assert not principal.may(_core.PRODUCE, "others")
    assert not principal.may(_core.CONSUME, "orders")


def test_identity_found_off_the_loop_goes_on() -> None:
    dialogue = Dialogue()

    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[_core.Principal | None]] = []

        def identify(request: _core.Request) -> asyncio.Future[_core.Principal | None]:
            waiting.append(loop.create_future())
            return waiting[-1]

        ingress = _core.Ingress(
            dialogue.loop,  # type: ignore[arg-type]
            LimitsConfig(),
            RateConfig(),
            tokens_max=10,
            cors_origins=(),
            identify=identify,
            dispatch=lambda request: None,
            consume=lambda request: None,
            inflate=inflate,
            refused=lambda request, block, message, reason: None,
            report=lambda text, error: None,
        )
        ingress.put_station(_core.Station("orders", "orders", "orders"))
        dialogue.ingress = ingress
        link = ingress.make_link()
        link.connection_made(dialogue.broker)  # type: ignore[arg-type]
        link.go_live({})
        dialogue.link = link
        client = dialogue.client()
        client.send(request(b"one", extra=b"X-A: 1\r\n") + request(b"two") + request(b"three"))
        assert dialogue.frames() == []
        waiting[0].set_result(dialogue.principal)
        waiting[1].set_result(None)
        waiting[2].set_exception(ValueError("our bug"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (frame,) = dialogue.frames()
        assert (frame.payload, (b"X-A", b"1") in frame.headers) == (b"one", True)
        dialogue.store(frame, 1)
        return [answer.status for answer in client.answers()]

    assert asyncio.run(run()) == [200, 401, 500]


# --- batches --------------------------------------------------------------------------------------


def test_batch_elements_keep_their_own_bytes() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(b'[ {"a" : 1} ,"\xc3\xa9", null,[1, 2] ]', head=BATCH))
    frames = dialogue.frames()
    assert [f.payload for f in frames] == [b'{"a" : 1}', b'"\xc3\xa9"', b"null", b"[1, 2]"]
    for number, frame in enumerate(frames):
        dialogue.store(frame, number + 5)
    (answer,) = client.answers()
    assert (answer.status, answer.body) == (200, STORED)
    assert answer.headers["Nats-Sequence"] == "8"


def test_batch_lines_are_messages() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    head = BATCH.replace(b"application/json", b"application/x-ndjson; charset=utf-8")
    client.send(request(b'{"a":1}\r\n\n 2 \n"x"', head=head))
    assert [f.payload for f in dialogue.frames()] == [b'{"a":1}', b"2", b'"x"']


def test_batch_empty_is_stored() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(b"[]", head=BATCH))
    (answer,) = client.answers()
    assert (answer.status, answer.body) == (200, STORED)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1,]",
        b"[1",
        b"[1]x",
        b'["\xff"]',
        b"[01]",
        b'["\n"]',
        b"[" * 600 + b"]" * 600,
        b"nul",
    ],
)
def test_batch_broken_publishes_nothing(body: bytes) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(body, head=BATCH))
    assert dialogue.frames() == []
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Error-Code"]) == (400, "bad-json")
    assert "byte" in json.loads(answer.body)["error"]


def test_batch_broken_line_publishes_nothing() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    head = BATCH.replace(b"application/json", b"application/jsonl")
    client.send(request(b"1\n2 3\n", head=head))
    assert dialogue.frames() == []
    assert [a.status for a in client.answers()] == [400]


def test_batch_too_many_is_413() -> None:
    dialogue = Dialogue(batch_messages_max=3)
    client = dialogue.client()
    client.send(request(b"[1,2,3,4]", head=BATCH))
    assert [a.status for a in client.answers()] == [413]
    assert dialogue.frames() == []


def test_batch_partly_refused_by_schema_answers_400_in_order() -> None:
    dialogue = Dialogue()
    station = _core.Station(
        "orders",
        "orders",
        "orders",
        check=lambda message, kind: None if message.isdigit() else f"got {message.decode()}",
    )
    dialogue.ingress.put_station(station)
    client = dialogue.client()
    client.send(request(b'[1,"a",2,"b"]', head=BATCH.replace(b"batch", b"batch?results=true")))
    frames = dialogue.frames()
    assert [f.payload for f in frames] == [b"1", b"2"]
    dialogue.store(frames[0], 1)
    dialogue.store(frames[1], 2)
    (answer,) = client.answers()
    assert answer.status == 400
    assert json.loads(answer.body) == {
        "errors": [
            SCHEMA + 'got "a"',
            SCHEMA + 'got "b"',
        ],
        "fail": 2,
        "sent": 2,
        "success": False,
        "results": [
            {"seq": 1},
            {"error": SCHEMA + 'got "a"'},
            {"seq": 2},
            {"error": SCHEMA + 'got "b"'},
        ],
    }


def test_batch_all_refused_publishes_nothing() -> None:
    dialogue = Dialogue()
    dialogue.ingress.put_station(
        _core.Station("orders", "orders", "orders", check=lambda message, kind: "no")
    )
    client = dialogue.client()
    client.send(request(b"[1,2]", head=BATCH) + request(b"1"))
    batch, single = client.answers()
    assert (batch.status, single.status) == (400, 400)
    assert single.headers["Error-Code"] == "schema-refused"
    assert dialogue.frames() == []


def test_batch_with_broker_failure_answers_503() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(b"[1,2]", head=BATCH))
    one, two = dialogue.frames()
    dialogue.store(one, 1)
    dialogue.ack(two, b'{"error":{"code":503,"err_code":10077,"description":"full"}}')
    (answer,) = client.answers()
    assert answer.status == 503
    body = json.loads(answer.body)
    assert (body["fail"], body["sent"], body["success"]) == (1, 1, False)


def test_batch_larger_than_the_ring_is_stored_whole() -> None:
    dialogue = Dialogue(publishes_in_flight_max=16)
    client = dialogue.client()
    client.send(request(b"[" + b",".join(b"%d" % i for i in range(100)) + b"]", head=BATCH))
    payloads = []
    while frames := dialogue.frames():
        for frame in frames:
            payloads.append(frame.payload)
            dialogue.store(frame, len(payloads))
    assert payloads == [b"%d" % i for i in range(100)]
    assert [a.headers["Nats-Sequence"] for a in client.answers()] == ["100"]


def test_message_above_the_brokers_bound_is_413_and_not_sent() -> None:
    dialogue = Dialogue(body_bytes_max=2 * 1048576)
    client = dialogue.client()
    client.send(request(b"x" * 1048576))
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Error-Code"]) == (413, "message-too-large")
    assert dialogue.frames() == []


@pytest.mark.parametrize("option", [b"wait=false", b"atomic=true"])
def test_option_not_allowed_is_400(option: bytes) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(b"[1]", head=BATCH.replace(b"batch", b"batch?" + option)))
    assert [a.status for a in client.answers()] == [400]
    assert dialogue.frames() == []


def reference_split(body: bytes) -> list[object] | None:
    """The values of a JSON array by the standard library, or None when it is no array."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        value = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=6), st.booleans(), st.sampled_from([None, 1]))
@settings(max_examples=300)
def test_split_agrees_with_the_standard_library(
    values: list[object], ascii_only: bool, indent: int | None
) -> None:
    body = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode()
    assert [json.loads(part) for part in _core.split_batch(body)] == values
    lines = "\n".join(json.dumps(v, ensure_ascii=ascii_only) for v in values).encode()
    assert [json.loads(part) for part in _core.split_batch(lines, True)] == values


@given(
    st.lists(json_values, max_size=3),
    st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=2)), min_size=1, max_size=3),
)
@settings(max_examples=500)
def test_split_of_damaged_arrays_agrees_with_the_standard_library(
    values: list[object], wounds: list[tuple[int, bytes]]
) -> None:
    body = bytearray(json.dumps(values, ensure_ascii=False).encode())
    for place, splinter in wounds:
        at = place % max(1, len(body))
        body[at : at + 1] = splinter
    expected = reference_split(bytes(body))
    if expected is None:
        with pytest.raises(ClientFault):
            _core.split_batch(bytes(body))
    else:
        assert [json.loads(part) for part in _core.split_batch(bytes(body))] == expected
