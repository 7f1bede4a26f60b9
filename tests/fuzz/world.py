"""One core for many inputs: small bounds, fake sockets, and a check that nothing is left over.

What enters: requests and cuts of a target. What leaves: a core that is as empty as before.
Building a core costs far more than an input, so a target makes one `World` and uses it again;
after a violation the caller makes a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastgw import _core
from tests.unit.dialogue import Client, Dialogue

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS: Final[dict[str, Any]] = {
    # LIMIT: small enough that inputs of a few KiB reach every bound.
    "body_bytes_max": 2048,
    "batch_bytes_max": 3072,
    "batch_messages_max": 40,
    "request_line_bytes_max": 256,
    "headers_bytes_max": 1024,
    "headers_count_max": 24,
    "publishes_in_flight_max": 8,
    "waiting_bytes_max": 65536,
    "pipelined_max": 6,
}
PIECES_MAX: Final = 600
"""LIMIT: a connection's bytes arrive in at most this many pieces; the last piece is the rest."""

IDLE: Final = ("connections", "in_flight", "waiting_bytes")


def cuts(data: bytes, kind: int, seed: int) -> Iterator[bytes]:
    """Cut `data` into pieces.

    Args:
        kind: 0 whole, 1 pieces of sizes that follow from `seed`, 2 single bytes, 3 in two.
        seed: 0 to 255.
    """
    at, count = 0, 0
    if kind == 3:
        at = len(data) * seed // 256
        yield data[:at]
    while at < len(data):
        if kind in (0, 3) or count == PIECES_MAX:
            size = len(data)
        elif kind == 2:
            size = 1
        else:
            seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
            size = 1 + (seed >> 16) % (3 if seed & 0x4000 else 90)
        yield data[at : at + size]
        at += size
        count += 1


class World:
    """A dialogue whose handlers answer at once."""

    def __init__(self, **limits: Any) -> None:
        self.dialogue = Dialogue(**(LIMITS | limits))
        put = self.dialogue.ingress.put_station
        put(_core.Station("calm", "calm", "calm"))
        put(
            _core.Station(
                "picky",
                "picky",
                "picky.in",
                ("x-*", "content-type", "nats-*", "traceparent"),
                ("Nats-TTL", "Nats-Expected-Last-Msg-Id"),
                allow_suffix=False,
                allow_no_wait=True,
                message_bytes_max=512,
            )
        )
        put(_core.Station("silent", "silent", "silent", "none", ("Nats-TTL", "Nats-Rollup")))

    def client(self) -> Client:
        """A new connection."""
        return self.dialogue.client()

    def run(self) -> None:
        """Run a turn, and the handlers of what came out of it."""
        dialogue = self.dialogue
        dialogue.run_turns()
        for requests in (dialogue.dispatched, dialogue.consumed):
            if requests:
                taken, requests[:] = requests[:], []
                for request in taken:
                    # WHY: a handler reads all of a request; none of its properties may fail.
                    assert request.path.isprintable() in (True, False) and request.client
                    assert isinstance(request.headers, list)
                    request.respond(404, b"{}")
        dialogue.run_turns()

    def end(self, *clients: Client) -> None:
        """Close the connections, and check that nothing of them is left."""
        for client in clients:
            client.protocol.connection_lost(None)
        dialogue = self.dialogue
        dialogue.run_turns()
        stats = dialogue.ingress.stats()
        left = {name: stats[name] for name in IDLE if stats[name]}
        assert not left, f"left over: {left}"
        assert not dialogue.defects, f"defects: {dialogue.defects}"
        assert stats["tokens_cached"] <= 100
        dialogue.identified.clear()
        dialogue.refused.clear()
        dialogue.broker.written.clear()
        dialogue.broker.write_sizes.clear()
