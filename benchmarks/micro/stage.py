"""A stage for the compiled core: a loop, transports and a broker's side that cost next to nothing.

What enters: the parts' scripts. What leaves: an `Ingress` with a live link, and connections whose
bytes go to a socket that nobody reads, so that the core takes its usual way (one `send` a turn).
It must never stand in for a broker in a test of behaviour: only instructions are counted here.
"""

from __future__ import annotations

import json
import socket
from asyncio import AbstractEventLoop, Transport
from collections.abc import Callable
from typing import Final, cast

import msgspec

from benchmarks.workloads import FORWARDED, SCHEMA, build_message
from fastgw._core import (
    CONSUME,
    PRODUCE,
    BrokerLink,
    HttpConnection,
    Ingress,
    Principal,
    Request,
    Station,
)
from fastgw.config import LimitsConfig, RateConfig
from fastgw.inflate import inflate

TOKEN: Final = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." + "e" * 160 + "." + "s" * 43
MESSAGE: Final = build_message()
UNBOUNDED: Final = 10_000


class Sink:
    """A transport whose socket takes every byte and keeps none.

    WHY: a datagram socket that is never read drops what does not fit; a stream would fill up.
    """

    def __init__(self) -> None:
        self._inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._inbox.bind(("127.0.0.1", 0))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(self._inbox.getsockname())

    def get_extra_info(self, name: str) -> object:
        return self._socket if name == "socket" else None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        raise AssertionError(f"{len(data)} bytes did not fit into one datagram")

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def write_eof(self) -> None:
        raise AssertionError("the core closed a connection of the stage")

    close = abort = write_eof


class Loop:
    """An event loop that only remembers the end of the turn."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._calls.append(callback)

    def run_turn(self) -> None:
        """Run what was scheduled, as the end of an event-loop turn does."""
        calls, self._calls = self._calls, []
        for call in calls:
            call()


class Stage:
    """The core between a stub client and a stub broker.

    Args:
        limits: bounds that differ from the defaults.
    """

    def __init__(self, **limits: int) -> None:
        self.loop = Loop()
        self.consumed: list[Request] = []
        self.dispatched: list[Request] = []
        self.ingress = Ingress(
            cast("AbstractEventLoop", self.loop),
            msgspec.structs.replace(LimitsConfig(), **limits),
            RateConfig(),
            tokens_max=1000,
            cors_origins=("*",),
            identify=lambda request: Principal("bench", 1, PRODUCE | CONSUME),
            dispatch=self.dispatched.append,
            consume=self.consumed.append,
            inflate=inflate,
            refused=lambda request, block, message, reason: None,
            report=self._fail,
        )
        self.ingress.put_station(Station("bench", "bench", "bench"))
        self.ingress.put_station(Station("plain", "plain", "plain", headers="none"))
        self.link, self.prefix = self._open_link()

    def _fail(self, text: str, error: BaseException | None) -> None:
        raise AssertionError(f"the core reported a defect: {text}") from error

    def _open_link(self) -> tuple[BrokerLink, bytes]:
        """Bring a link to life and read the prefix of its reply subjects from its own words."""
        link = self.ingress.make_link()
        link.connection_made(cast("Transport", Sink()))
        link.go_live({"max_payload": 1048576})
        self.loop.run_turn()
        prefix = link.subscribe_line.split(b"SUB ", 1)[1].split(b"*", 1)[0]
        return link, prefix

    def put_typed_station(self) -> None:
        """Serve the station `typed` too, whose messages the schema of the workloads judges."""
        # WHY: here, because only two parts need the validator, and its import is slow to count.
        from fastgw.schema.json import compile_json

        schema = compile_json(json.dumps(SCHEMA), resolve=lambda name: None)
        typed = Station("typed", "typed", "typed", check=schema.check, accepts=schema.accepts)
        self.ingress.put_station(typed)

    def connect(self) -> HttpConnection:
        """Accept one client connection."""
        connection = self.ingress.protocol()
        connection.connection_made(cast("Transport", Sink()))
        return connection

    def check(self, requests: int, in_flight: int = 0) -> None:
        """Check that every request went the way that its part means to count."""
        stats = self.ingress.stats()
        got = [stats[name] for name in ("requests", "in_flight", "faults", "defects")]
        if got != [requests, in_flight, 0, 0]:
            raise AssertionError(f"counts of {got} instead of {[requests, in_flight, 0, 0]}")

    def build_acks(self, station: str, count: int) -> bytes:
        """Build the broker's PubAcks for the publishes in flight when only `count` are."""
        ack = f'{{"stream":"{station}","seq":1234567}}'.encode()
        lines = (b"MSG %s%d 1 %d\r\n%s\r\n" % (self.prefix, n, len(ack), ack) for n in range(count))
        return b"".join(lines)


def build_http(
    path: str, body: bytes = MESSAGE, method: str = "POST", request_id: str | None = None
) -> bytes:
    """Build one HTTP request with eight header fields."""
    fields = {
        "Host": "127.0.0.1:4444",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {TOKEN}",
        "Content-Length": str(len(body)),
        **FORWARDED,
    }
    if request_id is not None:
        fields["X-Request-Id"] = request_id
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
