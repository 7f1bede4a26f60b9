"""`python -m tests.property.json_differential --minutes 5`: fast path against authority.

What enters: schemas and documents made at random, documents near the schema more often than not.
What leaves: counts, and an exit code: 1 when the fast path accepted what the authority refuses.
The strategies and the comparison are shared with the test that runs in CI.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from typing import Any, Final

import msgspec

from fastgw._core import split_batch
from fastgw.schema.base import SchemaError
from fastgw.schema.json import JsonValidator, compile_json

COUNTS: Final[Counter[str]] = Counter()
NAMES: Final = ("a", "b", "c d", "é", "id", "", "x/y", "~", "$ref")
TEXTS: Final = (
    *("", "a", "ab", "abc", "é", "😀", "e\u0301", "1", "null", "2024-02-29", "a@b.de"),
    *("2024-01-31T10:00:00Z", "2024-02-30T10:00:00Z", "10.0.0.1", "256.1.1.1", "http://a.de/x"),
)
NUMBERS: Final = (
    *(0, 1, -1, 2, 3, 5, 10, 1.0, 1.5, -0.0, 0.1, 2.5, 1e2, 2**53, 2**53 + 1, 2**63 - 1),
    *(2**63, -(2**63), 2**64, 10**30, 1e300, -1e-7),
)
FORMATS: Final = ("date", "date-time", "email", "ipv4", "uri", "uuid", "none-such")
DRAFTS: Final = (
    None,
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
)
RAW: Final = (
    *(b'{"a":1,"a":"x"}', b'{"a":"\xff"}', b'{"z":"\xff"}', b'{"\xff":1}', b'"\\ud800"', b"1e400"),
    *(b'{"z":1e400}', b'{"a":1,"z":"\\udc00"}', b"NaN", b"[1,]", b"\xef\xbb\xbf1", b"1 2", b"01"),
    *(b'{"\\u0061":1}', b'{"a":1,"\\u0061":"x"}', b"[" * 3000, b'{"a":' * 3000, b"-0", b"1E2"),
    *(b"[" * 400 + b"]" * 400, b"9" * 5000, b'"\\u00e9"', b'"a\x00"', b'{"z":NaN}', b" 1\n", b"-"),
    *(b"\x001", b""),
)


class Maker:
    """Makes schemas and documents from one source of chance."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def make_schema(self) -> dict[str, Any]:
        """Make a schema with definitions that may refer to each other."""
        pick = self.chance.choice
        root = self.make_node(0)
        schema = root if isinstance(root, dict) else {}
        schema["definitions"] = {"a": self.make_node(1), "b": self.make_node(1)}
        draft = pick(DRAFTS)
        return schema if draft is None else {"$schema": draft, **schema}

    def make_node(self, depth: int) -> Any:
        """Make one schema."""
        chance, pick = self.chance, self.chance.choice
        roll = chance.random()
        if depth > 3 or roll < 0.05:
            return pick((True, {}, {"type": "string"}, {"type": "integer"}, {"type": "null"}))
        if roll < 0.13:
            return {"$ref": pick(("#", "#/definitions/a", "#/definitions/b"))}
        if roll < 0.23:
            word = pick(("anyOf", "oneOf", "anyOf", "allOf"))
            return {word: [self.make_node(depth + 1) for _ in range(chance.randint(1, 3))]}
        if roll < 0.31:
            values = chance.sample((*TEXTS, *NUMBERS, None, True, False), chance.randint(1, 4))
            node: dict[str, Any] = (
                {"enum": values} if chance.random() < 0.7 else {"const": values[0]}
            )
            if chance.random() < 0.3:
                node["type"] = self.make_type()
            return node
        node = {}
        if chance.random() < 0.9:
            node["type"] = self.make_type()
        for add in (self.add_numbers, self.add_text, self.add_array, self.add_object):
            if chance.random() < 0.55:
                add(node, depth)
        return node

    def make_type(self) -> Any:
        """Make a value of `type`."""
        names = ("object", "object", "object", "array", "string", "integer", "number", "boolean")
        if self.chance.random() < 0.7:
            return self.chance.choice(names)
        every = ("object", "array", "string", "integer", "number", "boolean", "null")
        return self.chance.sample(every, self.chance.randint(1, 3))

    def add_numbers(self, node: dict[str, Any], _depth: int) -> None:
        """Add bounds of numbers."""
        word = self.chance.choice(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
        node[word] = self.chance.choice(NUMBERS)
        if self.chance.random() < 0.2:
            node["multipleOf"] = self.chance.choice((1, 2, 3, 0.1, 2.5, 1.0, 2**60))

    def add_text(self, node: dict[str, Any], _depth: int) -> None:
        """Add rules for strings."""
        word = self.chance.choice(("minLength", "maxLength", "format", "format", "pattern"))
        values = {"format": FORMATS, "pattern": ("^a", "b$", "^[a-z]*$")}
        node[word] = self.chance.choice(values.get(word, (0, 1, 2, 2.0)))

    def add_array(self, node: dict[str, Any], depth: int) -> None:
        """Add rules for arrays."""
        if self.chance.random() < 0.8:
            node["items"] = self.make_node(depth + 1)
        if self.chance.random() < 0.4:
            node[self.chance.choice(("minItems", "maxItems"))] = self.chance.choice((0, 1, 2))
        if self.chance.random() < 0.1:
            node["uniqueItems"] = self.chance.choice((True, False))

    def add_object(self, node: dict[str, Any], depth: int) -> None:
        """Add rules for objects."""
        names = self.chance.sample(NAMES, self.chance.randint(0, 4))
        if names:
            node["properties"] = {name: self.make_node(depth + 1) for name in names}
        if self.chance.random() < 0.5 and names:
            node["required"] = self.chance.sample(names, self.chance.randint(1, len(names)))
            if self.chance.random() < 0.1:
                node["required"].append("other")
        if self.chance.random() < 0.4:
            node["additionalProperties"] = self.chance.choice(
                (True, False, self.make_node(depth + 1))
            )
        if self.chance.random() < 0.15:
            node[self.chance.choice(("minProperties", "maxProperties"))] = self.chance.choice(
                (0, 1, 2)
            )

    def make_value(self, root: dict[str, Any], node: Any, depth: int) -> Any:
        """Make a value that mostly follows a schema."""
        chance, pick = self.chance, self.chance.choice
        if depth > 8 or not isinstance(node, dict) or chance.random() < 0.06:
            return pick((*TEXTS, *NUMBERS, None, True, False, [], {}, [1], {"a": 1}))
        if "$ref" in node:
            steps = node["$ref"].split("/")[1:]
            return self.make_value(
                root, root["definitions"][steps[1]] if steps else root, depth + 1
            )
        for word in ("anyOf", "oneOf", "allOf"):
            if word in node:
                return self.make_value(root, pick(node[word]), depth + 1)
        if "enum" in node:
            return pick(node["enum"])
        if "const" in node:
            return node["const"]
        kind = node.get("type", ("object", "array", "string", "number"))
        kind = kind if isinstance(kind, str) else pick(kind)
        if kind == "object":
            properties = node.get("properties", {})
            required = node.get("required", [])
            value = {
                name: self.make_value(root, child, depth + 1)
                for name, child in properties.items()
                if name in required or chance.random() < 0.6
            }
            if chance.random() < 0.2:
                value[pick(NAMES)] = pick((1, "a", None))
            return value
        if kind == "array":
            count = chance.randint(0, 3)
            return [self.make_value(root, node.get("items"), depth + 1) for _ in range(count)]
        if kind in {"integer", "number"}:
            return pick(NUMBERS)
        return (
            pick(TEXTS) if kind == "string" else pick((True, False)) if kind == "boolean" else None
        )

    def make_body(self, schema: dict[str, Any]) -> bytes:
        """Make the bytes of a message."""
        roll = self.chance.random()
        if roll < 0.08:
            return self.chance.choice(RAW)
        body = msgspec.json.encode(self.make_value(schema, schema, 0))
        if roll < 0.2 and body:
            place = self.chance.randrange(len(body))
            junk = self.chance.choice((b"", b"\xff", b'"', b"e400", b"0", b"}", b"\\ud800", b" "))
            body = body[:place] + junk + body[place + (self.chance.random() < 0.5) :]
        return body


def compare(validator: JsonValidator, body: bytes) -> bool:
    """Compare both tiers on one document. Returns False when the fast path is wrong."""
    COUNTS["documents"] += 1
    if validator.accepts is None:
        return True
    COUNTS["documents with a fast path"] += 1
    reason = validator.judge(body)
    if reason is not None and reason.startswith("nested deeper than"):
        # WHY: the bound on the authority's time is no verdict; such a message may well be valid.
        COUNTS["beyond the authority's depth"] += 1
        return True
    valid = reason is None
    COUNTS["valid"] += valid
    if not validator.accepts.is_surely_good(body):
        return True
    COUNTS["accepted by the fast path"] += 1
    # In a batch the walk stands in for the scan, which must see the same message.
    return valid and split_batch(b"[" + body + b"]") == [body.strip(b" \t\r\n")]


def compare_schema(seed: int, documents: int) -> None:
    """Compare both tiers on documents for one schema. Raises AssertionError with both."""
    maker = Maker(random.Random(seed))
    schema = maker.make_schema()
    try:
        validator = compile_json(msgspec.json.encode(schema).decode(), resolve=lambda _: None)
    except SchemaError:
        COUNTS["schemas refused"] += 1
        return
    COUNTS["schemas"] += 1
    COUNTS["schemas with a fast path"] += validator.accepts is not None
    for _ in range(documents):
        body = maker.make_body(schema)
        assert compare(validator, body), f"seed {seed}: {schema} accepts {body!r}"


def main() -> int:
    """Compare for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**40))
    options = parser.parse_args()
    seed, end = options.seed, time.monotonic() + 60 * options.minutes
    failed = 0
    while time.monotonic() < end and failed < 10:
        seed += 1
        try:
            compare_schema(seed, 60)
        except AssertionError as exc:
            failed += 1
            print(exc)
    print(f"seeds {options.seed} to {seed}: {dict(COUNTS)}; wrong: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
