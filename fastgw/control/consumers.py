"""The durable pull consumers of the groups that read a station.

What enters: a stream and a durable name. What leaves: the certainty that such a consumer exists.
Called by `Stations`. What was seen once is remembered, so that a pull costs no question; the
gateway forgets it when the broker answers that the consumer is gone. A consumer that someone else
made is taken as it is, never changed.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastgw.control.faults import (
    CONSUMER_EXISTS,
    CONSUMER_NOT_FOUND,
    STREAM_NOT_FOUND,
    broker_faults,
)
from fastgw.errors import ClientFault, UpstreamFault, clip
from fastgw.nats.library import api, js_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.js import JetStreamContext

    from fastgw.nats.client import ControlClient

ACK_WAIT_S: Final = 30
REQUEST_TIMEOUT_S: Final = 5.0
REMEMBERED_MAX: Final = 10_000
"""LIMIT: about 2 MiB; beyond it the oldest is asked about again."""

CREATIONS_MAX: Final = 64
DURABLE_CHARS_MAX: Final = 200
_DURABLE: Final = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]+")


class Consumers:
    """The consumers known to exist.

    Args:
        nc: the control-plane connection.
        js: its JetStream.
    """

    def __init__(self, nc: ControlClient, js: JetStreamContext) -> None:
        self._nc = nc
        self._js = js
        self._known: dict[tuple[str, str], None] = {}
        self._creating: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def ensure(self, stream: str, durable: str, filters: Sequence[str] = ()) -> None:
        """Make sure that the consumer exists; concurrent calls share one question.

        Args:
            stream: the stream.
            durable: the consumer's name.
            filters: the subjects that a consumer which is made here reads; none for all.

        Raises:
            ClientFault: a name that cannot be, or a consumer that cannot be pulled and acked.
            UpstreamFault: the broker is away or refused, or too many creations run.
        """
        key = (stream, durable)
        if key in self._known:
            return
        if len(durable) > DURABLE_CHARS_MAX or not _DURABLE.fullmatch(durable):
            raise ClientFault(
                "bad-request",
                f"the consumer group {clip(durable)} has spaces, '.', '*', '>', slashes or more "
                f"than {DURABLE_CHARS_MAX} characters",
            )
        creation = self._creating.get(key)
        if creation is None:
            if len(self._creating) >= CREATIONS_MAX:
                raise UpstreamFault(
                    "overloaded", f"{CREATIONS_MAX} consumers are being created; try again"
                )
            creation = asyncio.create_task(
                self._create(stream, durable, filters), name="fastgw-consumer"
            )
            self._creating[key] = creation
            creation.add_done_callback(lambda done: self._on_created(key, done))
        await asyncio.shield(creation)

    def forget(self, stream: str, durable: str) -> None:
        """Ask about one consumer again next time."""
        self._known.pop((stream, durable), None)

    def forget_stream(self, stream: str) -> None:
        """Ask about all consumers of a stream again."""
        for key in [key for key in self._known if key[0] == stream]:
            del self._known[key]

    async def _create(self, stream: str, durable: str, filters: Sequence[str]) -> None:
        with broker_faults(f"create consumer {clip(durable)} of stream {stream}"):
            try:
                info = await self._js.consumer_info(stream, durable)
            except js_errors.NotFoundError as error:
                if error.err_code == STREAM_NOT_FOUND:
                    raise ClientFault(
                        "station-unknown", f"the stream {clip(stream)} is gone"
                    ) from error
                if error.err_code != CONSUMER_NOT_FOUND:
                    raise
                info = await self._add(stream, durable, filters)
        found = info.config
        if found is None or found.deliver_subject or found.ack_policy != api.AckPolicy.EXPLICIT:
            raise ClientFault(
                "bad-request",
                f"the consumer {clip(durable)} exists, but is no pull consumer with explicit ack",
            )
        if len(self._known) >= REMEMBERED_MAX:
            del self._known[next(iter(self._known))]
        self._known[stream, durable] = None

    async def _add(self, stream: str, durable: str, filters: Sequence[str]) -> api.ConsumerInfo:
        # WHY not nats-py's add_consumer: it would change a consumer that another gateway, or an
        # operator, made since our question; "create" refuses that.
        order = {
            "stream_name": stream,
            "action": "create",
            "config": {
                "name": durable,
                "durable_name": durable,
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": ACK_WAIT_S * 1_000_000_000,
                **({"filter_subjects": [*filters]} if filters else {}),
            },
        }
        subject = f"$JS.API.CONSUMER.CREATE.{stream}.{durable}"
        reply = await self._nc.request(subject, msgspec.json.encode(order), REQUEST_TIMEOUT_S)
        answer = msgspec.json.decode(reply.data, type=dict[str, Any])
        error = answer.get("error")
        if error is not None and error.get("err_code") not in CONSUMER_EXISTS:
            js_errors.APIError.from_error(error)
        found: api.ConsumerInfo = await self._js.consumer_info(stream, durable)
        return found

    def _on_created(self, key: tuple[str, str], done: asyncio.Task[None]) -> None:
        self._creating.pop(key, None)
        if not done.cancelled():
            # Marks the failure as seen; every waiting caller has raised it.
            done.exception()
