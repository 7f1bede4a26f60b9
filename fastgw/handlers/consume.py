"""Pulls a batch of messages for a consumer group.

What enters: `POST /stations/{station}/consume/batch` with its small JSON body.
What leaves: a pull request handed to the core, which moves the messages and answers; or a 400.
Called by `gateway`, after the core has authorized the request for the station.
It must never touch a message, and never let a name reach the broker unchecked.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from fastgw.errors import ClientFault, Fault, InternalError, UpstreamFault, clip
from fastgw.handlers import BodyError, Request, encode_json, parse_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastgw.config import Config
    from fastgw.control.stations import StationRecord, Stations

log: Final = logging.getLogger("fastgw.handlers")

BATCH_SIZE_DEFAULT: Final = 10
WAIT_MS_DEFAULT: Final = 5000

DURABLES_KNOWN_MAX: Final = 10_000
"""LIMIT: names of groups remembered as made, about 2 MiB; past it all are asked for anew."""

GROUP_SUFFIX: Final = "rest-gateway"

_GROUP: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?")


class ConsumeBody(msgspec.Struct, frozen=True):
    """Body of consume/batch; null and missing mean the same."""

    consumer_name: str | None = None
    consumer_group: str | None = None
    batch_size: int | None = None
    batch_max_wait_time_ms: int | None = None
    ack: str | None = None
    metadata: bool | None = None


class Wish(msgspec.Struct, frozen=True):
    """What a checked body asks for."""

    durable: str
    count: int
    wait_ms: int
    metadata: bool


_decoder: Final = msgspec.json.Decoder(ConsumeBody)


class Ingress(Protocol):
    """The part of the core that moves messages out."""

    @property
    def is_broker_live(self) -> bool:
        """Whether a pull can be sent now."""

    def pull(
        self,
        request: Any,
        stream: str,
        durable: str,
        batch: int,
        wait_ms: int,
        metadata: bool,
        on_missing: Callable[[], None],
    ) -> None:
        """Pull for `request` and answer it."""


class Consume:
    """The consume routes.

    Args:
        config: limits of a batch's count and wait.
        stations: makes a group's durable consumer.
        ingress: the core.
    """

    def __init__(self, config: Config, stations: Stations, ingress: Ingress) -> None:
        self._limits = config.limits
        self._stations = stations
        self._ingress = ingress
        self._known: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def batch(self, request: Request, station: StationRecord) -> Awaitable[None] | None:
        """Answer consume/batch: at once when the group is known, else when it is made."""
        try:
            body = parse_body(_decoder, request.body)
            if not body.consumer_name:
                raise ClientFault("bad-request", "Consumer name is required")
            wish = self._parse_wish(body)
        except BodyError:
            # WHY: these bytes are the contract; the field at fault is not told here.
            _respond_bad_body(request)
            return None
        except Fault as fault:
            request.fail(fault)
            return None
        if not self._ingress.is_broker_live:
            # WHY: to ask the control plane for the group would take until its timeout.
            request.fail(UpstreamFault("broker-away", "the broker is away"))
            return None
        if (station.stream, wish.durable) not in self._known:
            return self._make_and_pull(request, station, wish, is_second=False)
        self._pull(request, station, wish, is_second=False)
        return None

    async def _make_and_pull(
        self, request: Request, station: StationRecord, wish: Wish, *, is_second: bool
    ) -> None:
        """Make sure that the group exists, then pull."""
        try:
            await self._stations.ensure_consumer(station, wish.durable)
        except Fault as fault:
            request.fail(fault)
            return
        if len(self._known) >= DURABLES_KNOWN_MAX:
            self._known.clear()
        self._known.add((station.stream, wish.durable))
        if not request.closed:
            self._pull(request, station, wish, is_second=is_second)

    def _pull(
        self, request: Request, station: StationRecord, wish: Wish, *, is_second: bool
    ) -> None:
        def on_missing() -> None:
            # The group was removed on the broker since we knew it: make it anew, but only once.
            self._known.discard((station.stream, wish.durable))
            self._stations.forget_consumer(station, wish.durable)
            if is_second:
                request.fail(UpstreamFault("broker-away", "The consumer group cannot be read now"))
                return
            work = self._make_and_pull(request, station, wish, is_second=True)
            task = asyncio.get_running_loop().create_task(work, name="fastgw-consume-again")
            self._tasks.add(task)
            task.add_done_callback(lambda done: self._on_done(request, done))

        self._ingress.pull(
            request,
            station.stream,
            wish.durable,
            wish.count,
            wish.wait_ms,
            wish.metadata,
            on_missing,
        )

    def _on_done(self, request: Request, task: asyncio.Task[None]) -> None:
        """Let no defect in the second try leave its request without an answer."""
        self._tasks.discard(task)
        if task.cancelled():
            request.fail(UpstreamFault("draining", "This gateway is stopping"))
        elif (error := task.exception()) is not None:
            log.error("a consumer group could not be made anew", exc_info=error)
            request.fail(InternalError("internal error"))

    def _parse_wish(self, body: ConsumeBody) -> Wish:
        _check_ack(body.ack)
        durable = durable_name(body.consumer_group)
        count, wait_ms = self._parse_bounds(body)
        return Wish(durable, count, wait_ms, metadata=bool(body.metadata))

    def _parse_bounds(self, body: ConsumeBody) -> tuple[int, int]:
        """Read how many messages and how long: a longer wait is clipped, a larger batch refused."""
        count = BATCH_SIZE_DEFAULT if body.batch_size is None else body.batch_size
        count_max = self._limits.consume_batch_max
        if body.batch_size is None:
            count = min(count, count_max)
        if not 1 <= count <= count_max:
            text = f"batch_size of {clip(count)} is outside 1 to {count_max}"
            raise ClientFault("bad-request", text)
        wait_ms = body.batch_max_wait_time_ms
        if wait_ms is None:
            wait_ms = WAIT_MS_DEFAULT
        if wait_ms < 0:
            text = f"batch_max_wait_time_ms of {clip(wait_ms)} is below 0"
            raise ClientFault("bad-request", text)
        return count, min(wait_ms, self._limits.consume_wait_ms_max)


def durable_name(group: str | None) -> str:
    """Name the durable consumer of a group.

    Raises:
        ClientFault: the group's name has other characters than a station's may have, which
            could change the broker subject that the name becomes part of.
    """
    if not group:
        return GROUP_SUFFIX
    if _GROUP.fullmatch(group) is None:
        text = f"consumer_group {clip(group)!r} is not 1 to 128 of A-Z a-z 0-9 _ - ."
        raise ClientFault("bad-request", f"{text}, first and last alphanumeric")
    # WHY: a dot would split the broker's API subject; '#' stands for it, as in stream names.
    return f"{group}-{GROUP_SUFFIX}".replace(".", "#")


def _check_ack(ack: str | None) -> None:
    if ack is not None and ack != "auto":
        text = f"ack of {clip(ack)!r} is not supported: only 'auto' is"
        raise ClientFault("bad-request", text)


def _respond_bad_body(request: Request) -> None:
    body = encode_json({"error": "Invalid request body", "success": False})
    request.respond(400, body, ((b"Error-Code", b"bad-json"),))
