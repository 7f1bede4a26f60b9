"""Stations: their names and records, the streams behind them, and the consumers of their groups.

What enters: commands of an administrator, and the name of a station that a request wants.
What leaves: `StationRecord`s, mirrored into this process within a second of any change anywhere.
Called by the gateway on a miss of its table, by the handlers, and by the command line.
A station must never stand on a stream that cannot confirm a publish, and two gateways that create
the same one at once must agree on one record.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import nats.js.errors
from nats.js import api

from fastgw.control.consumers import Consumers
from fastgw.control.faults import STREAM_NAME_IN_USE, SUBJECTS_OVERLAP, broker_faults
from fastgw.control.mirror import Exists, Mirror
from fastgw.errors import ClientFault, UpstreamFault, clip

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nats.js import JetStreamContext

    from fastgw.config_types import NatsConfig
    from fastgw.control.store import Store

NAME_CHARS_MAX: Final = 128
CREATIONS_MAX: Final = 64
"""LIMIT: streams in creation at once; a flood of new names gets 503 and cannot bury the broker."""

CONSUMERS_MAX: Final = 1000
"""LIMIT: consumer groups of a stream that we create; each costs the broker memory and a file."""

HEADER_GLOBS_MAX: Final = 64
DUPLICATE_WINDOW_S: Final = 120
"""LIMIT: JetStream's own default; each message id costs the broker 230 bytes for that long."""

MARK: Final = "fastgw.station"
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_HEADER_GLOB: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~?-]{1,128}")

Storage = Literal["file", "memory"]


class StationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One station as stored.

    `headers` says which request headers become message headers; `header_allow` names further
    `Nats-*` headers that producers may set; `owned` tells that the stream was created for it.
    """

    name: str
    stream: str
    subject: str
    headers: Literal["all", "none"] | list[str] = "all"
    header_allow: list[str] = []
    owned: bool = False
    created_at: float = 0.0


class StationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker tells about a station's stream at this moment."""

    record: StationRecord
    subjects: list[str]
    storage: str
    replicas: int
    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    consumers: int
    max_age_s: float


def check_station_name(name: str) -> None:
    """Check a station's name: 1 to 128 of `A-Z a-z 0-9 _ - .`, first and last alphanumeric.

    Raises:
        ClientFault: "bad-station".
    """
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise ClientFault(
            "bad-station",
            f"a station name of {len(name)} characters is not 1 to {NAME_CHARS_MAX} long",
        )
    if not _NAME.fullmatch(name) or ".." in name:
        raise ClientFault(
            "bad-station",
            f"the station name {clip(name)} may hold A-Z a-z 0-9 _ - and single dots, "
            "and begins and ends with a letter or digit",
        )


def stream_name(name: str) -> str:
    """Return the stream's name of a station; JetStream allows no '.' there."""
    return name.replace(".", "#")


class Stations:
    """All stations.

    Args:
        store: the key-value store.
        js: JetStream of the control-plane connection.
        config: the broker's table; `replicas` counts for the streams that are created.
    """

    def __init__(self, store: Store, js: JetStreamContext, config: NatsConfig) -> None:
        self._mirror = Mirror(store, "stations.", StationRecord)
        self._js = js
        self._replicas = config.replicas
        self._creating: dict[str, asyncio.Task[StationRecord]] = {}
        self._consumers = Consumers(store.nc, js)
        self._mirror.on_change(self._forget_consumers)

    async def start(self) -> None:
        """Read all stations and follow their changes."""
        await self._mirror.start()

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

    async def add(
        self,
        name: str,
        *,
        headers: Literal["all", "none"] | Sequence[str] = "all",
        header_allow: Sequence[str] = (),
        storage: Storage = "file",
        max_age_s: float = 0,
        max_bytes: int | None = None,
    ) -> StationRecord:
        """Store a new station; create its stream, or take one that has the same subjects.

        Args:
            name: see `check_station_name`.
            headers: which request headers to copy: all, none, or globs.
            header_allow: further `Nats-*` headers that producers may set.
            storage: of a stream that is created.
            max_age_s: how long that stream keeps messages; 0 keeps them.
            max_bytes: the most it keeps, then it drops the oldest; None sets no bound.

        Raises:
            ClientFault: a name that cannot be or is in use, or a stream that cannot serve it.
            UpstreamFault: the broker is away or refused.
        """
        check_station_name(name)
        if await self._mirror.read(name) is not None:
            raise ClientFault("bad-station", f"the station {clip(name)} exists already")
        config = self._stream_config(name, storage, max_age_s, max_bytes)
        found = await self._ensure_stream(name, config)
        record = StationRecord(
            name=name,
            stream=stream_name(name),
            subject=name,
            headers=headers if headers in ("all", "none") else _check_globs(headers),
            header_allow=_check_globs(header_allow),
            owned=(found.metadata or {}).get(MARK) == name,
            created_at=time.time(),
        )
        try:
            await self._mirror.create(name, record)
        except Exists:
            raise ClientFault("bad-station", f"the station {clip(name)} exists already") from None
        return record

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

    async def info(self, name: str) -> StationInfo:
        """Ask the broker about a station's stream.

        Raises:
            ClientFault: no such station.
            UpstreamFault: the broker is away, or the stream is gone.
        """
        record = await self._read(name)
        with broker_faults(f"read stream {record.stream}"):
            info = await self._js.stream_info(record.stream)
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
        )

    async def remove(self, name: str, keep_stream: bool = False) -> None:
        """Remove a station, and its stream with all messages when it was created for it.

        Args:
            name: the station.
            keep_stream: leave the stream and its messages.

        Raises:
            ClientFault: no such station.
        """
        record = await self._read(name)
        # The record goes first: from then on no gateway produces to the stream.
        await self._mirror.remove(name)
        if keep_stream or not record.owned:
            return
        with (
            broker_faults(f"delete stream {record.stream}"),
            contextlib.suppress(nats.js.errors.NotFoundError),
        ):
            await self._js.delete_stream(record.stream)

    async def ensure_consumer(self, record: StationRecord, durable: str) -> None:
        """Make sure that the durable pull consumer of a group exists; remembered once it does.

        Raises:
            ClientFault: a name that cannot be, or a consumer of that name that we cannot pull.
            UpstreamFault: the broker is away or refused.
        """
        await self._consumers.ensure(record.stream, durable)

    def forget_consumer(self, record: StationRecord, durable: str) -> None:
        """Look at the consumer again next time, because a pull said that it is gone."""
        self._consumers.forget(record.stream, durable)

    async def _read(self, name: str) -> StationRecord:
        found = await self._mirror.read(name)
        if found is None:
            raise ClientFault("station-unknown", f"there is no station {clip(name)}")
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
            self._consumers.forget_stream(stream_name(name))

    def _stream_config(
        self, name: str, storage: Storage, max_age_s: float, max_bytes: int | None
    ) -> api.StreamConfig:
        return api.StreamConfig(
            name=stream_name(name),
            description=f"fastgw station {name}",
            subjects=[name, f"{name}.>"],
            storage=api.StorageType(storage),
            num_replicas=self._replicas,
            max_age=max_age_s,
            max_bytes=max_bytes if max_bytes is not None else -1,
            max_consumers=CONSUMERS_MAX,
            # JetStream takes no window that is longer than the messages live.
            duplicate_window=min(DUPLICATE_WINDOW_S, max_age_s or DUPLICATE_WINDOW_S),
            allow_direct=True,
            metadata={MARK: name},
        )

    async def _ensure_stream(self, name: str, config: api.StreamConfig) -> api.StreamConfig:
        """Create the stream of a station, or check the one that is there; return what it is."""
        with broker_faults(f"create stream {config.name}"):
            try:
                info = await self._js.add_stream(config)
            except nats.js.errors.APIError as error:
                if error.err_code == SUBJECTS_OVERLAP:
                    raise await self._overlap_fault(name) from error
                if error.err_code != STREAM_NAME_IN_USE:
                    raise
                info = await self._js.stream_info(stream_name(name))
        found = info.config
        if set(found.subjects or []) != set(config.subjects or []):
            subjects = clip(", ".join(found.subjects or []))
            raise ClientFault(
                "bad-station",
                f"the stream {clip(found.name)} exists with other subjects ({subjects})",
            )
        if found.no_ack:
            raise ClientFault(
                "bad-station",
                f"the stream {clip(found.name)} has no_ack, so no produce could be confirmed",
            )
        return found

    async def _overlap_fault(self, name: str) -> ClientFault:
        other = ""
        with contextlib.suppress(nats.errors.Error, OSError):
            other = await self._js.find_stream_name_by_subject(name)
        if not other:
            with contextlib.suppress(nats.errors.Error, OSError):
                other = await self._js.find_stream_name_by_subject(f"{name}.>")
        return ClientFault(
            "bad-station",
            f"the subjects of station {clip(name)} overlap those of stream "
            f"{clip(other) if other else 'another station'}",
        )


def _check_globs(globs: Sequence[str]) -> list[str]:
    if isinstance(globs, str) or len(globs) > HEADER_GLOBS_MAX:
        raise ClientFault(
            "bad-request", f"headers are all, none, or at most {HEADER_GLOBS_MAX} globs"
        )
    for glob in globs:
        if not _HEADER_GLOB.fullmatch(glob):
            raise ClientFault("bad-request", f"the header glob {clip(glob)} cannot match a header")
    return [*globs]
