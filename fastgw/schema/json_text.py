"""Says why a message breaks a JSON schema: path, rule, expected, got, in one line.

What enters: an error of the library, or of the decoder. What leaves: a text of at most 500
characters. `fastgw.schema.json` calls it for refused messages only. It must never show more of a
message than clipped values: the library's own text holds the whole failing part.
"""

from __future__ import annotations

from typing import Any, Final

import jsonschema_rs

from fastgw.errors import clip
from fastgw.schema.base import REASON_CHARS_MAX
from fastgw.schema.json_guard import escape

LISTED_MAX: Final = 5
"""LIMIT: names and values listed in a text before "and N more"."""
PATH_CHARS_MAX: Final = 120
"""LIMIT: pointers are clipped so that the rule and the value still fit the line."""

_AT_LEAST: Final = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "multipleOf": "a multiple of",
    "minLength": "a length of at least",
    "maxLength": "a length of at most",
    "minItems": "at least this many items:",
    "maxItems": "at most this many items:",
    "minProperties": "at least this many properties:",
    "maxProperties": "at most this many properties:",
}
_EXPECTED: Final = {
    "anyOf": "a value that fits one of the alternatives",
    "oneOf": "a value that fits exactly one of the alternatives",
    "not": "a value that the schema under it does not accept",
    "uniqueItems": "items that differ from each other",
    "contains": "an item that fits",
    "falseSchema": "nothing here",
    "additionalItems": "no more items",
    "unevaluatedItems": "no more items",
    "propertyNames": "names that fit",
}


def describe_error(error: jsonschema_rs.ValidationError, message: Any) -> str:
    """Describe the first error of a message.

    Args:
        error: what the library raised.
        message: the decoded message, where missing properties are looked up.
    """
    text = f"'{point(error.instance_path)}' breaks {describe_rule(error, message)}"
    return text if len(text) <= REASON_CHARS_MAX else text[: REASON_CHARS_MAX - 1] + "…"


def describe_rule(error: jsonschema_rs.ValidationError, message: Any) -> str:
    """Describe the rule that was broken, what it expects, and what was got."""
    rule = point(error.evaluation_path)
    # WHY by the path: the error's own copy of the failing part may be as large as the message.
    try:
        value = find_value(message, error.instance_path)
    except (LookupError, TypeError):  # the library's paths are off beside empty names
        value = error.instance
    return f"{rule or '/'}: expected {_expected(error, value)}, got {show(value)}"


def find_value(message: Any, path: list[str | int]) -> Any:
    """Find the part of a message that a path leads to."""
    for step in path:
        message = message[step]
    return message


def point(path: list[str | int]) -> str:
    """Write a path as a JSON pointer, clipped."""
    text = ""
    for step in path:
        text += "/" + escape(step if isinstance(step, int) else step[:PATH_CHARS_MAX])
        if len(text) > PATH_CHARS_MAX:
            break
    return clip(text, PATH_CHARS_MAX)


def show(value: Any) -> str:
    """Show a value: its kind, and what it is where that is short."""
    if isinstance(value, dict):
        return f"an object with {count(len(value), 'property', 'properties')}"
    if isinstance(value, list):
        return f"an array of {count(len(value), 'item', 'items')}"
    if isinstance(value, str):
        return f"the string {quote(value)}"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return f"the number {clip(value)}"


def quote(text: str) -> str:
    """Quote a text, clipped."""
    return f'"{clip(text)}"'


def count(number: int, one: str, many: str) -> str:
    """Write a number with its noun."""
    return f"{number} {one if number == 1 else many}"


def _expected(error: jsonschema_rs.ValidationError, value: Any) -> str:
    kind: Any = error.kind
    name = str(kind.name)
    if name == "type":
        return " or ".join(kind.types)
    if name == "required":
        missing = [kind.property]
        return f"the property {quote(missing[0])}"
    if name in {"additionalProperties", "unevaluatedProperties"}:
        return f"no other properties, such as {_list(kind.unexpected)}"
    if name == "enum":
        return f"one of {_list(kind.options)}"
    if name == "const":
        return _brief(kind.expected_value)
    if name == "pattern" and not hasattr(kind, "pattern"):
        return "a string whose match is found within the limit of steps"
    if name == "pattern":
        return f"a string that matches {quote(kind.pattern)}"
    if name == "format":
        return f"a string in the format {clip(kind.format)}"
    if name == "propertyNames":
        inner: Any = kind.error
        return f"names that fit, which {show(inner.instance)} does not ({clip(inner.kind.name)})"
    if name in _AT_LEAST:
        return f"{_AT_LEAST[name]} {clip(kind.value)}"
    if name == "falseSchema" and isinstance(value, dict) and value:
        return f"no properties, such as {quote(next(iter(value)))}"
    return _EXPECTED.get(name, clip(name))


def _list(values: list[Any]) -> str:
    shown = ", ".join(_brief(value) for value in values[:LISTED_MAX])
    more = len(values) - LISTED_MAX
    return f"{shown} and {more} more" if more > 0 else shown


def _brief(value: Any) -> str:
    if isinstance(value, str):
        return quote(value)
    return show(value).removeprefix("the number ")
