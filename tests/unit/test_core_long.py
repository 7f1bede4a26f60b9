"""Long bodies: read straight into their place, and sent to the broker from there."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fastgw import _core
from tests.unit.dialogue import HEAD, Client, Dialogue, FakeTransport, parse_frames, request

LONG = bytes(range(256)) * 2000
"""A body of 512,000 bytes, so that a part in a wrong place is seen."""
APART = 16384
"""From this size on a payload goes out without a copy; at most 64 of them a turn."""


def begin(client: Client, sent: int, body: bytes = LONG) -> None:
    """Send a head and the first bytes of its body."""
    client.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:sent])


def has_own_place(client: Client) -> bool:
    """Whether the socket reads into the body's place now."""
    return client.transport.protocol is not client.protocol


@pytest.mark.parametrize("sizes", [[1], [65536, 65536], [100_000, 1], [7, 300_000, 9, 200_000]])
def test_long_body_is_read_into_its_place(sizes: list[int]) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    begin(client, 0)
    assert has_own_place(client)
    at = 0
    for size in sizes:
        client.send(LONG[at : at + size])
        at += size
    client.send(LONG[at:])
    assert not has_own_place(client)
    (frame,) = dialogue.frames()
    assert frame.payload == LONG
    dialogue.store(frame, 1)
    client.send(request(b"next"))
    (frame,) = dialogue.frames()
    dialogue.store(frame, 2)
    assert [answer.status for answer in client.answers()] == [200, 200]


def test_short_rest_of_a_body_is_read_as_usual() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    begin(client, len(LONG) - 65535)
    assert not has_own_place(client)
    client.send(LONG[-65535:] + request(b"next"))
    assert [frame.payload for frame in dialogue.frames()] == [LONG, b"next"]


def test_long_body_ends_with_its_client() -> None:
    dialogue = Dialogue()
    gone, silent = dialogue.client(), dialogue.client()
    begin(gone, 1000)
    begin(silent, 1000)
    gone.transport.protocol.connection_lost(None)
    assert silent.transport.protocol.eof_received()
    assert not has_own_place(silent)
    assert [answer.status for answer in silent.answers()] == [400]
    silent.transport.protocol.connection_lost(None)
    stats = dialogue.ingress.stats()
    assert (stats["connections"], stats["waiting_bytes"]) == (0, 0)
    assert dialogue.frames() == []


def test_long_body_that_comes_too_slowly_is_408() -> None:
    dialogue = Dialogue(body_timeout_ms=1)
    client = dialogue.client()
    begin(client, 1000)
    answers = []
    while not answers:
        dialogue.ingress.sweep()
        answers = client.answers()
    assert [answer.status for answer in answers] == [408]
    assert not has_own_place(client)


def test_long_body_pauses_at_the_bound_and_goes_on() -> None:
    dialogue = Dialogue(waiting_bytes_max=300_000)
    first, second = dialogue.client(), dialogue.client()
    begin(first, 250_000)
    begin(second, 100_000)
    assert second.transport.is_reading_paused
    first.send(LONG[250_000:])
    dialogue.ingress.sweep()
    assert not second.transport.is_reading_paused
    second.send(LONG[100_000:])
    assert [frame.payload for frame in dialogue.frames()] == [LONG, LONG]


@pytest.mark.parametrize("is_known", [True, False])
def test_long_body_is_dropped_when_its_sender_is_refused_meanwhile(is_known: bool) -> None:
    async def run() -> None:
        told = asyncio.get_running_loop().create_future()
        dialogue = Dialogue()
        dialogue.identify = lambda asked: told  # type: ignore[method-assign, assignment, return-value]
        client = dialogue.client()
        begin(client, 1000)
        told.set_result(dialogue.principal if is_known else None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        client.send(LONG[1000:])
        answers = client.answers()
        assert not has_own_place(client)
        assert dialogue.defects == []
        if is_known:
            (frame,) = dialogue.frames()
            assert frame.payload == LONG
        else:
            assert [answer.status for answer in answers] == [401]
            assert client.transport.is_eof_sent
            assert dialogue.frames() == []

    asyncio.run(run())


class SmallSocket:
    """A link whose socket takes little at a time, and the reader at its other end."""

    def __init__(self, dialogue: Dialogue) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.theirs.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.transport = FakeTransport()
        self.transport.extra["socket"] = ours
        dialogue.link.use_transport(self.transport)
        self.ours = ours

    def take(self) -> bytes:
        """Everything that went out: by the socket, then by the transport."""
        data = b""
        with self.ours, self.theirs:
            self.ours.shutdown(socket.SHUT_WR)
            while piece := self.theirs.recv(1 << 20):
                data += piece
        return data + self.transport.take()


BODIES = [
    [LONG],
    [LONG[: APART - 1], LONG[:APART], b"x", LONG[: APART + 1]],
    [b"x", LONG, LONG, b"y", LONG],
    [LONG[:APART]] * 70,
]


@pytest.mark.parametrize("bodies", BODIES)
def test_long_payloads_go_out_in_order_when_the_socket_takes_a_part(bodies: list[bytes]) -> None:
    dialogue = Dialogue()
    wire = SmallSocket(dialogue)
    for body in bodies:
        dialogue.client().send(request(body))
    dialogue.run_turns()
    assert [frame.payload for frame in parse_frames(wire.take())] == bodies


@pytest.mark.parametrize("bodies", BODIES)
def test_long_payloads_go_out_in_order_by_the_transport_alone(bodies: list[bytes]) -> None:
    dialogue = Dialogue()
    for body in bodies:
        dialogue.client().send(request(body))
    assert [frame.payload for frame in dialogue.frames()] == bodies


def test_long_payloads_of_a_batch_and_ids_go_out_as_they_are() -> None:
    dialogue = Dialogue()
    wire = SmallSocket(dialogue)
    elements = [b'"' + b"%d" % number * 20_000 + b'"' for number in range(9)]
    body = b"[" + b",".join(elements) + b"]"
    head = HEAD.replace(b"single", b"batch") + b"Idempotency-Key: k\r\n"
    dialogue.client().send(request(body, head=head + b"Content-Type: application/json\r\n"))
    dialogue.run_turns()
    frames = parse_frames(wire.take())
    assert [frame.payload for frame in frames] == elements
    assert [dict(frame.headers)[b"Nats-Msg-Id"] for frame in frames] == [
        b"k.%d" % number for number in range(9)
    ]


def test_long_payloads_that_were_not_sent_end_with_the_link() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    dialogue.link.pause_writing()
    client.send(request(LONG))
    assert dialogue.frames() == []
    dialogue.link.connection_lost(None)
    assert [answer.status for answer in client.answers()] == [503]


def test_long_message_that_a_schema_has_changed_goes_out_changed() -> None:
    dialogue = Dialogue()
    wire = SmallSocket(dialogue)
    station = _core.Station(
        "orders", "orders", "orders", check=lambda message, _kind: message[::-1]
    )
    dialogue.ingress.put_station(station)
    for body in (LONG, LONG[1:]):
        dialogue.client().send(request(body))
    dialogue.run_turns()
    assert [frame.payload for frame in parse_frames(wire.take())] == [LONG[::-1], LONG[:0:-1]]
