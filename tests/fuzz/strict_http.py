"""A second reader of HTTP requests: slow, plain and strict; what it does not find, nobody sent.

What enters: all bytes of one connection. What leaves: the whole requests in them, in order, up to
the first byte that RFC 9112 does not allow. It shares no code with the core, and the targets hold
the core against it: the core may refuse more, but it must never act on a request that is not here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(%b) ([^\x00-\x20\x7f]+) HTTP/(1\.[01])\r\n" % TOKEN)
# WHY: RFC 9110 §5.5 lets a server keep control bytes other than CR, LF and NUL inside a value.
FIELD = re.compile(rb"(%b):[ \t]*([^\r\n\0]*)\r\n" % TOKEN)
# WHY: an extension's letters are not looked at; nothing of an extension is ever used.
CHUNK = re.compile(rb"(0*[0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n\0]*)?\r\n")
DIGITS = re.compile(rb"[0-9]{1,18}")


@dataclass(slots=True)
class Found:
    """One request; `fields` holds names as sent, values without the white space around them."""

    method: bytes
    target: bytes
    version: bytes
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    is_whole: bool = False
    is_last: bool = False

    def values(self, name: bytes) -> list[bytes]:
        """All values of the header called `name` (lower case)."""
        return [value for key, value in self.fields if key.lower() == name]


def read_requests(data: bytes) -> list[Found]:
    """Every request whose head is whole, in order; only the last may lack its body's end."""
    found: list[Found] = []
    at = 0
    while at < len(data) and not (found and (found[-1].is_last or not found[-1].is_whole)):
        request, at = _read_request(data, at)
        if request is None:
            break
        found.append(request)
    return found


def _read_request(data: bytes, at: int) -> tuple[Found | None, int]:
    while at < len(data) and data[at] in b"\r\n":
        at += 1
    line = LINE.match(data, at)
    if line is None:
        return None, at
    request = Found(line[1], line[2], line[3])
    at = _read_fields(data, line.end(), request.fields)
    if at < 0:
        return None, at
    options = b",".join(request.values(b"connection")).lower().replace(b"\t", b" ").split(b",")
    options = [option.strip() for option in options]
    request.is_last = b"close" in options or (
        request.version == b"1.0" and b"keep-alive" not in options
    )
    return request, _read_body(data, at, request)


def _read_fields(data: bytes, at: int, fields: list[tuple[bytes, bytes]]) -> int:
    """Read header lines up to the empty one; return where it ends, or -1."""
    while data[at : at + 2] != b"\r\n":
        line = FIELD.match(data, at)
        if line is None:
            return -1
        fields.append((line[1], line[2].rstrip(b" \t")))
        at = line.end()
    return at + 2


def _read_body(data: bytes, at: int, request: Found) -> int:
    codings, lengths = request.values(b"transfer-encoding"), request.values(b"content-length")
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked":
            return len(data)
        return _read_chunks(data, at, request)
    if not lengths:
        request.is_whole = True
        return at
    if len(lengths) > 1 or not DIGITS.fullmatch(lengths[0]):
        return len(data)
    end = at + int(lengths[0])
    request.body = data[at:end]
    request.is_whole = len(data) >= end
    return end


def _read_chunks(data: bytes, at: int, request: Found) -> int:
    body = b""
    while True:
        line = CHUNK.match(data, at)
        if line is None:
            break
        at = line.end()
        size = int(line[1], 16)
        if size == 0:
            at = _read_fields(data, at, [])
            if at >= 0:
                request.body, request.is_whole = body, True
                return at
            break
        if data[at + size : at + size + 2] != b"\r\n":
            break
        body += data[at : at + size]
        at += size + 2
    request.body = body
    return len(data)
