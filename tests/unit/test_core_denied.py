"""Permissions that the broker refuses: each refusal reaches the request that it is about.

An -ERR names its subject only, and overtakes the acks of publishes that were taken before it.
"""

from __future__ import annotations

import pytest

from fastgw import _core
from tests.unit.dialogue import BATCH, Dialogue, Frame, request
from tests.unit.test_core_consume import Consumer


class Scene(Dialogue):
    """Clients with one message each, and a broker that refuses some."""

    def __init__(self) -> None:
        super().__init__()
        self.clients = [self.client() for _ in range(5)]

    def post(self, *numbers: int) -> list[Frame]:
        for number in numbers:
            self.clients[number].send(request(b"m%d" % number))
        return self.frames()

    def deny(self, subject: bytes = b"orders") -> None:
        self.link.data_received(b"-ERR 'Permissions Violation for Publish to \"%s\"'\r\n" % subject)

    def pong(self) -> None:
        self.run_turns()
        assert b"PING\r\n" in self.broker.take()
        self.link.data_received(b"PONG\r\n")

    def statuses(self) -> list[int | None]:
        found = [client.answers() for client in self.clients]
        return [answers[0].status if answers else None for answers in found]


def test_denied_only_publish_is_403_at_once() -> None:
    scene = Scene()
    scene.post(0)
    scene.deny()
    assert scene.statuses()[0] == 403


def test_denied_publish_behind_a_taken_one_is_the_one_that_is_told() -> None:
    scene = Scene()
    first, _ = scene.post(0, 1)
    scene.deny()
    assert scene.statuses()[:2] == [None, None]
    scene.pong()
    assert scene.statuses()[:2] == [None, None]
    scene.store(first, 7)
    assert scene.statuses()[:2] == [200, 403]


def test_denied_ack_first_and_then_the_pong_is_the_same() -> None:
    scene = Scene()
    first, _ = scene.post(0, 1)
    scene.deny()
    scene.store(first, 7)
    assert scene.statuses()[:2] == [200, None]
    scene.pong()
    assert scene.statuses()[1] == 403


def test_denied_all_of_a_subject_are_told_with_the_pong() -> None:
    scene = Scene()
    scene.post(0, 1, 2)
    for _ in range(3):
        scene.deny()
    scene.pong()
    assert scene.statuses()[:3] == [403] * 3


def test_denied_what_is_sent_behind_the_ping_is_counted_by_itself() -> None:
    scene = Scene()
    first, _ = scene.post(0, 1)
    scene.deny()
    # The PING goes out in this turn, in front of the third.
    scene.run_turns()
    later = scene.post(2, 3)
    scene.link.data_received(b"PONG\r\n")
    scene.deny()
    scene.store(first, 7)
    assert scene.statuses()[:4] == [200, 403, None, None]
    scene.pong()
    scene.store(later[1], 8)
    assert scene.statuses()[2:4] == [403, 200]


def test_denied_one_subject_leaves_the_others_alone() -> None:
    scene = Scene()
    scene.ingress.put_station(_core.Station("other", "other", "other"))
    scene.clients[1].send(request(b"x", b"POST /stations/other/produce/single HTTP/1.1\r\n"
                                  b"Host: gateway\r\nAuthorization: Bearer good\r\n"))  # fmt: skip
    scene.post(0, 2)
    scene.deny(b"other")
    assert scene.statuses()[:3] == [None, 403, None]


def test_denied_lost_connection_leaves_the_outcome_unknown() -> None:
    scene = Scene()
    scene.post(0, 1)
    scene.deny()
    scene.link.connection_lost(None)
    assert scene.statuses()[:2] == [503, 503]


def test_denied_batch_is_403_and_a_mixed_one_is_not() -> None:
    scene = Scene()
    scene.clients[0].send(request(b"[1,2]", BATCH))
    scene.frames()
    scene.deny()
    scene.deny()
    scene.pong()
    (answer,) = scene.clients[0].answers()
    assert (answer.status, answer.headers["Error-Code"]) == (403, "forbidden")
    assert answer.json()["sent"] == 0
    scene.clients[1].send(request(b"[1,2]", BATCH))
    first, _ = scene.frames()
    scene.deny()
    scene.store(first, 1)
    scene.pong()
    (answer,) = scene.clients[1].answers()
    assert (answer.status, answer.json()["sent"]) == (400, 1)


def test_denied_of_nobody_is_told_to_the_operator() -> None:
    scene = Scene()
    told: list[str] = []
    scene.link.on_error = told.append
    scene.deny(b"elsewhere")
    assert told == ['Permissions Violation for Publish to "elsewhere"']


def test_denied_pull_is_403() -> None:
    consumer = Consumer()
    consumer.dialogue.link.data_received(
        b"-ERR 'Permissions Violation for Publish to \"%s\"'\r\n" % consumer.demand.subject
    )
    (answer,) = consumer.client.answers()
    assert (answer.status, answer.headers["Error-Code"]) == (403, "forbidden")


def test_denied_inbox_of_a_pull_is_403() -> None:
    consumer = Consumer()
    consumer.dialogue.link.data_received(
        b"-ERR 'Permissions Violation for Subscription to \"%s\"'\r\n" % consumer.demand.reply
    )
    (answer,) = consumer.client.answers()
    assert (answer.status, answer.headers["Error-Code"]) == (403, "forbidden")


@pytest.mark.parametrize("tail", [b"", b' (sid "1")'])
def test_denied_inbox_of_acks_ends_the_connection(tail: bytes) -> None:
    scene = Scene()
    told: list[str] = []
    scene.link.on_error = told.append
    inbox = scene.link.subscribe_line.split()[1]
    scene.link.data_received(
        b"-ERR 'Permissions Violation for Subscription to \"%s\"%s'\r\n" % (inbox, tail)
    )
    assert scene.broker.is_closed
    assert told == ["the broker no longer lets us hear its acks"]


def test_denied_in_one_read_with_the_pong_before_it_is_counted_by_itself() -> None:
    scene = Scene()
    first, _ = scene.post(0, 1)
    scene.deny()
    scene.run_turns()
    later = scene.post(2, 3)
    scene.link.data_received(b"PONG\r\n-ERR 'Permissions Violation for Publish to \"orders\"'\r\n")
    scene.store(first, 7)
    assert scene.statuses()[:4] == [200, 403, None, None]
    scene.pong()
    scene.store(later[0], 8)
    assert scene.statuses()[2:4] == [200, 403]


def test_denied_text_for_the_log_hides_the_inbox() -> None:
    scene = Scene()
    told: list[str] = []
    scene.link.on_error = told.append
    inbox = scene.link.subscribe_line.split()[1].removesuffix(b"*")
    scene.link.data_received(
        b"-ERR 'Permissions Violation for Subscription to \"%sx\"'\r\n" % inbox
    )
    assert len(told) == 1
    assert inbox.decode() not in told[0]
