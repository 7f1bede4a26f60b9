"""Turns: who shares a write with others, and who need not wait for the loop."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import _core
from tests.unit.dialogue import (
    Client,
    Dialogue,
    Frame,
    parse_answers,
    parse_frames,
    request,
)

PIPELINED_A_TURN = 16
BATCHED_MIN = 16


def taken(dialogue: Dialogue) -> list[Frame]:
    """What the broker was sent so far, without running a turn of the loop."""
    return parse_frames(dialogue.broker.take())


def store_next(dialogue: Dialogue, client: Client, sequence: int = 1) -> Frame:
    """Send one request and store it, with as many turns of the loop as it wants."""
    client.send(request())
    (frame,) = dialogue.frames()
    dialogue.store(frame, sequence)
    (answer,) = client.answers()
    assert answer.status == 200
    return frame


def make_lone() -> tuple[Dialogue, Client]:
    """A core whose last read found nothing under way."""
    dialogue = Dialogue()
    client = dialogue.client()
    store_next(dialogue, client)
    return dialogue, client


def test_lone_request_is_written_and_answered_without_a_turn_of_the_loop() -> None:
    dialogue, client = make_lone()
    for sequence in range(2, 5):
        client.send(request())
        (frame,) = taken(dialogue)
        assert dialogue.loop.ready == []
        dialogue.store(frame, sequence)
        (answer,) = parse_answers(client.transport.take())
        assert answer.headers["Nats-Sequence"] == str(sequence)
        assert dialogue.loop.ready == []


def test_first_request_waits_for_those_that_may_come_with_it() -> None:
    dialogue = Dialogue()
    clients = [dialogue.client() for _ in range(4)]
    for _ in range(3):
        for client in clients:
            client.send(request())
        assert taken(dialogue) == []
        dialogue.run_turns()
        assert len(dialogue.broker.write_sizes) == 1
        dialogue.broker.write_sizes.clear()
        frames = taken(dialogue)
        assert len(frames) == len(clients)
        for frame in frames:
            dialogue.store(frame, 1)
        for client in clients:
            (answer,) = client.answers()
            assert answer.status == 200


def test_requests_behind_a_lone_one_share_a_write() -> None:
    dialogue, client = make_lone()
    others = [dialogue.client() for _ in range(5)]
    dialogue.broker.write_sizes.clear()
    for each in (client, *others):
        each.send(request())
    assert len(taken(dialogue)) == 1
    assert len(dialogue.frames()) == len(others)
    assert len(dialogue.broker.write_sizes) == 2


def test_acks_of_several_are_answered_at_the_end_of_the_turn() -> None:
    dialogue = Dialogue()
    client, other = dialogue.client(), dialogue.client()
    client.send(request(b"a") + request(b"b"))
    other.send(request(b"c"))
    first, second, third = dialogue.frames()
    dialogue.store(second, 2)
    dialogue.store(first, 1)
    assert client.transport.take() == b""
    # The last one that is awaited has come before the turn: it shares the turn.
    dialogue.store(third, 3)
    assert other.transport.take() == b""
    dialogue.run_turns()
    assert client.transport.write_sizes[1:] == []
    answers = parse_answers(client.transport.take())
    assert [answer.headers["Nats-Sequence"] for answer in answers] == ["1", "2"]


def test_pipelined_beyond_its_share_lets_the_others_come_first() -> None:
    dialogue, client = make_lone()
    other = dialogue.client()
    mine = [b"%d" % n for n in range(4 * PIPELINED_A_TURN)]
    client.send(b"".join(map(request, mine)))
    assert taken(dialogue) == []
    other.send(request(b"other"))
    payloads = [frame.payload for frame in dialogue.frames()]
    assert payloads.index(b"other") < 2 * PIPELINED_A_TURN
    payloads.remove(b"other")
    assert payloads == mine


def test_handler_that_has_taken_time_leaves_the_rest_to_the_turn_of_the_loop() -> None:
    dialogue, client = make_lone()

    def spend(asked: _core.Request) -> None:
        until = time.perf_counter_ns() + 50_000
        while time.perf_counter_ns() < until:
            pass
        asked.respond(200, b"{}")

    dialogue.dispatch = spend  # type: ignore[method-assign, assignment]
    client.send(b"GET /elsewhere HTTP/1.1\r\nHost: gateway\r\n\r\n")
    assert client.transport.take() == b""
    (answer,) = client.answers()
    assert answer.status == 200


def test_messages_of_a_synced_station_wait_for_a_common_batch() -> None:
    dialogue, client = make_lone()
    dialogue.ingress.put_station(_core.Station("orders", "orders", "orders", ack_fsync=True))
    others = [dialogue.client() for _ in range(BATCHED_MIN - 1)]
    for each in (client, *others):
        each.send(request())
        assert taken(dialogue) == []
    frames = dialogue.frames()
    assert len(frames) == BATCHED_MIN
    assert all(b"Nats-Batch-Id" in dict(frame.headers) for frame in frames)


def test_ack_that_frees_the_only_slot_serves_who_waits_for_it() -> None:
    dialogue = Dialogue(publishes_in_flight_max=1)
    client, other = dialogue.client(), dialogue.client()
    client.send(request(b"a"))
    other.send(request(b"b"))
    (first,) = dialogue.frames()
    dialogue.store(first, 1)
    assert taken(dialogue) == []
    (second,) = dialogue.frames()
    assert second.payload == b"b"
    assert len(client.answers()) == 1
    dialogue.store(second, 2)
    assert len(other.answers()) == 1


def test_fault_on_a_lone_connection_is_answered_and_closes_in_its_own_read() -> None:
    dialogue, client = make_lone()
    client.send(b"BROKEN\r\n\r\n")
    (answer,) = parse_answers(client.transport.take())
    assert answer.status == 400
    assert client.transport.is_eof_sent
    client.send(request())
    assert dialogue.frames() == []


def test_last_request_of_a_connection_closes_it_with_the_ack() -> None:
    dialogue, client = make_lone()
    client.send(request(extra=b"Connection: close\r\n"))
    (frame,) = taken(dialogue)
    dialogue.store(frame, 2)
    (answer,) = parse_answers(client.transport.take())
    assert answer.headers["Connection"] == "close"
    assert client.transport.is_eof_sent


def test_request_cut_into_bytes_is_written_with_its_last() -> None:
    dialogue, client = make_lone()
    for number, byte in enumerate(data := request(b"hello")):
        assert taken(dialogue) == [], number
        client.send(bytes([byte]))
    assert number == len(data) - 1
    (frame,) = taken(dialogue)
    assert frame.payload == b"hello"


def test_defect_in_an_own_turn_is_reported_and_spares_the_connection() -> None:
    dialogue, client = make_lone()
    write = dialogue.broker.write

    def fail(data: bytes) -> None:
        raise RuntimeError("broken transport")

    dialogue.broker.write = fail  # type: ignore[method-assign]
    client.send(request(b"a"))
    assert dialogue.defects == ["a turn failed: RuntimeError('broken transport')"]
    dialogue.broker.write = write  # type: ignore[method-assign]
    client.send(request(b"b"))
    assert [frame.payload for frame in dialogue.frames()] == [b"a", b"b"]


steps = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2), st.integers(1, PIPELINED_A_TURN + 3)),
    st.tuples(st.just("ack"), st.integers(0, 40), st.integers(1, 8)),
    st.tuples(st.just("turn"), st.just(0), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=30), st.booleans())
def test_any_order_of_reads_acks_and_turns_answers_each_in_its_order(
    script: list[tuple[str, int, int]], is_narrow: bool
) -> None:
    dialogue = Dialogue(publishes_in_flight_max=3 if is_narrow else 512)
    clients = [dialogue.client() for _ in range(3)]
    sent: list[list[int]] = [[] for _ in clients]
    open_frames: list[Frame] = []
    number = 0

    def store(frame: Frame) -> None:
        # WHY: the payload is the sequence, so that each answer says which request it is for.
        dialogue.store(frame, int(frame.payload))

    for action, which, count in script:
        if action == "send":
            numbers = range(number + 1, number + 1 + count)
            number += count
            sent[which] += numbers
            clients[which].send(b"".join(request(b"%d" % n) for n in numbers))
        elif action == "turn":
            dialogue.run_turns()
        else:
            open_frames += taken(dialogue)
            for _ in range(min(count, len(open_frames))):
                store(open_frames.pop(which % len(open_frames)))
    for _ in range(number + 1):
        open_frames += dialogue.frames()
        while open_frames:
            store(open_frames.pop())
    dialogue.run_turns()
    for client, numbers_sent in zip(clients, sent, strict=True):
        answers = parse_answers(client.transport.take())
        assert [int(answer.headers["Nats-Sequence"]) for answer in answers] == numbers_sent
    assert dialogue.ingress.stats()["in_flight"] == 0
    assert dialogue.defects == []
