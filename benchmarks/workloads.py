"""The work that every subject of a run is asked to do: same path, same bytes, same headers.

What enters: a workload's name and a token. What leaves: a request for the load generator, and what
the stored message must then look like. Each request has eight header fields, as webhook senders
send. It must never differ from one subject to the next in anything but the token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Final

MESSAGE_BYTES: Final = 120
BATCH_MESSAGES: Final = 100
FORWARDED: Final = {
    "User-Agent": "GitHub-Hookshot/044aadd",
    "Accept": "*/*",
    "X-Request-Id": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    "X-GitHub-Delivery": "0af76519-16cd-43dd-8448-eb211c80319c",
}
"""Headers of each request that become message headers, where the workload forwards them.

WHY no traceparent: the gateway copies it always, and the plain workloads want no header at all.
"""

VARIED: Final = "X-Request-Id"
"""The header that differs from request to request; its size does not."""

POOL: Final = 256
"""Requests that differ; a connection hardly ever sends one of them twice in a row."""

SCHEMA: Final = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "type": {"type": "string", "maxLength": 64},
        "customer": {"type": "string", "minLength": 1},
        "total": {"type": "number", "minimum": 0},
        "note": {"type": "string"},
    },
    "required": ["id", "type", "customer", "total"],
}
"""What messages of the schema workloads must satisfy; the floor does not look."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, as the load generator sends it (Host and Content-Length are added).

    Args:
        varied: the header whose value differs from one request to the next, "" for none.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    varied: str = ""

    def vary(self) -> list[Request]:
        """Return `POOL` requests that differ in the varied header, or this one alone."""
        if not self.varied:
            return [self]
        start = self.headers[self.varied][:-4]
        return [
            replace(self, headers={**self.headers, self.varied: f"{start}{number:04x}"})
            for number in range(1, POOL + 1)
        ]


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request.

    Args:
        name: what `--workload` takes.
        station: where the messages go: station, stream and subject have this name.
        messages: how many messages one request carries.
        forwards: whether request headers become message headers.
        has_schema: whether the station's JSON Schema is `SCHEMA`.
        has_key: whether the gateway is asked with an API key, and the floor with as many bytes.
        repeats: whether each request is the one before, byte for byte. WHY not always: real senders
            put an id or a trace into each request, and who knows a head again must not look better.
        about: one line for the reader of the table.
    """

    name: str
    station: str
    messages: int
    forwards: bool
    about: str
    has_schema: bool = False
    has_key: bool = False
    repeats: bool = False

    @property
    def path(self) -> str:
        """The path of the gateway's own contract; the peers serve the same one."""
        return f"/stations/{self.station}/produce/{'single' if self.messages == 1 else 'batch'}"

    def build_request(self, token: str) -> Request:
        """Build the request that one subject gets, with its own token."""
        message = build_message()
        batch = b"[" + b",".join([message] * self.messages) + b"]"
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        body = message if self.messages == 1 else batch
        varied = "" if self.repeats else VARIED
        return Request(self.path, {**headers, **FORWARDED}, body, varied)


def build_message() -> bytes:
    """Build the JSON message of exactly `MESSAGE_BYTES` bytes."""
    event = {
        "id": 4711,
        "type": "order.created",
        "customer": "c-20931",
        "total": 129.95,
        "note": "",
    }
    missing = MESSAGE_BYTES - len(json.dumps(event, separators=(",", ":")))
    event["note"] = "x" * missing
    return json.dumps(event, separators=(",", ":")).encode()


WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("single", "bench", 1, True, "one message; JWT checked, headers forwarded"),
        Workload(
            "single-repeated",
            "bench",
            1,
            True,
            "as single, and each request is the one before, byte for byte",
            repeats=True,
        ),
        Workload(
            "single-plain",
            "plain",
            1,
            False,
            "one message; API key checked (peers: JWT), no headers forwarded",
            has_key=True,
        ),
        Workload(
            "batch", "bench", BATCH_MESSAGES, True, "100 messages; JWT checked, headers forwarded"
        ),
        Workload(
            "batch-plain", "plain", BATCH_MESSAGES, False, "100 messages, no headers forwarded"
        ),
        Workload(
            "schema",
            "typed",
            1,
            True,
            "one message against a JSON Schema; JWT checked, headers forwarded",
            has_schema=True,
        ),
        Workload(
            "schema-batch",
            "typed",
            BATCH_MESSAGES,
            True,
            "100 messages against a JSON Schema; JWT checked, headers forwarded",
            has_schema=True,
        ),
    )
}
DEFAULT_WORKLOADS: Final = tuple(WORKLOADS)
TABLES: Final = {
    "single": ("single", "single-plain", "schema"),
    "batch": ("single", "batch", "batch-plain", "schema-batch"),
}
"""Subcommands that are the comparison with other workloads than the default.

WHY single beside the batches: the floor's cost there is what their CPU time is scaled by.
"""
