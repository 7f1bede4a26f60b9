"""The PROXY protocol's header, text (v1) and binary (v2): whose connection a proxy hands on.

What enters: the first bytes of a connection, in any pieces. What leaves: how many of them belong to
the header, and in the end the client's address, or None where the proxy speaks for itself.
The acceptor calls it, and only for peers that are trusted to tell. It must never take a byte that
is behind the header: those belong to TLS or HTTP.
SOURCE: HAProxy, "The PROXY protocol, versions 1 & 2", sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import Final

V1_PREFIX: Final = b"PROXY "
V2_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"

V1_BYTES_MAX: Final = 107
"""LIMIT: the longest text header there can be, with its CRLF; section 2.1."""

V2_FIXED_BYTES: Final = 16
V2_BYTES_MAX: Final = 4096
"""LIMIT: the addresses take 216 bytes at most; the rest is room for what proxies add behind them,
of which a client's certificate name is the longest in use."""

PEEK_BYTES: Final = V2_BYTES_MAX
"""How much to look at in one go; a whole header fits."""

_LOCAL: Final = 0
_PROXY: Final = 1
# Family and transport -> size of the two addresses and ports.
_ADDRESS_BYTES: Final = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]{2,39}")


class ProxyError(Exception):
    """What came is no PROXY header that can be believed; the connection is to be closed."""


class ProxyHeader:
    """Reads one header; `client` is the told address once `is_complete`."""

    def __init__(self) -> None:
        self.is_complete = False
        self.client: str | None = None
        self._seen = b""

    def feed_bytes(self, data: bytes) -> int:
        """Take the header's part of `data`. Returns bytes taken; all, while the header is open.

        Raises:
            ProxyError: it is malformed or too long.
        """
        joined = self._seen + data
        size = _find_size(joined)
        if size is None or len(joined) < size:
            self._seen = joined
            return len(data)
        taken = size - len(self._seen)
        header = joined[:size]
        self._seen = b""
        self.client = _parse_v1(header) if header.startswith(b"P") else _parse_v2(header)
        self.is_complete = True
        return taken


def normal_address(text: str) -> str:
    """Return an address in its one spelling; IPv4 that was mapped into IPv6 is IPv4 again.

    Raises:
        ValueError: it is no address.
    """
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(address if mapped is None else mapped)


def _find_size(seen: bytes) -> int | None:
    """Return how long the header is, None while that is open."""
    if seen.startswith(V1_PREFIX[: len(seen)]):
        end = seen.find(b"\n", 0, V1_BYTES_MAX)
        if end >= 0:
            if seen[end - 1 : end] != b"\r":
                raise ProxyError("a text header's line ends without CR")
            return end + 1
        if len(seen) >= V1_BYTES_MAX:
            raise ProxyError(f"a text header of more than {V1_BYTES_MAX} bytes")
        return None
    if not seen.startswith(V2_SIGNATURE[: len(seen)]):
        raise ProxyError("no PROXY header")
    if len(seen) < V2_FIXED_BYTES:
        return None
    size = V2_FIXED_BYTES + int.from_bytes(seen[14:16])
    if size > V2_BYTES_MAX:
        raise ProxyError(f"a binary header of {size} bytes exceeds {V2_BYTES_MAX}")
    return size


def _parse_v1(header: bytes) -> str | None:
    """Parse a whole text header with its CRLF. Returns the client's address, None for UNKNOWN."""
    try:
        words = header[len(V1_PREFIX) : -2].decode("ascii").split(" ")
    except UnicodeDecodeError as error:
        raise ProxyError("a text header that is not ASCII") from error
    if words[0] == "UNKNOWN":
        # WHY: what stands behind it must be ignored, whatever it is.
        return None
    if words[0] not in ("TCP4", "TCP6") or len(words) != 5:
        raise ProxyError("a text header that is neither TCP4, TCP6 nor UNKNOWN")
    version = int(words[0][3])
    client = _check_address(words[1], version)
    _check_address(words[2], version)
    for port in words[3:]:
        if not _PORT.fullmatch(port) or int(port) > 65535:
            raise ProxyError("a text header with a port that is none")
    return client


def _check_address(text: str, version: int) -> str:
    try:
        if not _ADDRESS.fullmatch(text) or ipaddress.ip_address(text).version != version:
            raise ProxyError(f"a text header whose address is no IPv{version} address")
    except ValueError as error:
        raise ProxyError("a text header with an address that is none") from error
    return normal_address(text)


def _parse_v2(header: bytes) -> str | None:
    """Parse a whole binary header. Returns the client's address, None where it tells none."""
    version, command = header[12] >> 4, header[12] & 0x0F
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise ProxyError(f"a binary header of version {version} and command {command}")
    if command == _LOCAL:
        # WHY: the proxy's own connection, a health check; whatever addresses stand there count not.
        return None
    family = header[13]
    size = _ADDRESS_BYTES.get(family)
    if size is None or len(header) < V2_FIXED_BYTES + size:
        raise ProxyError(f"a binary header whose addresses (family {family:#04x}) are not TCP's")
    _check_extras(header[V2_FIXED_BYTES + size :])
    if family == 0x11:
        return normal_address(str(ipaddress.IPv4Address(header[16:20])))
    if family == 0x21:
        return normal_address(str(ipaddress.IPv6Address(header[16:32])))
    return None


def _check_extras(extras: bytes) -> None:
    """Walk the type-length-value fields behind the addresses; they must end with the header."""
    at = 0
    while at < len(extras):
        if len(extras) - at < 3:
            raise ProxyError("a binary header with half a field at its end")
        at += 3 + int(struct.unpack_from("!H", extras, at + 1)[0])
    if at > len(extras):
        raise ProxyError("a binary header with a field longer than itself")
