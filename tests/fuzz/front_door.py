"""Targets `proxy` and `inflate`: what stands in front of a request, and around its body.

What enters: a choice, then a PROXY header with what follows, or a coded body. What must hold: only
the errors that are named come out, pieces change nothing, no byte behind the header is taken, and
nothing longer than the bound comes out of a body.
"""

from __future__ import annotations

import asyncio
import atexit
import gzip
import ipaddress
import zlib
from functools import cache
from typing import Final

from fastgw.door.proxy_protocol import V2_BYTES_MAX, ProxyError, ProxyHeader
from fastgw.errors import ClientFault
from fastgw.inflate import inflate
from tests.fuzz.world import cuts

CODINGS: Final = (b"gzip", b"deflate", b"zstd", b"X-GZip")
BOUND: Final = 4096


def fuzz_proxy(data: bytes) -> None:
    """Read one header whole and in pieces; raise when they differ or a rule is broken."""
    if len(data) < 3:
        return
    stream = data[2:]
    whole = read_header([stream])
    pieces = read_header(list(cuts(stream, data[0] & 3, data[1])))
    assert whole == pieces, f"{whole} at once, {pieces} in pieces"
    taken, _, client = whole
    assert taken <= min(len(stream), V2_BYTES_MAX)
    if client is not None:
        assert str(ipaddress.ip_address(client)) == client
    if whole[1] == "complete" and stream.startswith(b"P"):
        assert stream[:taken].count(b"\n") == 1 and stream[:taken].endswith(b"\r\n")


def read_header(pieces: list[bytes]) -> tuple[int, str, str | None]:
    """Feed the pieces; return the bytes taken, how it ended, and the address told."""
    header = ProxyHeader()
    taken = 0
    for piece in pieces:
        try:
            taken += header.feed_bytes(piece)
        except ProxyError:
            return 0, "refused", None
        if header.is_complete:
            return taken, "complete", header.client
    return 0, "open", None


def fuzz_inflate(data: bytes) -> None:
    """Undo one small body; raise when too much or something else comes out."""
    if not data:
        return
    coding, body = CODINGS[data[0] & 3], data[1:]
    try:
        message = event_loop().run_until_complete(inflate_whole(coding, body))
    except ClientFault as fault:
        word = fault.kind.word
    else:
        check_message(data[0] & 3, body, message)
        return
    assert word in ("bad-encoding", "body-too-large"), word


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """One loop for all inputs, since larger bodies are undone in a thread."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


async def inflate_whole(coding: bytes, body: bytes) -> bytes:
    """Undo a body, at once or in a thread."""
    message = inflate(coding, body, BOUND)
    return message if isinstance(message, bytes) else await message


def check_message(kind: int, body: bytes, message: bytes) -> None:
    """Hold what came out against the standard library's decoders."""
    assert len(message) <= BOUND
    if kind in (0, 3):
        assert message == gzip.decompress(body)
    elif kind == 1:
        assert message in (undo(body, 15), undo(body, -15))


def undo(body: bytes, wbits: int) -> bytes | None:
    """Undo deflate in one go; None when it is not in that form."""
    try:
        return zlib.decompress(body, wbits)
    except zlib.error:
        return None
