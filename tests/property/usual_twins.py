"""The same bytes read twice: as they come, and so that the parser must read every one of them.

What enters: a setup, and steps of bytes and events. What leaves: all that can be seen of them, on
the client's side, on the broker's, in Python and in the counters. A head is read without the parser
only when a read holds it to its end, so reads of `PARSED_BYTES` and less go to the parser; a spy in
its place counts what it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from fastgw import _core
from fastgw.config_types import RateConfig
from fastgw.errors import ClientFault
from tests.unit.dialogue import NO_RATES, Client, Dialogue, Frame, parse_frames

PARSED_BYTES: Final = 15
"""LIMIT: `POST / HTTP/1.1` and its CRLF are longer, so no read of this size holds a head."""
SETTLE_MAX: Final = 1000
"""LIMIT: rounds of turns and acks until nothing moves."""

BROKEN: Final = b"Error-Code: bad-request-framing\r\n"
UNTOLD: Final = {"requests": 0, "faults": 0}

Step = tuple[bytes, str]


class Setup(NamedTuple):
    """Who may ask, what the stations let through, and the bounds."""

    headers: str | tuple[str, ...] = "all"
    names: tuple[str, ...] = ("orders", "plain")
    header_allow: tuple[str, ...] = ("Nats-TTL",)
    is_signed: bool = False
    is_anonymous: bool = False
    is_any_host: bool = False
    is_awaited: bool = False
    serves: str = "all"
    has_certificate: bool = False
    rates: RateConfig = NO_RATES
    cors_origins: tuple[str, ...] = ("*",)
    limits: tuple[tuple[str, int], ...] = (("body_bytes_max", 2048), ("batch_bytes_max", 4096))


class Outcome(NamedTuple):
    """What came of a dialogue, after each step and in all."""

    written: list[bytes]
    frames: list[Frame]
    stats: list[dict[str, int]]
    seen: list[Any]
    states: list[tuple[bool, bool]]


class Spy:
    """The parser, and how many bytes all of them got."""

    fed = 0
    real: Any = _core.HttpRequestParser  # type: ignore[attr-defined]

    def __init__(self, protocol: Any) -> None:
        self.parser = Spy.real(protocol)

    def feed_data(self, data: Any) -> None:
        Spy.fed += len(data)
        self.parser.feed_data(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parser, name)


@contextmanager
def spied() -> Iterator[type[Spy]]:
    """Have the core make spies instead of parsers."""
    Spy.fed = 0
    _core.HttpRequestParser = Spy  # type: ignore[attr-defined]
    try:
        yield Spy
    finally:
        _core.HttpRequestParser = Spy.real  # type: ignore[attr-defined]


class Later:
    """An identity that is told later, without a loop."""

    _asyncio_future_blocking = False

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Later], object]] = []
        self.found: Any = None

    def add_done_callback(self, callback: Callable[[Later], object]) -> None:
        self.callbacks.append(callback)

    def result(self) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def tell(self, found: Any) -> None:
        self.found = found
        for callback in self.callbacks:
            callback(self)


class Judge:
    """A verifier that takes the signature "good <body>"."""

    header_names = frozenset({b"x-signature", b"host", b"x-more"})

    def verify(self, headers: dict[bytes, bytes], body: bytes, now: float, /) -> None:
        if headers.get(b"x-signature") != (b"good " + body).strip():
            raise ClientFault("unauthorized", f"the signature is wrong: {sorted(headers.items())}")


class Scene:
    """One core, a broker that stores, a client that waits when it must, and all that is seen."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.dialogue = Dialogue(
            rates=setup.rates, cors_origins=setup.cors_origins, **dict(setup.limits)
        )
        self.later: list[Later] = []
        self.dialogue.identify = self.identify  # type: ignore[method-assign, assignment]
        for name in setup.names:
            self.put_station(name, setup.headers)
        if setup.is_anonymous:
            self.dialogue.ingress.allow_anonymous(
                self.dialogue.principal, any_host=setup.is_any_host
            )
        how: dict[str, Any] = {"serves": setup.serves}
        if setup.has_certificate:
            how |= {"certificate": {"subject": ()}, "name_of": lambda _: "ann"}
        self.client: Client = self.dialogue.client(**how)
        self.is_lost = self.is_ended = self.is_unread = False
        self.outcome = Outcome([], [], [], [], [])

    def put_station(self, name: str, headers: str | tuple[str, ...]) -> None:
        is_signed = self.setup.is_signed and name == "orders"
        self.dialogue.ingress.put_station(
            _core.Station(
                name, "s", name[:9], headers, self.setup.header_allow,
                allow_no_wait=True, verifier=Judge() if is_signed else None,
            )
        )  # fmt: skip

    def identify(self, asked: _core.Request) -> Any:
        self.outcome.seen.append(("identify", *face(asked)))
        kind, sent = asked.credential_sent or (None, None)
        if sent in (b"fgw_defect", b"Bearer defect"):
            raise ZeroDivisionError
        if self.setup.is_awaited:
            self.later.append(Later())
            return self.later[-1]
        is_good = sent in (b"Bearer good", b"fgw_good") or kind in ("query", "certificate")
        return self.dialogue.principal if is_good else None

    def serve_handlers(self) -> bool:
        """Answer what went to Python with all that a handler can see of it."""
        asked = self.dialogue.dispatched + self.dialogue.consumed
        self.dialogue.dispatched.clear()
        self.dialogue.consumed.clear()
        for one in asked:
            one.respond(200, repr(face(one)).encode())
        return bool(asked)

    def settle(self) -> None:
        """Run turns and be the broker until nothing moves."""
        dialogue = self.dialogue
        for _ in range(SETTLE_MAX):
            dialogue.run_turns()
            frames = parse_frames(dialogue.broker.take())
            for frame in frames:
                self.outcome.frames.append(frame._replace(reply=b""))
                if frame.reply and dialogue.ingress.is_broker_live:
                    dialogue.store(frame, len(self.outcome.frames))
            if not frames and not self.serve_handlers():
                return
        raise AssertionError("the core never comes to rest")

    def send(self, data: bytes) -> None:
        transport = self.client.transport
        if transport.is_reading_paused:
            # WHY: a paused transport delivers nothing; what can be answered is answered first.
            self.settle()
            is_stuck = transport.is_reading_paused and not transport.is_closed
            assert not is_stuck, "all is answered, and reading rests"
        if not (transport.is_closed or self.is_ended):
            # WHY: a read that finds nothing under way has a turn of its own, and how many turns
            # there were would follow from the cuts; who drains closes by them.
            self.dialogue.link.resume_writing()
            self.client.send(data)

    def cause(self, event: str) -> None:
        """Have something happen between two reads."""
        dialogue, protocol = self.dialogue, self.client.transport.protocol
        happen: dict[str, Callable[[], object]] = {
            "all": lambda: self.put_station("orders", "all"),
            "none": lambda: self.put_station("orders", "none"),
            "globs": lambda: self.put_station("orders", ("x-*", "content-type")),
            "drop": lambda: dialogue.ingress.drop_station("plain"),
            "forget": lambda: dialogue.ingress.forget_user("ann"),
            "forbid": self.forbid,
            "known": lambda: self.tell(dialogue.principal),
            "unknown": lambda: self.tell(None),
            "failed": lambda: self.tell(ZeroDivisionError()),
            "drain": dialogue.ingress.begin_drain,
            "sweep": dialogue.ingress.sweep,
            "unread": protocol.pause_writing,
            "read": protocol.resume_writing,
            "away": lambda: dialogue.link.connection_lost(None),
            "eof": protocol.eof_received,
            "lost": lambda: protocol.connection_lost(None),
        }
        if event:
            happen[event]()
        self.is_unread = event == "unread" or (self.is_unread and event != "read")
        self.is_ended = self.is_ended or event in ("eof", "lost")
        self.is_lost = self.is_lost or event == "lost"

    def can_happen(self, event: str) -> bool:
        """Whether the event is one, as things are: nothing pauses twice, or is lost twice."""
        if event in ("unread", "read"):
            # WHY: at the bound of unanswered requests nothing moves until the client reads.
            return self.is_unread == (event == "read") and "pipelined_max" not in dict(
                self.setup.limits
            )
        return event != "away" or self.dialogue.ingress.is_broker_live

    def forbid(self) -> None:
        self.dialogue.principal = _core.Principal("ann", 1, _core.CONSUME)
        self.dialogue.ingress.forget_everyone()

    def tell(self, found: Any) -> None:
        """Tell all who wait for an identity."""
        later, self.later = self.later, []
        for one in later:
            one.tell(found)

    def note(self) -> None:
        transport = self.client.transport
        stats = self.dialogue.ingress.stats()
        written = undated(bytes(transport.written))
        if self.is_unread or self.later:
            # WHY: what is wrong may be written later, see `without_reason`; and what an answer has
            # charged is given back when it is written: a body in one read was never charged.
            stats |= UNTOLD | {"waiting_bytes": 0}
        if not self.is_unread:
            transport.take()
        self.outcome.written.append(written)
        self.outcome.stats.append(stats)
        self.outcome.states.append((transport.is_closed, transport.is_eof_sent))

    def play(self, steps: Iterable[Step], pieces: Callable[[bytes], Iterable[bytes]]) -> Outcome:
        """Send each step's bytes in pieces, then let its event happen."""
        for data, event in steps:
            if self.is_lost:
                break
            for piece in pieces(data):
                self.send(piece)
            if event == "burst":
                continue
            self.settle()
            if self.can_happen(event):
                self.cause(event)
                self.settle()
            self.note()
        self.settle()
        self.note()
        # WHY without its first words: a defect says which of the two readers it came out of.
        self.outcome.seen.extend(text.partition(": ")[2] for text in self.dialogue.defects)
        self.outcome.seen.extend(self.dialogue.refused)
        return self.outcome


def face(asked: _core.Request) -> tuple[Any, ...]:
    """What Python sees of a request."""
    names = (b"authorization", b"x-api-key", b"content-type", b"x-a")
    return (
        asked.method, asked.raw_path, asked.path, asked.query, asked.headers, asked.body,
        asked.subject, asked.message_id, asked.client, asked.credential_sent, asked.serves,
        asked.closed, asked.principal and asked.principal.user, *map(asked.header, names),
    )  # fmt: skip


def undated(written: bytes) -> bytes:
    """Answers without what the clock says in them, and without a 100.

    WHY: a 100 is owed while the body is missing; how long that is, the reads decide.
    """
    written = written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    lines = written.split(b"\r\n")
    timed = (b"Date: ", b"Retry-After: ")
    return b"\r\n".join(line for line in lines if not line.startswith(timed))


def whole(data: bytes) -> Iterator[bytes]:
    """One read."""
    yield data


def small(data: bytes, size: int = PARSED_BYTES) -> Iterator[bytes]:
    """Reads that the parser must take."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


def cut_at(places: Iterable[int]) -> Callable[[bytes], Iterator[bytes]]:
    """Reads that end at the given places of each step's bytes, modulo its length."""

    def pieces(data: bytes) -> Iterator[bytes]:
        ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
        for start, end in zip([0, *ends], ends, strict=False):
            if end > start:
                yield data[start:end]

    return pieces


def play(
    setup: Setup, steps: list[Step], pieces: Callable[[bytes], Iterable[bytes]] = whole
) -> tuple[Outcome, int]:
    """The outcome, and how many bytes went to the parser."""
    with spied() as spy:
        outcome = Scene(setup).play(steps, pieces)
        return outcome, spy.fed


def check(
    setup: Setup, steps: list[Step], pieces: Callable[[bytes], Iterable[bytes]] = whole
) -> tuple[Outcome, int]:
    """Hold a dialogue against its twin; returns its outcome, and how many bytes were parsed."""
    seen, fed = play(setup, steps, pieces)
    wanted, _ = play(setup, steps, small)
    if BROKEN in b"".join(seen.written + wanted.written):
        assert without_reason(seen) == without_reason(wanted)
    else:
        assert seen == wanted
    return seen, fed


def without_reason(outcome: Outcome) -> Outcome:
    """The outcome without the reason of the refusal that has ended its connection.

    WHY: llhttp tells of a field or target in front of a broken byte or not, as the reads were cut;
    so a bound may be what is wrong, or the bytes, or first one and then the other.
    """
    written = [
        before if b"Connection: close\r\n" in last and start else before + start + last
        for before, start, last in (one.rpartition(b"HTTP/1.1 4") for one in outcome.written)
    ]
    return outcome._replace(written=written, stats=[one | UNTOLD for one in outcome.stats])
