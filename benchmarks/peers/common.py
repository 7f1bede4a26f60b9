"""What the peers share: the routes, the token check, the header filter, publishing with ack.

What enters: a path, a credential, headers and a body. What leaves: a status and a body.
Each peer's application calls `Service.produce` and adds only its own HTTP; so the peers differ in
their server and framework, and in nothing else. It must never answer 200 before the PubAck.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import jwt
import msgspec
import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NoStreamResponseError

from benchmarks.workloads import WORKLOADS

OK_BODY: Final = b'{"error":null,"success":true}'
REFUSED_BODY: Final = b'{"error":"refused","success":false}'
TOKENS_MAX: Final = 100_000
PUBLISHES_PENDING_MAX: Final = 65_536
"""WHY: 64 connections with 100 messages each wait for one another at nats-py's default of 4,000."""
DROPPED_HEADERS: Final = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
    }
)
DROPPED_PREFIXES: Final = ("nats-", "proxy-")

Answer = tuple[int, bytes]


class Event(msgspec.Struct):
    """`workloads.SCHEMA` as a type: the quickest check that a Python service can have."""

    id: Annotated[int, msgspec.Meta(ge=1)]
    type: Annotated[str, msgspec.Meta(max_length=64)]
    customer: Annotated[str, msgspec.Meta(min_length=1)]
    total: Annotated[int, msgspec.Meta(ge=0)] | Annotated[float, msgspec.Meta(ge=0)]
    note: str = ""


_EVENT: Final = msgspec.json.Decoder(Event)
_RAW_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Route:
    """What a path means: subject, whether the body is an array, headers go along, a type holds."""

    subject: str
    is_batch: bool
    forwards: bool
    has_schema: bool


ROUTES: Final = {
    workload.path: Route(
        workload.station, workload.messages > 1, workload.forwards, workload.has_schema
    )
    for workload in WORKLOADS.values()
}


class Tokens:
    """Verified tokens by their bytes, with their expiry: a request costs one lookup."""

    def __init__(self, secret: str) -> None:
        self._secret: Final = secret
        self._expiries: dict[str, float] = {}

    def is_valid(self, authorization: str) -> bool:
        """Check the value of an Authorization header."""
        expiry = self._expiries.get(authorization)
        if expiry is None:
            expiry = self._verify(authorization)
        return expiry > time.time()

    def _verify(self, authorization: str) -> float:
        try:
            claims = jwt.decode(authorization.partition(" ")[2], self._secret, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            return 0.0
        if len(self._expiries) >= TOKENS_MAX:
            self._expiries.clear()
        expiry = float(claims["exp"])
        self._expiries[authorization] = expiry
        return expiry


def forward_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Keep the request headers that may become message headers (names as they come)."""
    return {
        name: value
        for name, value in headers
        if (lower := name.lower()) not in DROPPED_HEADERS and not lower.startswith(DROPPED_PREFIXES)
    }


class Service:
    """The work behind every peer's route, over one connection of nats-py."""

    def __init__(self, client: Client, tokens: Tokens) -> None:
        self._client: Final = client
        self._js: Final[JetStreamContext] = client.jetstream(
            publish_async_max_pending=PUBLISHES_PENDING_MAX
        )
        self.tokens: Final = tokens

    @classmethod
    async def open(cls) -> Service:
        """Connect as the environment says (`BENCH_NATS_URL`, `BENCH_JWT_SECRET`)."""
        client = await nats.connect(os.environ["BENCH_NATS_URL"], skip_subject_validation=True)
        service = cls(client, Tokens(os.environ["BENCH_JWT_SECRET"]))
        # WHY: nats-py subscribes for acks at the first publish, and two first ones would race.
        with contextlib.suppress(NoStreamResponseError):
            await (await service._js.publish_async("no.stream.has.this"))
        return service

    async def close(self) -> None:
        """Close the connection to the broker."""
        await self._client.close()

    async def produce(self, route: Route, body: bytes, headers: dict[str, str] | None) -> Answer:
        """Store a body, or each element of it, and answer when all acks are in."""
        try:
            if not route.is_batch:
                if route.has_schema:
                    _EVENT.decode(body)
                await self._store(route.subject, body, headers)
            else:
                elements = _RAW_ARRAY.decode(body)
                if route.has_schema:
                    for element in elements:
                        _EVENT.decode(element)
                await self._store_all(route.subject, elements, headers)
        except msgspec.DecodeError:
            return 400, REFUSED_BODY
        except (JetStreamError, TimeoutError):
            return 503, REFUSED_BODY
        return 200, OK_BODY

    async def _store(self, subject: str, payload: bytes, headers: dict[str, str] | None) -> None:
        await (await self._js.publish_async(subject, payload, headers=headers))

    async def _store_all(
        self, subject: str, elements: list[msgspec.Raw], headers: dict[str, str] | None
    ) -> None:
        publish = self._js.publish_async
        futures: list[asyncio.Future[PubAck]] = [
            await publish(subject, bytes(element), headers=headers) for element in elements
        ]
        for future in futures:
            await future
