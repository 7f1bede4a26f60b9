"""Which schemas take the fast path, which messages its walker takes, and its bounds."""

from __future__ import annotations

import gc
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import _core
from fastgw.errors import InternalError
from fastgw.schema.json import compile_json
from fastgw.schema.json_fast import INT64, Node

DRAFT7 = "http://json-schema.org/draft-07/schema#"
TYPED = (
    {"type": "object", "properties": {"a": True}, "additionalProperties": {"type": "string"}},
    {"type": "integer"}, {"type": ["string", "null"]}, {"enum": ["a", 1, None, True]}, {"const": 1},
    {"type": "array", "items": {"type": "number"}}, {"type": "object", "properties": {"a": True}},
    {"type": "object", "additionalProperties": {"type": "string"}}, {}, {"type": "array"},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"allOf": [{"type": "integer"}]},
    {"oneOf": [{"type": "integer"}, {"type": "string"}]}, {"type": "string", "format": "none"},
    {"properties": {"a": {"$ref": "#"}}, "type": "object"}, {"type": "integer", "x-note": {}},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "required": ["b"]}}},
    {"type": "array", "items": {"$ref": "#"}}, {"type": "object", "minProperties": 3},
    {"$schema": DRAFT7, "type": ["string", "array"], "format": "date"},
    {"type": "object", "required": ["b"], "additionalProperties": False},
    {"properties": {str(number): True for number in range(256)}},
)  # fmt: skip
UNTYPED = (
    True, {"type": ["string", "array"], "pattern": "^a"}, {"type": "string", "pattern": "a"},
    {"type": "number", "maximum": 2**53 + 1}, {"type": "number", "multipleOf": 0.01},
    {"type": "object", "properties": {'a"': {"type": "string"}}}, {"not": {"type": "string"}},
    {"oneOf": [{"type": "integer"}, {"type": "number"}]}, {"type": "array", "uniqueItems": True},
    {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, {"type": "integer", "minimum": 2**64},
    {"$schema": DRAFT7, "type": "string", "format": "time"},
    {"enum": [1.5, {}]}, {"type": "object", "patternProperties": {"a": {}}},
    {"type": "object", "properties": {"a": {"$id": "x", "type": "integer"}}},
    {"properties": {str(number): True for number in range(257)}},
    {"type": "object", "properties": {"a": {"type": "array", "contains": True}}},
)  # fmt: skip

_HOST = r"(?:[A-Za-z0-9]{1,30}\.){1,4}[A-Za-z]{2,10}"
_DAY = (
    r"[12][0-9]{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)"
    r"|(?:0[13578]|1[02])-31)"
)
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS = {
    "date": _DAY,
    "date-time": rf"{_DAY}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,9}})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])",
    "email": rf"[A-Za-z0-9_]{{1,20}}(?:\.[A-Za-z0-9_]{{1,20}}){{0,2}}@{_HOST}",
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "uri": rf"https?://{_HOST}(?:/[A-Za-z0-9_~.-]{{0,60}}){{0,10}}",
}
"""The same formats, said plainly."""


def walker_of(schema: Any) -> _core.JsonWalker | None:
    return compile_json(json.dumps(schema), resolve=lambda _: None).accepts


def takes(schema: Any, *messages: bytes) -> list[bool]:
    """What the walker takes; that it is valid then, the authority says each time."""
    validator = compile_json(json.dumps(schema), resolve=lambda _: None)
    assert validator.accepts is not None
    taken = [validator.accepts.is_surely_good(message) for message in messages]
    for message, is_taken in zip(messages, taken, strict=True):
        assert not is_taken or validator.judge(message) is None, message
    return taken


@pytest.mark.parametrize("schema", TYPED, ids=range(len(TYPED)))
def test_compile_schema_of_the_subset_takes_the_fast_path(schema: Any) -> None:
    assert walker_of(schema) is not None


@pytest.mark.parametrize("schema", UNTYPED, ids=range(len(UNTYPED)))
def test_compile_schema_beyond_the_subset_does_not(schema: Any) -> None:
    assert walker_of(schema) is None


def test_check_recursion_into_a_schema_of_several_kinds_is_not_narrowed() -> None:
    text = {"properties": {"a": {"oneOf": [{"$ref": "#"}, {"type": "string"}]}}, "required": ["a"]}
    validator = compile_json(json.dumps(text), resolve=lambda _: None)
    assert validator.check(b'{"a":"both"}', None) is not None
    assert validator.check(b'{"a":{"a":1}}', None) is None


def test_compile_recursive_schema_again_and_again_leaves_nothing() -> None:
    text = json.dumps({"type": "object", "properties": {f"p{i}": {"$ref": "#"} for i in range(9)}})
    for _ in range(300):  # more than `typing` keeps in its caches
        compile_json(text, resolve=lambda _: None).check(b'{"p1":{"p2":{}}}', None)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(300):
        compile_json(text, resolve=lambda _: None).check(b'{"p1":{"p2":{}}}', None)
    gc.collect()
    assert len(gc.get_objects()) - before < 200


def test_walk_nesting_up_to_the_bound_is_taken() -> None:
    deep = [b"[" * depth + b"]" * depth for depth in (1, 128, 129, 100_000)]
    assert takes({}, *deep) == [True, True, False, False]
    deep = [b'{"a":' * depth + b"1" + b"}" * depth for depth in (128, 129)]
    assert takes({"additionalProperties": {"$ref": "#"}}, *deep) == [True, False]


@pytest.mark.parametrize(
    ("schema", "taken", "left"),
    [
        ({"type": "integer"}, (b"0", b"-1", b" 7\r\n", b"9223372036854775807"),
         (b"-0", b"01", b"1.0", b"1e2", b"+1", b"-", b"9223372036854775808", b"1" * 20, b"1 1")),
        ({"type": "integer", "multipleOf": 3}, (b"0", b"-6", b"9"), (b"1", b"-5")),
        ({"type": "integer", "minimum": -1.5, "exclusiveMaximum": 3}, (b"-1", b"2"), (b"-2", b"3")),
        ({"type": "number"}, (b"1.5", b"-0.0", b"1e99", b"2E-99", b"0." + b"3" * 62, b"12"),
         (b"1e100", b"0." + b"3" * 63, b"1.", b".5", b"1e", b"1e+", b"00.5", b"1.5.5")),
        ({"type": "number", "minimum": 0.1}, (b"0.1", b"1e-1", b"0.10000000000000001e1", b"1e22"),
         (b"0.09999", b"0.10000000000000000", b"-0.1", b"1e23", b"1.1111111111111111111")),
        ({"type": "number", "exclusiveMaximum": 2.5}, (b"2.4", b"-2.5"), (b"2.5", b"25e-1")),
        ({"type": "string", "minLength": 2, "maxLength": 3},
         (b'"ab"', '"éé"'.encode(), '"😀😀😀"'.encode(), b'"\\n\\u00e9"', b'"\\u0041bc"'),
         (b'"a"', b'"abcd"', '"😀"'.encode(), b'"\\n"', b'"a\\tbcd"', b'"\\ud83d\\ude00"')),
        ({"type": "string"}, (b'""', b'"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\u007fé"'.encode()),
         (b'"\\x"', b'"\\u12"', b'"\\u12g4"', b'"a', b'"a\\', b'"\n"', b'"\xff"', b'"\xed\xa0\x80"',
          b'"\\uDC00"', b'"a\\u0000\x00"', b'"a"b')),
        ({"enum": ["a", "bcd", "é", 5, -7, None, False]},
         (b'"a"', b'"bcd"', '"é"'.encode(), b"5", b"-7", b"null", b"false"),
         (b'"b"', b'""', b'"\\u0061"', b"6", b"true", b"nul", b"fals", b"nullx", b"5.0")),
        ({"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
         (b"[null]", b" [ null , null ] "), (b"[]", b"[null,null,null]", b"[null,]", b"[,null]",
          b"[null", b"[null}", b"[1]", b"[null null]")),
    ],
)  # fmt: skip
def test_walk_value_is_taken_only_when_surely_good(
    schema: Any, taken: tuple[bytes, ...], left: tuple[bytes, ...]
) -> None:
    assert takes(schema, *taken) == [True] * len(taken)
    assert takes(schema, *left) == [False] * len(left)


OBJECT = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "né": {"type": "string"}, "type": {"const": "x"}},
    "required": ["id", "type"],
    "maxProperties": 4,
}


@pytest.mark.parametrize(
    ("message", "is_taken"),
    [
        ('{"id":1,"type":"x"}', True),
        ('{"type":"x","né":"","id":1}', True),
        (' { "id" : 1 , "other" : [ {"a":1.5e3} ] , "type" : "x" } ', True),
        ('{"id":1,"né":"a"}', False),
        ('{"id":1,"type":"x","id":2}', False),
        ('{"\\u0069d":1,"type":"x"}', False),
        ('{"id":1,"type":"x","id2":1e400}', False),
        ('{"id":1,"type":"x","id2":"\\udc00"}', False),
        ('{"id":1,"type":"x","a":1,"b":2}', True),
        ('{"id":1,"type":"x","a":1,"b":2,"c":3}', False),
        ('{"id":1 "type":"x"}', False),
        ('{"id":1,"type":"x",}', False),
        ('{"id"1,"type":"x"}', False),
        ('{id:1,"type":"x"}', False),
        ('{"id":1,"type":"x"]', False),
        ("{", False),
        ("{}", False),
    ],
)
def test_walk_object_is_taken_only_when_surely_good(message: str, is_taken: bool) -> None:
    assert takes(OBJECT, message.encode()) == [is_taken]


def test_walk_members_with_one_unnamed_name_count_once() -> None:
    schema = {"type": "object", "minProperties": 2, "properties": {"a": True}}
    messages = (b'{"a":1,"b":2}', b'{"b":1,"b":2}', b'{"b":1,"c":2}', b'{"a":1}')
    assert takes(schema, *messages) == [True, False, False, False]


def test_walk_closed_object_takes_no_other_name() -> None:
    schema = {"properties": {"a": True}, "additionalProperties": False}
    assert takes(schema, b'{"a":1}', b'{"b":1}', b"{}", b"7") == [True, False, True, True]


def test_walk_no_part_of_a_message_is_taken_for_the_whole() -> None:
    whole = '{"id":-12,"né":"a\\n","type":"x","more":[1.5e3,true,null,{"k":"é"}]}'.encode()
    validator = compile_json(json.dumps(OBJECT), resolve=lambda _: None)
    assert validator.accepts is not None
    for size in range(len(whole)):
        # WHY the copy: a sanitized build sees a read behind the end of these bytes.
        assert not validator.accepts.is_surely_good(bytes(bytearray(whole[:size])))
    assert validator.accepts.is_surely_good(whole)


def test_walk_every_name_of_a_large_object_is_found() -> None:
    names = ["x" * (number % 9) + str(number) for number in range(256)]
    schema = {
        "properties": {name: {"const": number} for number, name in enumerate(names)},
        "required": names,
        "additionalProperties": False,
    }
    whole = {name: number for number, name in enumerate(names)}
    turned = json.dumps(dict(reversed(whole.items()))).encode()
    short = json.dumps({name: number for name, number in whole.items() if number != 200}).encode()
    assert takes(schema, json.dumps(whole).encode(), turned, short) == [True, True, False]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_walk_format_is_that_of_the_plain_pattern(name: str, data: st.DataObject) -> None:
    walker = walker_of({"$schema": DRAFT7, "type": "string", "format": name})
    assert walker is not None
    pattern = re.compile(FORMATS[name], re.ASCII)
    text = data.draw(st.from_regex(pattern, fullmatch=True))
    place = data.draw(st.integers(0, len(text)))
    junk = data.draw(st.sampled_from(("", "0", "9", "a", ".", "-", "@", "/", "Z", "_", "é")))
    for one in (text, text[:place] + junk + text[place + 1 :], text[:place] + junk + text[place:]):
        assert walker.is_surely_good(b'"%s"' % one.encode()) == bool(pattern.fullmatch(one)), one


def build_node(**rules: Any) -> Node:
    return Node({"object"}, frozenset(), **rules)


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [build_node(item=1)],
        [build_node(item=-1)],
        [build_node(rest=1)],
        [build_node(rest=-2)],
        [build_node(names=[(b"a", 1, False)])],
        [build_node(names=[(b'a"', 0, False)])],
        [build_node(names=[(b"a\n", 0, False)])],
        [build_node(names=[(b"%d" % number, 0, False) for number in range(257)])],
    ],
)
def test_program_that_leads_out_of_its_tables_is_a_defect(nodes: list[Node]) -> None:
    with pytest.raises(InternalError):
        _core.JsonWalker(nodes)


def test_program_is_given_once() -> None:
    walker = _core.JsonWalker([build_node()])
    with pytest.raises(InternalError):
        walker.__init__([build_node()])  # type: ignore[misc]
    assert walker.is_surely_good(b"{}")
    assert not _core.JsonWalker.__new__(_core.JsonWalker).is_surely_good(b"{}")
    assert build_node().low == -INT64
