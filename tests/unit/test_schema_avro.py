"""Avro schemas: what compiles, what is refused and where, the canonical form and fingerprint."""

from __future__ import annotations

import json
import time

import fastavro.schema
import pytest

from fastgw.schema.avro import AvroValidator, compile_avro
from fastgw.schema.base import SchemaError


def nothing(_: str) -> None:
    return None


def compiled(schema: object, **registered: object) -> AvroValidator:
    """Compile; names of registered schemas are written with `__` for a dot."""
    texts = {name.replace("__", "."): json.dumps(value) for name, value in registered.items()}
    return compile_avro(json.dumps(schema), resolve=texts.get)


def record(*fields: object, name: str = "R", **more: object) -> dict[str, object]:
    """A record whose fields are (name, type) or (name, type, default)."""
    listed = []
    for item in fields:
        assert isinstance(item, tuple)
        listed.append(dict(zip(("name", "type", "default"), item, strict=False)))
    return {"type": "record", "name": name, "fields": listed, **more}


REFUSED = [
    ("nonsense", "", "no type and no registered schema"),
    (5, "", "expected a type, got 5"),
    (None, "", "expected a type"),
    ({}, "", 'needs "type"'),
    ({"type": "array"}, "", 'an array needs "items"'),
    ({"type": "map", "items": "int"}, "", 'an map needs "values"'),
    ([], "", "at least one branch"),
    (["int", "int"], "/1", "holds int twice"),
    (["int", {"type": "int", "logicalType": "date"}], "/1", "holds int twice"),
    (["null", ["int"]], "/1", "a union directly"),
    ([{"type": "array", "items": "int"}, {"type": "array", "items": "long"}], "/1", "array twice"),
    ({"type": "record", "fields": []}, "", '"name" must be a string'),
    ({"type": "record", "name": "a-b", "fields": []}, "", "no Avro name"),
    ({"type": "record", "name": "9a", "fields": []}, "", "no Avro name"),
    ({"type": "record", "name": "a\n", "fields": []}, "", "no Avro name"),
    ({"type": "record", "name": "a..b", "fields": []}, "", "no Avro name"),
    ({"type": "record", "name": "a", "namespace": 5, "fields": []}, "", '"namespace"'),
    ({"type": "record", "name": "x.int", "fields": []}, "", "name of a primitive"),
    ({"type": "record", "name": "R"}, "", '"fields" must be a list'),
    ({"type": "record", "name": "R", "fields": [5]}, "/fields/0", "a field needs"),
    ({"type": "record", "name": "R", "fields": [{"name": "a"}]}, "/fields/0", "a field needs"),
    (record(("a.b", "int")), "/fields/0", "no Avro name"),
    (record(("a", "int"), ("a", "int")), "/fields/1", "two fields a"),
    (record(("a", "int"), ("b", "what")), "/fields/1/type", "no type"),
    ({**record(), "aliases": ["a b"]}, "", "no Avro name"),
    ({**record(), "aliases": "x"}, "", '"aliases" must be a list'),
    (record(("a", record(name="R"))), "/fields/0/type", "R is defined twice"),
    ({"type": "enum", "name": "E", "symbols": []}, "", '"symbols" must be'),
    ({"type": "enum", "name": "E", "symbols": ["A", "A"]}, "/symbols", "twice"),
    ({"type": "enum", "name": "E", "symbols": ["A", "a b"]}, "/symbols/1", "no Avro name"),
    ({"type": "enum", "name": "E", "symbols": ["A"], "default": "B"}, "/default", "none of"),
    ({"type": "fixed", "name": "F"}, "", '"size"'),
    ({"type": "fixed", "name": "F", "size": -1}, "", '"size"'),
    ({"type": "fixed", "name": "F", "size": True}, "", '"size"'),
    ({"type": "fixed", "name": "F", "size": 2**31}, "", '"size"'),
    (record(("a", "int", "x")), "/fields/0/default", "expected int"),
    (record(("a", "int", 2**31)), "/fields/0/default", "2147483648"),
    (record(("a", ["null", "int"], "x")), "/fields/0/default", "expected one of"),
    (record(("a", "bytes", "\u0100")), "/fields/0/default", "U+00FF"),
    (record(("a", record(("b", "int"), name="I"), {})), "/fields/0/default", "missing"),
    (record(("a", ["null", "int"], {"int": 5})), "/fields/0/default", "expected one of"),
    (
        {"type": "bytes", "logicalType": "decimal", "precision": 10**9},
        "",
        "precision 1000000000 exceeds",
    ),
]


@pytest.mark.parametrize(("schema", "place", "reason"), REFUSED)
def test_compile_bad_schema_is_refused_with_its_place(
    schema: object, place: str, reason: str
) -> None:
    with pytest.raises(SchemaError) as caught:
        compiled(schema)
    assert caught.value.place == place
    assert reason in caught.value.reason


GOOD = [
    "string",
    {"type": "string"},
    {"type": {"type": "string"}},
    {"type": "array", "items": "int"},
    record(),
    record(("a", "int", 5), ("b", ["int", "null"], None), ("c", "double", 1)),
    record(("next", ["null", "R"], None)),
    record(("a", {"type": "map", "values": "R"}, {})),
    record(("f", {"type": "fixed", "name": "F", "size": 2}, "\u00ff\u0000"), ("g", "F")),
    record(("f", record(("x", "int", 1), name="I"), {})),
    {**record(("a", "int")), "namespace": "a.b", "aliases": ["Old", "x.Old"], "doc": "words"},
    {"type": "enum", "name": "E", "symbols": ["A", "B"], "default": "A"},
    {"type": "fixed", "name": "F", "size": 0},
    record(name="record"),
    record(
        ("a", {"type": "fixed", "name": "F", "namespace": "x", "size": 1}),
        ("b", "x.F"),
        name="n.R",
    ),
    record(("a", record(("b", "S"), name="S")), namespace="n"),
]


@pytest.mark.parametrize("schema", GOOD)
def test_compile_good_schema_has_the_canonical_form_of_fastavro(schema: object) -> None:
    ours = compiled(schema)
    if schema == {"type": {"type": "string"}}:
        assert ours.canonical == '"string"'
        return
    theirs = fastavro.schema.to_parsing_canonical_form(schema)  # type: ignore[arg-type]
    assert ours.canonical == theirs
    fingerprint = fastavro.schema.fingerprint(theirs, "CRC-64-AVRO")
    assert ours.fingerprint.hex() == fingerprint


def test_fingerprints_are_those_of_the_specification() -> None:
    # SOURCE: Apache Avro, share/test/data/schema-tests.txt.
    assert int.from_bytes(compiled("null").fingerprint, "little") == 7195948357588979594
    assert int.from_bytes(compiled("int").fingerprint, "little") == 8247732601305521295
    fixed = {"type": "fixed", "name": "foo", "size": 15}
    assert int.from_bytes(compiled(fixed).fingerprint, "little") == 1756455273707447556


def test_compile_registered_name_is_found_and_written_out() -> None:
    address = record(("city", "string"), name="geo.Address")
    schema = record(("home", "geo.Address"), ("work", ["null", "geo.Address"]))
    found = compiled(schema, geo__Address=address)
    inline = compiled(record(("home", address), ("work", ["null", "geo.Address"])))
    assert found.canonical == inline.canonical
    assert found.validate(b'{"home":{"city":"x"},"work":null}') is None
    assert found.validate_binary(b"\x02x\x00") is None


def test_compile_registered_name_in_the_namespace_is_found() -> None:
    schema = record(("home", "Address"), namespace="geo")
    found = compiled(schema, geo__Address=record(("city", "string"), name="geo.Address"))
    assert found.validate(b'{"home":{"city":"x"}}') is None


def test_compile_registered_schemas_that_refer_to_each_other_work() -> None:
    a = record(("b", ["null", "B"]), name="A")
    b = record(("a", ["null", "A"]), name="B")
    found = compiled(a, B=b)
    assert found.validate(b'{"b":{"a":{"b":null}}}') is None


def test_compile_registered_schema_without_the_name_is_refused() -> None:
    with pytest.raises(SchemaError, match="defines no such type"):
        compiled(record(("a", "X")), X=record(name="Y"))


def test_compile_fault_in_a_registered_schema_names_it() -> None:
    with pytest.raises(SchemaError) as caught:
        compiled(record(("a", "X")), X=record(("b", "nope"), name="X"))
    assert caught.value.place == "X#/fields/0/type"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string", "logicalType": "date"}, b'"x"'),
        ({"type": "int", "logicalType": "uuid"}, b"5"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3}, b'"abc"'),
        ({"type": "bytes", "logicalType": "decimal"}, b'"abc"'),
        (
            {"type": "fixed", "name": "F", "size": 1, "logicalType": "decimal", "precision": 3},
            b'"\\u007f"',
        ),
        ({"type": "int", "logicalType": "mine"}, b"5"),
    ],
)
def test_logical_type_that_does_not_fit_is_ignored(schema: object, message: bytes) -> None:
    assert compiled(schema).validate(message) is None


# --- hostile ------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return '{"type":"array","items":' * depth + '"int"' + "}" * depth


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 200_000,
        '{"type":' * 30_000,
        nested(101),
        nested(10_000),
        '"' + "a" * 300_000 + '"',
        '{"type":"fixed","name":"F","size":' + "9" * 5_000 + "}",
        '{"type":"fixed","name":"F","size":1e400}',
        '{"type":"record","name":"\ud800","fields":[]}',
        '{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":'
        + "[" * 500
        + "]" * 500
        + "}]}",
    ],
)
def test_compile_hostile_text_is_refused_in_time(text: str) -> None:
    began = time.process_time()
    with pytest.raises(SchemaError) as caught:
        compile_avro(text, resolve=nothing)
    assert time.process_time() - began < 1
    assert len(str(caught.value)) < 500


def test_compile_hundred_types_deep_is_served() -> None:
    found = compile_avro(nested(99), resolve=nothing)
    assert found.validate(b"[" * 99 + b"5" + b"]" * 99) is None
    assert found.validate_binary(b"\x02" * 99 + b"\x0a" + b"\x00" * 99) is None


def test_compile_chain_of_registered_schemas_is_bounded() -> None:
    def chain(name: str) -> str:
        number = int(name[1:])
        return json.dumps(record(("a", f"R{number + 1}"), name=name))

    with pytest.raises(SchemaError, match="deeper than 100"):
        compile_avro('"R0"', resolve=chain)


def test_compile_registered_schemas_together_are_bounded() -> None:
    def large(name: str) -> str:
        return json.dumps(record(name=name) | {"doc": "x" * 200_000})

    with pytest.raises(SchemaError, match="together exceed"):
        compile_avro(json.dumps(record(*[(f"f{i}", f"R{i}") for i in range(9)])), resolve=large)


def records(count: int, inner: object) -> list[object]:
    return [record(("a", inner), name=f"R{i}") for i in range(count)]


@pytest.mark.parametrize(
    "schema",
    [
        record(*[(f"f{i}", "int") for i in range(6_000)]),
        record(*[(f"f{i}", ["null", "int"], None) for i in range(4_000)]),
        records(3_000, "int"),
        {"type": "enum", "name": "E", "symbols": [f"S{i}" for i in range(20_000)]},
        record(*[(f"f{i}", record(("a", ["null", "R"]), name=f"I{i}")) for i in range(2_000)]),
        # A chain by reference: each record holds the one before it, in 20 arrays.
        [
            record(
                ("a", json.loads(nested(20).replace('"int"', f'"R{i - 1}"' if i else '"int"'))),
                name=f"R{i}",
            )
            for i in range(350)
        ],
        # Defaults that try the branches of a recursive union.
        record(
            ("kids", {"type": "array", "items": ["null", "R", *records(20, ["null", "R"])]}, []),
            *[("d" + str(i), {"type": "array", "items": "R"}, []) for i in range(500)],
        ),
    ],
)
def test_compile_large_schema_is_bounded(schema: object) -> None:
    began = time.process_time()
    compiled(schema)
    assert time.process_time() - began < 10


def test_compile_empty_namespace_is_the_null_namespace() -> None:
    inner = {"type": "fixed", "name": "F", "namespace": "", "size": 1}
    found = compiled(record(("a", inner), namespace="n"))
    assert '"name":"F"' in found.canonical
