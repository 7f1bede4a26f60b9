"""Producers: connections that stay, one message after the other, every answer entered in a ledger.

What enters: an address, a station, what kind of producer. What leaves: entries in a `Ledger`.
Called by `scene`. Raw HTTP over asyncio's streams: no client library may repeat a request or hide
how a connection ended. A producer sends the next message when this one is settled, so that the
order of its acknowledged messages is promised.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.faults.audit import BROKEN, Answer, Message

if TYPE_CHECKING:
    from tests.faults.ledger import Ledger

ANSWER_S_MAX: Final = 30.0
"""LIMIT: above every timeout of a gateway here; a request without an answer by then is broken."""

CONNECT_S_MAX: Final = 5.0
AFTER_FAULT_S: Final = 0.02
"""LIMIT: a producer whose request failed does not spin."""

SETTLE_S_MAX: Final = 15.0
"""LIMIT: how long a producer that was told to end repeats what is not settled."""

REPEATS_MAX: Final = 2000
BATCH_COUNT: Final = 10
REFUSED_EVERY: Final = 25
"""Every so many messages one is sent that must be refused."""

BAD_SUBJECT: Final = "a..b"
BUSY: Final = 429
WHEN_TO_COME: Final = (BUSY, 503)
"""Statuses that say when to come again."""

NOT_SENT: Final = Answer(503, "broker-away")
"""What stands for a connection that could not be made: nothing was sent."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a producer works.

    Args:
        name: what stands in its messages.
        is_batch: whether it sends `BATCH_COUNT` messages in a request.
        has_ids: whether its messages carry an id, and are repeated until they are settled.
        is_single_shot: whether it makes a connection for each request.
        depth: how many requests it sends at once, without waiting for the first one's answer.
        padding_bytes: what is added to each payload.
        rest_s: what it waits after a 5xx or a refused connection.
        pause_s: its rest after each request, instead of the load's; the first one is random.
    """

    name: str
    is_batch: bool = False
    has_ids: bool = False
    is_single_shot: bool = False
    depth: int = 1
    padding_bytes: int = 0
    rest_s: float = AFTER_FAULT_S
    pause_s: float | None = None


SINGLE: Final = Kind("single")
SINGLE_ID: Final = Kind("single-id", has_ids=True)
BATCH: Final = Kind("batch", is_batch=True)
BATCH_ID: Final = Kind("batch-id", is_batch=True, has_ids=True)
SINGLE_SHOT: Final = Kind("shot-id", has_ids=True, is_single_shot=True)
PIPELINE: Final = Kind("pipeline", depth=8)
PIPELINE_ID: Final = Kind("pipeline-id", has_ids=True, depth=8)
ARRIVAL: Final = Kind("arrival", is_single_shot=True, rest_s=0.0, pause_s=0.5)
"""WHY: producers that wait for their answers fall into step with a fault, and wait their timeout
out together; whoever comes at a time of his own sees when it is over."""

MIXTURE: Final = (
    *(SINGLE,) * 4,
    *(SINGLE_ID,) * 4,
    *(BATCH,) * 2,
    *(BATCH_ID,) * 2,
    *(PIPELINE,) * 2,
    *(PIPELINE_ID,) * 2,
)


@dataclass(slots=True)
class Job:
    """One request, and the messages in it; `status` is that of the latest answer."""

    request: bytes
    messages: list[Message]
    status: int = BROKEN

    @property
    def is_settled(self) -> bool:
        """Whether it need not be sent again."""
        return self.status == 200 or (400 <= self.status < 500 and self.status != BUSY)

    def enter(self, answers: list[Answer]) -> None:
        """Enter one answer for each message."""
        if any(one.is_refused for one in answers) and any(one.is_stored for one in answers):
            # WHY: what of a batch was refused is stored when it is repeated, behind its neighbours.
            for message in self.messages:
                message.is_ordered = False
        for message, answer in zip(self.messages, answers, strict=True):
            message.answers.append(answer)


@dataclass(frozen=True, slots=True)
class Reply:
    """One response, as far as a producer needs it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def word(self) -> str:
        """The stable word of the cause."""
        return self.headers.get("error-code", "")


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a producer sends its messages.

    Args:
        address: where the gateway is.
        station: where it produces to.
        headers: more headers of each request, as credentials.
    """

    address: tuple[str, int]
    station: str
    headers: dict[str, str] = field(default_factory=dict)


class Producer:
    """One producer.

    Args:
        name: its name, which no other producer of the run has.
        kind: how it works.
        goal: where to.
        ledger: takes every answer.
        pause_s: how long it rests after each request.
    """

    def __init__(self, name: str, kind: Kind, goal: Goal, ledger: Ledger, pause_s: float) -> None:
        self._name = name
        self._kind = kind
        self._goal = goal
        self._ledger = ledger
        self._pause_s = pause_s if kind.pause_s is None else kind.pause_s
        self._number = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, ended: asyncio.Event) -> None:
        """Produce until told to end; what was begun is settled first, within bounds."""
        try:
            if self._kind.pause_s is not None:
                await asyncio.sleep(random.uniform(0, self._kind.pause_s))
            while not ended.is_set():
                await self._produce(ended)
                # WHY: the load is bounded, and the gateway's processor is ours, too.
                await asyncio.sleep(self._pause_s)
        finally:
            self._hang_up()

    async def _produce(self, ended: asyncio.Event) -> None:
        jobs = [self._make_job() for _ in range(self._kind.depth)]
        given_up_at = math.inf
        for _ in range(REPEATS_MAX if self._kind.has_ids else 1):
            await self._try(jobs)
            jobs = [job for job in jobs if not job.is_settled]
            if not jobs:
                return
            # WHY: who has no id must not repeat; he rests, too, and sends his next message.
            await asyncio.sleep(self._kind.rest_s)
            if ended.is_set():
                given_up_at = min(given_up_at, time.monotonic() + SETTLE_S_MAX)
                if time.monotonic() > given_up_at:
                    return

    def _make_job(self) -> Job:
        kind = self._kind
        base = f"{self._name}:{self._number}" if kind.has_ids else None
        messages = []
        for place in range(BATCH_COUNT if kind.is_batch else 1):
            # SOURCE: docs/http.md; element i of a batch has the id <id>.<i>.
            element = f"{base}.{place}" if base and kind.is_batch else base
            is_ordered = kind.depth == 1 or not kind.has_ids
            messages.append(
                self._ledger.open(self._name, self._number, element, is_ordered=is_ordered)
            )
            self._number += 1
        is_bad = not kind.is_batch and messages[0].number % REFUSED_EVERY == 1
        return Job(self._build(messages, base, is_bad=is_bad), messages)

    def _build(self, messages: list[Message], base: str | None, *, is_bad: bool) -> bytes:
        padding = " " + "x" * self._kind.padding_bytes if self._kind.padding_bytes else ""
        elements = [json.dumps(message.key + padding) for message in messages]
        body = (f"[{','.join(elements)}]" if self._kind.is_batch else elements[0]).encode()
        what = "batch?results=true" if self._kind.is_batch else "single"
        lines = [
            f"POST /stations/{self._goal.station}/produce/{what} HTTP/1.1",
            f"Host: {self._goal.address[0]}:{self._goal.address[1]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in self._goal.headers.items()),
        ]
        if base is not None:
            lines.append(f"Nats-Msg-Id: {base}")
        if is_bad:
            lines.append(f"Fastgw-Subject: {BAD_SUBJECT}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def _try(self, jobs: list[Job]) -> None:
        """Send the jobs in one write and enter their answers, `BROKEN` where none came."""
        try:
            reader, writer = await self._connect()
        except (OSError, TimeoutError):
            self._ledger.refused_count += 1
            for job in jobs:
                job.enter([NOT_SENT] * len(job.messages))
            return
        waiting, is_told = list(jobs), False
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                writer.write(b"".join(job.request for job in jobs))
                while waiting:
                    reply = await read_reply(reader)
                    job = waiting.pop(0)
                    self._ledger.on_request(reply.status, reply.word)
                    if reply.status in WHEN_TO_COME and "retry-after" not in reply.headers:
                        self._ledger.hopeless_count += 1
                    job.status = reply.status
                    job.enter(answers_of(reply, len(job.messages)))
                    is_told = reply.headers.get("connection", "").lower() == "close"
                    if is_told:
                        break
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            self._hang_up()
        if waiting or is_told or self._kind.is_single_shot:
            self._hang_up()
        for job in waiting:
            # SOURCE: RFC 9112 §9.6; behind a response that says "close" no request is processed.
            answer = NOT_SENT if is_told else Answer(BROKEN)
            if not is_told:
                self._ledger.on_request(BROKEN)
            job.enter([answer] * len(job.messages))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            async with asyncio.timeout(CONNECT_S_MAX):
                self._streams = await asyncio.open_connection(*self._goal.address)
        return self._streams

    def _hang_up(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            with suppress(OSError, RuntimeError):
                streams[1].close()


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Read one response with a Content-Length.

    Raises:
        IncompleteReadError: the connection ended before.
        ValueError: this is no response.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, _, rest = head.partition("\r\n")
    headers = {}
    for line in rest.split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Reply(int(first.split(" ", 2)[1]), headers, body)


def answers_of(reply: Reply, count: int) -> list[Answer]:
    """What a response says about each of the messages of its request."""
    if count == 1:
        seq = int(reply.headers.get("nats-sequence", "0")) if reply.status == 200 else 0
        is_duplicate = reply.headers.get("nats-duplicate") == "true"
        return [Answer(reply.status, reply.word, seq, is_duplicate)]
    results: list[dict[str, Any]] = []
    with suppress(ValueError):
        results = json.loads(reply.body).get("results", [])
    if len(results) != count:
        return [Answer(reply.status, reply.word)] * count
    # WHY: the word is the whole batch's; it promises that what has no sequence is not stored, or
    # says that this is not known.
    fault = Answer(reply.status, reply.word)
    return [Answer(200, "", int(result["seq"])) if "seq" in result else fault for result in results]
