"""JSON Schema: verdicts, reasons, references, and what hostile schemas and bodies come to."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgw.errors import ClientFault
from fastgw.schema.base import REASON_CHARS_MAX, SchemaError
from fastgw.schema.json import JsonValidator, compile_json

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "name": {"type": "string", "maxLength": 5},
        "kind": {"enum": ["a", "b", 3]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "price": {"type": "number", "exclusiveMinimum": 0},
        "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["id", "name"],
}


def build(schema: Any, **registered: Any) -> JsonValidator:
    texts = {name: json.dumps(text) for name, text in registered.items()}
    return compile_json(json.dumps(schema), resolve=texts.get)


def check(schema: Any, message: bytes, **registered: Any) -> str | None:
    return build(schema, **registered).check(message, None)


GOOD = (
    b'{"id":1,"name":"x"}',
    b'{"id":1.0,"name":"x"}',
    b'{"id":100000000000000000000000000,"name":"x"}',
    b' {"name":"\xf0\x9f\x98\x80abcd","id":2,"kind":3,"tags":["a"],"price":0.5,"next":null}\n',
    b'{"id":1,"name":"x","unknown":[1,{"a":null}],"next":{"id":2,"name":""}}',
    b'{"\\u0069d":1,"name":"x"}',
)
BAD = (
    (b'{"name":"x"}', "'' breaks /required: expected the property \"id\", got an object with 1 pr"),
    (b'{"id":0,"name":"x"}', "'/id' breaks /properties/id/minimum: expected at least 1, got the n"),
    (b'{"id":true,"name":"x"}', "'/id' breaks /properties/id/type: expected integer, got true"),
    (b'{"id":1,"name":"abcdef"}', 'expected a length of at most 5, got the string "abcdef"'),
    (b'{"id":1,"name":"x","kind":true}', 'expected one of "a", "b", 3, got true'),
    (
        b'{"id":1,"name":"x","tags":["a","b",""]}',
        "at most this many items: 2, got an array of 3 it",
    ),
    (b'{"id":1,"name":"x","price":0}', "'/price' breaks /properties/price/exclusiveMinimum: expec"),
    (b'{"id":1,"name":"x","next":{"id":2}}', "'/next' breaks /properties/next/anyOf: expected a v"),
    (b"[]", "'' breaks /type: expected object, got an array of 0 items"),
)
NOT_JSON = (
    b"", b" ", b"{", b'{"id":1,}', b"\xef\xbb\xbf{}", b"NaN", b"[Infinity]", b"1 2", b"'a'", b"01",
    b'"\xff"', b'{"\xc3(":1}', b'"\\ud800"', b'"\\x41"', b'"a\nb"', b"1e400", b"[1e400]", b"\x00",
    b"9" * 5000, b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000,
    b'{"id":1,"name":"x","z":"\xff"}', b'{"id":1,"name":"x","z":1e400}',
    b'{"id":1,"name":"x","z":"\\udfff"}', b'{"id":1,"name":"x","\xff":1}', b"+1", b".5", b"1.",
)  # fmt: skip
YES = (
    b"0", b"-0", b"-0.0", b"1E+2", b"1e-400", b'""', b'"\\u0000"', b'"\\uD83D\\uDE00"', b"[]",
    b'{"":0}', b'{"a":1,"a":2}', b"\t\r\n true \t", b"null", b'"\x7f"', b"[[[[[[]]]]]]", b"4e-1",
    b'"\xe2\x80\xa8"', b'"\\/"', b"123456789012345678901234567890", b'"\xf4\x8f\xbf\xbf"',
)  # fmt: skip


@pytest.mark.parametrize("message", GOOD)
def test_check_valid_message_is_none(message: bytes) -> None:
    validator = build(ORDER)
    assert validator.accepts is not None
    assert validator.check(message, b"application/json") is None
    assert validator.judge(message) is None


@pytest.mark.parametrize(("message", "expected"), BAD)
def test_check_invalid_message_names_path_rule_and_value(message: bytes, expected: str) -> None:
    reason = check(ORDER, message)
    assert reason is not None and expected in reason
    assert "\n" not in reason and len(reason) <= REASON_CHARS_MAX


@pytest.mark.parametrize("message", NOT_JSON, ids=range(len(NOT_JSON)))
@pytest.mark.parametrize("schema", [ORDER, True, {}, {"type": ["object", "array"]}], ids=range(4))
def test_check_not_json_says_so(schema: Any, message: bytes) -> None:
    reason = check(schema, message)
    assert reason is not None and reason.startswith("Bad JSON format - "), reason
    assert len(reason) <= REASON_CHARS_MAX


@pytest.mark.parametrize("message", YES, ids=range(len(YES)))
def test_check_any_json_under_true_is_valid(message: bytes) -> None:
    assert check(True, message) is None
    assert check(False, message) is not None


def test_check_large_values_are_clipped() -> None:
    secret = "s" * 10_000_000
    for schema in ({"type": "integer"}, {"enum": [1]}, {"maxLength": 3}, {"const": secret[:99]}):
        reason = check(schema, json.dumps(secret).encode())
        assert reason is not None and len(reason) < 300, reason
    body = b'{"' + secret.encode() + b'":1}'
    for schema in ({"additionalProperties": False}, {"propertyNames": {"maxLength": 3}}, ORDER):
        started = time.process_time()
        reason = check(schema, body)
        assert reason is not None and len(reason) < 300, reason
        assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "content_type",
    [None, b"application/json", b"text/plain", b"application/x-www-form-urlencoded", b"a/b",
     b"application/cloudevents+json; charset=utf-8", b"application/octet-stream", b""],
)  # fmt: skip
def test_check_content_type_without_contradiction_is_json(content_type: bytes | None) -> None:
    assert build(ORDER).check(GOOD[0], content_type) is None


@pytest.mark.parametrize("content_type", [b"application/x-protobuf", b"Avro/Binary; a=b"])
def test_check_content_type_of_another_schema_is_refused(content_type: bytes) -> None:
    with pytest.raises(ClientFault) as caught:
        build(ORDER).check(GOOD[0], content_type)
    assert caught.value.kind.status == 415


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ("{", "not JSON"),
        ("[]", "a schema is an object"),
        ('{"a":1e400}', "not JSON"),
        ("[" * 100_000, "nested deeper than 100"),
        ('{"not":' * 101 + "{}" + "}" * 101, "nested deeper than 100"),
        ('{"title":"' + "x" * 262_144 + '"}', "exceed the limit of 262144"),
        ('{"properties":{"a/b":{"type":"strin"}}}', "/properties/a~1b/type: "),
        ('{"properties":{"a":{"pattern":"(a"}}}', "/properties/a/pattern: the pattern (a does not"),
        ('{"pattern":"^(a{1,1000}){1,1000}$"}', "/pattern: the pattern "),
        ('{"$ref":"#/nowhere"}', "does not exist"),
        ('{"$schema":"http://json-schema.org/draft-03/schema#"}', "Unknown meta-schema"),
        ('{"items":{"$ref":"other"}}', "/items/$ref: other is not registered"),
    ],
)
def test_compile_broken_schema_names_place_and_reason(schema: str, expected: str) -> None:
    with pytest.raises(SchemaError) as caught:
        compile_json(schema, resolve=lambda _: None)
    assert expected in str(caught.value), str(caught.value)
    assert len(str(caught.value)) <= REASON_CHARS_MAX


def double(word: str, levels: int) -> dict[str, Any]:
    steps = {f"d{i}": {word: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {"$defs": {**steps, f"d{levels}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def entangle(count: int, **rules: Any) -> dict[str, Any]:
    every = [{"properties": {"x": {"$ref": f"#/$defs/d{i}"}}} for i in range(count)]
    steps = {f"d{i}": {"required": ["x"], "anyOf": every, **rules} for i in range(count)}
    return {"$defs": steps, "$ref": "#/$defs/d0"}


BOMBS = (
    double("allOf", 28), double("anyOf", 28), entangle(20),
    entangle(10, unevaluatedProperties=False),
    {**double("allOf", 24), "unevaluatedProperties": False},
    {"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2000)}, "$ref": "#/$defs/d0"},
)  # fmt: skip


@pytest.mark.parametrize("schema", BOMBS, ids=range(len(BOMBS)))
def test_compile_reference_bomb_is_refused_at_once(schema: Any) -> None:
    started = time.process_time()
    with pytest.raises(SchemaError, match=r"expands to|lead one into"):
        build(schema)
    assert time.process_time() - started < 1


RECURSIVE = (
    {"$ref": "#"}, {"allOf": [{"$ref": "#"}], "unevaluatedProperties": False}, entangle(7),
    entangle(5, unevaluatedProperties=False),
    {"allOf": [{"properties": {"x": {"$ref": "#"}}}, {"properties": {"x": {"$ref": "#"}}}]},
    {"required": ["x"], "anyOf": [{"properties": {"x": {"$ref": "#"}}, "minProperties": i}
                                  for i in (0, 1)]},
    {"$dynamicAnchor": "n", "anyOf": [{"properties": {"x": {"$dynamicRef": "#n"}}}] * 2},
)  # fmt: skip


@pytest.mark.parametrize("schema", RECURSIVE, ids=range(len(RECURSIVE)))
def test_check_recursive_schema_is_bounded(schema: Any) -> None:
    validator = build(schema)
    for depth in (1, 5, 12, 20, 30, 100, 900):
        started = time.process_time()
        validator.check(b'{"x":' * depth + b"1" + b"}" * depth, None)
        assert time.process_time() - started < 1, depth


@pytest.mark.parametrize("schema", [
    {"anyOf": [{"items": {"type": "string"}}, {"type": "string"}]},
    {"items": {"oneOf": [{"type": "string"}, {"type": "array"}]}},
    {"items": {"type": "string"}}, {"type": "array", "uniqueItems": True},
    {"not": {"items": {"type": "integer"}}}, {"contains": {"type": "string"}},
])  # fmt: skip
def test_check_millions_of_bad_items_is_bounded(schema: Any) -> None:
    validator = build(schema)
    started = time.process_time()
    assert validator.check(b"[" + b"1," * 2_000_000 + b"1]", None) is not None
    assert time.process_time() - started < 10  # 0.3 to 1.5 s; without bounds, a minute


@pytest.mark.parametrize("pattern", ["^(a+)+$", r"^(a*)*b\1$", "^(?=(a+)+$)a"])
def test_check_pattern_with_nested_quantifiers_is_bounded(pattern: str) -> None:
    validator = build({"pattern": pattern})
    started = time.process_time()
    assert validator.check(b'"' + b"a" * 100_000 + b'!"', None) is not None
    assert time.process_time() - started < 1


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


def test_compile_remote_reference_is_never_fetched(
    asked: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, paths = asked
    (tmp_path / "x.json").write_text('{"type":"string"}')
    for uri in (f"{url}/x", f"{url}/x#/a", (tmp_path / "x.json").as_uri()):
        schemas = ({"$ref": uri}, {"$id": uri, "$ref": "y"}, {"$schema": uri},
                   {"$dynamicRef": uri}, {"items": {"$ref": "line"}})  # fmt: skip
        for schema in schemas:
            with pytest.raises(SchemaError):
                build(schema, line={"$ref": uri})
    assert paths == []


def test_compile_registered_references_are_resolved() -> None:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "items": {"$ref": "line#/d/x"}}
    line = {"d": {"x": {"$ref": "unit"}}}
    validator = build(schema, line=line, unit={"type": "string"})
    assert validator.check(b'["a"]', None) is None
    assert validator.check(b"[1]", None) is not None
    named = {"$id": "https://example.com/order", "properties": {"u": {"$ref": "unit"}}}
    assert check(named, b'{"u":1}', **{"https://example.com/unit": {"type": "string"}}) is not None
    assert check(named, b'{"u":"a"}', unit={"type": "string"}) is None
    back = {"$id": "https://example.com/order", "items": {"$ref": "line"}}
    assert check(back, b"[[[]]]", line={"$ref": "https://example.com/order"}) is None


def test_compile_drafts_follow_their_rules() -> None:
    for draft, good, bad in (
        ("http://json-schema.org/draft-04/schema#", {"exclusiveMinimum": True, "minimum": 1}, b"1"),
        ("http://json-schema.org/draft-06/schema#", {"exclusiveMinimum": 1}, b"1"),
        ("http://json-schema.org/draft-07/schema#", {"format": "date"}, b'"x"'),
        ("https://json-schema.org/draft/2019-09/schema", {"dependentRequired": {"a": ["b"]}},
         b'{"a":1}'),
        ("https://json-schema.org/draft/2020-12/schema", {"prefixItems": [False]}, b"[1]"),
    ):  # fmt: skip
        validator = build({"$schema": draft, **good})
        assert validator.draft in draft.replace("draft/", "")
        assert validator.check(bad, None) is not None
    assert check({"format": "date"}, b'"x"') is None
