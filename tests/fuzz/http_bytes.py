"""Target `http`: arbitrary bytes on a client's connection, in arbitrary pieces.

What enters: two bytes that choose pieces, order and end, then the connection's bytes. What must
hold: no callback raises, no defect is reported, every answer is well-formed, no more answers than
requests, nothing is published that the strict reader does not find, headers of a publish are those
of its request, a neighbour's connection is served all the while, nothing is left behind.
"""

from __future__ import annotations

import gzip
import re
import zlib
from typing import TYPE_CHECKING, Final

from tests.fuzz.answers import Answered, read_answers
from tests.fuzz.strict_http import Found, read_requests
from tests.fuzz.world import World, cuts
from tests.unit.dialogue import HEAD, Frame, parse_frames, request

if TYPE_CHECKING:
    from collections.abc import Iterator

NEIGHBOUR: Final = request(b"calm", head=HEAD.replace(b"orders", b"calm"))
PRODUCE = re.compile(
    rb"(?:https?://[^/?]*)?/stations/([^?]*)/produce/(single|batch)(?:\?.*)?", re.I
)
SUBJECT = re.compile(rb"(orders|silent)(\.[!-)+\-/-=?-~]+)*|picky\.in")
ALLOWED_NATS: Final = {
    b"orders": (b"Nats-Msg-Id",),
    b"picky.in": (b"Nats-Msg-Id", b"Nats-TTL", b"Nats-Expected-Last-Msg-Id"),
    b"silent": (b"Nats-Msg-Id", b"Nats-TTL"),
}
SECRETS: Final = (b"authorization", b"x-api-key", b"cookie", b"connection", b"te")
WORLD: list[World] = []


def fuzz_http(data: bytes) -> None:
    """Feed one connection; raise when a rule is broken."""
    if len(data) < 3:
        return
    world = WORLD.pop() if WORLD else World()
    talk(world, data[0], data[1], data[2:])
    # WHY: only a world that broke no rule serves the next input.
    WORLD.append(world)


def talk(world: World, choice: int, seed: int, stream: bytes) -> None:
    """One conversation; the bits of `choice` say how it goes."""
    stores_late, has_neighbour = bool(choice & 4), bool(choice & 8)
    client = world.client()
    others = [world.client()] if has_neighbour else []
    frames: list[Frame] = []
    other_answers = 0
    for piece in cuts(stream, choice & 3, seed):
        if client.transport.is_reading_paused:
            store(world, frames)
        transport = client.transport
        if transport.is_closed or transport.is_eof_sent:
            break
        assert not transport.is_reading_paused, "all is answered, and reading rests"
        client.send(piece)
        if has_neighbour and other_answers < 2:
            others[0].send(NEIGHBOUR)
            other_answers += 1
        if not stores_late:
            store(world, frames)
    ends_early = (choice >> 4) & 3
    if ends_early == 1:
        client.protocol.eof_received()
    if choice & 64:
        client.protocol.pause_writing()
        world.dialogue.ingress.sweep()
        client.protocol.resume_writing()
    if ends_early != 2:
        store(world, frames)
    written: bytes | None = client.transport.take()
    if ends_early == 2:
        client.protocol.connection_lost(None)
        store(world, frames)
        client.transport.take()
        written = None
    calm = b"".join(other.transport.take() for other in others)
    world.end(*([] if ends_early == 2 else [client]), *others)
    assert len(read_answers(calm, [])) == other_answers, "a neighbour was not served"
    assert calm.count(b"HTTP/1.1 200") == other_answers, "a neighbour was refused"
    judge(read_requests(stream), frames, written)


def store(world: World, frames: list[Frame]) -> None:
    """Be the broker: store what was published, until nothing more comes."""
    dialogue = world.dialogue
    while True:
        world.run()
        taken = parse_frames(dialogue.broker.take())
        if not taken:
            return
        for number, frame in enumerate(taken):
            if frame.subject == b"calm":
                dialogue.store(frame, 7)
                continue
            frames.append(frame)
            if (len(frames) + number) % 5 == 4:
                dialogue.ack(frame, b'{"error":{"code":503,"err_code":10077,"description":"full"}}')
            else:
                dialogue.store(frame, len(frames))


def judge(found: list[Found], frames: list[Frame], written: bytes | None) -> None:
    """Hold what was published and answered against what the strict reader found."""
    check_publishes(found, frames)
    if written is None:
        return
    answers = read_answers(written, [one.method for one in found])
    whole = sum(one.is_whole for one in found)
    assert len(answers) <= whole + 1, f"{len(answers)} answers to {whole} requests"
    stored = sum(check_answer(*pair) for pair in zip(answers, found, strict=False))
    assert stored <= len(frames), f"{stored} stored, say the answers, of {len(frames)} published"
    if len(answers) > len(found):
        assert answers[-1].status >= 400, "an answer to what is no request"


def check_answer(answer: Answered, one: Found) -> bool:
    """An answer that says "stored" belongs to a whole request; return whether it is such a one."""
    if answer.status not in (400, 413, 408, 431):
        assert one.is_whole or answer.is_last, f"{answer.status} to half a request, and goes on"
    if answer.status != 200 or one.method != b"POST" or not PRODUCE.fullmatch(one.target):
        return False
    assert one.is_whole, "a request that is not whole was answered with 200"
    return b"/single" in one.target


def check_publishes(found: list[Found], frames: list[Frame]) -> None:
    """Find for each frame, in order, the request it came from: its payload and its headers."""
    origins = iter(one for one in found if one.is_whole and one.method == b"POST")
    one = next(origins, None)
    at = 0
    for frame in frames:
        assert SUBJECT.fullmatch(frame.subject), f"published to {frame.subject!r}"
        check_names(frame)
        while one is not None and (at := find_payload(one, frame, at)) < 0:
            one, at = next(origins, None), 0
        assert one is not None, f"published, and no request holds it: {frame!r}"


def find_payload(one: Found, frame: Frame, at: int) -> int:
    """Where the request's body goes on behind the frame's payload, or -1 when it is not there."""
    kind = PRODUCE.fullmatch(percent_decoded(one.target))
    if kind is None or kind[1] != frame.subject.split(b".")[0] or not has_headers(one, frame):
        return -1
    if kind[2] == b"single":
        # WHY: one past the end, so that a second frame of the same request is not found.
        return len(one.body) + 1 if at == 0 and frame.payload in bodies(one) else -1
    start = bodies(one)[-1].find(frame.payload, at)
    return start + len(frame.payload) if start >= 0 else -1


def bodies(one: Found) -> tuple[bytes, ...]:
    """The body as sent, and with its coding undone."""
    if not one.values(b"content-encoding"):
        return (one.body,)
    try:
        return one.body, gzip.decompress(one.body)
    except (OSError, EOFError, zlib.error):
        return (one.body,)


def percent_decoded(target: bytes) -> bytes:
    """The path of `target` with its escapes decoded once; the query stays as it is."""
    path, mark, query = target.partition(b"?")
    if b"%" in path:
        path = re.sub(rb"%([0-9A-Fa-f]{2})", lambda hit: bytes([int(hit[1], 16)]), path)
    return path + mark + query


def check_names(frame: Frame) -> None:
    """None of the headers may steer the broker, none is secret, none holds a control byte."""
    root = frame.subject if frame.subject == b"picky.in" else frame.subject.split(b".")[0]
    for name, value in frame.headers:
        assert b"\r" not in value and b"\n" not in value and b"\0" not in value
        assert name.lower() not in SECRETS, f"{name!r} went to the broker"
        if name.lower().startswith(b"nats-"):
            assert name in ALLOWED_NATS[root], f"{name!r} went to the broker"


def has_headers(one: Found, frame: Frame) -> bool:
    """Whether every header of the publish was sent with the request."""
    sent = {(name.lower(), value) for name, value in one.fields}
    for name, value in frame.headers:
        if name == b"Nats-Msg-Id":
            ids = message_ids(one)
            if not any(value == each or value.startswith(each + b".") for each in ids):
                return False
        elif name.lower() == b"content-type":
            # WHY: the element of a batch has a type of its own.
            if not one.values(b"content-type"):
                return False
        elif (name.lower(), value) not in sent:
            return False
    return True


def message_ids(one: Found) -> Iterator[bytes]:
    """The values that may become a message id."""
    for name in (b"nats-msg-id", b"idempotency-key", b"msg-id", b"webhook-id"):
        yield from one.values(name)
