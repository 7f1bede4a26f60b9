"""Stations: their names and records, the streams behind them, and the consumers of their groups.

What enters: commands of an administrator, and the name of a station that a request wants.
What leaves: `StationRecord`s, mirrored into this process within a second of any change anywhere.
Called by the gateway on a miss of its table, by the handlers, and by the command line.
A station must never stand on a stream that cannot confirm a publish, and two gateways that create
the same one at once must agree on one record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final, Unpack

import msgspec

from fastgw.control.consumers import Consumers
from fastgw.control.mirror import Exists, Mirror
from fastgw.control.station_config import (
    MARK,
    STREAM_KEYS,
    StationInfo,
    StationRecord,
    StationSettings,
    check_settings,
    check_station_name,
    new_stream,
    policy_fields,
    stream_name,
)
from fastgw.control.streams import Streams
from fastgw.errors import ClientFault, UpstreamFault, clip

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.js import JetStreamContext

    from fastgw.config_types import NatsConfig
    from fastgw.control.schemas import Schemas
    from fastgw.control.store import Store

__all__ = [
    "MARK",
    "StationInfo",
    "StationRecord",
    "StationSettings",
    "Stations",
    "check_station_name",
    "stream_name",
]

log: Final = logging.getLogger("fastgw.stations")

CREATIONS_MAX: Final = 64
"""LIMIT: streams in creation at once; a flood of new names gets 503 and cannot bury the broker."""

SHOWN_MAX: Final = 5
SYNC_ALWAYS: Final = "always"


class Stations:
    """All stations.

    Args:
        store: the key-value store.
        js: JetStream of the control-plane connection.
        config: the broker's table; `replicas` counts for the streams that are created.
        schemas: the registry; without it no schema can be attached.
        sync_interval: the embedded broker's; None when the broker is another, which tells nobody.
    """

    def __init__(
        self,
        store: Store,
        js: JetStreamContext,
        config: NatsConfig,
        schemas: Schemas | None = None,
        sync_interval: str | None = None,
    ) -> None:
        self._mirror = Mirror(store, "stations.", StationRecord)
        self._streams = Streams(store.nc, js)
        self._schemas = schemas
        self._replicas = config.replicas
        self._sync_interval = sync_interval
        self._creating: dict[str, asyncio.Task[StationRecord]] = {}
        self._stream_names: dict[str, str] = {}
        self._consumers = Consumers(store.nc, js)
        self._mirror.on_change(self._forget_consumers)

    async def start(self) -> None:
        """Read all stations and follow their changes."""
        await self._mirror.start()
        if self._is_late:
            for record in self.list():
                if record.ack == "fsync":
                    log.error("station %s: its ack fsync is not kept: %s", record.name, self._late)

    @property
    def records(self) -> dict[str, StationRecord]:
        """Every station by name, as of the last change seen; not to be changed by the caller."""
        return self._mirror.records

    def find(self, name: str) -> StationRecord | None:
        """Return the station of this name from the mirror."""
        return self._mirror.records.get(name)

    def list(self) -> list[StationRecord]:
        """Return every station, sorted by name."""
        return sorted(self._mirror.records.values(), key=lambda record: record.name)

    def on_change(self, callback: Callable[[str, StationRecord | None], None]) -> None:
        """Call `callback(name, record or None)` after any change, here or elsewhere."""
        self._mirror.on_change(callback)

    async def add(self, name: str, **settings: Unpack[StationSettings]) -> StationRecord:
        """Store a new station; create its stream, or take one that has the same subjects.

        Args:
            name: see `check_station_name`.
            settings: see `StationSettings`; those of the stream count where one is created.

        Raises:
            ClientFault: a name that cannot be or is in use, a setting that cannot be, or a stream
                that cannot serve it.
            UpstreamFault: the broker is away or refused.
        """
        check_station_name(name)
        check_settings(settings)
        fields = await self._record_fields(name, settings)
        if await self._mirror.read(name) is not None:
            raise _exists(name)
        wants_fsync = self._check_ack(settings)
        found = await self._streams.ensure(name, new_stream(name, settings, self._replicas))
        owned = (found.metadata or {}).get(MARK) == name
        if wants_fsync:
            await self._streams.ensure_atomic(stream_name(name), is_ours=owned)
        return await self._store_new(
            StationRecord(
                name=name,
                stream=stream_name(name),
                subject=name,
                owned=owned,
                created_at=time.time(),
                **fields,
            )
        )

    async def adopt(
        self,
        name: str,
        stream: str,
        subject: str | None = None,
        **settings: Unpack[StationSettings],
    ) -> StationRecord:
        """Store a new station on a stream that is there, and stays as it is.

        Clients may append tokens to the subject only where the stream captures those too. Where it
        captures other subjects as well, the station's consumers read the station's only.

        Args:
            name: see `check_station_name`.
            stream: the stream's name.
            subject: what the station publishes to; None takes the stream's only subject.
            settings: those of the record; the stream's own are not ours to change.

        Raises:
            ClientFault: a name or setting that cannot be, or a stream that cannot serve it.
            UpstreamFault: the broker is away or refused.
        """
        check_station_name(name)
        check_settings(settings)
        _refuse_stream_settings(settings, stream)
        fields = await self._record_fields(name, settings)
        if await self._mirror.read(name) is not None:
            raise _exists(name)
        for other in await self._mirror.read_all():
            if other.stream == stream:
                raise ClientFault(
                    "conflict", f"the stream {clip(stream)} is station {other.name}'s already"
                )
        wants_fsync = self._check_ack(settings)
        place = await self._streams.find_place(stream, subject, settings.get("allow_suffix", False))
        if wants_fsync:
            await self._streams.ensure_atomic(stream, is_ours=False)
        return await self._store_new(
            StationRecord(
                name=name,
                stream=stream,
                subject=place.subject,
                created_at=time.time(),
                filters=place.filters,
                **{"allow_suffix": place.takes_suffix, **fields},
            )
        )

    async def change(self, name: str, **settings: Unpack[StationSettings]) -> StationRecord:
        """Change a station; what is not named stays. The record is swapped in whole.

        Args:
            settings: see `StationSettings`.

        Raises:
            ClientFault: no such station, a setting that cannot be, or one of a stream that was
                there before the station.
            UpstreamFault: the broker is away or refused; it refuses to change a stream's storage.
        """
        record = await self._read(name)
        check_settings(settings)
        if STREAM_KEYS & settings.keys() and not record.owned:
            _refuse_stream_settings(settings, record.stream)
        fields = await self._record_fields(name, settings)
        if fields.get("allow_suffix") and not record.owned:
            await self._streams.find_place(record.stream, record.subject, True)
        if self._check_ack(settings):
            # WHY nothing is taken back for "stored": another gateway may send a batch until it sees
            # the new record, and allow_atomic costs nothing.
            await self._streams.ensure_atomic(record.stream, is_ours=record.owned)
        if STREAM_KEYS & settings.keys():
            await self._streams.change(record.stream, settings)
        before = record

        def replace(found: StationRecord) -> StationRecord:
            nonlocal before
            before = found
            return msgspec.structs.replace(found, **fields)

        changed = await self._mirror.modify(name, replace)
        if changed is None:
            raise _unknown(name)
        await self._confirm_schema(changed, before)
        return changed

    async def attach(self, name: str, schema: str, version: int | None = None) -> StationRecord:
        """Attach a version of a schema to a station; None and 0 pin the latest of now.

        Raises:
            ClientFault: no such station or schema.
        """
        return await self.change(name, schema=schema, schema_version=version)

    async def detach(self, name: str) -> StationRecord:
        """Detach a station's schema; from then on every message is good.

        Raises:
            ClientFault: no such station.
        """
        return await self.change(name, schema=None)

    async def ensure(self, name: str) -> StationRecord:
        """Return the station, created when it is missing; concurrent calls share one creation.

        Raises:
            ClientFault: a name that cannot be, or a stream that cannot serve it.
            UpstreamFault: the broker is away or refused, or too many creations run.
        """
        record = self.find(name)
        if record is not None:
            return record
        check_station_name(name)
        creation = self._creating.get(name)
        if creation is None:
            if len(self._creating) >= CREATIONS_MAX:
                raise UpstreamFault(
                    "overloaded", f"{CREATIONS_MAX} stations are being created; try again"
                )
            creation = asyncio.create_task(self._create(name), name="fastgw-station")
            self._creating[name] = creation
            creation.add_done_callback(lambda done: self._on_created(name, done))
        # WHY shield: one caller that gives up must not end the creation for the others.
        return await asyncio.shield(creation)

    async def read_duplicate_window_s(self, stream: str) -> float:
        """Ask the broker for how long it knows the message ids of a stream.

        Raises:
            UpstreamFault: the broker is away, or the stream is gone.
        """
        info = await self._streams.read(stream)
        return info.config.duplicate_window or 0.0

    async def info(self, name: str) -> StationInfo:
        """Ask the broker about a station's stream.

        Raises:
            ClientFault: no such station.
            UpstreamFault: the broker is away, or the stream is gone.
        """
        record = await self._read(name)
        info = await self._streams.read(record.stream)
        config, state = info.config, info.state
        return StationInfo(
            record=record,
            subjects=config.subjects or [],
            storage=str(config.storage or ""),
            replicas=config.num_replicas or 1,
            messages=state.messages,
            bytes=state.bytes,
            first_seq=state.first_seq,
            last_seq=state.last_seq,
            consumers=state.consumer_count,
            max_age_s=config.max_age or 0,
            retention=str(config.retention or "limits"),
            max_messages=_bound(config.max_msgs),
            max_bytes=_bound(config.max_bytes),
            duplicate_window_s=config.duplicate_window or 0,
        )

    async def remove(self, name: str, keep_stream: bool = False) -> None:
        """Remove a station, and its stream with all messages when it was created for it.

        Args:
            name: the station.
            keep_stream: leave the stream and its messages.

        Raises:
            ClientFault: no such station, or "conflict" when others send their dead letters to it.
        """
        record = await self._read(name)
        senders = [other.name for other in self.list() if other.dead_letter == name]
        if senders:
            raise ClientFault(
                "conflict",
                f"the station {clip(name)} takes the dead letters of "
                f"{', '.join(senders[:SHOWN_MAX])}",
            )
        # The record goes first: from then on no gateway produces to the stream.
        await self._mirror.remove(name)
        if keep_stream or not record.owned:
            return
        await self._streams.delete(record.stream)

    async def ensure_consumer(self, record: StationRecord, durable: str) -> None:
        """Make sure that the durable pull consumer of a group exists; remembered once it does.

        Raises:
            ClientFault: a name that cannot be, or a consumer of that name that we cannot pull.
            UpstreamFault: the broker is away or refused.
        """
        await self._consumers.ensure(record.stream, durable, record.filters)

    def forget_consumer(self, record: StationRecord, durable: str) -> None:
        """Look at the consumer again next time, because a pull said that it is gone."""
        self._consumers.forget(record.stream, durable)

    @property
    def _is_late(self) -> bool:
        """Whether the broker is known to answer before it syncs."""
        return self._sync_interval not in (None, SYNC_ALWAYS)

    @property
    def _late(self) -> str:
        return (
            f"the embedded broker syncs up to {clip(self._sync_interval)} after it answered; set "
            f'nats.sync_interval = "{SYNC_ALWAYS}" and start again'
        )

    def _check_ack(self, settings: StationSettings) -> bool:
        """Return whether fsync is asked for; the broker must be one that can keep it.

        Raises:
            ClientFault: "conflict", the embedded broker answers before it syncs.
            UpstreamFault: the broker is too old.
        """
        if settings.get("ack") != "fsync":
            return False
        if self._is_late:
            raise ClientFault("conflict", f"ack fsync cannot be kept: {self._late}")
        self._streams.check_atomic_known()
        return True

    async def _read(self, name: str) -> StationRecord:
        found = await self._mirror.read(name)
        if found is None:
            raise _unknown(name)
        return found[0]

    async def _create(self, name: str) -> StationRecord:
        try:
            return await self.add(name)
        except ClientFault:
            # Another gateway was quicker: its record counts, also where ours would differ.
            found = await self._mirror.read(name)
            if found is None:
                raise
            return found[0]

    def _on_created(self, name: str, done: asyncio.Task[StationRecord]) -> None:
        self._creating.pop(name, None)
        if not done.cancelled():
            # Marks the failure as seen; every waiting caller has raised it.
            done.exception()

    def _forget_consumers(self, name: str, record: StationRecord | None) -> None:
        if record is None:
            self._consumers.forget_stream(self._stream_names.pop(name, stream_name(name)))
        else:
            self._stream_names[name] = record.stream

    async def _record_fields(self, name: str, settings: StationSettings) -> dict[str, Any]:
        """Return what changes in the record, checked: names of stations and schemas exist."""
        fields = policy_fields(settings)
        letters = fields.get("dead_letter")
        if letters is not None:
            if letters == name:
                raise ClientFault(
                    "bad-station", f"the station {clip(name)} cannot take its own dead letters"
                )
            if await self._mirror.read(letters) is None:
                raise ClientFault(
                    "bad-station", f"there is no station {clip(letters)} for the dead letters"
                )
        if "schema" not in settings:
            return fields
        schema = settings["schema"]
        if schema is None:
            return {**fields, "schema": None, "schema_version": None}
        if self._schemas is None:
            raise ClientFault("schema-unknown", "this process has no schema registry")
        version = await self._schemas.pin(schema, settings.get("schema_version"))
        return {**fields, "schema": schema, "schema_version": version.number}

    async def _store_new(self, record: StationRecord) -> StationRecord:
        try:
            await self._mirror.create(record.name, record)
        except Exists:
            raise _exists(record.name) from None
        await self._confirm_schema(record, None)
        return record

    async def _confirm_schema(self, record: StationRecord, before: StationRecord | None) -> None:
        """Undo an attachment when the schema was removed while it was stored.

        WHY: whoever removes a schema marks it, then looks for stations. Either he sees our record,
        or we see his mark.
        """
        if record.schema is None or self._schemas is None:
            return
        if before is not None and before.schema == record.schema:
            return
        try:
            await self._schemas.pin(record.schema, record.schema_version)
        except ClientFault:
            if before is None:
                await self._mirror.remove(record.name)
            else:
                old = before

                def undo(found: StationRecord) -> StationRecord:
                    if found.schema != record.schema:
                        return found
                    return msgspec.structs.replace(
                        found, schema=old.schema, schema_version=old.schema_version
                    )

                await self._mirror.modify(record.name, undo)
            raise


def _exists(name: str) -> ClientFault:
    return ClientFault("conflict", f"the station {clip(name)} exists already")


def _unknown(name: str) -> ClientFault:
    return ClientFault("station-unknown", f"there is no station {clip(name)}")


def _bound(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _refuse_stream_settings(settings: StationSettings, stream: str) -> None:
    asked = sorted(STREAM_KEYS & settings.keys())
    if asked:
        raise ClientFault(
            "conflict",
            f"the stream {clip(stream)} was there before the station; {', '.join(asked)} stays",
        )
