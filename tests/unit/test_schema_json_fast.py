"""Which schemas take the fast path, and what its types must not do."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest

from fastgw.schema.json import compile_json

TYPED = (
    {"type": "object", "properties": {"a": True}, "additionalProperties": {"type": "string"}},
    {"type": "integer"}, {"type": ["string", "null"]}, {"enum": ["a", 1, None, True]}, {"const": 1},
    {"type": "array", "items": {"type": "number"}}, {"type": "object", "properties": {"a": True}},
    {"type": "object", "additionalProperties": {"type": "string"}},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"allOf": [{"type": "integer"}]},
    {"oneOf": [{"type": "integer"}, {"type": "string"}]}, {"type": "string", "format": "none"},
    {"properties": {"a": {"$ref": "#"}}, "type": "object"}, {"type": "integer", "x-note": {}},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "required": ["b"]}}},
)  # fmt: skip
UNTYPED = (
    True, {}, {"type": ["string", "array"], "pattern": "^a"}, {"type": "string", "pattern": "a"},
    {"type": "number", "maximum": 2**53 + 1}, {"type": "number", "multipleOf": 0.01},
    {"type": "object", "properties": {'a"': {"type": "string"}}}, {"not": {"type": "string"}},
    {"oneOf": [{"type": "integer"}, {"type": "number"}]}, {"type": "array", "uniqueItems": True},
    {"type": "array", "items": {"$ref": "#"}}, {"type": "integer", "minimum": 2**64},
    {"$schema": "http://json-schema.org/draft-07/schema#", "type": ["string", "array"],
     "format": "date"}, {"enum": [1.5, {}]}, {"type": "object", "patternProperties": {"a": {}}},
    {"type": "object", "properties": {"a": {"$id": "x", "type": "integer"}}},
)  # fmt: skip


def has_fast_path(schema: Any) -> bool:
    return compile_json(json.dumps(schema), resolve=lambda _: None).has_fast_path


@pytest.mark.parametrize("schema", TYPED, ids=range(len(TYPED)))
def test_compile_schema_of_the_subset_takes_the_fast_path(schema: Any) -> None:
    assert has_fast_path(schema)


@pytest.mark.parametrize("schema", UNTYPED, ids=range(len(UNTYPED)))
def test_compile_schema_beyond_the_subset_does_not(schema: Any) -> None:
    assert not has_fast_path(schema)


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
