"""Target `broker`: arbitrary bytes from the broker, with publishes and a pull in flight.

What enters: two bytes that choose pieces and what is in flight, then the broker's bytes; `@` stands
for the reply prefix of the connection, which no corpus can know. What must hold: no callback
raises, only defects that name the broker's mistake, every client gets exactly one answer by the
time the connection has ended, no more "stored" than acks came, consumed messages are JSON.
"""

from __future__ import annotations

import json
from typing import Any, Final

from fastgw import _core
from tests.fuzz.answers import read_answers
from tests.fuzz.world import World, cuts
from tests.unit.dialogue import BATCH, HEAD, Client, FakeTransport, request

SINGLE: Final = request(b'{"a":1}')
LIST: Final = request(b"[1,[2],3]", head=BATCH.replace(b"/batch", b"/batch?results=true"))
GROUPED: Final = 20
GROUP: Final = request(
    b"[" + b",".join([b"1"] * GROUPED) + b"]", head=BATCH.replace(b"/orders/", b"/synced/")
)
CONSUME: Final = request(b"{}", head=HEAD.replace(b"produce/single", b"consume/batch"))
DEFECTS: Final = ("the broker sent ", "an ack ", "a batch of ", "a delivery ")
WORLD: list[World] = []


def fuzz_broker(data: bytes) -> None:
    """Feed one broker connection; raise when a rule is broken."""
    if len(data) < 3:
        return
    world = WORLD.pop() if WORLD else World()
    listen(world, data[0], data[1], data[2:])
    WORLD.append(world)


def listen(world: World, choice: int, seed: int, stream: bytes) -> None:
    """One connection with the broker, from its first byte to its end."""
    prefix = open_link(world)
    link = world.dialogue.link
    texts: list[str] = []
    link.on_info, link.on_error, link.on_pong = texts.append, texts.append, lambda: None
    clients = start_requests(world, choice)
    stream = stream.replace(b"@", prefix)
    for piece in cuts(stream, choice & 3, seed):
        if world.dialogue.broker.is_closed:
            break
        link.data_received(piece)
        if choice & 4:
            world.dialogue.run_turns()
    if choice & 8:
        world.dialogue.ingress.sweep()
    if choice & 16:
        link.retire()
    world.dialogue.run_turns()
    link.connection_lost(None)
    world.dialogue.run_turns()
    stored = 0
    for client in clients:
        answers = read_answers(client.transport.take(), [])
        assert len(answers) == 1, f"{len(answers)} answers to one request"
        if answers[0].body.startswith(b"["):
            check_messages(answers[0].body)
        elif answers[0].status == 200:
            stored += answers[0].body.count(b'"seq"') or 1
    acks = stream.count(b"MSG") + stream.lower().count(b"msg")
    # One ack may speak of all messages of a group.
    assert stored <= (GROUPED * acks if choice & 64 else acks), "stored without an ack"
    defects = world.dialogue.defects
    assert all(text.startswith(DEFECTS) for text in defects), defects
    defects.clear()
    world.end(*clients)


def open_link(world: World) -> bytes:
    """Make a new connection live; return the prefix of its replies."""
    dialogue = world.dialogue
    dialogue.broker = FakeTransport()
    dialogue.link = dialogue.ingress.make_link()
    dialogue.link.connection_made(dialogue.broker)
    dialogue.link.go_live({"max_payload": 1048576})
    dialogue.run_turns()
    line = bytes(dialogue.link.subscribe_line)
    assert line.startswith(b"SUB _INBOX."), line
    return line.split(b" ")[1].removesuffix(b"*")


def start_requests(world: World, choice: int) -> list[Client]:
    """Put two publishes, a batch, a pull, and maybe messages of a group commit in flight."""
    dialogue = world.dialogue
    clients = [world.client() for _ in range(4)]
    for client, asked in zip(clients, (SINGLE, SINGLE, LIST, CONSUME), strict=True):
        client.send(asked)
    if choice & 64:
        dialogue.ingress.put_station(_core.Station("synced", "orders", "orders", ack_fsync=True))
        clients.append(world.client())
        clients[-1].send(GROUP)
    dialogue.run_turns()
    (consume,) = dialogue.consumed
    dialogue.consumed.clear()
    dialogue.ingress.pull(
        consume, "orders", "group", 3, 500, bool(choice & 32), lambda: missing(consume)
    )
    dialogue.run_turns()
    dialogue.broker.take()
    return clients


def missing(consume: _core.Request) -> None:
    """Answer as the handler of a missing group."""
    consume.respond(404, b"{}")


def check_messages(body: bytes) -> None:
    """A consumed batch is a JSON list of at most three messages, whose members have their types."""
    messages: list[dict[str, Any]] = json.loads(body)
    assert len(messages) <= 3
    for message in messages:
        assert isinstance(message["message"], str)
        assert all(isinstance(value, str) for value in message["headers"].values())
