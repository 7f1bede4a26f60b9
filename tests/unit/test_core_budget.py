"""What waits in memory has bounds: bodies half read, publishes in flight, answers nobody reads."""

from __future__ import annotations

import time

from tests.unit.dialogue import HEAD, Client, Dialogue, request
from tests.unit.test_core_consume import CONSUME, Consumer

BOUND = 65536


def begin(dialogue: Dialogue, sent: int, size: int) -> Client:
    """A client that has sent `sent` bytes of a body of `size`."""
    client = dialogue.client()
    client.send(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"x" * sent)
    return client


def test_body_in_one_read_is_never_counted() -> None:
    dialogue = Dialogue(waiting_bytes_max=BOUND)
    client = dialogue.client()
    client.send(request(b"x" * 60))
    assert dialogue.ingress.stats()["waiting_bytes"] == 0
    (frame,) = dialogue.frames()
    dialogue.store(frame, 1)
    assert [answer.status for answer in client.answers()] == [200]


def test_body_half_read_counts_until_it_is_sent() -> None:
    dialogue = Dialogue(waiting_bytes_max=BOUND)
    client = begin(dialogue, 1000, 1500)
    assert dialogue.ingress.stats()["waiting_bytes"] == 1000
    client.send(b"x" * 200)
    assert dialogue.ingress.stats()["waiting_bytes"] == 1200
    client.send(b"x" * 300)
    (frame,) = dialogue.frames()
    assert frame.payload == b"x" * 1500
    assert dialogue.ingress.stats()["waiting_bytes"] == 0


def test_body_half_read_counts_until_the_client_has_left() -> None:
    dialogue = Dialogue(waiting_bytes_max=BOUND)
    client = begin(dialogue, 1000, 1500)
    client.protocol.connection_lost(None)
    assert dialogue.ingress.stats()["waiting_bytes"] == 0


def test_body_refused_while_half_read_counts_no_more() -> None:
    dialogue = Dialogue(waiting_bytes_max=BOUND, body_bytes_max=2000)
    client = dialogue.client()
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n")
    assert dialogue.ingress.stats()["waiting_bytes"] == 1000
    client.send(b"5dc\r\n" + b"x" * 1500)
    assert [answer.status for answer in client.answers()] == [413]
    assert dialogue.ingress.stats()["waiting_bytes"] == 0


def test_body_at_the_bound_is_read_no_further_until_there_is_room() -> None:
    dialogue = Dialogue(waiting_bytes_max=BOUND)
    first = begin(dialogue, 60_000, 100_000)
    second = begin(dialogue, 10_000, 20_000)
    assert not first.transport.is_reading_paused
    assert second.transport.is_reading_paused
    first.protocol.connection_lost(None)
    dialogue.ingress.sweep()
    assert not second.transport.is_reading_paused
    second.send(b"x" * 10_000)
    (frame,) = dialogue.frames()
    assert frame.payload == b"x" * 20_000
    assert dialogue.ingress.stats()["waiting_bytes"] == 0


def test_body_that_waits_too_long_for_room_is_503() -> None:
    dialogue = Dialogue(waiting_bytes_max=BOUND, waiting_ms_max=1)
    first = begin(dialogue, 60_000, 100_000)
    second = begin(dialogue, 10_000, 20_000)
    until = time.monotonic() + 5
    answers = second.answers()
    while not answers and time.monotonic() < until:
        dialogue.ingress.sweep()
        answers = second.answers()
    (answer,) = answers
    assert answer.status == 503
    assert answer.headers["Error-Code"] == "overloaded"
    assert answer.headers["Connection"] == "close"
    assert f"{BOUND} bytes" in answer.json()["error"]
    assert dialogue.ingress.stats()["waiting_bytes"] == 60_000
    first.protocol.connection_lost(None)
    assert dialogue.ingress.stats()["waiting_bytes"] == 0


def test_bodies_at_twice_the_bound_are_503_at_once() -> None:
    dialogue = Dialogue(waiting_bytes_max=BOUND)
    clients = [begin(dialogue, sent, 100_000) for sent in (60_000, 75_000)]
    assert [len(client.answers()) for client in clients] == [0, 1]
    assert dialogue.ingress.stats()["waiting_bytes"] == 60_000


def test_paused_body_goes_on_in_the_order_of_pausing() -> None:
    dialogue = Dialogue(waiting_bytes_max=BOUND)
    full = begin(dialogue, 60_000, 100_000)
    waiting = [begin(dialogue, 6_000 + number, 20_000) for number in range(2)]
    assert [client.transport.is_reading_paused for client in waiting] == [True, True]
    full.protocol.connection_lost(None)
    dialogue.run_turns()
    dialogue.ingress.sweep()
    # One read may bring more than the bound, so that one goes first.
    assert [client.transport.is_reading_paused for client in waiting] == [False, True]
    dialogue.ingress.sweep()
    assert [client.transport.is_reading_paused for client in waiting] == [False, False]


def test_publishes_in_flight_are_bounded_in_bytes() -> None:
    dialogue = Dialogue(publishes_in_flight_bytes_max=BOUND)
    clients = [dialogue.client() for _ in range(4)]
    for client in clients:
        client.send(request(b"x" * 30_000))
    frames = dialogue.frames()
    assert len(frames) == 3
    dialogue.store(frames[0], 1)
    assert len(dialogue.frames()) == 1
    assert dialogue.frames() == []


def test_answers_nobody_reads_end_a_consume_with_what_it_has() -> None:
    consumer = Consumer(batch=10, unread_bytes_max=BOUND)
    consumer.deliver(1, b"x" * 40_000)
    assert consumer.client.answers() == []
    consumer.deliver(2, b"x" * 40_000)
    (answer,) = consumer.client.answers()
    assert answer.status == 200
    assert len(answer.json()) == 2
    assert consumer.dialogue.ingress.stats()["unread_bytes"] == 0


def test_answers_nobody_reads_refuse_the_next_consume() -> None:
    consumer = Consumer(batch=1, unread_bytes_max=BOUND)
    consumer.client.protocol.pause_writing()
    consumer.deliver(1, b"x" * 70_000)
    assert consumer.dialogue.ingress.stats()["unread_bytes"] > BOUND
    other = consumer.dialogue.client()
    other.send(request(b"{}", head=CONSUME))
    asked = consumer.dialogue.consumed[-1]
    consumer.dialogue.ingress.pull(asked, "orders", "rest-gateway", 1, 500, False, lambda: None)
    (answer,) = other.answers()
    assert answer.status == 503
    assert answer.headers["Error-Code"] == "overloaded"
    consumer.client.protocol.resume_writing()
    assert len(consumer.client.answers()) == 1
    assert consumer.dialogue.ingress.stats()["unread_bytes"] == 0
