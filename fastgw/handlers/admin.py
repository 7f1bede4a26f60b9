"""The control plane over HTTP: stations and schemas, for principals with the permission admin.

What enters: requests of an administrator, known by their principal. What leaves: the records as
JSON, after they were changed by the same code that the command line uses.
Called by `gateway`, which finds the handlers of a path and turns a raised Fault into the answer.
It must never answer about a name that the principal may not administer, nor let one name lead to
another.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastgw.control.verdicts import Verdicts, line_type, split_lines
from fastgw.errors import ClientFault, Fault, clip
from fastgw.handlers.admin_body import parse_attach, parse_schema, parse_station
from fastgw.handlers.routes import Route, answer, read_query, read_switch
from fastgw.senders.signatures import show_verifier

if TYPE_CHECKING:
    from fastgw.control.schema_record import SchemaRecord, Version
    from fastgw.control.schemas import Schemas
    from fastgw.control.station_config import StationInfo, StationRecord
    from fastgw.control.stations import Stations
    from fastgw.handlers import Request

__all__ = ["ADMIN", "Admin", "allow_everywhere"]

EVERYWHERE: Final = "*"
ADMIN: Final = 4
"""The bit of `fastgw._core`, which this module does without so that it can be tested alone."""

INFOS_AT_ONCE: Final = 16
LINES_MAX: Final = 10_000
"""LIMIT: as many as a batch may have; each costs about 60 bytes of the answer."""

LINE_TYPES: Final = (b"application/x-ndjson", b"application/jsonl")
NUMBER_DIGITS_MAX: Final = 9


class Admin:
    """The admin routes.

    Args:
        stations: the stations.
        schemas: the registry.
    """

    def __init__(self, stations: Stations, schemas: Schemas) -> None:
        self._stations = stations
        self._schemas = schemas

    def routes(self) -> list[Route]:
        """Return method, path template and handler of every route.

        The handlers take the request, and the template's parts by name.
        """
        return [
            ("GET", "/stations", self.list_stations),
            ("GET", "/stations/{name}", self.show_station),
            ("PUT", "/stations/{name}", self.put_station),
            ("DELETE", "/stations/{name}", self.delete_station),
            ("PUT", "/stations/{name}/schema", self.attach),
            ("DELETE", "/stations/{name}/schema", self.detach),
            ("GET", "/schemas", self.list_schemas),
            ("GET", "/schemas/{name}", self.show_schema),
            ("PUT", "/schemas/{name}", self.put_schema),
            ("DELETE", "/schemas/{name}", self.delete_schema),
            ("GET", "/schemas/{name}/versions/{number}", self.show_version),
            ("GET", "/schemas/{name}/diff", self.diff),
            ("POST", "/schemas/{name}/validate", self.validate),
        ]

    # --- stations ---------------------------------------------------------------------------------

    async def list_stations(self, request: Request) -> None:
        """Answer the stations that the principal may administer; `?state=true` asks the broker."""
        _allow_any(request)
        records = [record for record in self._stations.list() if _may(request, record.name)]
        if not read_switch(request, "state"):
            answer(request, 200, [show_station(record) for record in records])
            return
        gate = asyncio.Semaphore(INFOS_AT_ONCE)

        async def read(record: StationRecord) -> dict[str, Any]:
            async with gate:
                try:
                    return show_info(await self._stations.info(record.name))
                except Fault:
                    # Its stream is gone or does not tell; the rest of the list is still good.
                    return show_station(record)

        answer(request, 200, await asyncio.gather(*map(read, records)))

    async def show_station(self, request: Request, name: str) -> None:
        """Answer one station and what its stream holds now."""
        _allow(request, name)
        answer(request, 200, show_info(await self._stations.info(name)))

    async def put_station(self, request: Request, name: str) -> None:
        """Create a station (201) or change what the body names (200).

        A body with `stream` adopts a stream that is there, whatever made it; so that takes an
        administrator of all stations.
        """
        _allow(request, name)
        body, settings = parse_station(request.body, name)
        # WHY: whoever may not touch a station or schema must not reach it through his own, neither
        # what refused messages fill nor what refusals tell.
        for other in (settings.get("dead_letter"), settings.get("schema")):
            if other is not None:
                _allow(request, other)
        found = self._stations.find(name)
        if found is not None:
            if body.stream not in (None, found.stream) or body.subject not in (None, found.subject):
                raise ClientFault(
                    "conflict", f"the station {clip(name)} stands on the stream {found.stream}"
                )
            record = await self._stations.change(name, **settings)
        elif body.stream is not None:
            allow_everywhere(request)
            record = await self._stations.adopt(name, body.stream, body.subject, **settings)
        elif body.subject is not None:
            raise ClientFault("bad-request", "a subject goes with the stream that captures it")
        else:
            record = await self._stations.add(name, **settings)
        answer(request, 200 if found is not None else 201, show_station(record))

    async def delete_station(self, request: Request, name: str) -> None:
        """Remove a station, and the stream that was made for it unless `?keep_stream=true`."""
        _allow(request, name)
        record = self._stations.find(name)
        keeps = read_switch(request, "keep_stream")
        await self._stations.remove(name, keep_stream=keeps)
        deleted = record is not None and record.owned and not keeps
        answer(request, 200, {"name": name, "removed": True, "stream_deleted": deleted})

    async def attach(self, request: Request, name: str) -> None:
        """Attach a version of a schema, the latest where none is named."""
        _allow(request, name)
        schema, version = parse_attach(request.body, name)
        _allow(request, schema)
        record = await self._stations.attach(name, schema, version)
        answer(request, 200, show_station(record))

    async def detach(self, request: Request, name: str) -> None:
        """Detach the station's schema."""
        _allow(request, name)
        answer(request, 200, show_station(await self._stations.detach(name)))

    # --- schemas ----------------------------------------------------------------------------------

    async def list_schemas(self, request: Request) -> None:
        """Answer the schemas that the principal may administer, without texts."""
        _allow_any(request)
        shown = [show_schema(one) for one in self._schemas.list() if _may(request, one.name)]
        answer(request, 200, shown)

    async def show_schema(self, request: Request, name: str) -> None:
        """Answer a schema with its versions, and the text of the latest."""
        _allow(request, name)
        record, version, text = await self._schemas.show(name)
        versions = [show_version(one) for one in record.versions]
        shown = show_schema(record) | {"versions": versions}
        answer(request, 200, shown | {"options": version.options, "text": text})

    async def show_version(self, request: Request, name: str, number: str) -> None:
        """Answer one version with its text."""
        _allow(request, name)
        record, version, text = await self._schemas.show(name, _number("version", number))
        head = {"name": record.name, "type": record.type}
        answer(request, 200, head | show_version(version) | {"text": text})

    async def put_schema(self, request: Request, name: str) -> None:
        """Create a schema or add a version (201); the latest version's own text changes nothing."""
        _allow(request, name)
        kind, text, options = parse_schema(request.body, name)
        found = self._schemas.find(name)
        if found is None:
            if kind is None:
                raise ClientFault("bad-request", "type: a new schema's type is required")
            record = await self._schemas.create(name, kind, text, options)
            version = record.latest
        else:
            if kind not in (None, found.type):
                raise ClientFault("conflict", f"the schema {clip(name)} has the type {found.type}")
            record, version = await self._schemas.add_version(name, text, options)
        known = found is not None and found.find(version.number) is not None
        head = {"name": record.name, "type": record.type}
        answer(request, 200 if known else 201, head | show_version(version))

    async def delete_schema(self, request: Request, name: str) -> None:
        """Remove a schema that no station has attached."""
        _allow(request, name)
        await self._schemas.remove(name)
        answer(request, 200, {"name": name, "removed": True})

    async def diff(self, request: Request, name: str) -> None:
        """Answer the unified difference of `from` and `to`: by default of the last two."""
        _allow(request, name)
        query = read_query(request)
        new = _number("to", query.get("to"))
        if new is None:
            new = (await self._schemas.show(name))[0].latest.number
        old = _number("from", query.get("from")) or max(1, new - 1)
        text = await self._schemas.diff(name, old, new)
        answer(request, 200, {"name": name, "from": old, "to": new, "diff": text})

    async def validate(self, request: Request, name: str) -> None:
        """Judge a body, or each line of it under an NDJSON type, without storing anything."""
        _allow(request, name)
        number = _number("version", read_query(request).get("version"))
        record, version, _ = await self._schemas.show(name, number)
        validator = await self._schemas.compile(name, version.number)
        content_type = request.header(b"content-type")
        kind = (content_type or b"").partition(b";")[0].strip().lower()
        is_lines = kind in LINE_TYPES
        messages = split_lines(request.body) if is_lines else [(1, request.body)]
        if len(messages) > LINES_MAX:
            raise ClientFault("message-too-large", f"{len(messages)} lines are over {LINES_MAX}")
        verdicts = Verdicts(validator)
        results = [
            {"line": one.line, "valid": one.is_good} | _error(one.reason)
            async for one in verdicts.judge(
                messages, line_type(record.type) if is_lines else content_type
            )
        ]
        head = {"name": record.name, "type": record.type, "version": version.number}
        counts = {"valid": verdicts.good_count, "invalid": verdicts.bad_count}
        answer(request, 200, head | counts | {"results": results})


def show_station(record: StationRecord) -> dict[str, Any]:
    """Return a station as it is shown to people and scripts; of a verifier's secrets the count."""
    shown = msgspec.structs.asdict(record)
    if record.verifier is not None:
        shown["verifier"] = show_verifier(record.verifier)
    return shown


def show_info(info: StationInfo) -> dict[str, Any]:
    """Return a station with the state of its stream."""
    state = msgspec.structs.asdict(info)
    del state["record"]
    return show_station(info.record) | state


def show_schema(record: SchemaRecord) -> dict[str, Any]:
    """Return a schema in short."""
    return {
        "name": record.name,
        "type": record.type,
        "version": record.latest.number,
        "created_at": record.created_at,
        "changed_at": record.latest.created_at,
    }


def show_version(version: Version) -> dict[str, Any]:
    """Return a version without its text."""
    return {
        "version": version.number,
        "sha256": version.sha256,
        "bytes": version.bytes,
        "created_at": version.created_at,
        "options": version.options,
        "uses": version.uses,
    }


def _error(reason: str | None) -> dict[str, str]:
    return {} if reason is None else {"error": reason}


def _allow(request: Request, name: str) -> None:
    principal = request.principal
    if principal is None:
        raise ClientFault("unauthorized", "no valid credential")
    if not principal.may(ADMIN, name):
        raise ClientFault("forbidden", f"{principal.user} may not administer {clip(name)}")


def allow_everywhere(request: Request) -> None:
    """Let only an administrator of all stations go on.

    Raises:
        ClientFault: "unauthorized" or "forbidden".
    """
    principal = request.principal
    if principal is None:
        raise ClientFault("unauthorized", "no valid credential")
    if not principal.permissions & ADMIN or EVERYWHERE not in principal.stations:
        raise ClientFault("forbidden", f"{principal.user} may not administer all stations")


def _allow_any(request: Request) -> None:
    """Let an administrator of anything list; the list holds what he administers."""
    principal = request.principal
    if principal is None:
        raise ClientFault("unauthorized", "no valid credential")
    if not principal.permissions & ADMIN:
        raise ClientFault("forbidden", f"{principal.user} is no administrator")


def _may(request: Request, name: str) -> bool:
    return request.principal is not None and request.principal.may(ADMIN, name)


def _number(key: str, value: str | None) -> int | None:
    """Read a version's number; None, and "latest" too, mean the newest."""
    if value in (None, "", "latest"):
        return None
    digits = value or ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= NUMBER_DIGITS_MAX):
        raise ClientFault("bad-request", f"{key} is a version's number; got {clip(value)}")
    return int(digits)
