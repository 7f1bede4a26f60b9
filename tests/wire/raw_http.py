"""Raw HTTP over a socket: bytes out in three ways of cutting, parsed answers in.

What enters: the bytes of one or several requests.
What leaves: every response until the server closed, in order, with nothing left over.
Called by the wire tests. It reads only what RFC 9112 lets a client rely on, and shares no code
with the gateway, so that a defect of one cannot hide in the other.
"""

from __future__ import annotations

import json
import select
import socket
import time
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

TIMEOUT_S: Final = 15.0
"""LIMIT: the longest wait of a test for bytes; above every timeout that a test configures."""

SPLIT_PAUSE_S: Final = 0.002
"""LIMIT: lets the server read the first part alone; ends early when it answers."""

Mode = Literal["whole", "bytes"]


@dataclass(frozen=True, slots=True)
class Response:
    """One final response; header names in lower case."""

    version: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    interim: tuple[int, ...] = ()

    def header(self, name: str) -> str | None:
        """Find the first header of that name."""
        return next((v for n, v in self.headers if n == name.lower()), None)

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [v for n, v in self.headers if n == name.lower()]

    def json(self) -> Any:
        """Parse the body as JSON."""
        return json.loads(self.body)


class Reader:
    """Parses responses out of a byte stream.

    Args:
        methods: methods of the requests sent, in order; a HEAD's response has no body.
    """

    def __init__(self, methods: list[str] | None = None) -> None:
        self.data = b""
        self._methods = list(methods or [])
        self._interim: tuple[int, ...] = ()

    def next(self, *, is_end: bool = False) -> Response | None:
        """Take the next whole response, or None when bytes are missing."""
        while True:
            head, blank, rest = self.data.partition(b"\r\n\r\n")
            if not blank:
                return None
            version, status, headers = _parse_head(head)
            if status >= 200:
                break
            self.data = rest
            self._interim += (status,)
        method = self._methods[0] if self._methods else ""
        body = _take_body(status, dict(headers), method, rest, is_end=is_end)
        if body is None:
            return None
        if self._methods:
            self._methods.pop(0)
        interim, self._interim = self._interim, ()
        self.data = rest[body[1] :]
        return Response(version, status, headers, body[0], interim)


def _parse_head(head: bytes) -> tuple[str, int, list[tuple[str, str]]]:
    lines = head.decode("latin-1").split("\r\n")
    version, status, _ = lines[0].split(" ", 2)
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        assert colon, f"a header line without a colon: {line!r}"
        assert name and name.strip() == name, f"a header name with space around: {line!r}"
        headers.append((name.lower(), value.strip()))
    return version, int(status), headers


def _take_body(
    status: int, headers: dict[str, str], method: str, rest: bytes, *, is_end: bool
) -> tuple[bytes, int] | None:
    """Return the body and how many bytes it took, or None when some are missing."""
    if method == "HEAD" or status in (204, 304):
        return b"", 0
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _take_chunks(rest)
    if "content-length" in headers:
        size = int(headers["content-length"])
        return (rest[:size], size) if len(rest) >= size else None
    return (rest, len(rest)) if is_end else None


def _take_chunks(rest: bytes) -> tuple[bytes, int] | None:
    body, at = b"", 0
    while True:
        end = rest.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(rest[at:end].split(b";")[0], 16)
        at = end + 2
        if len(rest) < at + size + 2:
            return None
        body += rest[at : at + size]
        at += size + 2
        if size == 0:
            return body, at


class Wire:
    """One TCP connection with the gateway; use it as a context manager."""

    def __init__(self, address: tuple[str, int], methods: list[str] | None = None) -> None:
        self.socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = Reader(methods)
        self.is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def reset(self) -> None:
        """Close with RST, as a client whose process was killed with unread bytes does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def send(self, data: bytes, mode: Mode = "whole", split: int | None = None) -> None:
        """Send `data` at once, byte by byte, or in two parts; stop when the server closed."""
        try:
            if split is not None:
                self.socket.sendall(data[:split])
                select.select([self.socket], [], [], SPLIT_PAUSE_S)
                self.socket.sendall(data[split:])
            elif mode == "bytes":
                for at in range(len(data)):
                    self.socket.sendall(data[at : at + 1])
            else:
                self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            # The server refused early and closed: its answer is still to be read.
            pass

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.is_closed = True

    def receive(self, timeout_s: float = TIMEOUT_S) -> Response | None:
        """Wait for the next response; None when the server closed first."""
        deadline = time.monotonic() + timeout_s
        while True:
            response = self._reader.next(is_end=self.is_closed)
            if response is not None or self.is_closed:
                return response
            left_s = deadline - time.monotonic()
            ready = select.select([self.socket], [], [], max(0.0, left_s))[0]
            assert ready, f"no response within {timeout_s} s; so far {self._reader.data[:200]!r}"
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            self._reader.data += data
            self.is_closed = not data

    def expect(self, timeout_s: float = TIMEOUT_S) -> Response:
        """Wait for a response that must come."""
        response = self.receive(timeout_s)
        assert response is not None, f"closed without a response; got {self._reader.data[:200]!r}"
        return response

    def drain(self) -> list[Response]:
        """Read every response until the server closed; bytes left over are an error."""
        responses = []
        while (response := self.receive()) is not None:
            responses.append(response)
        assert not self._reader.data, f"bytes behind the last response: {self._reader.data[:200]!r}"
        return responses


def exchange(
    address: tuple[str, int],
    data: bytes,
    mode: Mode = "whole",
    *,
    split: int | None = None,
    methods: list[str] | None = None,
) -> list[Response]:
    """Send `data`, say that nothing follows, and return all responses until the server closed."""
    with Wire(address, methods) as wire:
        wire.send(data, mode, split)
        wire.half_close()
        return wire.drain()


def build(
    target: str,
    body: bytes | None = b"",
    *,
    method: str = "POST",
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    version: str = "1.1",
) -> bytes:
    """Build a request with Host and Content-Length (none when `body` is None)."""
    fields = list(headers.items()) if isinstance(headers, dict) else list(headers or [])
    if not any(name.lower() == "host" for name, _ in fields):
        fields.insert(0, ("Host", "fastgw.test"))
    if body is not None:
        fields.append(("Content-Length", str(len(body))))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{method} {target} HTTP/{version}\r\n{lines}\r\n".encode("latin-1") + (body or b"")


def chunked(body: bytes, sizes: int = 7) -> bytes:
    """Frame a body in chunks of at most `sizes` bytes."""
    parts = [body[at : at + sizes] for at in range(0, len(body), sizes)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
