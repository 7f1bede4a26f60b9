"""Messages with an id outlive a lost broker connection; those without one are never sent twice."""

from __future__ import annotations

import time

import pytest

from tests.unit.dialogue import BATCH, Client, Dialogue, FakeTransport, Frame, request
from tests.unit.test_core_http import sweep_until

WITH_ID = b"Idempotency-Key: k1\r\nX-A: 1\r\n"


def lose_link(dialogue: Dialogue) -> None:
    dialogue.link.connection_lost(None)
    dialogue.run_turns()


def new_link(dialogue: Dialogue) -> None:
    dialogue.broker = FakeTransport()
    dialogue.link = dialogue.ingress.make_link()
    dialogue.link.connection_made(dialogue.broker)
    dialogue.link.go_live({"max_payload": 1048576})
    dialogue.run_turns()
    dialogue.broker.take()


def sent(data: bytes, **limits: int) -> tuple[Dialogue, Client, list[Frame]]:
    dialogue = Dialogue(**limits)
    client = dialogue.client()
    client.send(data)
    frames = dialogue.frames()
    lose_link(dialogue)
    return dialogue, client, frames


def test_message_with_an_id_is_sent_again_the_same_and_answered() -> None:
    dialogue, client, (first,) = sent(request(extra=WITH_ID))
    assert client.answers() == []
    assert dialogue.ingress.held_streams() == {"orders"}
    new_link(dialogue)
    assert dialogue.frames() == [], "not before the duplicate window is known"
    dialogue.ingress.note_window("orders", 120_000)
    (again,) = dialogue.frames()
    assert (again.subject, again.headers, again.payload) == (
        first.subject, first.headers, first.payload,
    )  # fmt: skip
    assert dialogue.ingress.held_streams() == set()
    dialogue.ack(again, b'{"stream":"orders","seq":7,"duplicate":true}')
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Nats-Sequence"]) == (200, "7")


def test_message_without_an_id_is_told_as_unknown_at_once() -> None:
    dialogue, client, _ = sent(request())
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Error-Code"]) == (503, "outcome-unknown")
    assert dialogue.ingress.held_streams() == set()


def test_batch_with_an_id_sends_again_what_was_not_confirmed() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(b"[1,2,3]", head=BATCH, extra=WITH_ID))
    first = dialogue.frames()
    dialogue.store(first[1], 1)
    lose_link(dialogue)
    new_link(dialogue)
    dialogue.ingress.note_window("orders", 120_000)
    again = dialogue.frames()
    assert [frame.payload for frame in again] == [b"1", b"3"]
    assert [dict(frame.headers)[b"Nats-Msg-Id"] for frame in again] == [b"k1.0", b"k1.2"]
    for number, frame in enumerate(again):
        dialogue.store(frame, number + 2)
    assert [a.status for a in client.answers()] == [200]


@pytest.mark.parametrize("window_ms", [0, 1_000, 2_000])
def test_short_duplicate_window_is_no_reason_to_send_twice(window_ms: int) -> None:
    dialogue, client, _ = sent(request(extra=WITH_ID))
    new_link(dialogue)
    dialogue.ingress.note_window("orders", window_ms)
    assert dialogue.frames() == []
    assert [a.headers["Error-Code"] for a in client.answers()] == ["outcome-unknown"]


def test_no_broker_in_time_is_told_as_unknown() -> None:
    dialogue, client, _ = sent(request(extra=WITH_ID), waiting_ms_max=200)
    sweep_until(dialogue, lambda: bool(client.transport.written))
    assert [a.headers["Error-Code"] for a in client.answers()] == ["outcome-unknown"]
    new_link(dialogue)
    dialogue.ingress.note_window("orders", 120_000)
    assert dialogue.frames() == []


def test_window_of_the_lost_connection_is_forgotten_with_it() -> None:
    dialogue, client, _ = sent(request(extra=WITH_ID))
    new_link(dialogue)
    dialogue.ingress.note_window("orders", 120_000)
    assert len(dialogue.frames()) == 1
    lose_link(dialogue)
    new_link(dialogue)
    assert dialogue.frames() == []
    dialogue.ingress.note_window("orders", 120_000)
    (frame,) = dialogue.frames()
    dialogue.store(frame, 1)
    assert [a.status for a in client.answers()] == [200]


def test_held_messages_are_bounded() -> None:
    dialogue = Dialogue(publishes_in_flight_max=2)
    client = dialogue.client()
    client.send(b"".join(request(extra=b"msg-id: %d\r\n" % n) for n in range(2)))
    assert len(dialogue.frames()) == 2
    lose_link(dialogue)
    new_link(dialogue)
    client.send(request(extra=b"msg-id: 9\r\n"))
    assert dialogue.frames() == []
    lose_link(dialogue)
    new_link(dialogue)
    dialogue.ingress.note_window("orders", 120_000)
    assert len(dialogue.frames()) == 2


def test_client_that_has_left_holds_nothing_back() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(extra=WITH_ID))
    assert len(dialogue.frames()) == 1
    client.protocol.connection_lost(None)
    lose_link(dialogue)
    assert dialogue.ingress.held_streams() == set()


def test_new_messages_wait_for_those_that_are_sent_again() -> None:
    dialogue, client, _ = sent(request(b"one", extra=WITH_ID))
    new_link(dialogue)
    client.send(request(b"two"))
    other = dialogue.client("192.0.2.8")
    other.send(request(b"three"))
    assert dialogue.frames() == []
    dialogue.ingress.note_window("orders", 120_000)
    assert [frame.payload for frame in dialogue.frames()] == [b"one", b"two", b"three"]


def test_new_messages_wait_a_second_at_most() -> None:
    dialogue, client, _ = sent(request(b"one", extra=WITH_ID))
    new_link(dialogue)
    other = dialogue.client("192.0.2.8")
    other.send(request(b"two"))
    sweep_until(dialogue, lambda: bool(dialogue.broker.written))
    assert [frame.payload for frame in dialogue.frames()] == [b"two"]
    assert [a.headers["Error-Code"] for a in client.answers()] == ["outcome-unknown"]


def test_messages_are_sent_again_in_their_order() -> None:
    dialogue = Dialogue(publishes_in_flight_max=4)
    client = dialogue.client()
    for number in (b"0", b"1", b"2", b"3"):
        client.send(request(number, extra=b"msg-id: %s\r\n" % number))
    frames = dialogue.frames()
    dialogue.store(frames[1], 1)
    dialogue.store(frames[0], 2)
    for number in (b"4", b"5"):
        client.send(request(number, extra=b"msg-id: %s\r\n" % number))
    assert len(dialogue.frames()) == 2
    lose_link(dialogue)
    new_link(dialogue)
    dialogue.ingress.note_window("orders", 120_000)
    assert [frame.payload for frame in dialogue.frames()] == [b"2", b"3", b"4", b"5"]


def test_link_tells_for_how_long_no_stream_answers() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    assert dialogue.link.barren_ms == 0
    client.send(request())
    (frame,) = dialogue.frames()
    block = b"NATS/1.0 503\r\n\r\n"
    dialogue.link.data_received(
        b"HMSG %s 1 %d %d\r\n%s\r\n" % (frame.reply, len(block), len(block), block)
    )
    until = time.monotonic() + 5
    while dialogue.link.barren_ms < 10 and time.monotonic() < until:
        dialogue.ingress.sweep()
    assert dialogue.link.barren_ms >= 10
    assert not dialogue.link.is_fruitful
    client.send(request())
    (frame,) = dialogue.frames()
    dialogue.store(frame, 1)
    assert dialogue.link.barren_ms == 0
    assert dialogue.link.is_fruitful


def cluster() -> Dialogue:
    """A dialogue whose broker belongs to a cluster."""
    dialogue = Dialogue(is_live=False)
    dialogue.link.go_live({"max_payload": 1048576, "cluster": "three"})
    return dialogue


def test_cluster_second_ack_of_an_old_leader_finds_nobody() -> None:
    dialogue = cluster()
    client = dialogue.client()
    client.send(request(b"one"))
    (first,) = dialogue.frames()
    dialogue.store(first, 1)
    assert [answer.headers["Nats-Sequence"] for answer in client.answers()] == ["1"]
    client.send(request(b"two"))
    (second,) = dialogue.frames()
    assert second.reply != first.reply
    dialogue.store(first, 1)
    assert client.answers() == []
    dialogue.store(second, 2)
    assert [answer.headers["Nats-Sequence"] for answer in client.answers()] == ["2"]


def test_single_server_replies_are_recycled() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    replies = set()
    for sequence in range(1, 4):
        client.send(request())
        (frame,) = dialogue.frames()
        replies.add(frame.reply)
        dialogue.store(frame, sequence)
        client.answers()
    assert len(replies) == 1


def test_cluster_numbers_of_one_slot_never_come_twice() -> None:
    dialogue = cluster()
    client = dialogue.client()
    replies = []
    for sequence in range(1, 300):
        client.send(request())
        (frame,) = dialogue.frames()
        replies.append(frame.reply)
        dialogue.store(frame, sequence)
        client.answers()
    assert len(set(replies)) == len(replies)
