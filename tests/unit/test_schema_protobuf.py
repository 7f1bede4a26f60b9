"""Protobuf schemas: what compiles, which bytes are messages, what a reason says."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from fastgw.errors import ClientFault
from fastgw.schema import protoc
from fastgw.schema.base import REASON_CHARS_MAX, SchemaError
from fastgw.schema.protobuf import ProtobufValidator, compile_protobuf

TREE = """
syntax = "proto3"; package shop;
import "google/protobuf/timestamp.proto";
enum Color { NONE = 0; RED = 1; }
message Tree {
  int64 id = 1; string name = 2; google.protobuf.Timestamp at = 3; repeated Tree kids = 4;
  map<string, Tree> named = 5; double weight = 6; repeated fixed32 fixed = 7; Color color = 8;
}
"""
PREFIX = "invalid message format, expecting protobuf: "
JSON = b"application/json"


def nothing(path: str) -> str | None:
    return None


@pytest.fixture(scope="module")
def tree() -> ProtobufValidator:
    return compile_protobuf(TREE, resolve=nothing)


@pytest.fixture(scope="module")
def strict() -> ProtobufValidator:
    return compile_protobuf(TREE, resolve=nothing, unknown_fields="refuse")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x08\x01",
        b"\x12\x02hi",
        b"\x22\x00",
        b"\x50\x01",
        b"\x0d\0\0\0\0",
        b"\x40\x63",
        b"\x53" * 99 + b"\x54" * 99,
    ],
)
def test_check_wire_message_is_good(tree: ProtobufValidator, body: bytes) -> None:
    for content_type in (
        None, b"application/x-protobuf", b"text/plain", b"application/octet-stream", b"x"
    ):  # fmt: skip
        assert tree.check(body, content_type) is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\x12\x02\xff\xff", "field 'name', byte 2: a string that is not UTF-8"),
        (b"\x22\x03\x12\x01\xff", "field 'kids.name', byte 4: a string that is not UTF-8"),
        (b"\x12\x05hi", "field 'name', byte 2: 5 bytes expected, 2 are left"),
        (b"\x22\x02\x12\x05", "field 'kids.name', byte 4: 5 bytes expected, 0 are left"),
        (b"\x08" + b"\xff" * 11, "field 'id', byte 1: a number longer than 10 bytes"),
        (b"\x08", "field 'id', byte 1: the bytes end inside a number"),
        (b"\x00\x01", "byte 0: field number 0"),
        (b"\x0f", "wire type 7, expected 0 to 5"),
        (b"\x3a\x03abc", "field 'fixed', byte 2: 3 packed bytes are no multiple of 4"),
        (b"\x54", "byte 0: end of group 10, which was not begun"),
        (b"\x53", "the bytes end inside group 10"),
        (b'{"id": 1}', "a body of 9 bytes is no message 'shop.Tree'"),
    ],
)
def test_check_bad_wire_says_field_byte_and_rule(
    tree: ProtobufValidator, body: bytes, reason: str
) -> None:
    verdict = tree.check(body, None)
    assert isinstance(verdict, str)
    assert verdict.startswith(PREFIX) and reason in verdict


def test_check_unknown_fields_by_policy_at_every_depth(
    tree: ProtobufValidator, strict: ProtobufValidator
) -> None:
    unknown = {
        b"\x50\x01": "10",
        b"\x22\x02\x50\x01": "kids.10",
        b"\x22\x00\x22\x02\x50\x01": "kids.10",
        b"\x2a\x04\x12\x02\x50\x01": "named.value.10",
        b"\x1a\x02\x50\x01": "at.10",
        b"\x53\x54": "10",
        # A known field with another wire type is kept as unknown by every implementation.
        b"\x0d\0\0\0\0": "id",
    }
    for body, path in unknown.items():
        assert tree.check(body, None) is None
        verdict = strict.check(body, None)
        assert isinstance(verdict, str)
        assert f"unknown fields are refused in message 'shop.Tree': field {path!r}" in verdict
    for body in (b"", b"\x08\x01", b"\x2a\x05\x0a\x01k\x12\x00", b"\x40\x63"):
        assert strict.check(body, None) is None


def test_check_json_body_becomes_wire_bytes(tree: ProtobufValidator) -> None:
    body = b'{"id": "5", "name": "x", "at": "1970-01-01T00:00:01Z", "kids": [{}]}'
    wire = b"\x08\x05\x12\x01x\x1a\x02\x08\x01\x22\x00"
    for content_type in (JSON, b"application/json; charset=utf-8", b"application/vnd.x+JSON"):
        assert tree.check(body, content_type) == wire
    assert tree.transcode(body) == wire
    assert tree.check(wire, None) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"[]",
        b'""',
        b'"x"',
        b"1",
        b"null",
        b'{"kids": [[]]}',
        b'{"kids": [""]}',
        b'{"named": {"x": [ ]}}',
        b'{"kids": [{"kids": [{"named": {"x": {}, "y": ""}}]}]}',
        b'{"named": []}',
        b'{"nope": 1}',
        b'{"id": 1, "id": 2}',
        b'{"id": 1.5}',
        b'{"id": true}',
        b'{"id": 9223372036854775808}',
        b'{"id": ' + b"9" * 5000 + b"}",
        b'{"weight": 1e400}',
        b'{"weight": NaN}',
        b'{"name": "\\ud800"}',
        b'{"id": "' + b"x" * 10_000 + b'"}',
        b'{"' + b"k" * 1_000_000 + b'": 1}',
        b'{"kids":[' * 100_000,
        b'{"kids":[' * 101 + b"{}" + b"]}" * 101,
        b"[" * 100_000,
    ],
)
def test_check_bad_json_is_refused_in_one_short_line(tree: ProtobufValidator, body: bytes) -> None:
    begun = time.process_time()
    verdict = tree.check(body, JSON)
    assert isinstance(verdict, str)
    assert verdict.startswith(PREFIX)
    assert len(verdict) <= REASON_CHARS_MAX and "\n" not in verdict
    assert b"x" * 41 not in verdict.encode() and b"k" * 41 not in verdict.encode()
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "body",
    [
        b"\x53" * 100_000,
        b"\x22\x7f" * 50_000,
        b"\x53" * 101 + b"\x54" * 101,
        b"\x12\xff\xff\xff\xff\x0f",
        b"\x3a" + b"\xff" * 9 + b"\x7f",
        b"\x08\x01" * 500_000 + b"\x08",
    ],
)
def test_check_hostile_wire_is_refused_quickly(strict: ProtobufValidator, body: bytes) -> None:
    begun = time.process_time()
    verdict = strict.check(body, None)
    assert isinstance(verdict, str)
    assert len(verdict) <= REASON_CHARS_MAX
    assert time.process_time() - begun < 1


def test_check_depth_within_and_beyond_a_hundred(tree: ProtobufValidator) -> None:
    body = b""
    for _ in range(99):
        size = len(body)
        prefix = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
        body = b"\x22" + prefix + body
    assert tree.check(body, None) is None
    for _ in range(3):
        body = b"\x22" + bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) + body
    assert "nested deeper than 100" in str(tree.check(body, None))


def test_check_many_empty_messages_is_bounded(strict: ProtobufValidator) -> None:
    begun = time.process_time()
    assert strict.check(b"\x22\x00" * 500_000, None) is None
    assert "unknown fields are refused" in str(
        strict.check(b"\x22\x00" * 500_000 + b"\x22\x02\x50\x01", None)
    )
    assert time.process_time() - begun < 3


@pytest.mark.parametrize(
    "content_type",
    [b"avro/binary", b"application/avro", b"application/vnd.apache.avro+json",
     b"application/graphql", b"application/graphql+json"],
)  # fmt: skip
def test_check_media_type_of_another_schema_type_is_415(
    tree: ProtobufValidator, content_type: bytes
) -> None:
    with pytest.raises(ClientFault, match="contradicts") as raised:
        tree.check(b"", content_type)
    assert raised.value.kind.status == 415


def test_check_proto2_required_only_where_reachable() -> None:
    text = """
    syntax = "proto2"; package p;
    message Outer { optional Inner inner = 1; repeated Inner more = 2; optional bytes raw = 3; }
    message Inner { required int32 must = 1; optional group G = 2 { required int32 g = 1; } }
    message Free { optional int32 a = 1; optional string s = 2; }
    """
    outer = compile_protobuf(text, resolve=nothing, message="Outer")
    assert outer.check(b"", None) is None
    assert outer.check(b"\x0a\x02\x08\x01", None) is None
    assert "required field 'inner.must' is missing" in str(outer.check(b"\x0a\x00", None))
    assert "required field 'more.must'" in str(outer.check(b"\x12\x02\x08\x01\x12\x00", None))
    assert "inner.g.g" in str(outer.check(b"\x0a\x04\x08\x01\x13\x14", None))
    assert "required field 'inner.must'" in str(outer.check(b'{"inner": {}}', JSON))
    assert outer.check(b"\x12\x02\x08\x01" * 1000 + b"\x12\x00", None) is not None
    free = compile_protobuf(text, resolve=nothing, message="p.Free")
    assert free.check(b"\x12\x01\xff", None) is None


def test_check_required_in_an_extension_is_reachable() -> None:
    text = """
    syntax = "proto2";
    message Open { extensions 100 to 200; }
    message Inner { required int32 must = 1; }
    extend Open { optional Inner inner = 100; }
    """
    found = compile_protobuf(text, resolve=nothing, message="Open")
    assert found.check(b"\xa2\x06\x02\x08\x01", None) is None
    assert "required field" in str(found.check(b"\xa2\x06\x00", None))


def test_compile_imports_of_registered_files_and_of_editions() -> None:
    files = {
        "a/b.proto": 'syntax="proto3"; package a; import public "c.proto"; message B { C c = 1; }',
        "c.proto": 'syntax="proto3"; package a; message C { string s = 1; }',
    }
    text = """edition = "2023"; /* import "not/this.proto"; */ import
      'a/b.proto'; // import "nor/this.proto";
      message M { a.B b = 1; a.C c = 2; string t = 3 [default = "import \\"x\\";"];
                  int32 must = 4 [features.field_presence = LEGACY_REQUIRED]; }"""
    found = compile_protobuf(text, resolve=files.get)
    assert "required field 'must'" in str(found.check(b"", None))
    assert found.check(b"\x20\x01\x0a\x05\x0a\x03\x0a\x01x", None) is None


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", "", "empty"),
        ("message A {", "line 1, column 12", "end of input"),
        ('syntax="proto3";\n\nmessage A { B b = 1; }', "line 3", '"B" is not defined'),
        ('import "../../etc/passwd"; message A {}', "", "is refused"),
        ('import "/etc/passwd"; message A {}', "", "is refused"),
        ('import "a/../../b.proto"; message A {}', "", "is refused"),
        ('import "a\\x2fb.proto"; message A {}', "", "is refused"),
        ('import "/etc/pass" "wd"; message A {}', "", "is refused"),
        ('import "nope.proto"; message A {}', "", "no registered schema"),
        ('import "bad.proto"; message A {}', "bad.proto line 1", "top-level statement"),
        ('import "deep.proto"; message A {}', "deep.proto", "'gone.proto' is no registered"),
        ('syntax="proto3"; enum E { Z = 0; }', "", "top-level messages: none"),
        ('syntax="proto3"; message A {} message B {}', "", "top-level messages: A, B"),
        ("x" * 300_000, "", "300000 bytes exceeds 262144"),
        ("message A {}\0", "", "zero byte"),
        ("message \ud800 {}", "", "UTF-8"),
        ('syntax="proto3";' + "message A {" * 20_000, "line 1", "recursion limit"),
        ("{" * 200_000, "line 1", ""),
        ('import "self.proto"; message A {}', "self.proto", ""),
    ],
)
def test_compile_bad_text_says_place_and_reason(text: str, place: str, reason: str) -> None:
    files = {
        "bad.proto": "garbage",
        "deep.proto": 'syntax="proto3"; import "gone.proto";',
        "self.proto": 'syntax="proto3"; import "self.proto";',
    }
    begun = time.monotonic()
    with pytest.raises(SchemaError) as raised:
        compile_protobuf(text, resolve=files.get)
    assert reason in raised.value.reason
    assert raised.value.place.startswith(place)
    assert len(raised.value.reason) <= REASON_CHARS_MAX
    assert "/tmp" not in str(raised.value)
    assert time.monotonic() - begun < protoc.TIME_S_MAX


def test_compile_names_the_message_or_its_candidates() -> None:
    text = 'syntax="proto3"; package a.b; message M { message N {} } message O {}'
    assert compile_protobuf(text, resolve=nothing, message="M.N").message == "a.b.M.N"
    assert compile_protobuf(text, resolve=nothing, message=".a.b.O").message == "a.b.O"
    with pytest.raises(SchemaError, match=r"no message 'P' .* a\.b\.M, a\.b\.O"):
        compile_protobuf(text, resolve=nothing, message="P")


def test_compile_too_many_imports_is_refused() -> None:
    def endless(path: str) -> str | None:
        number = int(path.removesuffix(".proto"))
        return f'syntax="proto3"; import "{number + 1}.proto";'

    with pytest.raises(SchemaError, match="imports exceed 64 files"):
        compile_protobuf('import "1.proto"; message A {}', resolve=endless)


def test_compile_versions_do_not_see_each_other() -> None:
    first = compile_protobuf('syntax="proto3"; message M { string a = 1; }', resolve=nothing)
    second = compile_protobuf('syntax="proto3"; message M { int32 a = 1; }', resolve=nothing)
    assert first.check(b'{"a": "x"}', JSON) == b"\x0a\x01x"
    assert second.check(b'{"a": 7}', JSON) == b"\x08\x07"
    assert first.check(b'{"a": "y"}', JSON) == b"\x0a\x01y"


def test_compile_slow_compiler_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protoc, "TIME_S_MAX", 0.001)
    with pytest.raises(SchemaError, match="took more than"):
        compile_protobuf(TREE, resolve=nothing)


def test_compile_compiler_over_its_limits_is_a_schema_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protoc, "OUTPUT_BYTES_MAX", 10)
    with pytest.raises(SchemaError):
        compile_protobuf(TREE, resolve=nothing)


def test_compile_without_the_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf.descriptor_pb2", None)
    with pytest.raises(SchemaError, match=r"fastgw\[schemas\]"):
        compile_protobuf(TREE, resolve=nothing)


def test_find_imports_reads_statements_only() -> None:
    find: Callable[[str], list[str]] = protoc.find_imports
    assert find('import "a"; import public "b"; import weak \'c\';') == ["a", "b", "c"]
    assert find('option x = "import"; message import { string import = 1; }') == []
    assert find('// import "a";\n/* import "b"; */') == []
