"""What a run does: where it sends, how often, for how long, and the bytes of its one request.

What enters: the words of a command line. What leaves: a `Plan` whose `request` is sent as it is,
again and again. `fastgw bench` builds it; `session` follows it.
It must never show the credential: that is in `request` only, which no report and no repr holds.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlsplit

from fastgw.errors import clip

RATE_DEFAULT: Final = 100.0
RATE_MIN: Final = 0.01
RATE_MAX: Final = 100_000.0
"""LIMIT: several times what one core of a client can send."""
CONNECTIONS_DEFAULT: Final = 16
CONNECTIONS_MAX: Final = 10_000
"""LIMIT: a third of the ports that one address has for one server."""
SECONDS_DEFAULT: Final = 10.0
SECONDS_MIN: Final = 0.1
SECONDS_MAX: Final = 3600.0
"""LIMIT: with the highest rate, as many requests as one histogram is still quick to count."""
SIZE_DEFAULT: Final = 120
SIZE_MIN: Final = len('{"bench":""}')
BATCH_MAX: Final = 20_000
"""LIMIT: twice what a gateway takes by default, so that its refusal can be seen."""
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
"""LIMIT: above every gateway's own bound, so that the gateway's answer can be seen."""
HEADERS_MAX: Final = 64
"""LIMIT: with longer names and values a gateway refuses the head."""
SECRET_CHARS_MAX: Final = 8192
"""LIMIT: a gateway refuses longer heads."""

_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~]*)")
_SECRET: Final = re.compile(r"[!-~]+")
_OURS: Final = ("connection", "content-length", "host", "transfer-encoding", "expect", "upgrade")
_SECRETS: Final = ("authorization", "cookie", "proxy-authorization", "x-api-key")


class PlanError(Exception):
    """The plan cannot be followed; the text is one line for whoever wrote the command."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect, and how; `context` is None for plain HTTP."""

    host: str
    port: int
    prefix: str
    context: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def netloc(self) -> str:
        """The value of `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.context else 80
        return host if self.port == usual else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as a URL, without a slash at its end."""
        return f"{'https' if self.context else 'http'}://{self.netloc}{self.prefix}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run.

    Args:
        address: of the gateway.
        request: what is sent each time, head and body.
        rate: requests per second, all connections together.
        connections: how many at most wait for an answer at the same time.
        seconds: how long requests become due.
        station: where the messages go.
        batch: messages in a request; 0 is one message without an array.
        body_bytes: of `request`.
    """

    address: Address
    request: bytes = field(repr=False)
    rate: float
    connections: int
    seconds: float
    station: str
    batch: int
    body_bytes: int

    @property
    def requests(self) -> int:
        """How many requests become due."""
        return max(1, round(self.rate * self.seconds))

    @property
    def messages(self) -> int:
        """Messages in one request."""
        return self.batch or 1


def parse_address(url: str, context: ssl.SSLContext) -> Address:
    """Parse the URL of a gateway; a path is put in front of `/stations`.

    Raises:
        PlanError: it is no URL of a gateway, or it holds a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise PlanError(f"{clip(url)} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PlanError(f"{clip(url)} is no URL as in http://HOST:PORT or https://HOST")
    if parts.username is not None or parts.password is not None:
        raise PlanError("the URL holds a user or a password, which others could read; leave it out")
    if parts.query or parts.fragment or not re.fullmatch(r"[!-~]*", parts.path):
        raise PlanError("the URL has more than a scheme, a host, a port and a path")
    is_tls = parts.scheme == "https"
    host = parts.hostname
    if not re.fullmatch(r"[!-~]+", host):
        host = _encode_host(host)
    return Address(
        host, port or (443 if is_tls else 80), parts.path.rstrip("/"), context if is_tls else None
    )


def _encode_host(host: str) -> str:
    try:
        return host.encode("idna").decode()
    except UnicodeError as error:
        raise PlanError(f"{clip(host)} is no name of a host") from error


def build_message(size: int) -> bytes:
    """Build a JSON object of exactly `size` bytes, at least `SIZE_MIN`."""
    return b'{"bench":"' + b"x" * (size - SIZE_MIN) + b'"}'


def build_body(message: bytes, batch: int) -> bytes:
    """Build the body: the message itself, or an array that repeats it.

    Raises:
        PlanError: it would be longer than `BODY_BYTES_MAX`.
    """
    size = len(message) if not batch else (len(message) + 1) * batch + 1
    if size > BODY_BYTES_MAX:
        raise PlanError(f"a body of {size} bytes exceeds {BODY_BYTES_MAX}")
    return b"[" + b",".join([message] * batch) + b"]" if batch else message


def parse_headers(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Parse `Name: value` lines.

    Raises:
        PlanError: a line is no header, is the client's own business, or would show a secret.
    """
    if len(lines) > HEADERS_MAX:
        raise PlanError(f"{len(lines)} headers exceed {HEADERS_MAX}")
    found = []
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise PlanError("a header is written as 'Name: value', in printable ASCII")
        name = match[1].lower()
        if name in _OURS:
            raise PlanError(f"the header {match[1]} is the client's own")
        if name in _SECRETS:
            raise PlanError(
                f"the header {match[1]} would be read by others in the list of processes;"
                " use --key-file, --token-file or the environment"
            )
        found.append((match[1], match[2].rstrip()))
    return found


def check_secret(text: str, origin: str) -> str:
    """Return the credential without white space around it.

    Raises:
        PlanError: it cannot be a credential; the text names where it came from, not what it is.
    """
    secret = text.strip()
    if not secret:
        raise PlanError(f"{origin} holds no credential")
    if len(secret) > SECRET_CHARS_MAX or not _SECRET.fullmatch(secret):
        raise PlanError(f"{origin} holds something that is neither a key nor a token")
    return secret


def build_target(address: Address, station: str, batch: int) -> str:
    """Build the target of the request: the gateway's contract."""
    kind = "batch" if batch else "single"
    return f"{address.prefix}/stations/{quote(station, safe='')}/produce/{kind}"


def build_request(
    address: Address,
    target: str,
    body: bytes,
    headers: Sequence[tuple[str, str]],
    secret: str | None,
) -> bytes:
    """Build the request: head and body, once for the whole run."""
    lines = [f"POST {target} HTTP/1.1", f"Host: {address.netloc}"]
    names = {name.lower() for name, _ in headers}
    if "user-agent" not in names:
        lines.append("User-Agent: fastgw-bench")
    if "content-type" not in names:
        lines.append("Content-Type: application/json")
    if secret is not None:
        lines.append(f"Authorization: Bearer {secret}")
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body
