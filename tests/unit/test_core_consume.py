"""Messages on their way out of the core: pulls, JSON from broker bytes, acks, as dialogues."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.dialogue import HEAD, Client, Dialogue, Frame, request

CONSUME = HEAD.replace(b"produce/single", b"consume/batch")
ACK = b"$JS.ACK.orders.rest-gateway.1.%d.%d.1700000000123456789.0"


class Consumer:
    """A dialogue with one consume request whose pull is running."""

    def __init__(
        self, batch: int = 10, wait_ms: int = 500, *, metadata: bool = False, **limits: Any
    ) -> None:
        self.dialogue = Dialogue(**limits)
        self.client: Client = self.dialogue.client()
        self.missing: list[int] = []
        self.batch, self.wait_ms, self.metadata = batch, wait_ms, metadata
        self.pull()

    def pull(self) -> None:
        self.client.send(request(b"{}", head=CONSUME))
        self.dialogue.ingress.pull(
            self.dialogue.consumed[-1],
            "orders",
            "rest-gateway",
            self.batch,
            self.wait_ms,
            self.metadata,
            lambda: self.missing.append(1),
        )
        (self.demand,) = self.dialogue.frames()
        self.sid = int(self.demand.reply.rsplit(b".", 1)[1])

    def deliver(
        self, number: int, payload: bytes, block: bytes = b"", subject: bytes = b"orders"
    ) -> None:
        reply = ACK % (number, number)
        if block:
            line = b"HMSG %s %d %s %d %d\r\n" % (
                subject, self.sid, reply, len(block), len(block) + len(payload),
            )  # fmt: skip
        else:
            line = b"MSG %s %d %s %d\r\n" % (subject, self.sid, reply, len(payload))
        self.dialogue.link.data_received(line + block + payload + b"\r\n")

    def status(self, text: bytes) -> None:
        block = b"NATS/1.0 " + text + b"\r\n\r\n"
        self.dialogue.link.data_received(
            b"HMSG %s %d %d %d\r\n%s\r\n"
            % (self.demand.reply, self.sid, len(block), len(block), block)
        )

    def messages(self) -> list[dict[str, Any]]:
        (answer,) = self.client.answers()
        assert answer.status == 200
        found: list[dict[str, Any]] = json.loads(answer.body)
        return found

    def acks(self) -> list[Frame]:
        return self.dialogue.frames()


def test_pull_asks_without_waiting_queue() -> None:
    consumer = Consumer(batch=25, wait_ms=700)
    assert consumer.demand.subject == b"$JS.API.CONSUMER.MSG.NEXT.orders.rest-gateway"
    demand = json.loads(consumer.demand.payload)
    assert demand["batch"] == 25
    assert demand["no_wait"] is True
    assert demand["expires"] == 700_000_000
    assert demand["max_bytes"] >= 2 * 1048576


def test_pull_answers_with_what_came_and_acknowledges_behind_the_answer() -> None:
    consumer = Consumer()
    consumer.deliver(1, b"one", b"NATS/1.0\r\nX-A: 1\r\n\r\n")
    consumer.deliver(2, b'say "hi"\n\\ \x01')
    assert consumer.acks() == []
    consumer.status(b"404 No Messages")
    assert consumer.messages() == [
        {"message": "one", "headers": {"X-A": "1"}},
        {"message": 'say "hi"\n\\ \x01', "headers": {}},
    ]
    acks = consumer.acks()
    assert [(frame.subject, frame.payload) for frame in acks] == [
        (ACK % (1, 1), b"+ACK"),
        (ACK % (2, 2), b"+ACK"),
    ]


def test_pull_full_batch_answers_without_a_status() -> None:
    consumer = Consumer(batch=2)
    consumer.deliver(1, b"a")
    consumer.deliver(2, b"b")
    assert [m["message"] for m in consumer.messages()] == ["a", "b"]


@pytest.mark.parametrize(
    "status", [b"404 No Messages", b"408 Request Timeout", b"409 Server Shutdown"]
)
def test_pull_empty_answers_empty_list(status: bytes) -> None:
    consumer = Consumer()
    consumer.status(b"100 Idle Heartbeat")
    consumer.status(status)
    assert consumer.messages() == []
    assert consumer.acks() == []


@pytest.mark.parametrize("status", [b"503", b"409 Consumer Deleted"])
def test_pull_of_a_missing_consumer_asks_to_make_it(status: bytes) -> None:
    consumer = Consumer()
    consumer.status(status)
    assert consumer.missing == [1]
    assert consumer.client.answers() == []


def test_pull_refused_answers_503() -> None:
    consumer = Consumer()
    consumer.status(b"423 Nats-Pin-Id mismatch")
    (answer,) = consumer.client.answers()
    assert answer.status == 503


def test_pull_subscription_is_used_again() -> None:
    consumer = Consumer()
    first = consumer.sid
    consumer.status(b"404 No Messages")
    consumer.messages()
    consumer.pull()
    assert consumer.sid == first
    consumer.status(b"404 No Messages")
    assert consumer.messages() == []


def test_pull_without_end_answers_after_its_deadline_and_leaves_the_subscription() -> None:
    consumer = Consumer(wait_ms=0)
    consumer.deliver(1, b"one")

    async def wait() -> None:
        while not consumer.dialogue.broker.written.startswith(b"UNSUB"):
            await asyncio.sleep(0.02)
            consumer.dialogue.ingress.sweep()
            consumer.dialogue.run_turns()

    asyncio.run(asyncio.wait_for(wait(), 10))
    assert [m["message"] for m in consumer.messages()] == ["one"]
    assert [frame.payload for frame in consumer.acks()] == [b"+ACK"]
    consumer.deliver(2, b"late")
    consumer.pull()
    assert consumer.sid > 2


def test_pull_of_a_client_that_left_gives_messages_back() -> None:
    consumer = Consumer()
    consumer.deliver(1, b"one")
    consumer.client.protocol.connection_lost(None)
    consumer.deliver(2, b"two")
    consumer.status(b"404 No Messages")
    assert [frame.payload for frame in consumer.acks()] == [b"-NAK", b"-NAK"]


def test_pull_answered_but_not_written_gives_messages_back() -> None:
    consumer = Consumer(batch=1)
    consumer.client.protocol.pause_writing()
    consumer.deliver(1, b"one")
    consumer.dialogue.run_turns()
    consumer.client.protocol.connection_lost(None)
    assert [frame.payload for frame in consumer.acks()] == [b"-NAK"]


def test_pull_of_a_lost_link_answers_503() -> None:
    consumer = Consumer()
    consumer.dialogue.link.connection_lost(None)
    (answer,) = consumer.client.answers()
    assert (answer.status, answer.headers["Error-Code"]) == (503, "broker-away")
    consumer.dialogue.ingress.pull(
        consumer.dialogue.consumed[-1], "orders", "d", 1, 1, False, lambda: None
    )
    consumer.client.send(request(b"{}", head=CONSUME))
    consumer.dialogue.ingress.pull(
        consumer.dialogue.consumed[-1], "orders", "d", 1, 1, False, lambda: None
    )
    assert [a.status for a in consumer.client.answers()] == [503]


def test_pull_without_permission_is_403() -> None:
    dialogue = Dialogue()
    dialogue.principal = type(dialogue.principal)("ann", 1, 1)
    client = dialogue.client()
    client.send(request(b"{}", head=CONSUME))
    assert [a.status for a in client.answers()] == [403]
    assert dialogue.consumed == []


def test_pull_bound_of_waiting_consumers_answers_503() -> None:
    consumer = Consumer()
    statuses = []
    for _ in range(512):
        client = consumer.dialogue.client()
        client.send(request(b"{}", head=CONSUME))
        consumer.dialogue.ingress.pull(
            consumer.dialogue.consumed[-1], "orders", "d", 1, 60000, False, lambda: None
        )
        statuses += [a.status for a in client.answers()]
    assert statuses == [503]


def test_message_not_utf8_is_base64() -> None:
    consumer = Consumer(batch=1)
    consumer.deliver(1, b"\xff\x00\x01")
    (message,) = consumer.messages()
    assert message["encoding"] == "base64"
    assert base64.b64decode(message["message"]) == b"\xff\x00\x01"


def test_headers_repeated_are_joined_and_latin1_is_read() -> None:
    consumer = Consumer(batch=1)
    block = b"NATS/1.0\r\nA: 1\r\nB:  two\r\nA: 3\r\nC:\r\nno colon\r\nD: caf\xe9\r\nA: 4\r\n\r\n"
    consumer.deliver(1, b"", block)
    (message,) = consumer.messages()
    assert message == {
        "message": "",
        "headers": {"A": "1, 3, 4", "B": "two", "C": "", "D": "caf\xe9"},
    }


def test_metadata_tells_where_the_message_stands() -> None:
    consumer = Consumer(batch=2, metadata=True)
    consumer.deliver(7, b"x", subject=b"orders.eu")
    reply = b"$JS.ACK.hub.Zx9.orders.rest-gateway.3.8.9.1700000000000000001.0.rnd"
    consumer.dialogue.link.data_received(b"MSG orders %d %s 1\r\ny\r\n" % (consumer.sid, reply))
    first, second = consumer.messages()
    assert first["seq"] == 7
    assert first["timestamp"] == "2023-11-14T22:13:20.123456789Z"
    assert first["deliveries"] == 1
    assert first["subject"] == "orders.eu"
    assert (second["seq"], second["deliveries"]) == (8, 3)
    assert second["timestamp"].endswith("20.000000001Z")


@given(
    st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore"))
)
@settings(max_examples=300)
def test_message_text_survives_the_json(payload: bytes) -> None:
    consumer = Consumer(batch=1)
    consumer.deliver(1, payload)
    (message,) = consumer.messages()
    if message.get("encoding") == "base64":
        assert base64.b64decode(message["message"]) == payload
        with pytest.raises(UnicodeDecodeError):
            payload.decode()
    else:
        assert message["message"].encode() == payload


def test_headers_of_a_long_block_are_joined_alike() -> None:
    consumer = Consumer(batch=1)
    lines = b"".join(b"A%d: x\r\na: %d\r\n" % (number, number) for number in range(60_000))
    consumer.deliver(1, b"", b"NATS/1.0\r\n" + lines + b"\r\n")
    (message,) = consumer.messages()
    assert len(message["headers"]) == 60_001
    assert message["headers"]["a"].startswith("0, 1, 2, ")
    assert message["headers"]["A59999"] == "x"


def test_delivery_of_another_shape_is_delivered_without_metadata() -> None:
    consumer = Consumer(batch=3, metadata=True)
    for reply in (b"x", b"$JS.ACK.o.g.a.b.c.d.e", b"$JS.ACK.o.g.1.2.3.99999999999999999999999.0"):
        consumer.dialogue.link.data_received(b"MSG o %d %s 1\r\na\r\n" % (consumer.sid, reply))
    assert consumer.messages() == [{"message": "a", "headers": {}, "subject": "o"}] * 3


def test_right_that_ends_ends_the_wait_and_gives_back_what_came() -> None:
    consumer = Consumer(batch=3)
    other = Consumer(batch=3)
    consumer.deliver(1, b"a")
    consumer.dialogue.ingress.forget_user("somebody else")
    assert consumer.client.answers() == []
    consumer.dialogue.ingress.forget_user("ann")
    (answer,) = consumer.client.answers()
    assert (answer.status, answer.body) == (200, b"[]")
    assert [frame.payload for frame in consumer.acks()] == [b"-NAK"]
    other.dialogue.ingress.forget_everyone()
    assert other.messages() == []
    consumer.deliver(2, b"late")
    assert consumer.client.answers() == []


@pytest.mark.parametrize("is_clustered", [False, True])
def test_pull_inbox_is_used_again_with_a_single_server_only(is_clustered: bool) -> None:
    consumer = Consumer(batch=1)
    if is_clustered:
        consumer.dialogue.link.go_live({"cluster": "three"})
    first = consumer.demand.reply
    consumer.deliver(1, b"a")
    assert len(consumer.messages()) == 1
    consumer.dialogue.run_turns()
    assert (b"UNSUB " in consumer.dialogue.broker.written) == is_clustered
    consumer.dialogue.broker.take()
    consumer.pull()
    assert (consumer.demand.reply == first) == (not is_clustered)
