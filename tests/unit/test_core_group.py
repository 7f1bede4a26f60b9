"""Group commit: messages of a turn as one atomic batch, and what becomes of each when it fails.

A fake broker holds the moments still; `tests/integration/test_gateway_fsync.py` has a real one.
"""

from __future__ import annotations

import time

import pytest

from fastgw import _core
from tests.unit.dialogue import BATCH, Client, Dialogue, Frame, request

MANY = 16
"""As many as make a batch worth its price."""

PLACES = ("Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit")
REFUSED = b'{"error":{"code":400,"err_code":10201,"description":"duplicate message id"}}'


class Scene(Dialogue):
    """A station with group commit, and clients with one request each."""

    def __init__(self, **limits: object) -> None:
        super().__init__(**limits)
        station = _core.Station("orders", "orders", "orders", ack_fsync=True, allow_no_wait=True)
        self.ingress.put_station(station)
        self.clients: list[Client] = []

    def post(self, count: int, extra: bytes = b"") -> None:
        """Have `count` clients send one message each, within a turn."""
        for _ in range(count):
            client = self.client()
            client.send(request(b"m%d" % len(self.clients), extra=extra))
            self.clients.append(client)

    def commit(self, frames: list[Frame], last: int) -> None:
        text = b'{"stream":"orders","seq":%d,"batch":"x","count":%d}' % (last, len(frames))
        self.ack(frames[-1], text)

    def statuses(self) -> list[int]:
        return [answer.status for client in self.clients for answer in client.answers()]


def places(frames: list[Frame]) -> list[tuple[str | None, ...]]:
    found = []
    for frame in frames:
        headers = {name.decode(): value.decode() for name, value in frame.headers}
        found.append(tuple(headers.get(name) for name in PLACES[1:]))
    return found


def batch_ids(frames: list[Frame]) -> set[bytes]:
    return {value for frame in frames for name, value in frame.headers if name == b"Nats-Batch-Id"}


def test_group_messages_of_a_turn_are_one_batch() -> None:
    scene = Scene()
    scene.post(MANY)
    frames = scene.frames()
    assert [frame.payload for frame in frames] == [b"m%d" % number for number in range(MANY)]
    assert places(frames) == [*((f"{n}", None) for n in range(1, MANY)), (f"{MANY}", "1")]
    assert len(batch_ids(frames)) == 1
    assert [bool(frame.reply) for frame in frames] == [False] * (MANY - 1) + [True]
    assert scene.statuses() == []
    scene.commit(frames, 116)
    answers = [client.answers()[0] for client in scene.clients]
    assert [answer.status for answer in answers] == [200] * MANY
    assert [answer.headers["Nats-Sequence"] for answer in answers] == [
        str(sequence) for sequence in range(101, 117)
    ]


def test_group_batch_id_does_not_tell_the_inbox() -> None:
    scene = Scene()
    scene.post(MANY)
    frames = scene.frames()
    inbox = frames[-1].reply.split(b".")[1]
    assert all(inbox not in name for name in batch_ids(frames))


def test_group_next_batch_waits_for_the_ack_of_the_last() -> None:
    scene = Scene()
    scene.post(MANY)
    first = scene.frames()
    scene.post(MANY + 1)
    assert scene.frames() == []
    scene.commit(first, 16)
    second = scene.frames()
    assert len(second) == MANY + 1
    assert batch_ids(first) != batch_ids(second)
    scene.commit(second, 33)
    assert scene.statuses() == [200] * 33
    assert scene.ingress.stats()["waiting_bytes"] == 0


def test_group_few_messages_go_one_by_one_with_answers_of_their_own() -> None:
    scene = Scene()
    scene.post(3)
    frames = scene.frames()
    assert places(frames) == [(None, None)] * 3
    assert all(frame.reply for frame in frames)
    for frame, sequence in zip(frames, (7, 8, 9), strict=True):
        scene.store(frame, sequence)
    assert scene.statuses() == [200] * 3


def test_group_holds_no_more_messages_than_the_broker_takes_in_a_batch() -> None:
    scene = Scene()
    client = scene.client()
    body = b"[" + b",".join(b"%d" % number for number in range(1500)) + b"]"
    client.send(request(body, BATCH))
    first = scene.frames()
    assert len(first) == 1000
    scene.commit(first, 1000)
    second = scene.frames()
    assert len(second) == 500
    assert client.answers() == []
    scene.commit(second, 1500)
    (answer,) = client.answers()
    assert answer.status == 200
    assert answer.headers["Nats-Sequence"] == "1500"


def test_group_holds_no_more_bytes_than_its_bound() -> None:
    scene = Scene(batch_bytes_max=16 << 20)
    client = scene.client()
    message = b'"' + b"x" * 1_000_000 + b'"'
    client.send(request(b"[" + b",".join([message] * 8) + b"]", BATCH))
    assert len(scene.frames()) == 5


def test_group_refused_batch_is_sent_again_one_by_one() -> None:
    scene = Scene()
    scene.post(MANY, b"Nats-Msg-Id: one\r\n")
    frames = scene.frames()
    assert len(batch_ids(frames)) == 1
    scene.ack(frames[-1], REFUSED)
    alone = scene.frames()
    assert [frame.payload for frame in alone] == [frame.payload for frame in frames]
    assert places(alone) == [(None, None)] * MANY
    scene.store(alone[0], 1)
    for frame in alone[1:]:
        scene.ack(frame, b'{"stream":"orders","seq":1,"duplicate":true}')
    answers = [client.answers()[0] for client in scene.clients]
    assert [answer.status for answer in answers] == [200] * MANY
    told = [answer.headers.get("Nats-Duplicate") for answer in answers]
    assert told == [None] + ["true"] * (MANY - 1)


def test_group_one_bad_message_of_a_refused_batch_fails_alone() -> None:
    scene = Scene()
    scene.post(MANY)
    frames = scene.frames()
    scene.ack(frames[-1], b'{"error":{"code":400,"err_code":10054,"description":"too large"}}')
    alone = scene.frames()
    scene.ack(alone[1], b'{"error":{"code":400,"err_code":10054,"description":"too large"}}')
    for frame in (alone[0], *alone[2:]):
        scene.store(frame, 5)
    assert scene.statuses() == [200, 413] + [200] * (MANY - 2)


def test_group_broker_without_batches_is_noticed_and_nothing_is_promised() -> None:
    scene = Scene()
    scene.post(MANY)
    frames = scene.frames()
    scene.store(frames[-1], 4)
    assert scene.statuses() == [503] * MANY
    assert any("acknowledged as 1" in text for text in scene.defects)
    scene.post(MANY)
    assert places(scene.frames()) == [(None, None)] * MANY


def test_group_without_an_ack_is_504_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(ack_timeout_ms=10)
    scene.post(MANY)
    scene.frames()
    until = time.monotonic() + 5
    statuses: list[int] = []
    while not statuses and time.monotonic() < until:
        scene.ingress.sweep()
        statuses = scene.statuses()
    assert statuses == [504] * MANY


def test_group_lost_connection_tells_each_the_truth() -> None:
    scene = Scene()
    scene.post(MANY)
    scene.frames()
    scene.post(3)
    scene.link.connection_lost(None)
    answers = [client.answers()[0] for client in scene.clients]
    words = [answer.headers["Error-Code"] for answer in answers]
    assert words == ["outcome-unknown"] * MANY + ["broker-away"] * 3
    assert scene.ingress.stats()["waiting_bytes"] == 0


def test_group_lost_messages_with_an_id_are_sent_again_alone() -> None:
    scene = Scene()
    scene.post(MANY, b"Nats-Msg-Id: one\r\n")
    scene.frames()
    scene.link.connection_lost(None)
    assert scene.ingress.held_streams() == {"orders"}
    link = scene.ingress.make_link()
    link.connection_made(scene.broker)
    link.go_live({"max_payload": 1048576})
    scene.broker.take()
    scene.ingress.note_window("orders", 120_000)
    frames = scene.frames()
    assert places(frames) == [(None, None)] * MANY


def test_group_refused_on_a_retired_connection_was_not_stored() -> None:
    scene = Scene()
    scene.post(MANY)
    frames = scene.frames()
    scene.link.retire()
    scene.ack(frames[-1], REFUSED)
    answers = [client.answers()[0] for client in scene.clients]
    assert [answer.headers["Error-Code"] for answer in answers] == ["broker-away"] * MANY


def test_group_client_that_left_before_its_batch_is_left_out() -> None:
    scene = Scene()
    scene.post(MANY)
    first = scene.frames()
    scene.post(3)
    scene.clients[MANY].protocol.connection_lost(None)
    scene.commit(first, 16)
    assert [frame.payload for frame in scene.frames()] == [b"m17", b"m18"]


def test_group_no_wait_goes_by_itself() -> None:
    scene = Scene()
    client = scene.client()
    client.send(request(b"x", b"POST /stations/orders/produce/single?wait=false HTTP/1.1\r\n"
                        b"Host: gateway\r\nAuthorization: Bearer good\r\n"))  # fmt: skip
    assert places(scene.frames()) == [(None, None)]
    assert [answer.status for answer in client.answers()] == [202]


def test_group_waiting_messages_keep_within_the_bound() -> None:
    scene = Scene(waiting_bytes_max=65536)
    scene.post(MANY)
    first = scene.frames()
    for _ in range(3):
        client = scene.client()
        client.send(request(b"y" * 30_000))
        scene.clients.append(client)
    assert scene.statuses() == [503]
    scene.commit(first, 16)
    assert [len(frame.payload) for frame in scene.frames()] == [30_000, 30_000]


def test_group_message_with_its_place_may_not_pass_the_brokers_bound() -> None:
    scene = Scene(body_bytes_max=2 << 20)
    client = scene.client()
    client.send(request(b"x" * (1048576 - 100)))
    assert scene.frames() == []
    assert [answer.status for answer in client.answers()] == [413]
