"""Content codings undone: round trips, every cut, damage, and bombs that cost no memory."""

from __future__ import annotations

import asyncio
import gzip
import sys
import threading
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw import inflate
from fastgw.errors import ClientFault, UpstreamFault
from fastgw.inflate import (
    INFLATIONS_MAX,
    INLINE_BYTES_MAX,
    INLINE_MEMBERS_MAX,
    INLINE_OUTPUT_BYTES_MAX,
    MEMBERS_MAX,
    STEP_BYTES,
    ZSTD_WINDOW_LOG_MAX,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
TEXT = b'{"message":"words that repeat, and words that repeat","n":[1,2,3]}'


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"X-GZip", gzip.compress),
    "zlib": (b"deflate", zlib.compress),
    "raw": (b"deflate", raw_deflate),
    "zstd": (b"zstd", zstd.compress),
}
packers = pytest.mark.parametrize("packer", PACKERS)


def undo(coding: bytes, body: bytes, bytes_max: int = MIB) -> bytes:
    """Inflate, in a loop where that is needed."""

    async def run() -> bytes:
        found = inflate.inflate(coding, body, bytes_max)
        return found if isinstance(found, bytes) else await found

    return asyncio.run(run())


def refusal(coding: bytes, body: bytes, bytes_max: int = MIB) -> str:
    with pytest.raises(ClientFault) as caught:
        undo(coding, body, bytes_max)
    if caught.value.kind.word == "body-too-large":
        assert caught.value.text == f"the inflated body exceeds {bytes_max} bytes"
    return caught.value.kind.word


def outcome(coding: bytes, body: bytes) -> str:
    """Return the kind of what is raised, "" when it is taken."""
    try:
        undo(coding, body)
    except ClientFault as fault:
        return fault.kind.word
    return ""


@packers
@given(data=st.binary(max_size=400) | st.binary(max_size=40).map(lambda part: part * 5000))
def test_inflate_round_trip(packer: str, data: bytes) -> None:
    coding, pack = PACKERS[packer]
    assert undo(coding, pack(data), 200_000) == data


@packers
def test_inflate_small_body_is_there_at_once(packer: str) -> None:
    coding, pack = PACKERS[packer]
    assert inflate.inflate(coding, pack(TEXT), MIB) == TEXT
    assert inflate.inflate(coding, pack(b""), MIB) == b""


@packers
def test_inflate_bound_is_exact(packer: str) -> None:
    coding, pack = PACKERS[packer]
    for size in (1, 100, INLINE_OUTPUT_BYTES_MAX, INLINE_OUTPUT_BYTES_MAX + 1, 3 * STEP_BYTES):
        body = pack(bytes(size))
        assert undo(coding, body, size) == bytes(size)
        assert refusal(coding, body, size - 1) == "body-too-large"
        assert undo(coding, body, size + 1) == bytes(size)


@packers
def test_inflate_every_cut_is_refused(packer: str) -> None:
    coding, pack = PACKERS[packer]
    body = pack(TEXT)
    for end in range(len(body)):
        assert refusal(coding, body[:end]) == "bad-encoding", end


@packers
def test_inflate_every_changed_byte_is_refused_or_harmless(packer: str) -> None:
    coding, pack = PACKERS[packer]
    body = pack(TEXT)
    for at in range(len(body)):
        damaged = bytearray(body)
        damaged[at] ^= 0x55
        assert outcome(coding, bytes(damaged)) in ("", "bad-encoding")
    if packer in ("gzip", "zlib"):
        # The last bytes are the checksum, and in gzip the length behind it.
        for at in range(4 if packer == "zlib" else 8):
            damaged = bytearray(body)
            damaged[len(body) - 1 - at] ^= 1
            assert refusal(coding, bytes(damaged)) == "bad-encoding"


def test_inflate_zstd_checksum_is_checked() -> None:
    body = zstd.compress(TEXT, options={zstd.CompressionParameter.checksum_flag: 1})
    assert undo(b"zstd", body) == TEXT
    assert refusal(b"zstd", body[:-1] + bytes([body[-1] ^ 1])) == "bad-encoding"


@packers
def test_inflate_bytes_behind_the_end_are_refused(packer: str) -> None:
    coding, pack = PACKERS[packer]
    for tail in (b"x", b"\0", TEXT):
        assert refusal(coding, pack(TEXT) + tail) == "bad-encoding"


@packers
def test_inflate_other_coding_is_refused(packer: str) -> None:
    body = PACKERS[packer][1](TEXT)
    for coding, _ in PACKERS.values():
        if PACKERS[packer][0].lower()[-4:] != coding.lower()[-4:]:
            assert refusal(coding, body) == "bad-encoding"
        assert refusal(coding, TEXT) == "bad-encoding"


@pytest.mark.parametrize("packer", ["gzip", "x-gzip", "zstd"])
def test_inflate_members_are_joined_and_bounded(packer: str) -> None:
    coding, pack = PACKERS[packer]
    assert undo(coding, pack(b"one") + pack(b"") + pack(b"two")) == b"onetwo"
    large = pack(bytes(STEP_BYTES)) + pack(b"x" * (2 * STEP_BYTES)) + pack(b"end")
    assert undo(coding, large) == bytes(STEP_BYTES) + b"x" * (2 * STEP_BYTES) + b"end"
    assert refusal(coding, pack(bytes(80)) + pack(bytes(21)), 100) == "body-too-large"
    assert inflate.inflate(coding, pack(b"x") * INLINE_MEMBERS_MAX, MIB) == b"x" * 8
    assert undo(coding, pack(b"x") * (INLINE_MEMBERS_MAX + 1)) == b"x" * 9
    assert undo(coding, pack(b"") * MEMBERS_MAX) == b""
    assert refusal(coding, pack(b"") * (MEMBERS_MAX + 1)) == "bad-encoding"
    assert refusal(coding, pack(b"one") + pack(b"two")[:-1]) == "bad-encoding"


def test_inflate_zstd_skippable_frame_is_skipped() -> None:
    note = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    assert undo(b"zstd", note + zstd.compress(TEXT) + note) == TEXT


def test_inflate_zstd_window_beyond_8_mib_is_refused() -> None:
    data = bytes(range(256)) * 64
    for log, is_taken in ((ZSTD_WINDOW_LOG_MAX, True), (ZSTD_WINDOW_LOG_MAX + 1, False)):
        # WHY by hand: an encoder that knows the size makes the window no larger than it.
        packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log})
        body = packer.compress(data) + packer.flush()
        if is_taken:
            assert undo(b"zstd", body) == data
        else:
            assert refusal(b"zstd", body) == "bad-encoding"


def test_inflate_unknown_coding_is_415() -> None:
    for coding in (b"br", b"identity", b"", b"gzip, gzip", b"\xff"):
        with pytest.raises(ClientFault) as caught:
            inflate.inflate(coding, gzip.compress(TEXT), MIB)
        assert caught.value.kind.status == 415
    assert {coding.lower() for coding, _ in PACKERS.values()} == inflate.CODINGS


def ten_gigabytes(packer: Any, flush: Callable[[], bytes]) -> bytes:
    """Compress 10 GB of zeros as a stream: a part that repeats costs the time of one part."""
    zeros = bytes(16 * MIB)
    return b"".join([packer.compress(zeros) for _ in range(640)]) + flush()


def gzip_bomb() -> bytes:
    # 10 GB in members of 16 MiB, and one member that alone is more than any bound here.
    return gzip.compress(bytes(64 * MIB), 1) + gzip.compress(bytes(16 * MIB), 1) * 640


def zstd_bomb() -> bytes:
    packer = zstd.ZstdCompressor()
    return ten_gigabytes(packer, packer.flush)


@pytest.mark.parametrize(("coding", "make"), [(b"gzip", gzip_bomb), (b"zstd", zstd_bomb)])
def test_inflate_bomb_costs_bounded_memory_and_time(
    coding: bytes, make: Callable[[], bytes]
) -> None:
    body = make()
    tracemalloc.start()
    try:
        started = time.process_time()
        assert refusal(coding, body, MIB) == "body-too-large"
        took = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What came out, and the blocks that zlib gathers it in.
    assert peak < 4 * MIB + len(body[:STEP_BYTES])
    assert took < 2


def test_inflate_member_flood_costs_bounded_time() -> None:
    body = gzip.compress(b"") * (4 * MIB // 20)
    started = time.process_time()
    assert refusal(b"gzip", body, MIB) == "bad-encoding"
    assert time.process_time() - started < 2


async def test_inflate_more_than_the_loop_may_do_runs_aside() -> None:
    """A small body keeps the loop for a bounded output and a few members only."""
    members = gzip.compress(b"") * (INLINE_MEMBERS_MAX + 1)
    output = gzip.compress(bytes(INLINE_OUTPUT_BYTES_MAX + 1))
    assert len(members) < INLINE_BYTES_MAX and len(output) < INLINE_BYTES_MAX
    for body, size in ((members, 0), (output, INLINE_OUTPUT_BYTES_MAX + 1)):
        found = inflate.inflate(b"gzip", body, MIB)
        assert not isinstance(found, bytes)
        assert len(await found) == size


async def test_inflate_large_body_runs_aside() -> None:
    data = bytes(range(256)) * 4096
    for body in (gzip.compress(data, 0), gzip.compress(bytes(MIB))):
        found = inflate.inflate(b"gzip", body, MIB)
        assert not isinstance(found, bytes)
        assert len(await found) == MIB
    assert len(gzip.compress(bytes(MIB))) < INLINE_BYTES_MAX


async def test_inflate_more_than_the_bound_at_once_is_overloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()
    whole = inflate._inflate_whole

    def wait(word: bytes, body: bytes, bytes_max: int) -> bytes:
        assert gate.wait(20)
        return whole(word, body, bytes_max)

    monkeypatch.setattr(inflate, "_inflate_whole", wait)
    body = gzip.compress(bytes(MIB))
    running = [inflate.inflate(b"gzip", body, MIB) for _ in range(INFLATIONS_MAX)]
    with pytest.raises(UpstreamFault) as caught:
        inflate.inflate(b"gzip", body, MIB)
    assert caught.value.kind.word == "overloaded"
    # A small one needs no thread.
    assert inflate.inflate(b"gzip", gzip.compress(TEXT), MIB) == TEXT
    # One who leaves while in line frees its place; those that run keep theirs until they end.
    last = running.pop()
    assert isinstance(last, asyncio.Future)
    last.cancel()
    await asyncio.sleep(0)
    running.append(inflate.inflate(b"gzip", body, MIB))
    gate.set()
    for one in running:
        assert not isinstance(one, bytes)
        assert len(await one) == MIB
    again = inflate.inflate(b"gzip", body, MIB)
    assert not isinstance(again, bytes)
    await again
