"""The records of one kind, mirrored from the store into this process.

What enters: the store's changes under one prefix. What leaves: `records`, always whole and typed,
a call to each listener per change, and writes that return once the mirror shows them.
Called by users and stations. The watch is the only writer of `records`, so that there is one truth.
A record that cannot be read is treated as removed: it must never leave an older one in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from fastgw.control.store import Conflict, Exists, decode_name, encode_name
from fastgw.errors import UpstreamFault, clip

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.control.store import Store

log = logging.getLogger("fastgw.control")

CATCH_UP_S_MAX: Final = 2.0
"""LIMIT: a change is in every mirror within a second; longer means that the broker went away."""

UPDATE_TRIES_MAX: Final = 8
"""LIMIT: as many writers may collide on one record before the last one is told to try later."""

R = TypeVar("R", bound=msgspec.Struct)


class Mirror(Generic[R]):
    """The records under one prefix.

    Args:
        store: the key-value store.
        prefix: as in "users.".
        kind: the record's type.
    """

    def __init__(self, store: Store, prefix: str, kind: type[R]) -> None:
        self.records: Final[dict[str, R]] = {}
        self._store = store
        self._prefix = prefix
        self._kind = kind
        self._listeners: list[Callable[[str, R | None], None]] = []
        self._revision = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._started = False

    async def start(self) -> None:
        """Read all records and follow their changes; further calls do nothing."""
        if not self._started:
            self._started = True
            await self._store.watch(self._prefix, self._on_change)

    def on_change(self, callback: Callable[[str, R | None], None]) -> None:
        """Call `callback(name, record or None)` after each change of `records`."""
        self._listeners.append(callback)

    async def read(self, name: str) -> tuple[R, int] | None:
        """Read one record from the store itself, with its revision."""
        found = await self._store.get(self._prefix + encode_name(name))
        if found is None:
            return None
        value, revision = found
        try:
            return msgspec.json.decode(value, type=self._kind), revision
        except msgspec.DecodeError as error:
            raise UpstreamFault(
                "broker-refused", f"the record {self._prefix}{clip(name)} is damaged: {error}"
            ) from error

    async def read_all(self) -> list[R]:
        """Read every record from the store itself, once; damaged ones are left out."""
        values = await self._store.read_all(self._prefix)
        found: list[R] = []
        for value in values.values():
            with contextlib.suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(value, type=self._kind))
        return found

    async def create(self, name: str, record: R) -> None:
        """Store a new record and wait until the mirror shows it.

        Raises:
            Exists: there is one of this name.
        """
        key = self._prefix + encode_name(name)
        await self._catch_up(await self._store.create(key, msgspec.json.encode(record)))

    async def modify(self, name: str, change: Callable[[R], R]) -> R | None:
        """Replace a record by `change(record)`, again when another process was quicker.

        A record that `change` leaves as it is is not written; what `change` raises ends it.

        Returns:
            The stored record, None when there is none of this name.
        """
        key = self._prefix + encode_name(name)
        for _ in range(UPDATE_TRIES_MAX):
            found = await self.read(name)
            if found is None:
                return None
            record = change(found[0])
            if record == found[0]:
                await self._catch_up(found[1])
                return record
            try:
                revision = await self._store.update(key, msgspec.json.encode(record), found[1])
            except Conflict:
                continue
            await self._catch_up(revision)
            return record
        raise UpstreamFault(
            "broker-busy", f"{UPDATE_TRIES_MAX} other changes of {clip(name)} came first"
        )

    async def remove(self, name: str, revision: int | None = None) -> bool:
        """Remove a record; tell whether there was one.

        Raises:
            Conflict: a revision was named, and it is no longer the record's last.
        """
        key = self._prefix + encode_name(name)
        if await self._store.get(key) is None:
            return False
        await self._catch_up(await self._store.delete(key, revision))
        return True

    def _on_change(self, key: str, value: bytes | None, revision: int) -> None:
        try:
            name = decode_name(key.removeprefix(self._prefix))
        except ValueError:
            log.warning("ignoring the key %s: it encodes no name", clip(key))
            return
        record = None
        if value is not None:
            try:
                record = msgspec.json.decode(value, type=self._kind)
            except msgspec.DecodeError as error:
                log.error("the record %s is damaged and does not count: %s", clip(key), error)
        if record is None:
            self.records.pop(name, None)
        else:
            self.records[name] = record
        for listener in self._listeners:
            listener(name, record)
        self._note(revision)

    def _note(self, revision: int) -> None:
        self._revision = max(self._revision, revision)
        for awaited, waiter in self._waiters:
            if awaited <= self._revision and not waiter.done():
                waiter.set_result(None)

    async def _catch_up(self, revision: int) -> None:
        """Wait until the watch has delivered `revision`, so that a caller reads what it wrote."""
        if not self._started or self._revision >= revision:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (revision, waiter)
        self._waiters.append(entry)
        try:
            await asyncio.wait({waiter}, timeout=CATCH_UP_S_MAX)
        finally:
            self._waiters.remove(entry)


__all__ = ["Conflict", "Exists", "Mirror"]
