"""The PROXY header, text and binary: whole, byte by byte, at every split; and what is refused."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.door.proxy_protocol import (
    V1_BYTES_MAX,
    V2_BYTES_MAX,
    V2_SIGNATURE,
    ProxyError,
    ProxyHeader,
    normal_address,
)

BEHIND = b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"


def v2(
    family: int = 0x11, addresses: bytes | None = None, command: int = 0x21, extras: bytes = b""
) -> bytes:
    if addresses is None:
        addresses = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 40000, 443)
    body = addresses + extras
    return V2_SIGNATURE + bytes([command, family]) + struct.pack("!H", len(body)) + body


def tcp6(client: str) -> bytes:
    pair = socket.inet_pton(socket.AF_INET6, client) + socket.inet_pton(socket.AF_INET6, "::1")
    return v2(0x21, pair + struct.pack("!HH", 1, 2))


def extra(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


GOOD: list[tuple[bytes, str | None]] = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n", "192.0.2.7"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    (b"PROXY TCP6 2001:DB8::7 ::1 0 443\r\n", "2001:db8::7"),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 443\r\n", "192.0.2.7"),
    (b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
     "ffff:" * 7 + "ffff"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b"x" * (V1_BYTES_MAX - 16) + b"\r\n", None),
    (v2(), "192.0.2.7"),
    (tcp6("2001:db8::7"), "2001:db8::7"),
    (tcp6("::ffff:192.0.2.7"), "192.0.2.7"),
    (v2(command=0x20), None),
    (v2(0x00, b"", command=0x20), None),
    (v2(0x7F, b"anything", command=0x20), None),
    (v2(0x00, b""), None),
    (v2(0x31, b"/tmp/x".ljust(216, b"\0")), None),
    (v2(extras=extra(0x04, b"") + extra(0x02, b"example.com")), "192.0.2.7"),
    (v2(extras=extra(0xEE, b"v" * (V2_BYTES_MAX - 16 - 12 - 3))), "192.0.2.7"),
]  # fmt: skip

BAD: list[bytes] = [
    BEHIND,
    b"\x16\x03\x01\x02\x00\x01",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXYTCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
    b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
    b"PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n",
    b"PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY TCP4 ::1 2.2.2.2 1 2\r\n",
    b"PROXY TCP6 1.1.1.1 ::1 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.x 1 2\r\n",
    b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY TCP4 \xd9\xa1.1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY UNKNOWN " + b"x" * (V1_BYTES_MAX - 15) + b"\r\n",
    V2_SIGNATURE[:-1] + b"\r" + bytes(4),
    v2(command=0x11),
    v2(command=0x31),
    v2(command=0x22),
    v2(0x12),
    v2(0x22, bytes(36)),
    v2(0x32, bytes(216)),
    v2(0x13),
    v2(0x11, bytes(11)),
    v2(0x21, bytes(35)),
    v2(extras=b"\x04"),
    v2(extras=b"\x04\x00\x01"),
    v2(extras=extra(0x04, b"abc")[:-1]),
    v2(extras=bytes(V2_BYTES_MAX)),
]


def feed(header: ProxyHeader, pieces: list[bytes]) -> bytes:
    """Feed pieces as a socket would show them; returns what was left behind the header."""
    left = b""
    for piece in pieces:
        taken = 0 if header.is_complete else header.feed_bytes(piece)
        assert 0 <= taken <= len(piece)
        left += piece[taken:]
    return left


@pytest.mark.parametrize(("header", "client"), GOOD)
def test_header_whole_and_at_every_split_takes_exactly_its_bytes(
    header: bytes, client: str | None
) -> None:
    data = header + BEHIND
    splits = [[data[:at], data[at:]] for at in range(1, min(len(header), 300) + 2)]
    for pieces in ([data], [bytes([byte]) for byte in data], [header, BEHIND], *splits):
        reader = ProxyHeader()
        assert feed(reader, pieces) == BEHIND
        assert reader.is_complete
        assert reader.client == client


@pytest.mark.parametrize("header", BAD)
def test_header_malformed_is_refused_in_any_pieces(header: bytes) -> None:
    splits = [[header[:at], header[at:]] for at in range(1, min(len(header), 200))]
    for pieces in ([header], [bytes([byte]) for byte in header], *splits):
        with pytest.raises(ProxyError):
            feed(ProxyHeader(), pieces)


def test_text_header_without_an_end_is_refused_at_its_bound() -> None:
    reader = ProxyHeader()
    start = b"PROXY UNKNOWN "
    assert reader.feed_bytes(start.ljust(V1_BYTES_MAX - 1, b"x")) == V1_BYTES_MAX - 1
    with pytest.raises(ProxyError, match=str(V1_BYTES_MAX)):
        reader.feed_bytes(b"x")


def test_binary_header_too_long_is_refused_before_it_arrives() -> None:
    head = V2_SIGNATURE + b"\x21\x11" + struct.pack("!H", V2_BYTES_MAX - 15)
    with pytest.raises(ProxyError, match=str(V2_BYTES_MAX + 1)):
        ProxyHeader().feed_bytes(head)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", V2_SIGNATURE + b"\x21\x11"]))
def test_header_of_any_bytes_ends_in_an_address_or_a_refusal(data: bytes, start: bytes) -> None:
    reader = ProxyHeader()
    try:
        taken = reader.feed_bytes(start + data)
    except ProxyError:
        return
    assert taken == len(start + data) or reader.is_complete
    if reader.client is not None:
        assert normal_address(reader.client) == reader.client


@given(st.ip_addresses(), st.integers(0, 65535))
def test_address_told_in_text_and_binary_is_the_same(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    is_four = address.version == 4
    other = "192.0.2.1" if is_four else "2001:db8::1"
    text = f"PROXY TCP{address.version} {address} {other} {port} 1\r\n".encode()
    packed = address.packed + ipaddress.ip_address(other).packed + struct.pack("!HH", port, 1)
    told = []
    for header in (text, v2(0x11 if is_four else 0x21, packed)):
        reader = ProxyHeader()
        assert reader.feed_bytes(header) == len(header)
        told.append(reader.client)
    assert told == [normal_address(str(address).partition("%")[0])] * 2
