"""Target `headers`: arbitrary names and values in a request whose framing is right.

What enters: one byte that chooses the station and kind of request, then header lines, one a line.
What must hold: what `http` checks; and `build_fields` refuses or builds a block that parses.
"""

from __future__ import annotations

from typing import Final

from fastgw import _core
from fastgw.errors import ClientFault
from tests.fuzz.http_bytes import talk
from tests.fuzz.world import World

PATHS: Final = (
    b"/stations/orders/produce/single",
    b"/stations/picky/produce/single?wait=false",
    b"/stations/silent/produce/batch?results=true",
    b"/stations/picky/produce/batch",
    b"/stations/orders/produce/single?subject=a.b",
    b"http://gateway/stations/picky/produce/single",
    b"/elsewhere?access_token=good",
    b"/stations/orders/consume/batch",
)
BODY: Final = b'[{"a":1},2]'
WORLD: list[World] = []


def fuzz_headers(data: bytes) -> None:
    """Send one request with the given header lines; raise when a rule is broken."""
    if not data:
        return
    lines = data[1:].split(b"\n")
    head = (
        b"POST %b HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\n"
        b"Content-Length: %d\r\n" % (PATHS[data[0] & 7], len(BODY))
    )
    request = head + b"".join(line + b"\r\n" for line in lines if line) + b"\r\n" + BODY
    world = WORLD.pop() if WORLD else World(headers_bytes_max=4096, headers_count_max=60)
    talk(world, 16, 0, request)
    WORLD.append(world)
    check_built([line.partition(b":")[::2] for line in lines])


def check_built(headers: list[tuple[bytes, bytes]]) -> None:
    """The gateway's own headers: refused, or lines that read back as they were."""
    try:
        block = _core.build_fields(headers)
    except ClientFault:
        return
    assert block.count(b"\r\n") == len(headers), block
    for line, (name, value) in zip(block.split(b"\r\n"), headers, strict=False):
        assert line == name + b": " + value and b"\r" not in line and b"\n" not in line
