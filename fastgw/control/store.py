"""The one store of the control plane: a JetStream key-value bucket, read, written and watched.

What enters: keys like "users.ada" with bytes. What leaves: values with the revision that a
compare-and-set needs, and the changes of other processes.
Called by users, tokens and stations. Reads go to the stream's leader, so that a process reads what
it wrote. A write while the broker is away must fail at once: nats-py would keep it and send it
later, after the caller was told that it failed.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from fastgw.control.faults import (
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    broker_faults,
)
from fastgw.control.watch import Watch
from fastgw.errors import UpstreamFault, clip
from fastgw.nats.library import api, js_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from fastgw.nats.client import ControlClient

log = logging.getLogger("fastgw.control")

BUCKET: Final = "fastgw"
STREAM: Final = f"KV_{BUCKET}"
SUBJECTS: Final = f"$KV.{BUCKET}."
VALUE_BYTES_MAX: Final = 512 * 1024
"""LIMIT: a record stays below half of the broker's default max_payload of 1 MiB."""

REQUEST_TIMEOUT_S: Final = 5.0

_OPERATION: Final = "KV-Operation"
_REMOVED: Final = frozenset({"DEL", "PURGE"})
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]")
_ESCAPED: Final = re.compile(r"=([0-9A-F]{2})")


class Exists(Exception):
    """A key to be created is there already."""


class Conflict(Exception):
    """A key to be updated has changed since it was read."""


def encode_name(name: str) -> str:
    """Return `name` as one legal token of a key; names that differ stay different.

    Letters, digits, '_' and '-' stand for themselves; every other byte of UTF-8 becomes =XX.
    """
    return "".join(
        chr(byte) if _PLAIN.match(chr(byte)) else f"={byte:02X}" for byte in name.encode()
    )


def decode_name(token: str) -> str:
    """Undo `encode_name`.

    Raises:
        ValueError: `token` was not made by it.
    """
    raw = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), token)
    name = raw.encode("latin-1").decode("utf-8")
    if encode_name(name) != token:
        raise ValueError(f"the key token {clip(token)} encodes no name")
    return name


class Store:
    """The bucket; made by `open`."""

    def __init__(self, nc: ControlClient, replicas: int) -> None:
        self.nc: Final = nc
        self.js: Final = nc.jetstream(timeout=REQUEST_TIMEOUT_S)
        self._replicas = replicas
        self._watches: list[Watch] = []

    @classmethod
    async def open(cls, nc: ControlClient, replicas: int) -> Self:
        """Open the bucket; make it when it is missing, safely also from two gateways at once.

        Raises:
            UpstreamFault: the broker is away, or it has a stream of that name that is no bucket.
        """
        store = cls(nc, replicas)
        with broker_faults(f"open the key-value bucket {BUCKET}"):
            await store._ensure_bucket()
        return store

    async def close(self) -> None:
        """End the watches; the connection stays open, since it belongs to the caller."""
        watches, self._watches = self._watches, []
        for watch in watches:
            await watch.stop()

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """Return value and revision of `key`, None when it is missing or deleted."""
        with broker_faults(f"read {clip(key)}"):
            self._check_connected()
            try:
                message = await self.js.get_msg(STREAM, subject=SUBJECTS + key, direct=False)
            except js_errors.NotFoundError as error:
                if error.err_code == STREAM_NOT_FOUND:
                    raise
                return None
        if message.headers and message.headers.get(_OPERATION) in _REMOVED:
            return None
        return message.data or b"", message.seq or 0

    async def put(self, key: str, value: bytes) -> int:
        """Set `key` whatever it was; return the new revision."""
        return await self._write(key, value, {})

    async def create(self, key: str, value: bytes) -> int:
        """Set `key`, which must be missing; return its revision.

        Raises:
            Exists: it is there.
        """
        try:
            return await self._write(key, value, _expect(0))
        except Conflict:
            revision = await self._removed_revision(key)
        if revision is None:
            raise Exists(key)
        try:
            # A deleted key keeps its marker; the marker is what we replace then.
            return await self._write(key, value, _expect(revision))
        except Conflict:
            raise Exists(key) from None

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Set `key` when `revision` is still its last one; return the new revision.

        Raises:
            Conflict: another process was quicker.
        """
        return await self._write(key, value, _expect(revision))

    async def delete(self, key: str, revision: int | None = None) -> int:
        """Remove `key`; with a revision only when that is still its last one.

        Returns:
            The revision of the marker that stands in its place.

        Raises:
            Conflict: another process was quicker.
        """
        expected = {} if revision is None else _expect(revision)
        return await self._write(key, b"", {_OPERATION: "DEL", **expected})

    async def keys(self, prefix: str) -> list[str]:
        """Return the keys that start with `prefix`, which ends with '.' or is empty; sorted."""
        return sorted(await self.read_all(prefix))

    async def read_all(self, prefix: str) -> dict[str, bytes]:
        """Return the keys that start with `prefix`, as `keys` does, and their values."""
        found: dict[str, bytes] = {}

        def take(key: str, value: bytes | None, _revision: int) -> None:
            if value is not None:
                found[key] = value
            else:
                found.pop(key, None)

        watch = await self._open_watch(prefix, take)
        await watch.stop()
        return found

    async def watch(self, prefix: str, on_change: Callable[[str, bytes | None, int], None]) -> None:
        """Call `on_change(key, value or None, revision)` for each key and for each change.

        Returns after the present state was delivered. Lasts until `close`; a lost connection, a
        restarted broker or a lost consumer make it read everything again and deliver what differs.

        Args:
            prefix: ends with '.' or is empty.
            on_change: called on the loop; must not raise.
        """
        self._watches.append(await self._open_watch(prefix, on_change))

    async def _open_watch(
        self, prefix: str, on_change: Callable[[str, bytes | None, int], None]
    ) -> Watch:
        with broker_faults(f"watch {prefix or 'the bucket'}"):
            self._check_connected()
            watch = Watch(self.nc, STREAM, SUBJECTS, prefix, on_change)
            await watch.start()
        return watch

    async def _ensure_bucket(self) -> None:
        try:
            info = await self.js.stream_info(STREAM)
        except js_errors.NotFoundError:
            info = await self._create_bucket()
        config = info.config
        if config.subjects != [SUBJECTS + ">"] or config.no_ack:
            raise UpstreamFault("broker-refused", f"the stream {STREAM} is no key-value bucket")

    async def _create_bucket(self) -> api.StreamInfo:
        # SOURCE: ADR-8, what makes a stream a key-value bucket.
        config = api.StreamConfig(
            name=STREAM,
            description="fastgw: users, stations, signing secrets",
            subjects=[SUBJECTS + ">"],
            max_msgs_per_subject=1,
            max_msg_size=VALUE_BYTES_MAX,
            discard=api.DiscardPolicy.NEW,
            storage=api.StorageType.FILE,
            num_replicas=self._replicas,
            allow_rollup_hdrs=True,
            deny_delete=True,
            allow_direct=True,
            duplicate_window=120,
        )
        try:
            info = await self.js.add_stream(config)
        except js_errors.APIError as error:
            if error.err_code != STREAM_NAME_IN_USE:
                raise
            # Another gateway made it a moment ago, with settings of its own.
            return await self.js.stream_info(STREAM)
        log.info("made the key-value bucket %s with %d replica(s)", BUCKET, self._replicas)
        return info

    async def _write(self, key: str, value: bytes, headers: dict[str, str]) -> int:
        with broker_faults(f"write {clip(key)}"):
            self._check_connected()
            try:
                ack = await self.js.publish(SUBJECTS + key, value, headers=headers or None)
            except js_errors.APIError as error:
                if error.err_code not in WRONG_LAST_SEQUENCE:
                    raise
                raise Conflict(key) from error
        return ack.seq

    async def _removed_revision(self, key: str) -> int | None:
        """Return the revision of a deleted key's marker, None when the key lives."""
        with broker_faults(f"read {clip(key)}"):
            message = await self.js.get_msg(STREAM, subject=SUBJECTS + key, direct=False)
        removed = message.headers and message.headers.get(_OPERATION) in _REMOVED
        return message.seq if removed else None

    def _check_connected(self) -> None:
        if not self.nc.is_connected:
            reason = self.nc.last_text or "not connected"
            raise UpstreamFault("broker-away", f"the broker is away: {reason}")


def _expect(revision: int) -> dict[str, str]:
    return {api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revision)}
