"""Consume batch: what is handed out, when it is acknowledged, and what a lost client gets again."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.gateway import ask_broker, wait_until
from tests.wire.raw_http import build

if TYPE_CHECKING:
    from tests.wire.gateway import Gateway
    from tests.wire.raw_http import Response


def ask(gateway: Gateway, station: str, body: bytes | dict[str, object]) -> Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return gateway.ask(f"/stations/{station}/consume/batch", data, headers=gateway.auth())


def datas(messages: list[dict[str, Any]]) -> list[str]:
    return [message["message"] for message in messages]


def test_consume_gives_messages_and_headers_once(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b'{"a": 1}', {"X-Mine": "yes", "Content-Type": "application/json"})
    gateway.produce(station, b"two")
    response = ask(gateway, station, {"consumer_name": "c", "batch_max_wait_time_ms": 2000})
    assert response.status == 200
    assert response.header("content-type") == "application/json"
    first, second = response.json()
    assert list(first) == ["message", "headers"]
    assert first["message"] == '{"a": 1}'
    assert first["headers"]["X-Mine"] == "yes"
    assert first["headers"]["Content-Type"] == "application/json"
    assert second["message"] == "two"
    assert gateway.consume(station, batch_max_wait_time_ms=100) == []


TEXTS = [
    "",
    'quotes " and \\ and /',
    "\x00\x01\x1f\x7f",
    "\r\n\t\b\f",
    "é€😀\u2028\u2029",
    "</script>",
    "\ufffd\ufeff",
    "0" * 70_000,
]


def test_consume_text_survives_json(gateway: Gateway, station: str) -> None:
    for text in TEXTS:
        gateway.produce(station, text.encode())
    messages = gateway.consume(station, batch_size=50)
    assert datas(messages) == TEXTS
    assert not any("encoding" in message for message in messages)


BINARIES = [
    b"\xff",
    b"\x80abc",
    b"\xc3",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"valid then \xfe",
    bytes(range(256)),
    b"\xff" * 70_001,
]


def test_consume_other_bytes_come_as_base64(gateway: Gateway, station: str) -> None:
    for data in BINARIES:
        gateway.produce(station, data)
    messages = gateway.consume(station, batch_size=50)
    assert [base64.b64decode(message["message"], validate=True) for message in messages] == BINARIES
    assert {message["encoding"] for message in messages} == {"base64"}


def test_consume_header_values_are_json_safe(gateway: Gateway, station: str) -> None:
    odd = {"X-Quote": 'a "b" \\c', "X-Latin": "caf\xe9", "X-Tab": "a\tb"}
    gateway.produce(station, b"x", odd)
    (message,) = gateway.consume(station)
    assert message["headers"]["X-Quote"] == odd["X-Quote"]
    assert message["headers"]["X-Tab"] == odd["X-Tab"]
    assert "X-Latin" in message["headers"]


def test_consume_batch_size_bounds_each_answer(gateway: Gateway, station: str) -> None:
    for n in range(25):
        gateway.produce(station, b"%d" % n)
    assert datas(gateway.consume(station)) == [str(n) for n in range(10)]
    assert datas(gateway.consume(station, batch_size=12)) == [str(n) for n in range(10, 22)]
    assert datas(gateway.consume(station, batch_size=1000)) == ["22", "23", "24"]


def test_consume_answer_is_bounded_in_bytes(gateway: Gateway, station: str) -> None:
    """Twelve messages of 900 KB exceed the 8 MiB of one answer: the rest comes with the next."""
    payload = "x" * 900_000
    for n in range(12):
        gateway.produce(station, f"{n} {payload}".encode())
    numbers: list[str] = []
    answers = 0
    while len(numbers) < 12:
        messages = gateway.consume(station, batch_size=100)
        assert 1 <= len(messages) <= 10
        assert all(message["message"].endswith(payload) for message in messages)
        numbers += [message["message"].split(" ", 1)[0] for message in messages]
        answers += 1
    assert numbers == [str(n) for n in range(12)]
    assert answers >= 2


def test_consume_empty_waits_for_the_deadline(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"x")
    assert len(gateway.consume(station)) == 1
    start = time.monotonic()
    response = ask(gateway, station, {"consumer_name": "c", "batch_max_wait_time_ms": 400})
    took_s = time.monotonic() - start
    assert (response.status, response.body) == (200, b"[]")
    assert 0.35 <= took_s < 3


def test_consume_wakes_for_the_first_message(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"x")
    assert len(gateway.consume(station)) == 1
    body = json.dumps({"consumer_name": "c", "batch_max_wait_time_ms": 20_000}).encode()
    with gateway.wire() as wire:
        request = build(f"/stations/{station}/consume/batch", body, headers=gateway.auth())
        wire.send(request)
        start = time.monotonic()
        gateway.produce(station, b"late")
        response = wire.expect()
    assert datas(response.json()) == ["late"]
    assert time.monotonic() - start < 5


def test_consume_wait_zero_answers_at_once(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"x")
    body: dict[str, object] = {"consumer_name": "c", "batch_max_wait_time_ms": 0}
    messages = wait_until(lambda: ask(gateway, station, body).json(), 10, "the message")
    assert datas(messages) == ["x"]
    assert ask(gateway, station, body).body == b"[]"


def test_consume_groups_each_get_everything(gateway: Gateway, station: str) -> None:
    for n in range(3):
        gateway.produce(station, b"%d" % n)
    for group in ({}, {"consumer_group": "a"}, {"consumer_group": "b.c-d_E"}):
        assert datas(gateway.consume(station, **group)) == ["0", "1", "2"]
    assert gateway.consume(station, consumer_group="a", batch_max_wait_time_ms=50) == []
    # WHY: an empty group is a missing one to the published snippets.
    assert gateway.consume(station, consumer_group="", batch_max_wait_time_ms=50) == []


def test_consume_members_of_a_group_share(gateway: Gateway, station: str) -> None:
    for n in range(20):
        gateway.produce(station, b"%d" % n)
    first = gateway.consume(station, consumer_name="one", batch_size=10)
    second = gateway.consume(station, consumer_name="two", batch_size=10)
    assert sorted(map(int, datas(first + second))) == list(range(20))


def test_consume_two_members_wait_side_by_side(gateway: Gateway, station: str) -> None:
    """Each waits for its own deadline, and each gets one of the two messages that come."""
    gateway.produce(station, b"x")
    assert datas(gateway.consume(station)) == ["x"]
    wish = {"consumer_name": "c", "batch_size": 1, "batch_max_wait_time_ms": 10_000}
    body = json.dumps(wish).encode()
    request = build(f"/stations/{station}/consume/batch", body, headers=gateway.auth())
    with gateway.wire() as one, gateway.wire() as two:
        one.send(request)
        two.send(request)
        gateway.produce(station, b"1")
        gateway.produce(station, b"2")
        assert sorted(datas(one.expect().json()) + datas(two.expect().json())) == ["1", "2"]


def test_consume_several_members_wait_until_the_deadline(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"x")
    assert datas(gateway.consume(station)) == ["x"]
    body = json.dumps({"consumer_name": "c", "batch_max_wait_time_ms": 700}).encode()
    request = build(f"/stations/{station}/consume/batch", body, headers=gateway.auth())
    wires = [gateway.wire() for _ in range(4)]
    try:
        start = time.monotonic()
        for wire in wires:
            wire.send(request)
        for wire in wires:
            assert wire.expect().body == b"[]"
            assert time.monotonic() - start > 0.6, "an empty answer before the deadline"
    finally:
        for wire in wires:
            wire.close()


def test_consume_metadata_adds_four_fields(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"x", {"Fastgw-Subject": "part"})
    (message,) = gateway.consume(station, metadata=True)
    assert {"message", "headers", "seq", "timestamp", "deliveries", "subject"} == set(message)
    assert (message["seq"], message["deliveries"]) == (1, 1)
    assert message["subject"] == f"{station}.part"
    assert message["timestamp"]


def test_consume_consumer_name_is_required(gateway: Gateway, station: str) -> None:
    for body in (b"{}", b'{"consumer_name":""}', b'{"consumer_name":null}'):
        response = ask(gateway, station, body)
        assert response.status == 400
        assert response.body == b'{"error":"Consumer name is required","success":false}'


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000,
        b'{"consumer_name":5}', b'{"consumer_name":"c","batch_size":"10"}',
        b'{"consumer_name":"c","batch_size":1.5}', b'{"consumer_name":"c","metadata":1}',
        b'{"consumer_name":"c","batch_max_wait_time_ms":true}',
        b'{"consumer_name":"c","consumer_group":[]}', b'{"consumer_name":"c","ack":{}}',
    ],
)  # fmt: skip
def test_consume_bad_body_is_400_to_the_byte(gateway: Gateway, body: bytes) -> None:
    response = ask(gateway, "consume-bad", body)
    assert response.status == 400
    assert response.body == b'{"error":"Invalid request body","success":false}'


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -1}, "batch_size"),
        ({"batch_size": 1001}, "1000"),
        ({"batch_size": 10**30}, "batch_size"),
        ({"batch_max_wait_time_ms": -1}, "batch_max_wait_time_ms"),
        ({"ack": "explicit"}, "ack"),
        ({"ack": ""}, "ack"),
        ({"consumer_group": "a b"}, "consumer_group"),
        ({"consumer_group": "*"}, "consumer_group"),
        ({"consumer_group": "a>"}, "consumer_group"),
        ({"consumer_group": ".a"}, "consumer_group"),
        ({"consumer_group": "a\r\nPUB x 0"}, "consumer_group"),
        ({"consumer_group": "\0"}, "consumer_group"),
        ({"consumer_group": "g" * 129}, "consumer_group"),
        ({"consumer_group": "é"}, "consumer_group"),
    ],
)
def test_consume_out_of_bounds_is_400_and_named(
    gateway: Gateway, fields: dict[str, object], named: str
) -> None:
    response = ask(gateway, "consume-bad", {"consumer_name": "c"} | fields)
    assert response.status == 400
    assert list(response.json()) == ["error", "success"]
    assert named in response.json()["error"]
    assert len(response.body) < 300


def test_consume_ack_auto_is_the_default(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"x")
    assert datas(gateway.consume(station, ack="auto")) == ["x"]
    assert gateway.consume(station, batch_max_wait_time_ms=50) == []


def test_consume_client_that_left_gets_them_redelivered(gateway: Gateway, station: str) -> None:
    """A client that goes away while it waits must not swallow what comes then."""
    gateway.produce(station, b"before")
    assert datas(gateway.consume(station)) == ["before"]
    body = json.dumps({"consumer_name": "c", "batch_max_wait_time_ms": 20_000}).encode()
    request = build(f"/stations/{station}/consume/batch", body, headers=gateway.auth())
    with gateway.wire() as wire:
        wire.send(request + build("/", None, method="GET"))
        wire.reset()
    gateway.produce(station, b"after")

    def again() -> list[str]:
        return datas(gateway.consume(station, batch_max_wait_time_ms=1000))

    # LIMIT: the group's ack_wait is 30 s; a gateway that hands them back at once is quicker.
    assert wait_until(again, 40, "the redelivery") == ["after"]


def test_consume_acks_survive_to_the_next_request(gateway: Gateway, station: str) -> None:
    """The acknowledgements reach the broker: none is pending after the answers."""
    body = b"[" + b",".join(b"%d" % n for n in range(300)) + b"]"
    headers = gateway.auth(Content_Type="application/json")
    assert gateway.ask(f"/stations/{station}/produce/batch", body, headers=headers).status == 200
    assert len(gateway.consume(station, batch_size=300)) == 300
    wait_until(lambda: pending(gateway, station) == (0, 0), 10, "no ack pending")


def pending(gateway: Gateway, station: str) -> tuple[int, int]:
    """How many messages of the default group wait for an ack, and for delivery."""
    info = ask_broker(gateway, f"CONSUMER.INFO.{station}.rest-gateway", {})
    return info["num_ack_pending"], info["num_pending"]


def test_consume_group_removed_on_the_broker_comes_back(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"x")
    assert datas(gateway.consume(station)) == ["x"]
    ask_broker(gateway, f"CONSUMER.DELETE.{station}.rest-gateway", {})
    body: dict[str, object] = {"consumer_name": "c", "batch_max_wait_time_ms": 500}

    def messages() -> list[dict[str, Any]]:
        response = ask(gateway, station, body)
        assert response.status in (200, 503), response
        return list(response.json()) if response.status == 200 else []

    assert datas(wait_until(messages, 15, "the new consumer")) == ["x"]


def test_consume_unknown_station_is_made_or_refused(gateway: Gateway, station: str) -> None:
    response = ask(gateway, station, {"consumer_name": "c", "batch_max_wait_time_ms": 50})
    assert response.status in (200, 404)
    assert response.body == b"[]" or response.json()["success"] is False


def test_consume_pipelined_with_produce_keeps_order(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"0")
    assert datas(gateway.consume(station)) == ["0"]
    body = json.dumps({"consumer_name": "c", "batch_max_wait_time_ms": 10_000}).encode()
    consume = build(f"/stations/{station}/consume/batch", body, headers=gateway.auth())
    produce = build(f"/stations/{station}/produce/single", b"1", headers=gateway.auth())
    responses = gateway.exchange(consume + produce)
    assert [response.status for response in responses] == [200, 200]
    assert datas(responses[0].json()) == ["1"]
    assert responses[1].header("nats-sequence") == "2"
