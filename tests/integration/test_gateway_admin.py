"""The admin routes' handlers on a real broker; the wire in front of them is tested elsewhere."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from fastgw._core import ADMIN, PRODUCE, Principal
from fastgw.control.schemas import Schemas
from fastgw.control.stations import Stations
from fastgw.control.store import Store
from fastgw.errors import ClientFault
from fastgw.handlers import admin as module
from fastgw.handlers.admin import Admin
from fastgw.handlers.routes import Routes
from tests.integration.brokers import Broker, broker, control
from tests.integration.schema_fakes import Compiler, compiler, schema
from tests.unit.handler_fakes import FakeRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["broker", "compiler"]

BOSS = Principal("boss", 1, ADMIN)


class Client:
    """Sends requests through `match`, as the gateway does."""

    def __init__(self, admin: Admin, principal: Principal | None = BOSS) -> None:
        self.admin = admin
        self.principal = principal

    async def ask(self, method: str, target: str, body: Any = b"", **fields: bytes) -> Any:
        path, _, query = target.partition("?")
        request = FakeRequest(
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
            query=query.encode(),
            fields={key.replace("_", "-").encode(): value for key, value in fields.items()},
            method=method,
            path=path,
            principal=self.principal,
        )
        handlers = Routes(self.admin.routes()).match(path)
        try:
            await handlers[method](request)
        except ClientFault as fault:
            return fault.kind.status, fault.text
        return request.answer[:2]


@pytest.fixture
async def client(broker: Broker, compiler: Compiler) -> AsyncIterator[Client]:
    async with control(broker.config()) as one:
        store = await Store.open(one, 1)
        schemas = Schemas(store)
        stations = Stations(store, store.js, broker.config(), schemas)
        await schemas.start()
        await stations.start()
        yield Client(Admin(stations, schemas))
        schemas.close()
        await store.close()


def test_admin_bit_is_the_cores() -> None:
    assert module.ADMIN == ADMIN


def test_match_paths_and_methods(client: Client) -> None:
    match = Routes(client.admin.routes()).match
    assert sorted(match("/stations")) == ["GET"]
    assert sorted(match("/stations/a.b")) == ["DELETE", "GET", "PUT"]
    assert sorted(match("/stations/a.b/schema")) == ["DELETE", "PUT"]
    assert sorted(match("/schemas/a.b")) == ["DELETE", "GET", "PUT"]
    assert sorted(match("/schemas/s/versions/1")) == ["GET"]
    assert sorted(match("/schemas/s/validate")) == ["POST"]
    for path in ("/stations/", "/stations/a/b", "/schemas//diff", "/schemas/a/versions/1/x", "/"):
        assert match(path) == {}


async def test_station_put_creates_then_changes_and_delete_removes(client: Client) -> None:
    ask = client.ask
    status, made = await ask("PUT", "/stations/orders.eu", {"max_age_s": 60, "headers": ["X-*"]})
    assert status == 201
    assert (made["stream"], made["headers"], made["owned"]) == ("orders#eu", ["X-*"], True)
    status, same = await ask("PUT", "/stations/orders.eu")
    assert (status, same) == (200, made)
    status, changed = await ask(
        "PUT", "/stations/orders.eu", {"max_messages": 5, "name": "orders.eu"}
    )
    assert (status, changed["headers"]) == (200, ["X-*"])
    status, shown = await ask("GET", "/stations/orders.eu")
    assert status == 200
    assert (shown["max_age_s"], shown["max_messages"], shown["messages"]) == (60, 5, 0)
    assert "record" not in shown
    status, listed = await ask("GET", "/stations")
    assert [one["name"] for one in listed] == ["orders.eu"]
    status, listed = await ask("GET", "/stations?state=true")
    assert listed == [shown]
    status, removed = await ask("DELETE", "/stations/orders.eu")
    assert removed == {"name": "orders.eu", "removed": True, "stream_deleted": True}
    assert (await ask("DELETE", "/stations/orders.eu"))[0] == 404
    assert (await ask("GET", "/stations/orders.eu"))[0] == 404


async def test_station_in_memphis_words(client: Client) -> None:
    assert (await client.ask("PUT", "/schemas/s", {"type": "json", "text": schema("a")}))[0] == 201
    assert (await client.ask("PUT", "/stations/dls"))[0] == 201
    body = {
        "name": "st",
        "retention_type": "message_age_sec",
        "retention_value": 604800,
        "storage_type": "memory",
        "replicas": 1,
        "idempotency_window_in_ms": 2000,
        "schema_name": "s",
        "dls_station": "dls",
        "dls_configuration": {"poison": True, "schemaverse": True},
        "tiered_storage_enabled": False,
        "partitions_number": 1,
        "username": "root",
    }
    status, made = await client.ask("PUT", "/stations/st", body)
    assert status == 201, made
    assert (made["schema"], made["schema_version"], made["dead_letter"]) == ("s", 1, "dls")
    _, shown = await client.ask("GET", "/stations/st")
    assert (shown["max_age_s"], shown["storage"]) == (604800, "memory")
    assert shown["duplicate_window_s"] == 2
    await client.ask("PUT", "/stations/q", {"retention_type": "ack_based"})
    _, shown = await client.ask("GET", "/stations/q")
    assert shown["retention"] == "interest"
    _, changed = await client.ask("PUT", "/stations/st", {"schema_name": "", "dls_station": ""})
    assert (changed["schema"], changed["dead_letter"]) == (None, None)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"max_age": 5}, 400, "max_age: there is no such field"),
        ({"max_age_s": "5"}, 400, "max_age_s: expected fractional number, got string"),
        ([1], 400, "Request body: expected object, got array"),
        (b"{", 400, "not a valid JSON object"),
        ({"name": "other"}, 400, "the body names other where the path names st"),
        ({"storage": "ssd"}, 400, "storage is file, disk, memory; got ssd"),
        ({"storage": "file", "storage_type": "memory"}, 400, "storage is told twice"),
        ({"retention": "never"}, 400, "retention is limits, interest"),
        ({"retention_type": "x", "retention_value": 1}, 400, "retention_type is message_age_sec"),
        ({"retention_type": "bytes"}, 400, "retention_value of None is below 1"),
        ({"retention_value": 1}, 400, "goes with a retention_type"),
        ({"tiered_storage_enabled": True}, 400, "is not served"),
        ({"partitions_number": 3}, 400, "a station is one stream"),
        ({"replicas": 9}, 400, "replicas of 9 is outside 1 to 5"),
        ({"max_messages": 0}, 400, "max_messages of 0 is outside 1 to"),
        ({"message_bytes_max": -1}, 400, "message_bytes_max of -1"),
        ({"schema_version": 2}, 400, "goes with the name of its schema"),
        ({"schema": "nowhere"}, 404, "there is no schema nowhere"),
        ({"dead_letter": "nowhere"}, 400, "there is no station nowhere for the dead letters"),
        ({"dead_letter": "st"}, 400, "cannot take its own dead letters"),
        ({"headers": ["a b"]}, 400, "the header glob a b"),
        ({"subject": "x"}, 400, "a subject goes with the stream"),
        ({"stream": "nowhere"}, 400, "there is no stream nowhere"),
        ({"ack": "disk"}, 400, "ack is stored or fsync; got disk"),
        ({"ack": None}, 400, "ack: expected str"),
        ({"ack": "fsync", "storage_type": "memory"}, 400, "ack fsync goes with file storage"),
    ],
)
async def test_station_body_that_cannot_be_refused_whole(
    client: Client, body: Any, status: int, text: str
) -> None:
    answer = await client.ask("PUT", "/stations/st", body)
    assert answer[0] == status
    assert text in answer[1]
    assert (await client.ask("GET", "/stations"))[1] == []


async def test_station_adopts_a_stream_by_put(client: Client) -> None:
    await client.admin._stations._streams._js.add_stream(name="old", subjects=["in.>"])
    status, made = await client.ask("PUT", "/stations/st", {"stream": "old", "subject": "in.web"})
    assert (status, made["owned"], made["filters"]) == (201, False, ["in.web", "in.web.>"])
    status, text = await client.ask("PUT", "/stations/st", {"stream": "other"})
    assert (status, text) == (409, "the station st stands on the stream old")
    status, text = await client.ask("PUT", "/stations/st", {"max_bytes": 5})
    assert (status, text) == (409, "the stream old was there before the station; max_bytes stays")


async def test_station_ack_is_put_and_shown(client: Client) -> None:
    status, made = await client.ask("PUT", "/stations/st", {"ack": "fsync"})
    assert (status, made["ack"]) == (201, "fsync")
    assert (await client.ask("GET", "/stations/st"))[1]["ack"] == "fsync"
    assert (await client.ask("PUT", "/stations/st", {"headers": "none"}))[1]["ack"] == "fsync"
    assert (await client.ask("PUT", "/stations/st", {"ack": "stored"}))[1]["ack"] == "stored"
    await client.admin._stations._streams._js.add_stream(name="old", subjects=["in"])
    body = {"stream": "old", "ack": "fsync"}
    status, text = await client.ask("PUT", "/stations/there", body)
    assert (status, text.rpartition(": ")[2]) == (409, "set allow_atomic on it first")
    assert (await client.ask("PUT", "/stations/there", {"stream": "old"}))[1]["ack"] == "stored"


async def test_schema_life(client: Client) -> None:
    ask = client.ask
    text = schema("a")
    status, made = await ask("PUT", "/schemas/s", {"type": "json", "text": text})
    assert (status, made["version"], made["type"]) == (201, 1, "json")
    assert "text" not in made
    status, same = await ask("PUT", "/schemas/s", {"schema_content": text, "name": "s"})
    assert (status, same) == (200, made)
    embedded = b'{"schema":{"required": ["b"]}, "type": "json"}'
    status, second = await ask("PUT", "/schemas/s", embedded)
    assert (status, second["version"]) == (201, 2)
    status, shown = await ask("GET", "/schemas/s")
    assert (shown["text"], shown["version"]) == ('{"required": ["b"]}', 2)
    assert [one["version"] for one in shown["versions"]] == [1, 2]
    _, first = await ask("GET", "/schemas/s/versions/1")
    assert (first["text"], first["sha256"]) == (text, made["sha256"])
    assert (await ask("GET", "/schemas/s/versions/latest"))[1]["version"] == 2
    assert (await ask("GET", "/schemas/s/versions/3"))[0] == 404
    assert (await ask("GET", "/schemas/s/versions/x"))[0] == 400
    _, found = await ask("GET", "/schemas/s/diff")
    assert (found["from"], found["to"]) == (1, 2)
    assert found["diff"].startswith("--- s 1\n+++ s 2\n")
    assert (await ask("GET", "/schemas/s/diff?from=2&to=2"))[1]["diff"] == ""
    _, listed = await ask("GET", "/schemas")
    assert [(one["name"], one["version"]) for one in listed] == [("s", 2)]
    await ask("PUT", "/stations/st")
    _, attached = await ask("PUT", "/stations/st/schema", {"name": "s"})
    assert (attached["schema"], attached["schema_version"]) == ("s", 2)
    _, attached = await ask("PUT", "/stations/st/schema", {"schema_name": "s", "version": 1})
    assert attached["schema_version"] == 1
    status, refused = await ask("DELETE", "/schemas/s")
    assert (status, refused) == (409, "the schema s is attached to station st")
    _, detached = await ask("DELETE", "/stations/st/schema")
    assert (detached["schema"], detached["schema_version"]) == (None, None)
    assert await ask("DELETE", "/schemas/s") == (200, {"name": "s", "removed": True})
    assert (await ask("GET", "/schemas/s"))[0] == 404


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"text": "{}"}, 400, "type: a new schema's type is required"),
        ({"type": "json"}, 400, "a schema has one of text"),
        ({"type": "json", "text": "{}", "schema": {}}, 400, "a schema has one of text"),
        ({"type": "json", "text": "{"}, 400, "the schema does not compile: line 1: no JSON"),
        (b'{"type":"json","schema":{"a":"\xff"}}', 400, "not"),
        ({"type": "json", "text": "{}", "message": "M"}, 400, "has no option message"),
        ({"type": "json", "text": "{}", "extra": 1}, 400, "extra: there is no such field"),
    ],
)
async def test_schema_body_that_cannot_be_refused(
    client: Client, body: Any, status: int, text: str
) -> None:
    answer = await client.ask("PUT", "/schemas/s", body)
    assert answer[0] == status
    assert text in answer[1]
    assert (await client.ask("GET", "/schemas"))[1] == []


async def test_schema_of_another_type_is_a_conflict(client: Client) -> None:
    await client.ask("PUT", "/schemas/s", {"type": "json", "text": "{}"})
    status, text = await client.ask("PUT", "/schemas/s", {"type": "avro", "text": "{}"})
    assert (status, text) == (409, "the schema s has the type json")
    assert (await client.ask("PUT", "/stations/st/schema", {}))[0] == 400


async def test_validate_lines_and_one_body(client: Client) -> None:
    await client.ask("PUT", "/schemas/s", {"type": "json", "text": schema("a")})
    lines = b'\xef\xbb\xbf{"a":1}\r\n\n{}\n{"a":2}'
    kind = b"Application/X-NDJSON; charset=utf-8"
    status, found = await client.ask("POST", "/schemas/s/validate", lines, content_type=kind)
    assert status == 200
    assert found == {
        "name": "s",
        "type": "json",
        "version": 1,
        "valid": 2,
        "invalid": 1,
        "results": [
            {"line": 1, "valid": True},
            {"line": 3, "valid": False, "error": "missing properties: a"},
            {"line": 4, "valid": True},
        ],
    }
    _, one = await client.ask("POST", "/schemas/s/validate?version=1", b"[\n1]")
    assert (one["valid"], one["invalid"]) == (0, 1)
    _, one = await client.ask("POST", "/schemas/s/validate", b"{}", content_type=b"avro/binary")
    assert one["results"] == [{"line": 1, "valid": False, "error": "avro on a json station"}]
    many = b"{}\n" * (module.LINES_MAX + 1)
    status, _ = await client.ask("POST", "/schemas/s/validate", many, content_type=kind)
    assert status == 413
    assert (await client.ask("POST", "/schemas/t/validate", b""))[0] == 404


async def test_validate_lets_others_run_meanwhile(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgw.control.verdicts.SLICE_S", 0.0001)
    await client.ask("PUT", "/schemas/s", {"type": "json", "text": schema("a")})
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    kind = b"application/jsonl"
    await client.ask("POST", "/schemas/s/validate", b'{"a":1}\n' * 5000, content_type=kind)
    other.cancel()
    assert turns > 20


async def test_without_the_permission_nothing_is_told(client: Client) -> None:
    await client.ask("PUT", "/stations/a.one")
    await client.ask("PUT", "/stations/b.one")
    await client.ask("PUT", "/schemas/b.s", {"type": "json", "text": "{}"})
    nobody = Client(client.admin, None)
    producer = Client(client.admin, Principal("p", 1, PRODUCE))
    for method, template, _ in client.admin.routes():
        target = template.replace("{name}", "b.one").replace("{number}", "1")
        assert (await nobody.ask(method, target))[0] == 401
        assert (await producer.ask(method, target))[0] == 403
    scoped = Client(client.admin, Principal("scoped", 1, ADMIN, ("a.*",)))
    assert [one["name"] for one in (await scoped.ask("GET", "/stations"))[1]] == ["a.one"]
    assert (await scoped.ask("GET", "/schemas"))[1] == []
    assert (await scoped.ask("GET", "/stations/a.one"))[0] == 200
    status, text = await scoped.ask("DELETE", "/stations/b.one")
    assert (status, text) == (403, "scoped may not administer b.one")
    assert (await scoped.ask("GET", "/schemas/b.s"))[0] == 403


async def test_administrator_of_some_reaches_no_other_station_stream_or_schema(
    client: Client,
) -> None:
    await client.ask("PUT", "/stations/payments")
    await client.ask("PUT", "/schemas/secret", {"type": "json", "text": "{}"})
    scoped = Client(client.admin, Principal("scoped", 1, ADMIN, ("team-*",)))
    for body, text in (
        ({"dead_letter": "payments"}, "scoped may not administer payments"),
        ({"schema": "secret"}, "scoped may not administer secret"),
        ({"stream": "KV_fastgw"}, "scoped may not administer all stations"),
    ):
        assert await scoped.ask("PUT", "/stations/team-a", body) == (403, text)
    assert (await scoped.ask("PUT", "/stations/team-a"))[0] == 201
    assert (await scoped.ask("PUT", "/stations/team-a", {"dead_letter": "payments"}))[0] == 403
    assert (await scoped.ask("PUT", "/stations/team-a/schema", {"name": "secret"}))[0] == 403
    await scoped.ask("PUT", "/stations/team-letters")
    assert (await scoped.ask("PUT", "/stations/team-a", {"dead_letter": "team-letters"}))[0] == 200
