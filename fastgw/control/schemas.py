"""The schema registry: named, typed schemas with immutable versions, in the key-value store.

What enters: commands of an administrator, and the name and version that a station has attached.
What leaves: `SchemaRecord`s, mirrored into this process within a second of any change anywhere, and
validators compiled in a thread.
Called by the gateway, the admin routes and the command line. A record and its list of versions are
one value of the store, replaced by compare-and-set, so that two gateways that add a version at once
both keep theirs. The texts are values of their own, written before the record that names them. A
reference is looked up in the registry only; nothing is ever fetched.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw.control.mirror import Conflict, Exists, Mirror
from fastgw.control.schema_record import (
    VERSIONS_MAX,
    SchemaRecord,
    SchemaType,
    StoredText,
    Version,
    check_options,
    check_text,
    check_type,
    compile_text,
    find_uri,
    hash_text,
)
from fastgw.control.station_config import StationRecord, check_name
from fastgw.control.store import encode_name
from fastgw.errors import ClientFault, UpstreamFault, clip

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.control.store import Store
    from fastgw.schema.base import Resolve, Validator

log = logging.getLogger("fastgw.control")

SCHEMAS_MAX: Final = 10_000
"""LIMIT: every record is mirrored into every worker; with ten versions each that is 40 MB."""

REFERENCES_MAX: Final = 100
CLOSURE_BYTES_MAX: Final = 480 * 1024
"""LIMIT: a text and those that it refers to are one value of the store, which stops at 512 KiB."""

COMPILED_MAX: Final = 1000
"""LIMIT: validators kept beside those that stations hold; 10 to 100 KB each, the oldest leaves."""

COMPILERS: Final = 2
"""LIMIT: protobuf and GraphQL compile in processes of their own, for 50 and 400 ms; more of them
at once would take the CPU that the traffic needs."""

COMPILES_MAX: Final = 64
"""LIMIT: compilations that run or wait; they are an administrator's, past it he tries later."""

FETCH_S_MAX: Final = 10.0
Names = list[str]
DIFF_LINES_MAX: Final = 20_000
REMOVE_NAMES_MAX: Final = 5


class Schemas:
    """All schemas.

    Args:
        store: the key-value store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mirror = Mirror(store, "schemas.", SchemaRecord)
        self._compiled: dict[str, Validator] = {}
        self._compiling: dict[str, asyncio.Task[Validator]] = {}
        self._waiting = 0
        self._pool = ThreadPoolExecutor(COMPILERS, thread_name_prefix="fastgw-schema")

    async def start(self) -> None:
        """Read all schemas and follow their changes."""
        await self._mirror.start()

    def close(self) -> None:
        """End the thread of the compilers."""
        for task in self._compiling.values():
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def records(self) -> dict[str, SchemaRecord]:
        """Every schema by name, as of the last change seen; not to be changed by the caller."""
        return self._mirror.records

    def find(self, name: str) -> SchemaRecord | None:
        """Return the schema of this name from the mirror."""
        return self._mirror.records.get(name)

    def list(self) -> list[SchemaRecord]:
        """Return every schema, sorted by name."""
        return sorted(self._mirror.records.values(), key=lambda record: record.name)

    def on_change(self, callback: Callable[[str, SchemaRecord | None], None]) -> None:
        """Call `callback(name, record or None)` after any change, here or elsewhere."""
        self._mirror.on_change(callback)

    # --- changing ---------------------------------------------------------------------------------

    async def create(
        self, name: str, kind: str, text: str, options: Mapping[str, str] | None = None
    ) -> SchemaRecord:
        """Compile a text and store it as version 1 of a new schema.

        Args:
            name: follows the rule of station names.
            kind: json, protobuf, avro or graphql.
            text: at most 256 KiB.
            options: of protobuf: `message`, the name of the message, and `unknown_fields`.

        Raises:
            ClientFault: "bad-schema" with place and reason, or "conflict" when the name is in use.
            UpstreamFault: the broker is away or refused.
        """
        check_name(name, "schema", "bad-schema")
        checked = check_type(kind)
        if await self._mirror.read(name) is not None:
            raise ClientFault("conflict", f"the schema {clip(name)} exists already")
        if len(self.records) >= SCHEMAS_MAX:
            raise ClientFault("conflict", f"there are {SCHEMAS_MAX} schemas, which is the limit")
        version = await self._store_text(name, checked, text, options or {})
        now = version.created_at
        record = SchemaRecord(name=name, type=checked, created_at=now, versions=[version])
        try:
            await self._mirror.create(name, record)
        except Exists:
            await self._store.delete(version.key)
            raise ClientFault("conflict", f"the schema {clip(name)} exists already") from None
        return record

    async def add_version(
        self, name: str, text: str, options: Mapping[str, str] | None = None
    ) -> tuple[SchemaRecord, Version]:
        """Compile a text and store it as the next version; the latest's own text adds none.

        Args:
            options: None takes those of the latest version.

        Returns:
            The record, and the version that holds this text.

        Raises:
            ClientFault: no such schema, or as `create`.
            UpstreamFault: the broker is away or refused.
        """
        before, _ = await self._read(name)
        if options is None:
            options = before.latest.options
        checked = check_options(before.type, options)
        if _is_same(before.latest, text, checked):
            return before, before.latest
        version = await self._store_text(name, before.type, text, checked)
        added = version

        def change(record: SchemaRecord) -> SchemaRecord:
            nonlocal added
            if record.removing or record.type != before.type:
                raise ClientFault("conflict", f"the schema {clip(name)} is being removed")
            if _is_same(record.latest, text, checked):
                added = record.latest
                return record
            if len(record.versions) >= VERSIONS_MAX:
                raise ClientFault("conflict", f"{clip(name)} has {VERSIONS_MAX} versions already")
            added = msgspec.structs.replace(version, number=record.latest.number + 1)
            return msgspec.structs.replace(record, versions=[*record.versions, added])

        stored = None
        try:
            stored = await self._mirror.modify(name, change)
        finally:
            if stored is None or added.key != version.key:
                await self._store.delete(version.key)
        if stored is None:
            raise _unknown(name)
        return stored, added

    async def remove(self, name: str) -> None:
        """Remove a schema with all its versions.

        The record says so first, which refuses to attach it from then on; only then the stations
        are read, so that none can slip in between.

        Raises:
            ClientFault: no such schema, or "conflict" naming the stations that have it attached.
        """
        await self._set_removing(name, True)
        try:
            stations = await self._find_attached(name)
            if stations:
                shown = ", ".join(stations[:REMOVE_NAMES_MAX])
                more = len(stations) - REMOVE_NAMES_MAX
                text = f"{shown} and {more} more" if more > 0 else shown
                raise ClientFault(
                    "conflict", f"the schema {clip(name)} is attached to station {text}"
                )
        except BaseException:
            await self._set_removing(name, False)
            raise
        try:
            record, revision = await self._read_marked(name)
            await self._mirror.remove(name, revision)
        except Conflict:
            raise ClientFault(
                "conflict", f"the schema {clip(name)} was changed meanwhile"
            ) from None
        for version in record.versions:
            await self._store.delete(version.key)
            self._compiled.pop(version.key, None)

    # --- reading ----------------------------------------------------------------------------------

    async def show(self, name: str, number: int | None = None) -> tuple[SchemaRecord, Version, str]:
        """Return a schema, one of its versions (None for the latest) and that one's text.

        Raises:
            ClientFault: "schema-unknown".
        """
        record, version = await self._read(name, number)
        return record, version, (await self._read_text(name, version)).text

    async def diff(self, name: str, old: int | None, new: int | None) -> str:
        """Return the unified difference of two versions' texts, "" when they are the same.

        A JSON text on one line is compared line by line in its indented form.

        Raises:
            ClientFault: "schema-unknown", or texts of too many lines.
        """
        record, before, before_text = await self.show(name, old)
        _, after, after_text = await self.show(name, new)
        lines = [_split_lines(record.type, text) for text in (before_text, after_text)]
        if max(map(len, lines)) > DIFF_LINES_MAX:
            raise ClientFault("bad-request", f"a text has more than {DIFF_LINES_MAX} lines")
        titles = (f"{name} {before.number}", f"{name} {after.number}")

        def compare() -> str:
            found = difflib.unified_diff(lines[0], lines[1], *titles, lineterm="")
            return "".join(f"{line}\n" for line in found)

        return await asyncio.to_thread(compare)

    async def pin(self, name: str, number: int | None) -> Version:
        """Return the version that a station shall have attached; None and 0 mean the latest.

        Raises:
            ClientFault: "schema-unknown", or "conflict" while it is being removed.
        """
        record, version = await self._read(name, number)
        if record.removing:
            raise ClientFault("conflict", f"the schema {clip(name)} is being removed")
        return version

    # --- compiling --------------------------------------------------------------------------------

    def find_compiled(self, name: str, number: int | None) -> Validator | None:
        """Return the validator of a version when it is compiled already."""
        record = self.find(name)
        version = record.find(number) if record is not None else None
        return self._compiled.get(version.key) if version is not None else None

    async def compile(self, name: str, number: int | None = None) -> Validator:
        """Return the validator of a version; concurrent calls share one compilation.

        Raises:
            ClientFault: "schema-unknown", or "bad-schema" when a library no longer takes the text.
            UpstreamFault: the broker is away, or too many compilations wait.
        """
        record = self.find(name)
        version = record.find(number) if record is not None else None
        if record is None or version is None:
            # WHY: the mirror may be a moment behind the record that named this version.
            record, version = await self._read(name, number)
        found = self._compiled.get(version.key)
        if found is not None:
            return found
        task = self._compiling.get(version.key)
        if task is None:
            task = asyncio.create_task(self._compile_version(record, version), name="fastgw-schema")
            self._compiling[version.key] = task
            task.add_done_callback(lambda done: self._on_compiled(version.key, done))
        # WHY shield: one caller that gives up must not end the compilation for the others.
        return await asyncio.shield(task)

    def resolve(self, kind: SchemaType, used: dict[str, tuple[str, StoredText]]) -> Resolve:
        """Return what finds registered schemas of one type, to be called in a compiler's thread.

        A reference is a schema's name (its latest version), `name@version`, a protobuf file
        `name.proto`, or the name that a text gives itself.

        Args:
            used: collects, by reference, what was found: "name@version" and the texts.
        """
        loop = asyncio.get_running_loop()

        def find(reference: str) -> str | None:
            if reference in used:
                return used[reference][1].text
            for _, stored in used.values():
                if reference in stored.texts:
                    # WHY first: what a version refers to was pinned with it.
                    return stored.texts[reference]
            found = self._find_reference(kind, reference)
            if found is None or len(used) >= REFERENCES_MAX:
                return None
            name, version = found
            read = asyncio.run_coroutine_threadsafe(self._read_text(name, version), loop)
            stored = read.result(FETCH_S_MAX)
            used[reference] = (f"{name}@{version.number}", stored)
            return stored.text

        return find

    def _find_reference(self, kind: SchemaType, reference: str) -> tuple[str, Version] | None:
        # WHY a copy: this runs in a compiler's thread while the mirror may change.
        records = dict(self._mirror.records)
        name, _, number = reference.partition("@")
        wanted = int(number) if number.isascii() and number.isdigit() else None
        names = [name, name.removesuffix(".proto")] if kind == "protobuf" else [name]
        for candidate in names:
            record = records.get(candidate)
            if record is not None and record.type == kind and (wanted or not number):
                version = record.find(wanted)
                return (candidate, version) if version is not None else None
        for record in records.values():
            if record.type == kind:
                for version in reversed(record.versions):
                    if version.uri and version.uri == reference.rstrip("#"):
                        return record.name, version
        return None

    async def _compile_version(self, record: SchemaRecord, version: Version) -> Validator:
        stored = await self._read_text(record.name, version)
        return await self._in_thread(record.type, stored.text, version.options, stored.texts.get)

    def _on_compiled(self, key: str, done: asyncio.Task[Validator]) -> None:
        self._compiling.pop(key, None)
        if done.cancelled() or done.exception() is not None:
            return
        if len(self._compiled) >= COMPILED_MAX:
            del self._compiled[next(iter(self._compiled))]
        self._compiled[key] = done.result()

    async def _in_thread(
        self, kind: SchemaType, text: str, options: Mapping[str, str], resolve: Resolve
    ) -> Validator:
        if self._waiting >= COMPILES_MAX:
            raise UpstreamFault("overloaded", f"{COMPILES_MAX} schemas are being compiled")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._pool, compile_text, kind, text, dict(options), resolve
            )
        finally:
            self._waiting -= 1

    # --- the store --------------------------------------------------------------------------------

    async def _read(self, name: str, number: int | None = None) -> tuple[SchemaRecord, Version]:
        found = await self._mirror.read(name)
        if found is None:
            raise _unknown(name)
        version = found[0].find(number)
        if version is None:
            raise ClientFault("schema-unknown", f"the schema {clip(name)} has no version {number}")
        return found[0], version

    async def _read_text(self, name: str, version: Version) -> StoredText:
        found = await self._store.get(version.key)
        if found is None:
            raise ClientFault(
                "schema-unknown", f"the text of {clip(name)} version {version.number} is gone"
            )
        try:
            return msgspec.msgpack.decode(found[0], type=StoredText)
        except msgspec.DecodeError as error:
            raise UpstreamFault(
                "broker-refused", f"the text of {clip(name)} version {version.number} is damaged"
            ) from error

    async def _store_text(
        self, name: str, kind: SchemaType, text: str, options: Mapping[str, str]
    ) -> Version:
        """Compile a text and store it; the version is not in force before a record names it."""
        check_text(text)
        checked = check_options(kind, options)
        used: dict[str, tuple[str, StoredText]] = {}
        compiled = await self._in_thread(kind, text, checked, self.resolve(kind, used))
        texts: dict[str, str] = {}
        for reference, (_, stored) in used.items():
            texts = stored.texts | texts | {reference: stored.text}
        value = msgspec.msgpack.encode(StoredText(text, texts))
        limit = min(CLOSURE_BYTES_MAX, self._store.nc.max_payload - 1024)
        if len(value) > limit:
            raise ClientFault(
                "bad-schema",
                f"the schema and what it refers to have {len(value)} bytes, above {limit}",
            )
        # WHY a key of its own for each: a text that lost a race is deleted, never another's.
        key = f"schema-texts.{encode_name(name)}.{secrets.token_hex(12)}"
        await self._store.create(key, value)
        self._compiled[key] = compiled
        return Version(
            number=1,
            key=key,
            sha256=hash_text(text),
            bytes=len(text.encode()),
            created_at=time.time(),
            options=checked,
            uri=find_uri(kind, text),
            uses={reference: found for reference, (found, _) in used.items()},
        )

    async def _read_marked(self, name: str) -> tuple[SchemaRecord, int]:
        """Return the record to remove and its revision; Conflict when its mark was taken away.

        WHY: another process that removes it, too, takes the mark away when it has found a station.
        """
        found = await self._mirror.read(name)
        if found is None:
            raise _unknown(name)
        if not found[0].removing:
            raise Conflict(name)
        return found

    async def _set_removing(self, name: str, removing: bool) -> None:
        def change(record: SchemaRecord) -> SchemaRecord:
            return msgspec.structs.replace(record, removing=removing)

        if await self._mirror.modify(name, change) is None:
            raise _unknown(name)

    async def _find_attached(self, name: str) -> Names:
        """Return the stations that have the schema attached, from the store itself."""
        stations = Mirror(self._store, "stations.", StationRecord)
        return sorted(record.name for record in await stations.read_all() if record.schema == name)


def _is_same(version: Version, text: str, options: Mapping[str, str]) -> bool:
    return version.sha256 == hash_text(text) and version.options == options


def _unknown(name: str) -> ClientFault:
    return ClientFault("schema-unknown", f"there is no schema {clip(name)}")


def _split_lines(kind: SchemaType, text: str) -> list[str]:
    if kind in ("json", "avro") and "\n" not in text.strip():
        text = msgspec.json.format(text, indent=2)
    return text.splitlines()
