"""Cases against the compiled core in this process: no socket, so that every split is cheap.

What enters: a case, and where its bytes are cut. What leaves: a `Seen`.
Called by tests/wire/test_wire_corpus.py and `python -m tests.conformance`. The broker is played:
every publish is stored at once. A defect that the core survived and counted is trouble.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from fastgw import _core
from tests.corpus.case import PROBE
from tests.corpus.verdict import Fields, Seen
from tests.unit.dialogue import Dialogue
from tests.wire.raw_http import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.corpus.case import Case

SERVED_PATHS: Final = ("/", "/monitoring/status")


class Core:
    """One core that serves many connections, one after the other."""

    def __init__(self) -> None:
        self._dialogue = Dialogue()
        everything = _core.PRODUCE | _core.CONSUME | _core.ADMIN
        self._dialogue.ingress.allow_anonymous(_core.Principal("anonymous", 1, everything))
        self._dialogue.ingress.put_station(_core.Station("corpus", "corpus", "corpus"))
        self._sequence = 0

    def play(self, case: Case, cuts: Iterable[int] = ()) -> Seen:
        """Send a case, cut at these places, and the probe behind it."""
        data = case.raw if case.is_cut else case.raw + PROBE
        client = self._dialogue.client()
        written = bytearray()
        messages: list[tuple[Fields, bytes]] = []
        for start, end in pairwise((0, *cuts, len(data))):
            if client.transport.is_eof_sent or client.transport.is_closed:
                break
            client.send(data[start:end])
            self._serve(messages)
            written += client.transport.take()
        if case.is_cut and not client.transport.is_closed:
            if not client.protocol.eof_received():
                # SOURCE: asyncio.Protocol, a false value closes the transport.
                client.transport.close()
            self._serve(messages)
            written += client.transport.take()
        is_ended = client.transport.is_eof_sent or client.transport.is_closed
        client.protocol.connection_lost(None)
        seen = read_answers(bytes(written), case.methods)
        seen.messages = messages
        if self._dialogue.defects:
            seen.trouble = f"defects: {self._dialogue.defects}"
            self._dialogue.defects.clear()
        elif not is_ended:
            seen.trouble = f"the connection stays open behind {list(seen.statuses)}"
        return seen

    def _serve(self, messages: list[tuple[Fields, bytes]]) -> None:
        """Be the broker and the handlers until nothing is left to do."""
        while True:
            frames = self._dialogue.frames()
            requests, self._dialogue.dispatched[:] = list(self._dialogue.dispatched), []
            if not frames and not requests:
                return
            for frame in frames:
                self._sequence += 1
                messages.append((tuple(frame.headers), frame.payload))
                self._dialogue.ack(frame, b'{"stream":"corpus","seq":%d}' % self._sequence)
            for request in requests:
                if request.path not in SERVED_PATHS:
                    request.respond(404)
                elif request.method not in ("GET", "HEAD"):
                    request.respond(405)
                else:
                    request.respond(200, b'{"status":"ok"}')


def read_answers(data: bytes, methods: Iterable[str]) -> Seen:
    """Read the final responses of a connection that has ended."""
    reader = Reader(list(methods))
    reader.data = data
    statuses = []
    says_close = False
    while (response := reader.next(is_end=True)) is not None:
        statuses.append(response.status)
        says_close = "close" in (response.header("connection") or "").lower()
    trouble = f"bytes behind the last response: {reader.data[:80]!r}" if reader.data else ""
    return Seen(tuple(statuses), says_close, trouble=trouble)
