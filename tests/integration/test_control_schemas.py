"""The registry against a real broker, as two gateways see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from fastgw.control import schema_record, schemas
from fastgw.control.schemas import Schemas
from fastgw.control.stations import StationRecord, Stations
from fastgw.control.store import Store
from fastgw.errors import ClientFault, UpstreamFault
from tests.integration.brokers import CHANGE_S_MAX, Broker, broker, control, eventually
from tests.integration.schema_fakes import Compiler, compiler, schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["broker", "compiler"]


class Gateway:
    """The registry and the stations of one process."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self.store = store
        self.schemas = Schemas(store)
        self.stations = Stations(store, store.js, broker.config(), self.schemas)


@pytest.fixture
async def pair(broker: Broker, compiler: Compiler) -> AsyncIterator[tuple[Gateway, Gateway]]:
    async with control(broker.config()) as one, control(broker.config()) as two:
        gateways = (
            Gateway(await Store.open(one, 1), broker),
            Gateway(await Store.open(two, 1), broker),
        )
        for gateway in gateways:
            await gateway.schemas.start()
            await gateway.stations.start()
        yield gateways
        for gateway in gateways:
            gateway.schemas.close()
            await gateway.store.close()


async def test_create_is_known_elsewhere_and_shown(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    text = schema("a", **{"$id": "https://example.com/order#"})
    record = await here.schemas.create("order.v1", "json", text)
    assert await eventually(lambda: there.schemas.find("order.v1") == record) < CHANGE_S_MAX
    assert (record.type, record.latest.number, record.latest.bytes) == ("json", 1, len(text))
    assert record.latest.uri == "https://example.com/order"
    assert record.latest.sha256 == schema_record.hash_text(text)
    assert await there.schemas.show("order.v1") == (record, record.latest, text)
    assert there.schemas.list() == [record]
    validator = await there.schemas.compile("order.v1")
    assert validator.check(b'{"a":1}', None) is None
    assert validator.check(b"{}", None) == "missing properties: a"
    assert there.schemas.find_compiled("order.v1", 1) is validator


async def test_create_in_use_on_two_gateways_one_wins(pair: tuple[Gateway, Gateway]) -> None:
    results = await asyncio.gather(
        *(
            gateway.schemas.create("s", "json", schema(key))
            for gateway, key in zip(pair, "ab", strict=True)
        ),
        return_exceptions=True,
    )
    faults = [result for result in results if isinstance(result, ClientFault)]
    assert [(fault.kind.word, fault.kind.status) for fault in faults] == [("conflict", 409)]
    assert len(await pair[0].store.keys("schema-texts.")) == 1, "the loser's text is gone"
    with pytest.raises(ClientFault, match="the schema s exists already"):
        await pair[1].schemas.create("s", "json", schema())


@pytest.mark.parametrize(
    ("name", "kind", "text", "options", "message"),
    [
        ("a b", "json", "{}", {}, "the schema name a b may hold"),
        ("", "json", "{}", {}, "a schema name of 0 characters"),
        ("s", "xml", "{}", {}, "type is json, protobuf, avro, graphql; got xml"),
        ("s", "json", "{", {}, "^the schema does not compile: line 1: no JSON$"),
        ("s", "json", schema(**{"$ref": "nowhere"}), {}, "#/\\$ref: nothing is registered as no"),
        ("s", "json", " ", {}, "1 to 262144 bytes, not 1"),
        ("s", "json", "x" * 262_145, {}, "not 262145"),
        ("s", "json", '"\ud800"', {}, "half a surrogate pair"),
        ("s", "json", "{}", {"message": "M"}, "type json has no option message"),
        ("s", "protobuf", "x", {"message": "M" * 257}, "over 256 letters"),
        ("s", "protobuf", "x", {"unknown_fields": "eat"}, "accept or refuse; got eat"),
    ],
)
async def test_create_what_cannot_be_refused_and_not_stored(
    pair: tuple[Gateway, Gateway],
    name: str,
    kind: str,
    text: str,
    options: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(ClientFault, match=message) as raised:
        await pair[0].schemas.create(name, kind, text, options)
    assert (raised.value.kind.word, raised.value.kind.status) == ("bad-schema", 400)
    assert await pair[0].store.keys("schema") == []
    assert await pair[0].store.keys("") == []


async def test_add_version_from_everywhere_at_once_none_is_lost(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgw.control.mirror.UPDATE_TRIES_MAX", 50)
    await pair[0].schemas.create("s", "json", schema())
    texts = [schema(f"k{number}") for number in range(12)]
    await asyncio.gather(
        *(pair[index % 2].schemas.add_version("s", text) for index, text in enumerate(texts))
    )
    record, _, _ = await pair[0].schemas.show("s")
    assert [version.number for version in record.versions] == list(range(1, 14))
    stored = [(await pair[1].schemas.show("s", number))[2] for number in range(2, 14)]
    assert sorted(stored) == sorted(texts)


async def test_add_version_of_the_same_text_adds_none(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    await here.schemas.create("s", "json", schema("a"))
    _, version = await there.schemas.add_version("s", schema("a"))
    assert version.number == 1
    both = await asyncio.gather(
        *(gateway.schemas.add_version("s", schema("b")) for gateway in pair)
    )
    assert [added.number for _, added in both] == [2, 2]
    assert len(await here.store.keys("schema-texts.")) == 2
    _, back = await here.schemas.add_version("s", schema("a"))
    assert back.number == 3, "an older text again is a new version"


async def test_add_version_unknown_or_past_the_bound_refused(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClientFault, match="there is no schema s") as raised:
        await pair[0].schemas.add_version("s", "{}")
    assert raised.value.kind.word == "schema-unknown"
    await pair[0].schemas.create("s", "json", schema())
    with pytest.raises(ClientFault, match="the schema s has no version 2"):
        await pair[0].schemas.show("s", 2)
    monkeypatch.setattr(schemas, "VERSIONS_MAX", 1)
    with pytest.raises(ClientFault, match="s has 1 versions already"):
        await pair[0].schemas.add_version("s", schema("b"))
    assert len(await pair[0].store.keys("schema-texts.")) == 1
    monkeypatch.setattr(schemas, "SCHEMAS_MAX", 1)
    with pytest.raises(ClientFault, match="there are 1 schemas"):
        await pair[0].schemas.create("t", "json", schema())


async def test_version_keeps_what_it_refers_to(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    await here.schemas.create("key", "json", schema("a", **{"$id": "urn:key"}))
    await here.schemas.create("by-name", "json", schema(**{"$ref": "key"}))
    await here.schemas.create("by-uri", "json", schema(**{"$ref": "urn:key"}))
    await here.schemas.create("chain", "json", schema(**{"$ref": "by-name"}))
    assert here.schemas.records["by-uri"].latest.uses == {"urn:key": "key@1"}
    await here.schemas.add_version("key", schema("b", **{"$id": "urn:key"}))
    await here.schemas.create("newer", "json", schema(**{"$ref": "key"}))
    await here.schemas.create("older", "json", schema(**{"$ref": "key@1"}))
    await here.schemas.remove("key")
    await eventually(lambda: "older" in there.schemas.records)
    for name, missing in {
        "by-name": "a",
        "by-uri": "a",
        "chain": "a",
        "newer": "b",
        "older": "a",
    }.items():
        validator = await there.schemas.compile(name)
        assert validator.check(b"{}", None) == f"missing properties: {missing}"


async def test_closure_above_the_stores_bound_refused(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "CLOSURE_BYTES_MAX", 300)
    await pair[0].schemas.create("a", "json", schema("x" * 150))
    with pytest.raises(ClientFault, match=r"and what it refers to have .* bytes, above 300"):
        await pair[0].schemas.create("b", "json", schema("x" * 100, **{"$ref": "a"}))


async def test_text_of_the_largest_size_is_stored(pair: tuple[Gateway, Gateway]) -> None:
    text = schema("a", description='"' * 130_000)
    text += " " * (262_144 - len(text))
    await pair[0].schemas.create("large", "json", text)
    assert (await pair[1].schemas.show("large"))[2] == text


async def test_compile_at_once_shares_one_compilation(
    pair: tuple[Gateway, Gateway], compiler: Compiler
) -> None:
    here, there = pair
    await here.schemas.create("s", "json", schema("a"))
    compiler.texts.clear()
    compiler.gate.clear()
    calls = [asyncio.create_task(there.schemas.compile("s", 1)) for _ in range(5)]
    await eventually(lambda: bool(compiler.texts))
    calls[0].cancel()
    compiler.gate.set()
    found = await asyncio.gather(*calls[1:])
    assert len({id(one) for one in found}) == 1
    assert len(compiler.texts) == 1
    assert (await here.schemas.compile("s")).check(b"{}", None)
    assert len(compiler.texts) == 1, "who created it has compiled it"


async def test_compile_name_made_again_is_not_the_old_one(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    await here.schemas.create("s", "json", schema("a"))
    await there.schemas.compile("s", 1)
    await here.schemas.remove("s")
    await here.schemas.create("s", "json", schema("b"))
    await eventually(lambda: there.schemas.records["s"] == here.schemas.records["s"])
    assert (await there.schemas.compile("s", 1)).check(b"{}", None) == "missing properties: b"


async def test_compile_too_many_told(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "COMPILES_MAX", 0)
    with pytest.raises(UpstreamFault, match="0 schemas are being compiled"):
        await pair[0].schemas.create("s", "json", "{}")
    with pytest.raises(ClientFault, match="there is no schema s"):
        await pair[0].schemas.compile("s")


async def test_diff_is_unified_and_by_line(pair: tuple[Gateway, Gateway]) -> None:
    await pair[0].schemas.create("s", "json", schema("a"))
    await pair[0].schemas.add_version("s", schema("b"))
    lines = (await pair[1].schemas.diff("s", 1, 2)).splitlines()
    assert lines[:2] == ["--- s 1", "+++ s 2"]
    assert [line for line in lines[2:] if line[0] in "+-"] == ['-    "a"', '+    "b"']
    assert await pair[1].schemas.diff("s", 2, None) == ""


async def test_remove_attached_refused_with_the_stations(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    await here.schemas.create("s", "json", schema("a"))
    for number in range(7):
        await there.stations.add(f"st{number}")
        await there.stations.attach(f"st{number}", "s")
    with pytest.raises(
        ClientFault, match=r"attached to station st0, st1, .*st4 and 2 more$"
    ) as bad:
        await here.schemas.remove("s")
    assert bad.value.kind.status == 409
    assert not (await here.schemas.show("s"))[0].removing
    for number in range(7):
        await here.stations.detach(f"st{number}")
    await here.schemas.remove("s")
    assert await here.store.keys("schema") == await here.store.keys("schema-texts.") == []
    with pytest.raises(ClientFault, match="there is no schema s"):
        await here.schemas.remove("s")


async def test_remove_and_attach_at_once_never_leaves_a_station_without_its_schema(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    await there.stations.add("st")
    outcomes = set()
    for number in range(25):
        name = f"s{number}"
        await here.schemas.create(name, "json", schema())
        removal = asyncio.create_task(here.schemas.remove(name))
        for _ in range(number % 7):
            await asyncio.sleep(0.0004)
        results = await asyncio.gather(
            removal, there.stations.attach("st", name), return_exceptions=True
        )
        assert all(isinstance(one, ClientFault | StationRecord | None) for one in results), results
        attached = (await there.stations.info("st")).record.schema == name
        exists = await here.store.get(f"schemas.{name}") is not None
        assert exists or not attached
        outcomes.add((attached, exists))
        await there.stations.detach("st")
    assert (False, False) in outcomes


async def test_remove_marked_schema_refuses_to_attach_and_is_removed_again(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    await here.schemas.create("s", "json", schema())
    await there.stations.add("st")
    await here.schemas._set_removing("s", True)
    for call in (there.stations.attach("st", "s"), there.schemas.add_version("s", schema("b"))):
        with pytest.raises(ClientFault, match="the schema s is being removed"):
            await call
    await here.schemas.remove("s")


async def test_remove_whose_mark_another_takes_away_is_refused(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    await here.schemas.create("s", "json", schema())
    find = here.schemas._find_attached

    async def late(name: str) -> list[str]:
        found = await find(name)
        await there.schemas._set_removing("s", False)
        return found

    monkeypatch.setattr(here.schemas, "_find_attached", late)
    with pytest.raises(ClientFault, match="the schema s was changed meanwhile"):
        await here.schemas.remove("s")
    monkeypatch.undo()
    await here.schemas.remove("s")


async def test_text_gone_or_damaged_told(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    record = await here.schemas.create("s", "json", schema())
    await eventually(lambda: "s" in there.schemas.records)
    await here.store.put(record.latest.key, b"x")
    with pytest.raises(UpstreamFault, match="the text of s version 1 is damaged"):
        await there.schemas.compile("s")
    await here.store.delete(record.latest.key)
    with pytest.raises(ClientFault, match="the text of s version 1 is gone"):
        await there.schemas.compile("s")
