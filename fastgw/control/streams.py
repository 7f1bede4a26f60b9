"""The JetStream streams behind stations: made, taken, changed, read and deleted.

What enters: a station's name and settings. What leaves: what the broker has, or a fault that says
why a stream cannot serve a station.
Called by `stations` only. A stream that was not made for a station is never changed or deleted
here, and none is taken that cannot confirm a publish.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastgw.control.faults import STREAM_NAME_IN_USE, SUBJECTS_OVERLAP, broker_faults
from fastgw.control.station_config import (
    StationSettings,
    change_stream,
    check_subject,
    is_covered,
    stream_name,
)
from fastgw.errors import ClientFault, UpstreamFault, clip
from fastgw.nats.library import js_errors, nats_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nats.js import JetStreamContext, api

    from fastgw.nats.client import ControlClient

REQUEST_TIMEOUT_S: Final = 5.0
ATOMIC_VERSION: Final = (2, 12)
"""SOURCE: nats-server 2.12 brought allow_atomic (API level 2, ADR-50)."""

_STREAM_NAME: Final = re.compile(r"[^\s.*>/\\\x00-\x20\x7f-\xa0]{1,255}")
"""SOURCE: nats-server, JSMaxNameLen, and what it takes in a stream's name; printable only.

WHY here: nats-py lets control bytes and any length through, and a subject above 4,096 bytes makes
the broker close the connection of the control plane.
"""


class Place(msgspec.Struct, frozen=True):
    """Where on a stream a station can stand.

    `filters` are the subjects that its consumers read, none when they are all that the stream has.
    """

    subject: str
    takes_suffix: bool
    filters: list[str]


class Streams:
    """The streams of one broker.

    Args:
        nc: the control-plane connection.
        js: its JetStream.
    """

    def __init__(self, nc: ControlClient, js: JetStreamContext) -> None:
        self._nc = nc
        self._js = js

    async def ensure(self, name: str, config: api.StreamConfig) -> api.StreamConfig:
        """Create the stream of a station, or check the one that is there; return what it is."""
        with broker_faults(f"create stream {config.name}"):
            try:
                info = await self._js.add_stream(config)
            except js_errors.APIError as error:
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

    async def read(self, stream: str) -> api.StreamInfo:
        """Ask the broker about a stream.

        Raises:
            UpstreamFault: the broker is away, or the stream is gone.
        """
        with broker_faults(f"read stream {stream}"):
            return await self._js.stream_info(stream)

    async def delete(self, stream: str) -> None:
        """Delete a stream with its messages; one that is gone is deleted."""
        with (
            broker_faults(f"delete stream {stream}"),
            contextlib.suppress(js_errors.NotFoundError),
        ):
            await self._js.delete_stream(stream)

    async def find_place(self, stream: str, subject: str | None, suffix: bool) -> Place:
        """Find where on a stream that is there a station can stand.

        Args:
            stream: the stream's name.
            subject: what to publish to; None takes the stream's only subject.
            suffix: whether the subjects below it must be captured, too.

        Raises:
            ClientFault: the stream is missing, cannot serve, or does not capture the subject.
        """
        subjects = await self.read_subjects(stream)
        subject = subject or _only_subject(stream, subjects)
        check_subject(subject)
        below = f"{subject}.>"
        takes_suffix = any(is_covered(below, pattern) for pattern in subjects)
        missing = None
        if not any(is_covered(subject, pattern) for pattern in subjects):
            missing = subject
        elif suffix and not takes_suffix:
            missing = below
        if missing is not None:
            raise ClientFault(
                "bad-subject", f"the stream {clip(stream)} does not capture {clip(missing)}"
            )
        own = [subject, below] if takes_suffix else [subject]
        whole = all(any(is_covered(pattern, mine) for mine in own) for pattern in subjects)
        return Place(subject, takes_suffix, [] if whole else own)

    async def read_subjects(self, stream: str) -> list[str]:
        """Return the subjects of a stream that a station may stand on."""
        if not _STREAM_NAME.fullmatch(stream) or len(stream.encode("utf-8", "replace")) > 255:
            raise ClientFault("bad-station", f"{clip(stream)} is no name that a stream may have")
        with broker_faults(f"read stream {clip(stream)}"):
            try:
                config = (await self._js.stream_info(stream)).config
            except (js_errors.NotFoundError, ValueError) as error:
                raise ClientFault("bad-station", f"there is no stream {clip(stream)}") from error
        if config.no_ack:
            raise ClientFault(
                "bad-station",
                f"the stream {clip(stream)} has no_ack, so no produce could be confirmed",
            )
        if config.sealed or config.mirror is not None or stream.startswith("KV_"):
            raise ClientFault(
                "bad-station", f"the stream {clip(stream)} is sealed, a mirror or a bucket"
            )
        return config.subjects or []

    async def change(self, stream: str, settings: StationSettings) -> None:
        """Change the broker's configuration of a stream.

        WHY not nats-py's update_stream: it would drop what a newer broker's configuration has.
        """
        with broker_faults(f"change stream {stream}"):
            config = (await self._ask(f"STREAM.INFO.{stream}", {}))["config"]
            changed = change_stream(config, settings)
            if changed != config:
                await self._ask(f"STREAM.UPDATE.{stream}", changed)

    def check_atomic_known(self) -> None:
        """Check that the broker knows atomic batches, before a stream is made for them.

        Raises:
            UpstreamFault: "broker-refused", it is too old.
        """
        version = self._nc.connected_server_version
        try:
            known = (version.major, version.minor)
        except ValueError:
            # A build with a name of its own: what it makes of the stream tells.
            return
        # Without a connection there is no version, and what is asked next says that.
        if (0, 0) < known < ATOMIC_VERSION:
            raise _too_old(f"nats-server {known[0]}.{known[1]}")

    async def ensure_atomic(self, stream: str, *, is_ours: bool) -> None:
        """Have a stream take atomic batches, and check that it can be synced at all.

        Args:
            stream: the stream's name.
            is_ours: whether it was made for the station, so that it may be changed.

        Raises:
            ClientFault: "bad-station", nothing of it is ever synced; "conflict", it takes no
                atomic batches and is not ours to change.
            UpstreamFault: the broker is away, refused, or too old.
        """
        with broker_faults(f"change stream {stream}"):
            config = (await self._ask(f"STREAM.INFO.{stream}", {}))["config"]
            _check_synced(stream, config)
            if config.get("allow_atomic"):
                return
            if not is_ours:
                raise ClientFault(
                    "conflict",
                    f"the stream {clip(stream)} was there before the station and has no "
                    "allow_atomic, which ack fsync needs: set allow_atomic on it first",
                )
            answer = await self._ask(f"STREAM.UPDATE.{stream}", config | {"allow_atomic": True})
        # WHY: an older server takes the field without a word and drops it.
        if not answer["config"].get("allow_atomic"):
            raise _too_old("the stream's server")

    async def _ask(self, what: str, order: dict[str, Any]) -> dict[str, Any]:
        reply = await self._nc.request(
            f"$JS.API.{what}", msgspec.json.encode(order), REQUEST_TIMEOUT_S
        )
        answer = msgspec.json.decode(reply.data, type=dict[str, Any])
        if "error" in answer:
            js_errors.APIError.from_error(answer["error"])
        return answer

    async def _overlap_fault(self, name: str) -> ClientFault:
        other = ""
        with contextlib.suppress(nats_errors.Error, OSError):
            other = await self._js.find_stream_name_by_subject(name)
        if not other:
            with contextlib.suppress(nats_errors.Error, OSError):
                other = await self._js.find_stream_name_by_subject(f"{name}.>")
        return ClientFault(
            "bad-station",
            f"the subjects of station {clip(name)} overlap those of stream "
            f"{clip(other) if other else 'another station'}",
        )


def _check_synced(stream: str, config: Mapping[str, Any]) -> None:
    """Check that the broker can sync what a stream stores before it answers."""
    wrong = None
    if config.get("storage") == "memory":
        wrong = "memory storage, which nothing syncs"
    elif config.get("persist_mode") == "async":
        # SOURCE: nats-server answers before it writes then, whatever its sync_interval is.
        wrong = "persist_mode async, which answers before it writes"
    if wrong is not None:
        raise ClientFault(
            "bad-station", f"ack fsync cannot be kept: the stream {clip(stream)} has {wrong}"
        )


def _too_old(what: str) -> UpstreamFault:
    major, minor = ATOMIC_VERSION
    return UpstreamFault(
        "broker-refused",
        f"ack fsync needs atomic batches, so nats-server {major}.{minor} or newer; "
        f"{what} does not know allow_atomic",
    )


def _only_subject(stream: str, subjects: list[str]) -> str:
    """Return the subject to publish to when the administrator names none."""
    plain = {subject.removesuffix(".>") for subject in subjects}
    if len(plain) != 1:
        raise ClientFault(
            "bad-subject", f"the stream {clip(stream)} has several subjects: name the station's"
        )
    return plain.pop()
