"""What the core accepts, h11 reads the same: method, target, headers, body, where messages end.

h11 is a second, strict reader by other people. Requests are made by hypothesis, whole or damaged,
one or several on a connection, in pieces. The other direction is not asked: the core may refuse
what h11 takes. Where the two differ on purpose, `DIFFERENCES` says so by name.
"""

from __future__ import annotations

import random
import re
from typing import Final, NamedTuple

import h11
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.unit.dialogue import Dialogue

DIFFERENCES: Final = {
    "empty lines": "h11 ends at one before a request line; RFC 9112 §2.2 asks a server to skip it",
    "letters": "h11 gives the value of Transfer-Encoding in lower case; we give what was sent",
    "targets": "our handlers see the path of an absolute target, and no mark of an empty query",
}
QUIET: Final = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
TAKEN: Final = 410
"""The status of our handler, which the core itself never gives."""
ALPHABET: Final = b"\r\n\0 \t:;,/?#%*>.-+\"'{}[]\\\x7f\x80\xff09azAZ"

tokens = st.text("abcXYZ019-_!#$%&'*+.^`|~", min_size=1, max_size=12)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=20).filter(
    lambda text: "\x7f" not in text and not any(0x7F <= ord(c) < 0xA0 for c in text)
)
targets = st.sampled_from(
    ["/", "/x", "/x?a=b&c", "/%2e%2e/a", "//x", "/a;b=c", "http://h/x", "/x?", "/~a", "/'()"]
)
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"])
bodies = st.binary(max_size=60)


class Read(NamedTuple):
    """One request, as a reader sees it."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Make one well-formed request."""
    lines = [b"Host: h"]
    for name, value in draw(st.lists(st.tuples(tokens, values), max_size=4)):
        padding = draw(st.sampled_from(["", " ", "\t", "  "]))
        lines.append(f"{name}:{padding}{value}{padding}".encode("latin-1"))
    body = draw(bodies)
    framing = draw(st.sampled_from(["none", "length", "chunked", "chunked"]))
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(
            draw(st.sampled_from([b"Transfer-Encoding: chunked", b"TRANSFER-encoding:Chunked"]))
        )
        body = draw(chunked(body))
    else:
        body = b""
    lines += draw(st.lists(st.sampled_from([
        b"Connection: keep-alive", b"Connection: x-a", b"Connection: Upgrade", b"Upgrade: h2c",
        b"Expect: 100-continue", b"Connection: close",
    ]), max_size=2))  # fmt: skip
    version = draw(st.sampled_from([b"1.1"] * 7 + [b"1.0"]))
    line = f"{draw(methods)} {draw(targets)} HTTP/".encode() + version
    return b"\r\n".join([line, *lines]) + b"\r\n\r\n" + body


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """Frame a body in chunks, with an extension and a trailer now and then."""
    out = b""
    extension = draw(st.sampled_from([b"", b";a=b", b";a", b';a="x y"']))
    while body:
        size = draw(st.integers(1, len(body)))
        digits = draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % size
        out += digits + extension + b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    trailer = draw(st.sampled_from([b"", b"X-T: 1\r\n", b"Host: other\r\n"]))
    return out + b"0\r\n" + trailer + b"\r\n"


def damaged(data: bytes, seed: int) -> bytes:
    """Change a few bytes."""
    dice, broken = random.Random(seed), bytearray(data)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(broken))
        kind = dice.randrange(4)
        if kind == 0:
            broken[at] = dice.choice(ALPHABET)
        elif kind == 1:
            del broken[at : at + dice.randint(1, 4)]
        elif kind == 2:
            broken[at:at] = bytes(dice.choice(ALPHABET) for _ in range(dice.randint(1, 4)))
        else:
            broken[at:at] = broken[at : at + dice.randint(1, 40)]
        if not broken:
            break
    return bytes(broken)


def read_with_core(data: bytes, piece: int) -> list[Read | None]:
    """Every answered request, in order; None for one that the core answers by itself."""
    dialogue = Dialogue()
    client = dialogue.client()
    found: list[Read] = []
    for at in range(0, len(data), piece):
        client.send(data[at : at + piece])
        dialogue.run_turns()
        taken, dialogue.dispatched[:] = dialogue.dispatched[:], []
        for request in taken:
            query = b"?" + request.query if request.query else b""
            headers = [lowered(name, value) for name, value in request.headers]
            target = request.raw_path + query
            found.append(Read(request.method.encode(), target, headers, request.body))
            request.respond(TAKEN)
        dialogue.run_turns()
    assert not dialogue.defects, dialogue.defects
    statuses = [int(text) for text in re.findall(rb"HTTP/1\.1 (\d\d\d) ", client.transport.take())]
    client.protocol.connection_lost(None)
    assert statuses.count(TAKEN) == len(found)
    taken_in_order = iter(found)
    listed = [
        next(taken_in_order) if status == TAKEN else None for status in statuses if status != 100
    ]
    while listed and listed[-1] is None:
        listed.pop()
    return listed


def read_with_h11(data: bytes, count: int) -> list[Read]:
    """The first `count` requests, each by a reader of its own, fed with what the last one left."""
    found = []
    for _ in range(count):
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        reader.receive_data(data.lstrip(b"\r\n"))
        event = reader.next_event()
        assert isinstance(event, h11.Request), event
        body = b""
        while not isinstance(part := reader.next_event(), h11.EndOfMessage):
            assert isinstance(part, h11.Data), part
            body += part.data
        headers = [lowered(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
        found.append(Read(event.method, shown(event.target), headers, body))
        data = reader.trailing_data[0]
    return found


def lowered(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A header; a transfer coding is the same in any case."""
    return name, value.lower() if name.lower() == b"transfer-encoding" else value


def shown(target: bytes) -> bytes:
    """A target as the core's handlers see it: origin form, and no mark of an empty query."""
    match = re.fullmatch(rb"(?i:https?)://[^/?]*(/[^?]*)?(.*)", target)
    if match is not None:
        target = (match[1] or b"/") + match[2]
    return target.removesuffix(b"?") if target.find(b"?") == len(target) - 1 else target


def compare(data: bytes, piece: int) -> int:
    """Compare the readers; return how many requests they agree on."""
    found = read_with_core(data, piece)
    try:
        expected = read_with_h11(data, len(found))
    except h11.RemoteProtocolError as error:
        raise AssertionError(f"h11 refuses what the core takes: {error}; {data!r}") from error
    for one, other in zip(found, expected, strict=True):
        assert one is None or one == other, data
    return sum(one is not None for one in found)


@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(sent=st.lists(requests(), min_size=1, max_size=3), piece=st.integers(1, 400))
def test_good_requests_are_read_as_h11_reads_them(sent: list[bytes], piece: int) -> None:
    compare(b"".join(sent), piece)


@settings(max_examples=600, deadline=None, suppress_health_check=QUIET)
@given(
    sent=st.lists(requests(), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    piece=st.sampled_from([1, 7, 4096]),
)
def test_damaged_requests_that_are_taken_are_read_as_h11_reads_them(
    sent: list[bytes], seed: int, piece: int
) -> None:
    data = damaged(b"".join(sent), seed)
    assume(data)
    compare(data, piece)


def test_most_good_requests_are_taken() -> None:
    data = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
    chunks = (
        b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    assert compare(data * 3 + chunks + data, 5) == 5


def test_a_reader_that_differs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h11.Connection, "trailing_data", (b"", False))
    with pytest.raises(AssertionError):
        compare(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n" * 2, 4096)
