"""Avro beside fastavro, on schemas and data that hypothesis makes.

What fastavro writes we accept, in binary, plain JSON and tagged JSON; of mutated bytes we accept
nothing that fastavro refuses. fastavro can crash on hostile bytes, so it reads them in a process of
its own, and only those that our walker has accepted.
"""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.schema.avro import AvroValidator, compile_avro
from fastgw.schema.avro_json import STEPS_FREE, JsonCheck
from fastgw.schema.avro_parse import parse_avro

Schema = Any
INT = st.integers(-(2**31), 2**31 - 1)
LONG = st.integers(-(2**63), 2**63 - 1)
PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": INT,
    "long": LONG,
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "bytes": st.binary(max_size=12),
    "string": st.text(max_size=12),
}


def number_names(schema: Schema, counter: list[int]) -> Schema:
    """Give each named type a name of its own."""
    if isinstance(schema, list):
        return [number_names(branch, counter) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    schema = dict(schema)
    if schema["type"] in ("record", "enum", "fixed"):
        counter[0] += 1
        schema["name"] = f"T{counter[0]}"
        # WHY: not "": fastavro does not take it for the null namespace, as the specification does.
        schema["namespace"] = ("a.b", "d", "c")[counter[0] % 3]
    for word in ("items", "values"):
        if word in schema:
            schema[word] = number_names(schema[word], counter)
    if "fields" in schema:
        schema["fields"] = [
            {"name": f"f{i}", "type": number_names(inner, counter)}
            for i, inner in enumerate(schema["fields"])
        ]
    return schema


def kind_of(schema: Schema) -> str:
    return schema["type"] if isinstance(schema, dict) else schema  # type: ignore[no-any-return]


def unions(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    named = ("record", "enum", "fixed")
    return st.lists(inner.filter(lambda s: not isinstance(s, list)), min_size=1, max_size=4).filter(
        lambda branches: (
            len({kind_of(b) for b in branches if kind_of(b) not in named})
            == sum(1 for b in branches if kind_of(b) not in named)
        )
    )


def composed(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda values: {"type": "map", "values": values}, inner),
        st.builds(lambda fields: {"type": "record", "fields": fields}, st.lists(inner, max_size=4)),
        unions(inner),
    )


LEAVES = st.one_of(
    st.sampled_from(sorted(PRIMITIVES)),
    st.builds(
        lambda n: {"type": "enum", "symbols": [f"S{i}" for i in range(n)]}, st.integers(1, 4)
    ),
    st.builds(lambda n: {"type": "fixed", "size": n}, st.integers(1, 5)),
)
SCHEMAS = st.recursive(LEAVES, composed, max_leaves=8).map(lambda s: number_names(s, [0]))


def data(draw: st.DrawFn, schema: Schema) -> Any:
    """A datum as fastavro takes it; branches of unions are named, as fastavro allows."""
    if isinstance(schema, list):
        branch = draw(st.sampled_from(schema))
        value = data(draw, branch)
        return value if branch == "null" else (label_of(branch), value)
    kind = kind_of(schema)
    if kind in PRIMITIVES:
        return draw(PRIMITIVES[kind])
    if kind == "enum":
        return draw(st.sampled_from(schema["symbols"]))
    if kind == "fixed":
        return draw(st.binary(min_size=schema["size"], max_size=schema["size"]))
    if kind == "record":
        return {field["name"]: data(draw, field["type"]) for field in schema["fields"]}
    count = draw(st.integers(0, 3))
    if kind == "array":
        return [data(draw, schema["items"]) for _ in range(count)]
    keys = draw(st.lists(st.text(max_size=5), min_size=count, max_size=count, unique=True))
    return {key: data(draw, schema["values"]) for key in keys}


def label_of(branch: Schema) -> str:
    if isinstance(branch, dict) and "name" in branch:
        space = branch["namespace"]
        return f"{space}.{branch['name']}" if space else str(branch["name"])
    return kind_of(branch)


def as_json(schema: Schema, value: Any, *, with_tags: bool) -> Any:
    """The JSON encoding of a datum, written plainly after the specification."""
    if isinstance(schema, list):
        if value is None:
            return None
        label, inner = value
        branch = next(b for b in schema if label_of(b) == label)
        shown = as_json(branch, inner, with_tags=with_tags)
        return {label: shown} if with_tags else shown
    kind = kind_of(schema)
    if kind in ("bytes", "fixed"):
        return value.decode("latin-1")
    if kind == "record":
        return {
            field["name"]: as_json(field["type"], value[field["name"]], with_tags=with_tags)
            for field in schema["fields"]
        }
    if kind == "array":
        return [as_json(schema["items"], item, with_tags=with_tags) for item in value]
    if kind == "map":
        return {k: as_json(schema["values"], v, with_tags=with_tags) for k, v in value.items()}
    return value


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schema, Any]:
    schema = draw(SCHEMAS)
    return schema, data(draw, schema)


def compiled(schema: Schema) -> AvroValidator:
    return compile_avro(json.dumps(schema), resolve=lambda _: None)


def written(schema: Schema, value: Any) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), value)
    return buffer.getvalue()


RELAXED = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@RELAXED
@given(cases())
def test_what_fastavro_writes_is_accepted(case: tuple[Schema, Any]) -> None:
    schema, value = case
    validator = compiled(schema)
    message = written(schema, value)
    assert validator.validate_binary(message) is None
    framed = b"\xc3\x01" + validator.fingerprint + message
    assert validator.validate_binary(framed) is None
    assert validator.validate_binary(b"\x00\x00\x00\x00\x01" + message) is None
    form = fastavro.schema.to_parsing_canonical_form(schema)
    assert validator.canonical == form
    assert validator.fingerprint.hex() == fastavro.schema.fingerprint(form, "CRC-64-AVRO")


@RELAXED
@given(cases())
def test_json_of_both_forms_is_accepted(case: tuple[Schema, Any]) -> None:
    schema, value = case
    for with_tags in (False, True):
        validator = compiled(schema)
        body = json.dumps(as_json(schema, value, with_tags=with_tags)).encode()
        assert validator.validate(body) is None
        assert validator._judge(body) is None


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.sampled_from([2**31, -(2**31) - 1, 2**63, "S0", "\u0100", 3.5e38, [], {}, [[]]]),
)


def edited(draw: st.DrawFn, value: Any) -> Any:
    """The value with one place in it changed."""
    if isinstance(value, list) and value and draw(st.booleans()):
        number = draw(st.integers(0, len(value) - 1))
        return [*value[:number], edited(draw, value[number]), *value[number + 1 :]]
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 4)) == 0:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: edited(draw, value[key])}
    if isinstance(value, dict) and draw(st.booleans()):
        return {**value, draw(st.sampled_from(["x", "int", "null", "string"])): draw(SCALARS)}
    return draw(SCALARS)


@RELAXED
@given(st.data(), cases())
def test_json_fast_way_accepts_nothing_that_the_authority_refuses(
    draws: st.DataObject, case: tuple[Schema, Any]
) -> None:
    schema, value = case
    with_tags = draws.draw(st.booleans())
    body = draws.draw(st.composite(edited)(as_json(schema, value, with_tags=with_tags)))
    message = json.dumps(body).encode()
    root, _ = parse_avro(json.dumps(schema), lambda _: None)
    validator = compiled(schema)
    fast = validator.validate(message)
    slow = JsonCheck(STEPS_FREE).find_fault(root, json.loads(message))
    if slow is None:
        assert fast is None
    else:
        # WHY: the parser refuses integers that JSON allows but no type of Avro holds.
        assert fast == slow or (fast or "").startswith("Bad Avro format - ")


READER = """
import io, json, sys, fastavro
for line in sys.stdin:
    schema, message = json.loads(line)
    stream = io.BytesIO(bytes.fromhex(message))
    try:
        fastavro.schemaless_reader(stream, fastavro.parse_schema(schema), None)
        print(json.dumps([True, stream.tell()]), flush=True)
    except Exception as error:
        print(json.dumps([False, repr(error)]), flush=True)
"""


@pytest.fixture(scope="module")
def reader() -> Any:
    """Read with fastavro in another process: (schema, bytes) -> whether, and how far."""
    with subprocess.Popen(
        [sys.executable, "-c", READER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as child:
        stdin, stdout = child.stdin, child.stdout
        assert stdin is not None and stdout is not None

        def read(schema: Schema, message: bytes) -> tuple[bool, int]:
            stdin.write(json.dumps([schema, message.hex()]) + "\n")
            answer = stdout.readline()
            assert answer, "fastavro crashed"
            good, end = json.loads(answer)
            return good, end

        yield read
        stdin.close()


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Schema, bytes]:
    schema, value = draw(cases())
    message = bytearray(written(schema, value))
    for _ in range(draw(st.integers(1, 3))):
        if not message:
            break
        at = draw(st.integers(0, len(message) - 1))
        action = draw(st.integers(0, 3))
        if action == 0:
            message[at] = draw(st.integers(0, 255))
        elif action == 1:
            message[at] ^= 1 << draw(st.integers(0, 7))
        elif action == 2:
            del message[at]
        else:
            message.insert(at, draw(st.sampled_from([0, 1, 2, 3, 127, 128, 255])))
    return schema, bytes(message)


@RELAXED
@given(mutated())
def test_mutated_bytes_that_fastavro_refuses_are_refused(
    reader: Any, case: tuple[Schema, bytes]
) -> None:
    schema, message = case
    if compiled(schema)._find_fault(message) is not None:
        return
    good, end = reader(schema, message)
    assert good, end
    assert end == len(message)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), SCHEMAS)
def test_any_bytes_are_judged_without_an_exception(message: bytes, schema: Schema) -> None:
    validator = compiled(schema)
    for content_type in (b"avro/binary", None):
        reason = validator.check(message, content_type)
        assert reason is None or (isinstance(reason, str) and len(reason) <= 500)


DECIMALS = st.tuples(st.integers(1, 60), st.integers(-(10**60), 10**60), st.integers(0, 3))


@given(DECIMALS)
def test_decimal_has_the_digits_of_its_precision(case: tuple[int, int, int]) -> None:
    precision, number, padding = case
    schema = {"type": "bytes", "logicalType": "decimal", "precision": precision}
    size = number.bit_length() // 8 + 1 + padding
    value = number.to_bytes(size, "big", signed=True)
    validator = compiled(schema)
    is_good = abs(number) < 10**precision
    message = bytes([size * 2]) + value
    assert (validator.validate_binary(message) is None) == is_good
    body = json.dumps(value.decode("latin-1")).encode()
    assert (validator.validate(body) is None) == is_good


@given(st.integers(-(10**6), 10**6), st.integers(1, 6))
def test_decimal_at_its_edges(offset: int, precision: int) -> None:
    for number in (10**precision + offset % 3 - 1, -(10**precision) + offset % 3 - 1):
        test_decimal_has_the_digits_of_its_precision.hypothesis.inner_test((precision, number, 0))  # type: ignore[attr-defined]


@given(st.binary(max_size=24))
def test_strings_are_utf8_as_python_knows_it(value: bytes) -> None:
    message = bytes([len(value) * 2]) + value
    try:
        value.decode()
    except UnicodeDecodeError:
        is_good = False
    else:
        is_good = True
    assert (compiled("string").validate_binary(message) is None) == is_good


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_json_numbers_of_a_float_are_finite(number: float) -> None:
    reason = compiled("float").validate(json.dumps(number).encode())
    assert (reason is None) == (math.isfinite(number) and abs(number) <= 3.4028234663852886e38)
