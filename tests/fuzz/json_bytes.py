"""Targets `batch` and `schema`: arbitrary bytes as a batch, as a station's message.

What enters: one byte that chooses the mode or the schema, then the body. What must hold: `batch`
splits exactly what the standard library's json reads, into the same bytes; a validator never
raises, accepts nothing that is no JSON, and its short way accepts nothing that it refuses.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from fastgw import _core
from fastgw.errors import ClientFault
from fastgw.schema.json import compile_json

if TYPE_CHECKING:
    from fastgw._core import JsonWalker

SPACE: Final = re.compile(rb"[ \t\r\n]*")
SPACE_OF_LINE: Final = re.compile(rb"[ \t\r]*")
DEPTH_MAX: Final = 512
"""LIMIT: JSON_DEPTH_MAX of the core."""

SCHEMAS: Final = (
    {"type": "object"},
    {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 9},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "price": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5},
        },
        "required": ["name"],
        "additionalProperties": False,
    },
    {"enum": [1, "1", None, [1], {"a": 1.0}]},
    {"type": "string", "pattern": "^[a-z]+-[0-9]{1,4}$"},
    {"anyOf": [{"type": "string", "format": "date-time"}, {"const": 1e2}]},
    {"$defs": {"t": {"items": {"$ref": "#/$defs/t"}, "maxItems": 3}}, "$ref": "#/$defs/t"},
    {"type": "object", "propertyNames": {"maxLength": 3}, "maxProperties": 2, "minProperties": 1},
)


def refuse_constant(text: str) -> None:
    """NaN and Infinity are the standard library's own."""
    raise ValueError(text)


# WHY: digits stay text, because the library refuses integers of more than 4,300 of them.
DECODER: Final = json.JSONDecoder(parse_constant=refuse_constant, parse_int=str, parse_float=str)


def fuzz_batch(data: bytes) -> None:
    """Split one batch; raise when the plain reader sees it otherwise."""
    if not data:
        return
    by_lines, body = bool(data[0] & 1), data[1:]
    try:
        found, fault = _core.split_batch(body, by_lines), None
    except ClientFault as error:
        found, fault = None, error.text
    try:
        expected = split_plainly(body, by_lines=by_lines)
    except RecursionError:
        expected = None
    if found is None and expected is not None and fault and "nesting is deeper" in fault:
        assert len(re.findall(rb"[\[{]", body)) > DEPTH_MAX, fault
        return
    assert found == expected, f"{found!r} ({fault}), and plainly {expected!r}"


def split_plainly(body: bytes, *, by_lines: bool) -> list[bytes] | None:
    """What `split_batch` has to return, read with the standard library; None for no batch."""
    try:
        body.decode("utf-8")
        return split_lines(body) if by_lines else split_array(body)
    except ValueError:
        return None


def read_value(body: bytes, at: int) -> int:
    """Where the value that starts at `at` ends; Latin-1 keeps one character a byte."""
    end: int = DECODER.raw_decode(body.decode("latin-1"), at)[1]
    return end


def split_array(body: bytes) -> list[bytes]:
    """Split one array."""
    found: list[bytes] = []
    at = skip(body, 0)
    if body[at : at + 1] != b"[":
        raise ValueError("no array")
    at = skip(body, at + 1)
    closing = body[at : at + 1] == b"]"
    while not closing:
        end = read_value(body, at)
        found.append(body[at:end])
        at = skip(body, end)
        closing = body[at : at + 1] == b"]"
        if not closing:
            if body[at : at + 1] != b",":
                raise ValueError("no comma")
            at = skip(body, at + 1)
    if skip(body, at + 1) != len(body):
        raise ValueError("something behind the array")
    return found


def skip(body: bytes, at: int) -> int:
    """Behind the white space at `at`."""
    space = SPACE.match(body, at)
    return at if space is None else space.end()


def split_lines(body: bytes) -> list[bytes]:
    """Split one value a line."""
    found = []
    for line in body.split(b"\n"):
        text = line.strip(b" \t\r")
        if text:
            if read_value(text, 0) != len(text):
                raise ValueError("something behind the value")
            found.append(text)
    return found


@cache
def validators() -> list[tuple[Any, JsonWalker | None]]:
    """The compiled schemas, each with its short way."""
    compiled = [compile_json(json.dumps(one), resolve=lambda _: None) for one in SCHEMAS]
    return [(one, one.accepts) for one in compiled]


def fuzz_schema(data: bytes) -> None:
    """Judge one message; raise when the validator raises, or takes what is no JSON."""
    if not data:
        return
    validator, accepts = validators()[data[0] % len(SCHEMAS)]
    body = data[1:]
    reason = validator.check(body, None)
    assert reason is None or (reason and "\n" not in reason)
    if reason is None:
        # WHY: a plain reader of JSON text; it takes what RFC 8259 takes and NaN, which it refuses.
        json.loads(body.decode("utf-8"), parse_constant=refuse_constant, parse_int=str)
    if accepts is None:
        return
    if not accepts.is_surely_good(body):
        return
    reason = validator.judge(body)
    assert reason is None, f"the short way takes what the authority refuses: {reason}"
