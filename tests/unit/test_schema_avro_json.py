"""JSON-encoded Avro data: plain and tagged unions, each rule at its edge, hostile bodies."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest

from fastgw.schema.avro import AvroValidator, compile_avro
from fastgw.schema.avro_json import STEPS_FREE, JsonCheck
from fastgw.schema.avro_parse import parse_avro
from fastgw.schema.avro_types import make_decoder

ENUM = {"type": "enum", "name": "n.E", "symbols": ["A", "B"]}
FIXED = {"type": "fixed", "name": "F", "size": 2}
INTS = {"type": "array", "items": "int"}
MAP = {"type": "map", "values": "boolean"}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1}
FIXED_DECIMAL = {**FIXED, "logicalType": "decimal", "precision": 3}
UUID = {"type": "string", "logicalType": "uuid"}
UUID_TEXT = "12345678-9abc-DEF0-1234-56789abcdef0"


def record(*fields: tuple[Any, ...], name: str = "R") -> dict[str, object]:
    listed = [dict(zip(("name", "type", "default"), item, strict=False)) for item in fields]
    return {"type": "record", "name": name, "fields": listed}


NODE = record(("v", "int"), ("next", ["null", "Node"], None), name="Node")
PAIR = record(("a", "int"), ("b", ["null", "string"]))
WIDE = record(("x", ["null", "int", "string", INTS, record(("y", "int"), name="I")], None))


def compiled(schema: object) -> AvroValidator:
    return compile_avro(json.dumps(schema), resolve=lambda _: None)


GOOD: list[tuple[object, object]] = [
    ("null", None),
    ("boolean", True),
    ("int", 2**31 - 1),
    ("int", -(2**31)),
    ("long", 2**63 - 1),
    ("long", -(2**63)),
    ("float", 1),
    ("float", -3.4028234663852886e38),
    ("double", 1.7976931348623157e308),
    ("double", 10**300),
    ("string", "é€😀\u0000"),
    ("bytes", "\u0000\u00ff\n"),
    (FIXED, "\u00ff\n"),
    (ENUM, "B"),
    (INTS, []),
    (INTS, [1, 2]),
    (MAP, {"": True}),
    (record(), {}),
    (record(), {"unknown": [{"deep": 1}]}),
    (PAIR, {"a": 1, "b": None}),
    (PAIR, {"a": 1, "b": "x"}),
    (PAIR, {"a": 1, "b": {"string": "x"}}),
    (PAIR, {"b": "x", "a": 1, "c": 5}),
    (NODE, {"v": 1}),
    (NODE, {"v": 1, "next": {"v": 2, "next": None}}),
    (NODE, {"v": 1, "next": {"Node": {"v": 2, "next": None}}}),
    (NODE, {"v": 1, "next": {"Node": {"v": 2, "next": {"v": 3}}}}),
    (WIDE, {}),
    (WIDE, {"x": 5}),
    (WIDE, {"x": "s"}),
    (WIDE, {"x": [5]}),
    (WIDE, {"x": {"y": 5}}),
    (WIDE, {"x": {"int": 5}}),
    (WIDE, {"x": {"array": [5]}}),
    (WIDE, {"x": {"I": {"y": 5}}}),
    (["null", ENUM], {"n.E": "A"}),
    (["null", ENUM], "A"),
    (["int", "double"], 2**40),
    (["int", "long"], 2**40),
    (["float", "long"], 1.5),
    (["bytes", INTS], "\u00ff"),
    (["bytes", FIXED], "abc"),
    (["string", "bytes"], "€"),
    ([record(("a", "int"), name="A"), record(("b", "int"), name="B")], {"b": 1}),
    ([record(("a", "int"), name="A"), record(("b", "int"), name="B")], {"B": {"b": 1}}),
    (["string", MAP], {"string": "x"}),
    (["string", MAP], {"string": True}),
    (DECIMAL, "\u0003\u00e7"),
    (DECIMAL, "\u00fc\u0019"),
    (DECIMAL, "\u0000\u0000\u0000\u0000\u0003\u00e7"),
    (FIXED_DECIMAL, "\u0003\u00e7"),
    (UUID, UUID_TEXT),
    ({"type": "int", "logicalType": "time-millis"}, 86_399_999),
    ({"type": "long", "logicalType": "time-micros"}, 86_399_999_999),
]

BAD: list[tuple[object, object, str]] = [
    ("null", 0, "$: expected null, got 0"),
    ("boolean", 1, "$: expected boolean, got 1"),
    ("int", True, "$: expected int, got true"),
    ("int", 1.0, "$: expected int, got 1.0"),
    ("int", 2**31, "$: expected int from -2147483648 to 2147483647, got 2147483648"),
    ("int", 10**4000, "got an integer of 13288 bits"),
    ("long", 2**63, "got 9223372036854775808"),
    ("long", "5", '$: expected long, got "5"'),
    ("float", 3.5e38, "$: expected float that it can hold"),
    ("double", 10**400, "$: expected double that it can hold"),
    ("double", True, "$: expected double, got true"),
    ("double", "NaN", "$: expected double"),
    ("string", 5, "$: expected string, got 5"),
    ("bytes", "\u0100", "$: expected bytes of characters up to U+00FF"),
    (FIXED, "a", '$: expected fixed F of 2 bytes, got "a"'),
    (ENUM, "C", '$: expected enum n.E of A, B, got "C"'),
    (INTS, {}, "$: expected array, got an object of 0"),
    (INTS, [1, "x"], '$[1]: expected int, got "x"'),
    (MAP, [], "$: expected map, got an array of 0"),
    (MAP, {"a b": 1}, '$["a b"]: expected boolean, got 1'),
    (record(), [], "$: expected record R, got an array of 0"),
    (PAIR, {"a": 1}, "$: field b of R is missing"),
    (PAIR, {"a": 1, "b": 5}, "$.b: expected one of null, string, got 5"),
    (PAIR, {"a": 1, "b": {"string": 5}}, "$.b.string: expected string, got 5"),
    (PAIR, {"a": 1, "b": {"string": "x", "null": None}}, "$.b: expected one of null, string"),
    (PAIR, {"a": 1, "b": {"null": None}}, "$.b: expected one of null, string"),
    (NODE, {"v": 1, "next": {"v": "x"}}, '$.next.v: expected int, got "x"'),
    (WIDE, {"x": {"int": "s"}}, '$.x.int: expected int, got "s"'),
    (WIDE, {"x": {"int": 5, "string": "x"}}, "$.x: field y of I is missing"),
    (WIDE, {"x": 1.5}, "$.x: expected one of null, int, string, array, I, got 1.5"),
    (["int", "long"], 2**63, "$: expected one of int, long"),
    (["bytes", INTS], "€", "$: expected bytes"),
    (DECIMAL, "", "$: expected bytes (decimal) of at most 3 digits"),
    (DECIMAL, "\u0003\u00e8", "of at most 3 digits"),
    (DECIMAL, "\u00fc\u0018", "of at most 3 digits"),
    (DECIMAL, "\u0001" * 1000, "of at most 3 digits"),
    (UUID, UUID_TEXT + "0", "$: expected string (uuid)"),
    (UUID, UUID_TEXT + "\n", "$: expected string (uuid)"),
    ({"type": "int", "logicalType": "time-millis"}, 86_400_000, "from 0 to 86399999"),
    ({"type": "long", "logicalType": "time-micros"}, -1, "from 0 to"),
]


@pytest.mark.parametrize(("schema", "value"), GOOD)
def test_json_good_data_is_accepted_by_check_and_authority(schema: object, value: object) -> None:
    validator = compiled(schema)
    for _ in range(2):
        assert validator.check(json.dumps(value).encode(), b"application/json") is None
        assert validator.validate(json.dumps(value, ensure_ascii=False).encode()) is None
    assert validator._judge(json.dumps(value).encode()) is None


@pytest.mark.parametrize(("schema", "value", "reason"), BAD)
def test_json_bad_data_is_refused_with_its_path(schema: object, value: object, reason: str) -> None:
    found = compiled(schema).check(json.dumps(value).encode(), None)
    assert isinstance(found, str)
    assert reason in found
    assert len(found) <= 500


@pytest.mark.parametrize(("schema", "value", "_reason"), BAD)
def test_json_bad_data_is_refused_by_all_decoders(
    schema: object, value: object, _reason: str
) -> None:
    root, _ = parse_avro(json.dumps(schema), lambda _: None)
    for with_tags, with_unknown in itertools.product((False, True), repeat=2):
        decode = make_decoder(root, with_tags=with_tags, with_unknown=with_unknown)
        if decode is not None:
            with pytest.raises(Exception):  # noqa: B017, PT011  # msgspec has three families
                decode(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("schema", "plain", "tagged"),
    [
        (PAIR, True, True),
        (NODE, True, True),
        (WIDE, True, True),
        (["null", "bytes"], True, True),
        (["bytes", INTS], False, True),
        (["null", UUID, record()], False, True),
        ([record(name="A"), record(name="B")], False, True),
        (DECIMAL, True, True),
        (FIXED_DECIMAL, False, False),
        (record(*[(f"f{i}", "int") for i in range(6_000)]), False, False),
    ],
)
def test_json_fast_way_takes_what_msgspec_can_say(
    schema: object, plain: bool, tagged: bool
) -> None:
    root, _ = parse_avro(json.dumps(schema), lambda _: None)
    assert (make_decoder(root, with_tags=False) is not None) == plain
    assert (make_decoder(root, with_tags=True) is not None) == tagged


def test_json_of_the_other_form_is_tried_first_from_then_on() -> None:
    validator = compiled(PAIR)
    tried_first = validator._decode
    assert validator.validate(b'{"a":1,"b":{"string":"x"}}') is None
    assert validator._decode is not tried_first
    assert validator.validate(b'{"a":1,"b":"x"}') is None
    assert validator._decode is tried_first


# --- bodies that are no JSON, and hostile ones --------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{",
        b'{"a":1} x',
        b'"\xff"',
        b'"\\ud800"',
        b"1e400",
        b"NaN",
        b'{"z":"\xff","a":1,"b":null}',
        b'{"z":1e400,"a":1,"b":null}',
        b"9" * 5_000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xef\xbb\xbf1",
    ],
)
@pytest.mark.parametrize("schema", [PAIR, "double", NODE, record()])
def test_json_that_is_none_is_refused_with_the_prefix(schema: object, body: bytes) -> None:
    reason = compiled(schema).validate(body)
    assert reason is not None
    assert reason.startswith("Bad Avro format - ")
    assert len(reason) <= 500


def test_json_depth_of_hundred_is_accepted_and_one_more_refused() -> None:
    validator = compiled(NODE)
    text = '{"v":1}'
    for _ in range(99):
        text = f'{{"v":1,"next":{text}}}'
    assert validator.validate(text.encode()) is None
    reason = validator.validate(f'{{"v":1,"next":{text}}}'.encode())
    assert reason == "$: values are nested deeper than 100"


def test_json_branches_that_fail_late_are_not_tried_again_and_again() -> None:
    inner = record(("n", ["null", "A", "B"], None), ("x", ["null", "int"], None), name="B")
    schema = record(("n", ["null", "A", inner], None), ("x", ["null", "int"], None), name="A")
    text = '{"x":"wrong"}'
    for _ in range(90):
        text = f'{{"n":{text}}}'
    began = time.process_time()
    assert compiled(schema).validate(text.encode()) is not None
    assert time.process_time() - began < 1


def test_json_tries_beyond_the_budget_are_refused() -> None:
    branches = [record(("a", INTS), ("b", "string"), name=f"R{number}") for number in range(200)]
    body = json.dumps({"a": [1] * 5_000, "b": 5}).encode()
    began = time.process_time()
    reason = compiled(branches).validate(body)
    assert time.process_time() - began < 2
    assert reason is not None
    assert "more tries" in reason


def test_json_check_forgets_what_failed_between_values() -> None:
    root, _ = parse_avro(json.dumps(["null", INTS]), lambda _: None)
    judge = JsonCheck(STEPS_FREE)
    assert judge.find_fault(root, ["x"]) is not None
    assert judge.find_fault(root, [1]) is None
