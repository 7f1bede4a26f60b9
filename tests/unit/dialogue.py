"""Dialogues of bytes with the compiled core: a fake clock of turns, fake sockets, no network.

What enters: bytes of a client and of a broker. What leaves: the bytes that the core answers.
Tests use it where a real socket could not hold a moment still (what is in flight, in which order);
everything else talks to a real gateway and a real broker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from fastgw import _core
from fastgw.config_types import LimitsConfig, RateConfig
from fastgw.inflate import inflate

TOKEN = b"Bearer good"
NO_RATES = RateConfig()
HEAD = (
    b"POST /stations/orders/produce/single HTTP/1.1\r\n"
    b"Host: gateway\r\nAuthorization: Bearer good\r\n"
)
BATCH = HEAD.replace(b"single", b"batch") + b"Content-Type: application/json\r\n"


def request(body: bytes = b"hello", head: bytes = HEAD, extra: bytes = b"") -> bytes:
    """A whole request with Content-Length."""
    return head + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Answer(NamedTuple):
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Frame(NamedTuple):
    """One publish, as the broker sees it."""

    subject: bytes
    reply: bytes
    headers: list[tuple[bytes, bytes]]
    payload: bytes


class FakeLoop:
    """Keeps what was called soon until a test runs the turn."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        self.ready.append(partial(callback, *arguments))


class FakeTransport:
    """A transport that keeps what is written."""

    def __init__(self, address: str = "192.0.2.7", certificate: Any = None) -> None:
        self.extra = {"peername": (address, 4711)}
        if certificate is not None:
            self.extra |= {"sslcontext": object(), "peercert": certificate}
        self.written = bytearray()
        self.protocol: Any = None
        self.is_closed = self.is_eof_sent = self.is_reading_paused = False
        self.write_sizes: list[int] = []

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == ("sslcontext" in self.extra)

    def get_extra_info(self, name: str) -> Any:
        return self.extra.get(name)

    def write(self, data: bytes) -> None:
        self.written += data
        self.write_sizes.append(len(data))

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write_eof(self) -> None:
        self.is_eof_sent = True

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data


class Client:
    """One client connection."""

    def __init__(
        self, dialogue: Dialogue, address: str = "192.0.2.7", certificate: Any = None, **how: Any
    ) -> None:
        self.dialogue = dialogue
        self.transport = FakeTransport(address, certificate)
        self.protocol: Any = dialogue.ingress.protocol(**how)
        self.transport.set_protocol(self.protocol)
        self.protocol.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        """Have the core read `data`, into its own buffer where it has one."""
        while hasattr(self.transport.protocol, "get_buffer") and data:
            place = memoryview(self.transport.protocol.get_buffer(-1))
            size = min(len(place), len(data))
            place[:size] = data[:size]
            self.transport.protocol.buffer_updated(size)
            data = data[size:]
        if data:
            self.transport.protocol.data_received(data)

    def answers(self) -> list[Answer]:
        """Run the turn, and take the responses written so far."""
        self.dialogue.run_turns()
        return parse_answers(self.transport.take())


class Dialogue:
    """One core with a live broker connection and the station `orders`."""

    def __init__(
        self,
        *,
        is_live: bool = True,
        rates: RateConfig = NO_RATES,
        cors_origins: tuple[str, ...] = ("*",),
        **limits: Any,
    ) -> None:
        self.loop = FakeLoop()
        self.identified: list[bytes | None] = []
        self.dispatched: list[_core.Request] = []
        self.consumed: list[_core.Request] = []
        self.defects: list[str] = []
        self.refused: list[tuple[bytes, bytes, str]] = []
        self.principal = _core.Principal("ann", 1, _core.PRODUCE | _core.CONSUME)
        self.ingress = _core.Ingress(
            self.loop,  # type: ignore[arg-type]
            LimitsConfig(**limits),
            rates,
            tokens_max=100,
            cors_origins=cors_origins,
            identify=lambda asked: self.identify(asked),  # noqa: PLW0108 - tests replace it
            dispatch=lambda asked: self.dispatch(asked),  # noqa: PLW0108 - tests replace it
            consume=self.consumed.append,
            inflate=inflate,
            refused=lambda asked, block, message, why: self.refused.append((block, message, why)),
            report=lambda text, error: self.defects.append(f"{text}: {error!r}"),
        )
        self.ingress.put_station(_core.Station("orders", "orders", "orders"))
        self.broker = FakeTransport()
        self.link: Any = self.ingress.make_link()
        self.link.connection_made(self.broker)
        if is_live:
            self.link.go_live({"max_payload": 1048576})
            self.run_turns()
            self.broker.take()

    def dispatch(self, request: _core.Request) -> None:
        self.dispatched.append(request)

    def identify(self, request: _core.Request) -> _core.Principal | None:
        credential = request.header(b"authorization")
        self.identified.append(credential)
        return self.principal if credential == TOKEN else None

    def client(self, address: str = "192.0.2.7", certificate: Any = None, **how: Any) -> Client:
        return Client(self, address, certificate, **how)

    def run_turns(self) -> None:
        for _ in range(100):
            ready, self.loop.ready = self.loop.ready, []
            if not ready:
                return
            for callback in ready:
                callback()
        raise AssertionError("the core schedules turns without end")

    def frames(self) -> list[Frame]:
        """Run the turn, and take the publishes written so far."""
        self.run_turns()
        return parse_frames(self.broker.take())

    def ack(self, frame: Frame, payload: bytes) -> None:
        self.link.data_received(b"MSG %s 1 %d\r\n%s\r\n" % (frame.reply, len(payload), payload))

    def store(self, frame: Frame, sequence: int) -> None:
        self.ack(frame, b'{"stream":"orders","seq":%d}' % sequence)


def parse_answers(data: bytes) -> list[Answer]:
    """Read responses until the bytes end; a 100 has no headers."""
    answers = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        size = int(headers.get("Content-Length", 0))
        answers.append(Answer(int(first.split()[1]), headers, data[:size]))
        data = data[size:]
    return answers


def parse_frames(data: bytes) -> list[Frame]:
    """Read PUB and HPUB frames the slow and plain way; other lines are skipped."""
    frames = []
    while data:
        line, _, data = data.partition(b"\r\n")
        words = line.split(b" ")
        if words[0] not in (b"PUB", b"HPUB"):
            continue
        total = int(words[-1])
        header_size = int(words[-2]) if words[0] == b"HPUB" else 0
        block, payload = data[:header_size], data[header_size:total]
        assert data[total : total + 2] == b"\r\n"
        data = data[total + 2 :]
        headers = []
        if block:
            assert block.startswith(b"NATS/1.0\r\n")
            assert block.endswith(b"\r\n\r\n")
            for text in block[10:-4].split(b"\r\n"):
                name, _, value = text.partition(b": ")
                assert re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
                headers.append((name, value))
        has_reply = len(words) == (5 if words[0] == b"HPUB" else 4)
        frames.append(Frame(words[1], words[2] if has_reply else b"", headers, payload))
    return frames
