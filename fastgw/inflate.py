"""Content codings of a request's body, undone under a bound.

What enters: the word of a `Content-Encoding`, a body as received, and how many bytes may come out.
What leaves: the message's bytes, at once when the body is small, else as an awaitable.
Called by the core once per coded body. It must never hold more than the bound and one step, never
keep the loop for longer than a small body takes, and never take half a stream for a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from fastgw.errors import ClientFault, UpstreamFault, clip

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future

CODINGS: Final = frozenset({b"gzip", b"x-gzip", b"deflate", b"zstd"})

INLINE_BYTES_MAX: Final = 16 * 1024
INLINE_OUTPUT_BYTES_MAX: Final = 64 * 1024
INLINE_MEMBERS_MAX: Final = 8
"""LIMIT: what is undone on the loop itself, up to half a millisecond; the rest goes to a thread."""

STEP_BYTES: Final = 64 * 1024
"""LIMIT: bytes fed at a time. What a decoder leaves over is copied, so it is at most this much."""

MEMBERS_MAX: Final = 1024
"""LIMIT: members or frames of one body; empty ones cost a decoder each and put nothing out."""

ZSTD_WINDOW_LOG_MAX: Final = 23
"""SOURCE: RFC 9659 §3, a window of at most 8 MiB."""

THREADS: Final = 2
INFLATIONS_MAX: Final = 32
"""LIMIT: bodies in the threads or in line for them; beyond it 503, since each holds its output."""

_GZIP_WBITS: Final = 31
_ZLIB_WBITS: Final = 15
_RAW_WBITS: Final = -15
_ZLIB_METHOD: Final = 8

_places: Final = threading.BoundedSemaphore(INFLATIONS_MAX)
_pool: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="fastgw-inflate")


class _Overrun(Exception):
    """More came out than the bound, or it is more than the loop may do by itself."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def inflate(coding: bytes, body: bytes, bytes_max: int) -> bytes | Awaitable[bytes]:
    """Undo one content coding.

    Args:
        coding: one of `CODINGS`, in any case.
        body: the whole body as received.
        bytes_max: how many bytes may come out.

    Returns:
        The message, or an awaitable of it; a loop must run then.

    Raises:
        ClientFault: "media-type-unsupported", "bad-encoding", or "body-too-large".
        UpstreamFault: "overloaded": `INFLATIONS_MAX` bodies are being inflated.
    """
    word = coding.lower()
    if word not in CODINGS:
        raise ClientFault("media-type-unsupported", f"the content coding {clip(coding)} is unknown")
    if len(body) <= INLINE_BYTES_MAX:
        with contextlib.suppress(_Overrun):
            inline_max = min(bytes_max, INLINE_OUTPUT_BYTES_MAX)
            return _inflate(word, body, inline_max, is_inline=True)
    return _inflate_aside(word, body, bytes_max)


def _inflate_aside(word: bytes, body: bytes, bytes_max: int) -> Awaitable[bytes]:
    if not _places.acquire(blocking=False):
        raise UpstreamFault("overloaded", f"{INFLATIONS_MAX} bodies are being inflated; try again")
    try:
        future = _pool.submit(_inflate_whole, word, body, bytes_max)
    except BaseException:
        _places.release()
        raise
    # WHY here and not in the awaiting task: a client that left does not end the thread's work.
    future.add_done_callback(_free_place)
    return asyncio.wrap_future(future)


def _free_place(_: Future[bytes]) -> None:
    _places.release()


def _inflate_whole(word: bytes, body: bytes, bytes_max: int) -> bytes:
    try:
        return _inflate(word, body, bytes_max, is_inline=False)
    except _Overrun:
        raise _too_large(bytes_max) from None


def _inflate(word: bytes, body: bytes, bytes_max: int, *, is_inline: bool) -> bytes:
    """Undo all members of a body; what comes out is joined.

    Raises:
        _Overrun: after at most `bytes_max` bytes and one more, or a member too many for the loop.
        ClientFault: "bad-encoding".
    """
    make = _decoder_of(word, body)
    members_max = 1 if word == b"deflate" else MEMBERS_MAX
    view, decoder = memoryview(body), make()
    parts: list[bytes] = []
    room, start, members = bytes_max, 0, 1
    while start < len(body):
        if decoder.eof:
            if members >= members_max:
                raise _bad(word, f"bytes follow the end of {members_max} members")
            if is_inline and members >= INLINE_MEMBERS_MAX:
                raise _Overrun
            decoder, members = make(), members + 1
        step = view[start : start + STEP_BYTES]
        try:
            part = decoder.decompress(bytes(step), room + 1)
        except (zlib.error, zstd.ZstdError) as error:
            raise _bad(word, "it is damaged, or of another coding") from error
        room -= len(part)
        if room < 0:
            raise _Overrun
        parts.append(part)
        # The decoder took all that it was given unless its member ended.
        start += len(step) - len(decoder.unused_data)
    if not decoder.eof:
        raise _bad(word, "it ends too early" if body else "it is empty")
    return b"".join(parts)


def _decoder_of(word: bytes, body: bytes) -> Callable[[], _Decoder]:
    """Return what makes a decoder for each member of the body."""
    if word == b"zstd":
        return _zstd_decoder
    if word != b"deflate":
        return partial(zlib.decompressobj, _GZIP_WBITS)
    return partial(zlib.decompressobj, _ZLIB_WBITS if _is_zlib(body) else _RAW_WBITS)


def _zstd_decoder() -> _Decoder:
    bound = {int(zstd.DecompressionParameter.window_log_max): ZSTD_WINDOW_LOG_MAX}
    return zstd.ZstdDecompressor(options=bound)


def _is_zlib(body: bytes) -> bool:
    """Tell a zlib stream, which RFC 9110 asks for, from the raw deflate that some clients send.

    SOURCE: RFC 1950 §2.2: method 8, and a header that is a multiple of 31. A raw stream that looks
    like it would begin with a stored block whose padding is not zero, which no encoder writes.
    """
    return len(body) > 1 and body[0] & 15 == _ZLIB_METHOD and (body[0] << 8 | body[1]) % 31 == 0


def _bad(word: bytes, why: str) -> ClientFault:
    return ClientFault("bad-encoding", f"the body is no whole {clip(word)} stream: {why}")


def _too_large(bytes_max: int) -> ClientFault:
    return ClientFault("body-too-large", f"the inflated body exceeds {bytes_max} bytes")
