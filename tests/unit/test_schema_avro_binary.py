"""Binary Avro data: each rule at its edge, hostile bytes, framing, Content-Types, the walker."""

from __future__ import annotations

import io
import json
import time

import fastavro
import pytest

from fastgw._core import AVRO_RULES, AvroWalker
from fastgw.errors import ClientFault, InternalError
from fastgw.schema import avro_program
from fastgw.schema.avro import AvroValidator, compile_avro

ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
FIXED = {"type": "fixed", "name": "F", "size": 2}
INTS = {"type": "array", "items": "int"}
MAP = {"type": "map", "values": "boolean"}
NODE = {
    "type": "record",
    "name": "Node",
    "fields": [{"name": "next", "type": ["null", "Node"], "default": None}],
}
EMPTY = {"type": "record", "name": "Empty", "fields": []}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1}
FIXED_DECIMAL = {**FIXED, "logicalType": "decimal", "precision": 3}
UUID = {"type": "string", "logicalType": "uuid"}
TIME = {"type": "int", "logicalType": "time-millis"}
UUID_TEXT = b"12345678-9abc-DEF0-1234-56789abcdef0"


def compiled(schema: object) -> AvroValidator:
    return compile_avro(json.dumps(schema), resolve=lambda _: None)


def varint(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


GOOD = [
    ("null", b""),
    ("boolean", b"\x00"),
    ("boolean", b"\x01"),
    ("int", b"\x00"),
    ("int", varint(2**31 - 1)),
    ("int", varint(-(2**31))),
    ("int", b"\x80\x80\x80\x80\x00"),
    ("long", varint(2**63 - 1)),
    ("long", varint(-(2**63))),
    ("float", b"\x00\x00\xc0\x7f"),
    ("double", b"12345678"),
    ("bytes", b"\x00"),
    ("bytes", b"\x06\xff\xfe\x00"),
    ("string", b"\x00"),
    ("string", varint(12) + "aé€😀".encode() + b"bc"),
    (ENUM, b"\x00"),
    (ENUM, b"\x02"),
    (FIXED, b"ab"),
    (["null", "int"], b"\x00"),
    (["null", "int"], b"\x02\x04"),
    (INTS, b"\x00"),
    (INTS, b"\x04\x02\x04\x00"),
    (INTS, b"\x02\x02\x02\x04\x00"),
    (INTS, b"\x03\x04\x02\x04\x00"),
    (INTS, b"\x01\x02\x02\x02\x02\x01\x02\x04\x00"),
    (MAP, b"\x02\x02a\x01\x00"),
    (MAP, b"\x04\x02a\x01\x02a\x00\x00"),
    (EMPTY, b""),
    (NODE, b"\x02\x02\x00"),
    (NODE, b"\x02" * 99 + b"\x00"),
    ({"type": "array", "items": "null"}, varint(90_000) + b"\x00"),
    ({"type": "array", "items": "null"}, varint(9) + varint(-9) + b"\x00" + b"\x00"),
    ({"type": "array", "items": {"type": "array", "items": EMPTY}}, b"\x04\x02\x00\x02\x00\x00"),
    ({"type": "fixed", "name": "F", "size": 0}, b""),
    (DECIMAL, b"\x02\x00"),
    (DECIMAL, b"\x04\x03\xe7"),  # 999
    (DECIMAL, b"\x04\xfc\x19"),  # -999
    (DECIMAL, b"\x0a\x00\x00\x00\x03\xe7"),
    (DECIMAL, b"\x0a\xff\xff\xff\xfc\x19"),
    (FIXED_DECIMAL, b"\x03\xe7"),
    (FIXED_DECIMAL, b"\xff\xff"),
    (UUID, varint(36) + UUID_TEXT),
    (TIME, varint(86_399_999)),
]


@pytest.mark.parametrize(("schema", "message"), GOOD)
def test_binary_good_data_is_accepted(schema: object, message: bytes) -> None:
    assert compiled(schema).check(message, b"avro/binary") is None


@pytest.mark.parametrize(("schema", "message"), GOOD)
def test_binary_good_data_cut_anywhere_or_longer_is_refused(schema: object, message: bytes) -> None:
    validator = compiled(schema)
    for end in range(len(message)):
        assert validator.validate_binary(message[:end]) is not None
    reason = validator.validate_binary(message + b"\x00")
    assert reason is not None
    assert f"expected the end of the message, got 1 more bytes (byte {len(message)})" in reason


BAD = [
    ("boolean", b"\x02", "boolean 0 or 1, got 2 (byte 0)"),
    ("int", varint(2**31), "int from -2147483648 to 2147483647, got 2147483648 (byte 0)"),
    ("int", varint(-(2**31) - 1), "got -2147483649"),
    ("int", b"\x80\x80\x80\x80\x80\x00", "does not end in time"),
    ("long", b"\xff" * 9 + b"\x02", "does not end in time"),
    ("long", b"\xff" * 10, "does not end in time"),
    ("bytes", b"\x01", "got a length of -1"),
    ("bytes", varint(2**63 - 1), "expected 9223372036854775807 more bytes of bytes, got 0"),
    ("string", b"\x02\xff", "expected UTF-8, got byte 0xff (byte 1)"),
    ("string", b"\x04a\xc3", "expected UTF-8, got byte 0xc3 (byte 2)"),
    ("string", b"\x04\xc0\x80", "expected UTF-8"),
    ("string", b"\x06\xe0\x80\x80", "expected UTF-8"),
    ("string", b"\x06\xed\xa0\x80", "expected UTF-8"),
    ("string", b"\x08\xf0\x80\x80\x80", "expected UTF-8"),
    ("string", b"\x08\xf4\x90\x80\x80", "expected UTF-8"),
    ("string", b"\x08\xf5\x80\x80\x80", "expected UTF-8"),
    ("string", b"\x12abcdefgh\x80", "expected UTF-8, got byte 0x80 (byte 9)"),
    (ENUM, b"\x04", "expected index 0 to 1 of enum E, got 2"),
    (ENUM, b"\x01", "got -1"),
    (["null", "int"], b"\x04", "expected branch 0 to 1 of a union, got 2"),
    (["null", "int"], b"\x01", "got -1"),
    (INTS, b"\x02" + varint(2**31), "$[0]: expected int from"),
    (INTS, b"\x06\x02\x02\x80", "$[2]: expected 1 more bytes of int, got 1 (byte 3)"),
    (INTS, varint(-(2**63)), "expected a count of items"),
    (INTS, b"\x01\x01\x02\x00", "got a length of -1"),
    (INTS, b"\x01\x10\x02\x00", "expected 8 more bytes of array"),
    (INTS, b"\x03\x02\x02\x04\x00", "the block is 1 bytes longer than it says"),
    (INTS, b"\x01\x04\x02\x02\x00", "the block is -1 bytes longer than it says"),
    (MAP, b"\x02\x01", "got a length of -1"),
    (MAP, b"\x02\x02\xff\x00\x00", "expected UTF-8"),
    (MAP, b"\x02\x02a\x07\x00", '$["a"]: expected boolean 0 or 1, got 7 (byte 3)'),
    (MAP, b"\x02\x80", "expected 1 more bytes"),
    (MAP, b"\x02\x20a", "expected 16 more bytes"),
    (NODE, b"\x02" * 100 + b"\x00", "nested deeper than 100"),
    (DECIMAL, b"\x00", "got a length of 0"),
    (DECIMAL, b"\x04\x03\xe8", "decimal of at most 3 digits"),
    (DECIMAL, b"\x04\xfc\x18", "decimal of at most 3 digits"),
    (DECIMAL, b"\x06\x01\x00\x00", "decimal of at most 3 digits"),
    (FIXED_DECIMAL, b"\x7f\xff", "decimal of at most 3 digits"),
    (UUID, varint(36) + UUID_TEXT.replace(b"-", b"0"), "expected a UUID"),
    (UUID, varint(36) + UUID_TEXT.replace(b"a", b"g"), "expected a UUID"),
    (UUID, varint(32) + UUID_TEXT.replace(b"-", b""), "expected a UUID"),
    (TIME, varint(86_400_000), "int from 0 to 86399999"),
]


@pytest.mark.parametrize(("schema", "message", "reason"), BAD)
def test_binary_bad_data_is_refused_with_path_and_byte(
    schema: object, message: bytes, reason: str
) -> None:
    found = compiled(schema).check(message, b"avro/binary")
    assert isinstance(found, str)
    assert reason in found
    assert found.startswith("$")
    assert len(found) <= 500


def test_binary_path_leads_through_records_arrays_and_maps() -> None:
    schema = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "a", "type": "int"},
            {"name": "b", "type": {"type": "map", "values": {"type": "array", "items": FIXED}}},
        ],
    }
    reason = compiled(schema).validate_binary(b"\x00\x02\x06k\xc3\xa9\x04xxy")
    assert reason == '$.b["ké"][1]: expected 2 more bytes of F, got 1 (byte 9)'


def test_binary_extra_record_of_the_specification_is_accepted() -> None:
    # SOURCE: Apache Avro 1.12, "Binary Encoding": {"a": 27, "b": "foo"}.
    schema = {
        "type": "record",
        "name": "test",
        "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}],
    }
    assert compiled(schema).validate_binary(bytes.fromhex("3606666f6f")) is None


# --- hostile ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "message", "reason"),
    [
        (NODE, b"\x02" * 20_000, "nested deeper than 100"),
        ({"type": "array", "items": "null"}, varint(2**40) + b"\x00", "more values than"),
        ({"type": "array", "items": EMPTY}, varint(2**40) + b"\x00", "more values than"),
        ({"type": "array", "items": "null"}, varint(-(2**40)) + b"\x00\x00", "more values than"),
        (
            {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}},
            varint(2**62),
            "more values than",
        ),
        ({"type": "fixed", "name": "F", "size": 2**31 - 1}, b"x", "2147483647 more bytes"),
        (
            {
                "type": "array",
                "items": {**EMPTY, "fields": [{"name": "e", "type": {**EMPTY, "name": "I"}}]},
            },
            varint(2**40) + b"\x00",
            "more values than",
        ),
        (
            {"type": "array", "items": {"type": "array", "items": "null"}},
            (varint(2**15) + varint(30_000) + b"\x00") * 100,
            "more values than",
        ),
        (
            {"type": "record", "name": "A", "fields": [{"name": "a", "type": "A"}]},
            b"",
            "nested deeper",
        ),
    ],
)
def test_binary_hostile_bytes_are_refused_at_once(
    schema: object, message: bytes, reason: str
) -> None:
    validator = compiled(schema)
    began = time.process_time()
    found = validator.validate_binary(message)
    assert time.process_time() - began < 0.1
    assert found is not None
    assert reason in found


def test_binary_eight_megabytes_of_empty_items_are_bounded() -> None:
    validator = compiled({"type": "array", "items": "null"})
    began = time.process_time()
    found = validator.validate_binary(varint(2**40) + bytes(8_388_608))
    assert time.process_time() - began < 0.2
    assert found is not None


# --- framing ------------------------------------------------------------------------------------


def test_single_object_of_fastavro_fingerprint_is_accepted() -> None:
    validator = compiled(NODE)
    canonical = fastavro.schema.to_parsing_canonical_form(NODE)
    crc = bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
    assert validator.validate_binary(b"\xc3\x01" + crc + b"\x02\x00") is None


def test_single_object_of_another_schema_is_refused() -> None:
    reason = compiled(NODE).validate_binary(b"\xc3\x01" + bytes(8) + b"\x02\x00")
    assert reason is not None
    assert "in the single-object header, got 0000000000000000" in reason


def test_single_object_with_bad_payload_tells_the_byte_of_the_message() -> None:
    validator = compiled(NODE)
    reason = validator.validate_binary(b"\xc3\x01" + validator.fingerprint + b"\x02\x04")
    assert reason == "$.next.next: expected branch 0 to 1 of a union, got 2 (byte 11)"


def test_bare_data_that_looks_like_a_header_is_taken_bare() -> None:
    assert (
        compiled({"type": "fixed", "name": "F", "size": 12}).validate_binary(
            b"\xc3\x01" + bytes(10)
        )
        is None
    )
    assert compiled({"type": "fixed", "name": "F", "size": 7}).validate_binary(bytes(7)) is None


def test_confluent_frame_is_accepted_and_its_fault_is_the_bare_one() -> None:
    validator = compiled("string")
    assert validator.validate_binary(b"\x00\x00\x00\x00\x07\x02a") is None
    reason = validator.validate_binary(b"\x00\x00\x00\x00\x07\x02\xff")
    assert reason == "$: expected the end of the message, got 6 more bytes (byte 1)"


def test_avro_file_is_named_in_the_reason() -> None:
    buffer = io.BytesIO()
    fastavro.writer(buffer, fastavro.parse_schema("int"), [1])
    reason = compiled("int").check(buffer.getvalue(), b"application/avro")
    assert isinstance(reason, str)
    assert reason.endswith("this is an Avro file, and a message is one value")


# --- Content-Types ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        b"avro/binary",
        b"avro/bytes",
        b"Application/Avro; charset=x",
        b"application/vnd.apache.avro",
        b"application/vnd.apache.avro+binary",
        b"application/octet-stream",
    ],
)
def test_content_type_binary_means_binary(content_type: bytes) -> None:
    validator = compiled("int")
    assert validator.check(b"\x80\x01", content_type) is None
    assert validator.check(b"64", content_type) is not None


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        b"",
        b"application/json",
        b"application/avro+json",
        b"application/vnd.apache.avro+json",
        b"text/plain; charset=utf-8",
        b"application/x-www-form-urlencoded",
        b"application/cloudevents+json",
        b"some/thing",
        b"\xff\xfe" * 200,
    ],
)
def test_content_type_of_others_means_json(content_type: bytes | None) -> None:
    validator = compiled("int")
    for _ in range(2):
        assert validator.check(b"64", content_type) is None
        assert validator.check(b"\x80\x01", content_type) is not None


@pytest.mark.parametrize(
    "content_type",
    [b"application/x-protobuf", b"application/vnd.google.protobuf", b"application/graphql"],
)
def test_content_type_of_another_schema_type_is_415(content_type: bytes) -> None:
    for _ in range(2):
        with pytest.raises(ClientFault) as caught:
            compiled("int").check(b"1", content_type)
        assert caught.value.kind.word == "media-type-unsupported"


def test_content_types_of_clients_do_not_pile_up() -> None:
    from fastgw.schema import avro

    validator = compiled("int")
    for number in range(300):
        assert validator.check(b"1", b"x/y%d" % number) is None
    assert len(avro._IS_BINARY) <= avro.TYPES_REMEMBERED_MAX


# --- the walker's face --------------------------------------------------------------------------


def test_walker_and_program_know_the_same_rules() -> None:
    told = {*avro_program._TEXTS, "good", "truncated", "trailing"}
    assert told == set(AVRO_RULES)


def test_walker_refuses_programs_that_lead_nowhere() -> None:
    for nodes in (
        [],
        [(99, (), 0, 0, b"")],
        [(-1, (), 0, 0, b"")],
        [(11, (1,), 0, 0, b"")],
        [(11, (-1,), 0, 0, b"")],
        [(12, (), 0, 0, b"")],
    ):
        with pytest.raises(InternalError):
            AvroWalker(nodes)


def test_walker_refuses_starts_outside_and_a_second_program() -> None:
    walker = AvroWalker([(0, (), 0, 0, b"")])
    for start in (-1, 2):
        with pytest.raises(InternalError):
            walker.find_fault(b"x", start)
    with pytest.raises(InternalError):
        walker.__init__([(0, (), 0, 0, b"")])  # type: ignore[misc]
    with pytest.raises(InternalError):
        AvroWalker.__new__(AvroWalker).find_fault(b"")
