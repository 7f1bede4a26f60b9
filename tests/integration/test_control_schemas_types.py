"""The registry with the real compilers: every type, and references between registered schemas."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING

import pytest

from fastgw.control.schemas import Schemas
from fastgw.control.store import Store
from fastgw.errors import ClientFault
from tests.integration.brokers import Broker, broker, control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["broker"]

ADDRESS = (
    '{"$id":"https://example.com/address.json","required":["z"],"$defs":{"t":{"type":"string"}}}'
)


@pytest.fixture
async def schemas(broker: Broker) -> AsyncIterator[Schemas]:
    async with control(broker.config()) as client:
        store = await Store.open(client, 1)
        one = Schemas(store)
        await one.start()
        yield one
        one.close()
        await store.close()


async def judge(schemas: Schemas, name: str, message: bytes, kind: bytes | None = None) -> object:
    found = (await schemas.compile(name)).check(message, kind)
    return await found if inspect.isawaitable(found) else found


@pytest.mark.parametrize(
    ("reference", "rule"),
    [
        ("https://example.com/address.json", "z"),
        ("address", "z"),
        ("address@1", "z"),
        ("address@1#/$defs/t", "string"),
    ],
)
async def test_json_references(schemas: Schemas, reference: str, rule: str) -> None:
    await schemas.create("address", "json", ADDRESS)
    await schemas.add_version("address", '{"$id":"https://example.com/address.json"}')
    await schemas.add_version("address", ADDRESS)
    text = json.dumps({"properties": {"a": {"$ref": reference}}})
    record = await schemas.create("customer", "json", text)
    assert list(record.latest.uses.values()) == ["address@1" if "@" in reference else "address@3"]
    assert rule in str(await judge(schemas, "customer", b'{"a":{}}'))
    assert await judge(schemas, "customer", b"{}") is None


async def test_json_reference_that_is_not_registered_is_never_fetched(schemas: Schemas) -> None:
    for reference in ("http://127.0.0.1:1/x.json", "file:///etc/passwd"):
        with pytest.raises(ClientFault, match="does not compile") as raised:
            await schemas.create("s", "json", json.dumps({"$ref": reference}))
        assert raised.value.kind.word == "bad-schema"


async def test_protobuf_imports_and_options(schemas: Schemas) -> None:
    common = 'syntax="proto3"; package c; message A { string z = 1; }'
    await schemas.create("common.proto", "protobuf", common)
    await schemas.create("short", "protobuf", common.replace("package c", "package d"))
    text = (
        'syntax="proto3"; import "common.proto"; import "short.proto";'
        "message One { c.A a = 1; d.A b = 2; } message Two { int32 n = 1; }"
    )
    with pytest.raises(ClientFault, match="does not compile"):
        await schemas.create("order", "protobuf", text)
    record = await schemas.create("order", "protobuf", text, {"message": "One"})
    assert record.latest.uses == {"common.proto": "common.proto@1", "short.proto": "short@1"}
    wire = await judge(schemas, "order", b'{"a":{"z":"1"}}', b"application/json")
    assert wire == b"\n\x03\n\x011"
    assert await judge(schemas, "order", b"\x1a\x01x") is None
    _, version = await schemas.add_version(
        "order", text, {"message": "One", "unknown_fields": "refuse"}
    )
    assert version.number == 2, "other options make another version"
    assert await judge(schemas, "order", b"\x1a\x01x") is not None
    _, third = await schemas.add_version("order", text + " ")
    assert third.options == {"message": "One", "unknown_fields": "refuse"}


async def test_avro_named_references(schemas: Schemas) -> None:
    await schemas.create(
        "address", "avro", '{"type":"record","name":"Address","namespace":"com.x","fields":[]}'
    )
    record = await schemas.create(
        "customer",
        "avro",
        '{"type":"record","name":"C","namespace":"com.x","fields":[{"name":"a","type":"Address"}]}',
    )
    assert record.latest.uses == {"com.x.Address": "address@1"}
    await schemas.remove("address")
    assert await judge(schemas, "customer", b'{"a":{}}') is None
    assert "a of com.x.C" in str(await judge(schemas, "customer", b"{}"))


async def test_graphql(schemas: Schemas) -> None:
    await schemas.create("api", "graphql", "type Query { a: Int }")
    assert await judge(schemas, "api", b"{ a }") is None
    assert "Cannot query field 'b'" in str(await judge(schemas, "api", b"{ b }"))
    with pytest.raises(ClientFault, match="does not compile"):
        await schemas.create("bad", "graphql", "type Query {")
