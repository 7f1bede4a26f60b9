"""Target `usual`: the same bytes as they come, and in reads so small that the parser gets them.

What enters: a byte that chooses who may ask, one that chooses the cuts, then the bytes themselves.
What must hold: the answers, what is published, what is refused and counted, and whether the
connection ends, are the same both ways; nothing is left behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastgw import _core
from fastgw.errors import ClientFault
from tests.fuzz.world import World, cuts
from tests.unit.dialogue import Client, Frame, parse_frames

if TYPE_CHECKING:
    from collections.abc import Iterable

READ_BYTES_MAX: Final = 15
"""LIMIT: `POST / HTTP/1.1` and its CRLF are longer, so no read of this size holds a head."""
LIMITS: Final[dict[str, Any]] = {
    # WHY: the parser's bound of a head that is not whole counts reads; an input never reaches it.
    "headers_bytes_max": 3840,
    "pipelined_max": 8,
}
COUNTED: Final = ("faults", "defects", "in_flight", "waiting_bytes")
ROUNDS_MAX: Final = 5000
"""LIMIT: rounds of turns and acks until nothing moves."""
BROKEN: Final = b"Error-Code: bad-request-framing\r\n"
WORLDS: dict[int, World] = {}


class Seen(NamedTuple):
    """What came of a connection."""

    written: bytes
    frames: list[Frame]
    counts: dict[str, int]
    states: tuple[bool, bool]


class Judge:
    """A verifier that takes the signature "good <body>"."""

    header_names = frozenset({b"x-signature", b"host"})

    def verify(self, headers: dict[bytes, bytes], body: bytes, now: float, /) -> None:
        if headers.get(b"x-signature") != (b"good " + body).strip():
            raise ClientFault("unauthorized", f"the signature is wrong: {sorted(headers.items())}")


def fuzz_usual(data: bytes) -> None:
    """Feed two connections; raise when they differ."""
    if len(data) < 3:
        return
    choice, seed, stream = data[0], data[1], data[2:]
    world = WORLDS.pop(choice & 3, None) or make_world(choice & 3)
    pieces = cuts(stream, (0, 1, 3, 0)[(choice >> 2) & 3], seed)
    how = {"serves": ("all", "all", "data", "admin")[(choice >> 4) & 3]}
    seen = talk(world, pieces, choice, how)
    small = (stream[at : at + READ_BYTES_MAX] for at in range(0, len(stream), READ_BYTES_MAX))
    wanted = talk(world, small, choice, how)
    if BROKEN in seen.written + wanted.written:
        seen, wanted = without_reason(seen), without_reason(wanted)
    assert seen == wanted, f"as they come: {seen}; through the parser: {wanted}"
    # WHY: only a world that broke no rule serves the next input.
    WORLDS[choice & 3] = world


def make_world(kind: int) -> World:
    """A world: 0 and 1 with credentials, 2 with a station of signatures, 3 where all may ask."""
    world = World(**LIMITS)
    ingress = world.dialogue.ingress
    if kind == 2:
        ingress.put_station(_core.Station("orders", "orders", "orders", verifier=Judge()))
    elif kind == 3:
        ingress.allow_anonymous(world.dialogue.principal)
    return world


def talk(world: World, pieces: Iterable[bytes], choice: int, how: dict[str, str]) -> Seen:
    """One connection, with a broker that stores at once; the end follows from `choice`."""
    ingress = world.dialogue.ingress
    ingress.forget_everyone()
    before = ingress.stats()
    client = world.dialogue.client(**how)
    frames: list[Frame] = []
    for piece in pieces:
        if client.transport.is_reading_paused:
            settle(world, frames)
        if client.transport.is_closed:
            break
        assert not client.transport.is_reading_paused, "all is answered, and reading rests"
        client.send(piece)
    settle(world, frames)
    if choice & 64:
        client.protocol.eof_received()
        settle(world, frames)
    after = ingress.stats()
    counts = {name: after[name] - before[name] for name in COUNTED}
    seen = Seen(undated(client), frames, counts, states(client))
    world.end(client)
    return seen


def settle(world: World, frames: list[Frame]) -> None:
    """Be the broker until nothing moves."""
    dialogue = world.dialogue
    for _ in range(ROUNDS_MAX):
        world.run()
        taken = parse_frames(dialogue.broker.take())
        if not (taken or dialogue.dispatched or dialogue.consumed):
            return
        for frame in taken:
            frames.append(frame._replace(reply=b""))
            if frame.reply:
                dialogue.store(frame, len(frames))
    raise AssertionError("the core never comes to rest")


def without_reason(seen: Seen) -> Seen:
    """`seen` with the reason left out of a refusal that ends the connection.

    WHY: llhttp tells of a field or target in front of a broken byte or not, as the reads were cut;
    so a bound may be what is wrong, or the bytes, or first one and then the other.
    """
    before, _, last = seen.written.rpartition(b"HTTP/1.1 4")
    assert b"Connection: close\r\n" in last, f"refused, and goes on: {seen}"
    return seen._replace(written=before, counts=seen.counts | {"faults": 0})


def undated(client: Client) -> bytes:
    """What the client got, without the time of it, and without a 100.

    WHY: a 100 is owed while the body is missing; how long that is, the reads decide.
    """
    written = client.transport.take().replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    lines = written.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(b"Date: "))


def states(client: Client) -> tuple[bool, bool]:
    return client.transport.is_closed, client.transport.is_eof_sent
