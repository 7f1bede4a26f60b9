"""The authority on JSON-encoded Avro data: decoded JSON in, the first fault out.

What enters: a schema's graph of types, and values as `msgspec.json.decode` makes them. What leaves:
None, or one line with path, expected and got. Called for what `avro_types` does not accept, and
for the defaults of a schema. It must never recurse deeper than its bound, nor try the branches of
unions again and again: a (branch, value) pair that failed once is remembered.

A union's value may stand plain, as in most JSON, or tagged as in `{"string": "x"}`, as the
specification writes it. A field that the record does not have is ignored, and one that has a
default may be missing; the specification says nothing on either, and Memphis did both.
SOURCE: Apache Avro 1.12, "JSON Encoding".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from typing import Final, NamedTuple

from fastgw.errors import clip
from fastgw.schema.avro_parse import AvroType, show_json
from fastgw.schema.avro_program import join_path
from fastgw.schema.base import REASON_CHARS_MAX

JSON_DEPTH_MAX: Final = 100
"""LIMIT: objects and arrays within each other; as in binary data."""
STEPS_FREE: Final = 100_000
"""LIMIT: values looked at beside one for each byte; only trying many branches needs that many."""
FLOAT_MAX: Final = 3.4028234663852886e38
"""LIMIT: the largest number that a float can hold. SOURCE: IEEE 754 binary32."""

UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")


class _Miss(NamedTuple):
    """Why a value does not fit, and the way to it, innermost step first."""

    text: str
    steps: list[str]


class _TooMuchError(Exception):
    """The value may not be judged to its end."""


_Check = Callable[["JsonCheck", AvroType, object, int], _Miss | None]


class JsonCheck:
    """Judges one decoded value.

    Args:
        steps: how many values may be looked at.
        with_tags: whether the values of unions may be tagged; those of defaults may not.
    """

    __slots__ = ("failed", "steps", "with_tags")

    def __init__(self, steps: int, *, with_tags: bool = True) -> None:
        self.steps = steps
        self.with_tags = with_tags
        self.failed: set[tuple[int, int]] = set()

    def find_fault(self, item: AvroType, value: object) -> str | None:
        """Why `value` is none of the type `item`; None when it is one."""
        self.failed.clear()
        try:
            miss = self.check(item, value, 0)
        except _TooMuchError as error:
            return f"$: {error}"
        if miss is None:
            return None
        path = join_path(["$", *reversed(miss.steps)])
        return clip(f"{path}: {miss.text}", REASON_CHARS_MAX - 60)

    def check(self, item: AvroType, value: object, depth: int) -> _Miss | None:
        """Judge a value that stands within `depth` others."""
        self.steps -= 1
        if self.steps < 0:
            raise _TooMuchError("its unions need more tries than a message of its size may cost")
        return _CHECKS[item.kind](self, item, value, depth)


def _miss(item: AvroType, value: object, rule: str = "") -> _Miss:
    name = f"{item.kind} {clip(item.name, 80)}" if item.name else item.kind
    if item.logical:
        name = f"{name} ({item.logical})"
    return _Miss(f"expected {name}{rule}, got {show_json(value)}", [])


def _check_null(_: JsonCheck, item: AvroType, value: object, __: int) -> _Miss | None:
    return None if value is None else _miss(item, value)


def _check_boolean(_: JsonCheck, item: AvroType, value: object, __: int) -> _Miss | None:
    return None if value is True or value is False else _miss(item, value)


def _check_int(_: JsonCheck, item: AvroType, value: object, __: int) -> _Miss | None:
    if type(value) is not int:
        return _miss(item, value)
    low, high = item.range
    return None if low <= value <= high else _miss(item, value, f" from {low} to {high}")


def _check_float(_: JsonCheck, item: AvroType, value: object, __: int) -> _Miss | None:
    if type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            return _miss(item, value, " that it can hold")
    elif type(value) is not float:
        return _miss(item, value)
    if item.kind == "float" and not -FLOAT_MAX <= value <= FLOAT_MAX:
        return _miss(item, value, " that it can hold")
    return None


def _check_string(_: JsonCheck, item: AvroType, value: object, __: int) -> _Miss | None:
    if type(value) is not str or (item.logical == "uuid" and not UUID.match(value)):
        return _miss(item, value)
    return None


def _check_bytes(_: JsonCheck, item: AvroType, value: object, __: int) -> _Miss | None:
    """Bytes stand as a string with one character, U+0000 to U+00FF, for each."""
    if type(value) is not str:
        return _miss(item, value)
    try:
        data = value.encode("latin-1")
    except UnicodeEncodeError:
        return _miss(item, value, " of characters up to U+00FF")
    if item.kind == "fixed" and len(data) != item.size:
        return _miss(item, value, f" of {item.size} bytes")
    if item.logical == "decimal":
        # LIMIT: a number needs no more than half a byte for a digit; longer ones are all over it.
        digits = data.lstrip(b"\xff" if data[:1] >= b"\x80" else b"\0")
        if not data or len(digits) > item.precision // 2 + 1:
            return _miss(item, value, f" of at most {item.precision} digits")
        if abs(int.from_bytes(data, "big", signed=True)) >= _power_of_ten(item.precision):
            return _miss(item, value, f" of at most {item.precision} digits")
    return None


def _check_enum(_: JsonCheck, item: AvroType, value: object, __: int) -> _Miss | None:
    if type(value) is str and value in item.symbols:
        return None
    return _miss(item, value, f" of {clip(', '.join(islice(item.symbols, 10)), 80)}")


def _check_array(self: JsonCheck, item: AvroType, value: object, depth: int) -> _Miss | None:
    if type(value) is not list:
        return _miss(item, value)
    _go_deeper(depth)
    child = item.children[0]
    for number, element in enumerate(value):
        miss = self.check(child, element, depth + 1)
        if miss is not None:
            miss.steps.append(f"[{number}]")
            return miss
    return None


def _check_map(self: JsonCheck, item: AvroType, value: object, depth: int) -> _Miss | None:
    if type(value) is not dict:
        return _miss(item, value)
    _go_deeper(depth)
    child = item.children[0]
    for key, element in value.items():
        miss = self.check(child, element, depth + 1)
        if miss is not None:
            miss.steps.append(f'["{clip(key)}"]')
            return miss
    return None


def _check_record(self: JsonCheck, item: AvroType, value: object, depth: int) -> _Miss | None:
    if type(value) is not dict:
        return _miss(item, value)
    _go_deeper(depth)
    for name in item.required:
        if name not in value:
            return _Miss(f"field {clip(name)} of {clip(item.name, 80)} is missing", [])
    # WHY: the shorter of both is walked, so that empty objects for large records cost little.
    children = item.by_name
    names = value if len(value) < len(children) else children
    for name in names:
        if name in value and name in children:
            miss = self.check(children[name], value[name], depth + 1)
            if miss is not None:
                miss.steps.append(f".{clip(name)}")
                return miss
    return None


def _check_union(self: JsonCheck, item: AvroType, value: object, depth: int) -> _Miss | None:
    closest: _Miss | None = None
    if self.with_tags and type(value) is dict and len(value) == 1:
        label, inner = next(iter(value.items()))
        tagged = item.by_label.get(label)
        if tagged is not None and tagged.kind != "null":
            closest = self.check(tagged, inner, depth + 1)
            if closest is None:
                return None
            closest.steps.append(f".{clip(label)}")
    fitting = item.by_json.get(type(value), ())
    for branch in fitting:
        pair = (id(branch), id(value))
        if pair in self.failed:
            continue
        miss = self.check(branch, value, depth)
        if miss is None:
            return None
        if type(value) is dict or type(value) is list:
            self.failed.add(pair)
        if len(fitting) == 1 and closest is None:
            closest = miss
    if closest is not None:
        return closest
    labels = clip(", ".join(branch.label for branch in item.children[:10]), 120)
    return _Miss(f"expected one of {labels}, got {show_json(value)}", [])


@lru_cache(64)
def _power_of_ten(digits: int) -> int:
    return int(10**digits)


def _go_deeper(depth: int) -> None:
    if depth >= JSON_DEPTH_MAX:
        raise _TooMuchError(f"values are nested deeper than {JSON_DEPTH_MAX}")


_CHECKS: Final[dict[str, _Check]] = {
    "null": _check_null,
    "boolean": _check_boolean,
    "int": _check_int,
    "long": _check_int,
    "float": _check_float,
    "double": _check_float,
    "bytes": _check_bytes,
    "string": _check_string,
    "fixed": _check_bytes,
    "enum": _check_enum,
    "array": _check_array,
    "map": _check_map,
    "record": _check_record,
    "union": _check_union,
}
