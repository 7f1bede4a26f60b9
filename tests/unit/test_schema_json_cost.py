"""What one JSON message may cost: each bound is reached, and what is below it is judged."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from fastgw.schema.json import (
    BACKTRACK_NS_MAX,
    EXPLAINED_BURST_S,
    EXPLAINED_COPIES_MAX,
    EXPLAINED_SHARE,
    EXPLAINED_VISITS_MAX,
    JsonValidator,
    compile_authority,
    compile_json,
)
from fastgw.schema.json_cost import COST_NS_MAX, LEVELS_MAX
from fastgw.schema.json_guard import read_documents
from fastgw.schema.json_width import split_leading

WIDE = {"anyOf": [{"const": n} for n in range(9000)]}
BACK = {"contains": {"pattern": r"^(a*)(a*)(a*)(a*)\1\2\3\4b"}}
AHEAD = {"pattern": "^(?:(?=[^x]*$)a)*$"}
UNIQUE = {
    "$ref": "#/$defs/a",
    "$defs": {"a": {"uniqueItems": True, "items": {"$ref": "#/$defs/a"}}},
}
NO_MORE = "too much work to judge"


def build(schema: Any) -> JsonValidator:
    return compile_json(json.dumps(schema), resolve=lambda _: None)


def alternatives(rule: str, count: int) -> dict[str, Any]:
    return {"anyOf": [{rule: f"a{n:03}" if rule == "const" else n} for n in range(count)]}


def array(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


class Clock:
    """Tells the time that a test sets, and moves on at each look."""

    def __init__(self) -> None:
        self.now = 100.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def build_with(schema: Any, clock: Clock) -> JsonValidator:
    documents = read_documents(json.dumps(schema), lambda _: None)
    authority = compile_authority(documents)
    return JsonValidator(authority, None, documents, "2020-12", clock=clock)


COSTLY: dict[str, tuple[Any, bytes]] = {
    "contains": ({"contains": alternatives("minimum", 500), "minContains": 60_000},
                 array(b"499", 100_000)),
    "items": ({"items": alternatives("const", 500)}, array(b'"a499"', 100_000)),
    "properties": ({"additionalProperties": alternatives("const", 500)},
                   b"{" + b",".join(b'"%d":"a499"' % n for n in range(60_000)) + b"}"),
    "names": ({"propertyNames": {"not": alternatives("const", 500)}},
              b"{" + b",".join(b'"%d":1' % n for n in range(60_000)) + b"}"),
    "through references": (
        {"$defs": {"w": alternatives("const", 500)}, "items": {"items": {"$ref": "#/$defs/w"}}},
        array(array(b'"a499"', 100), 500)),
    "dependent": ({"items": {"dependentRequired": {f"a{n}": ["b"] for n in range(5000)}}},
                  array(b'{"a":1}', 20_000)),
    "tiny floats": ({"contains": {"const": 5}}, array(b"1e-300", 100_000)),
    "great floats": ({"contains": {"multipleOf": 1000.37}}, array(b"1e300", 20_000)),
    "floats among numbers": ({"contains": {"enum": list(range(500))}}, array(b"0.5", 10_000)),
    "floats within": ({"items": {"enum": [[n, 1.5] for n in range(500)]}},
                      array(b"[0.5,1.5]", 10_000)),
    "long integers": ({"contains": {"const": 5}}, array(b"9" * 4000, 250)),
    "long integers, bound": ({"contains": {"maximum": 5}}, array(b"9" * 4000, 500)),
    "unique integers": ({"uniqueItems": True},
                        b"[" + b",".join(b"%d" % (10**18 + n) for n in range(5000)) + b"]"),
    "unique integers within": (
        {"items": {"uniqueItems": True}},
        b"[[" + b",".join(b'{"a":%d}' % (10**99 + n) for n in range(1000)) + b"]]"),
    "unique within unique": (
        UNIQUE, b"[1,2," * 400 + array(b'"x"', 20_000) + b"]" * 400),
    "patterns": ({"not": {"anyOf": [{"pattern": f"(a|b)*a(a|b){{{n}}}x"} for n in range(300)]}},
                 b'"' + b"ab" * 500_000 + b'"'),
    "back-references": (BACK, array(b'"' + b"a" * 32 + b'!"', 5000)),
    "back-references of names": ({"patternProperties": {r"^(a*)(a*)(a*)\1\2\3b": False}},
                                 b"{" + b",".join(b'"%da":1' % n for n in range(999)) + b"}"),
    "look-ahead at each byte": (AHEAD, b'"' + b"a" * 16_000 + b'"'),
}  # fmt: skip


@pytest.mark.parametrize("name", COSTLY)
def test_check_costly_message_is_refused_before_it_is_judged(name: str) -> None:
    schema, body = COSTLY[name]
    validator = build(schema)
    started = time.process_time()
    reason = validator.check(body, None)
    assert reason is not None and NO_MORE in reason, reason
    assert "limit of" in reason and len(reason) < 300
    assert time.process_time() - started < 1  # 0.1 at most; judged, most take 5 s to hours


CHEAP: tuple[tuple[Any, bytes], ...] = (
    ({"items": alternatives("const", 500)}, array(b'"a499"', 10_000)),
    ({"items": {"minimum": 0}, "not": {"type": "string"}}, array(b"0.5", 250_000)),
    ({"properties": {"id": {"pattern": "(?<!a)b"}}},
     json.dumps({"id": "cb", **{f"p{n}": "x" * 9000 for n in range(90)}}).encode()),
    ({"items": {"oneOf": [{"properties": {"kind": {"const": k}}, "required": ["kind"]}
                          for k in "abc"]}}, array(b'{"kind":"c","n":1}', 50_000)),
    ({"contains": {"const": 5}}, array(b"1", 100_000)[:-1] + b",5]"),
    ({"properties": {f"p{n}": {"enum": ["a", n]} for n in range(1000)}},
     json.dumps({f"p{n}": n for n in range(1000)}).encode()),
    ({"pattern": "^[a-z]+$"}, b'"' + b"a" * 1_000_000 + b'"'),
    ({"pattern": r"^(?!\s*$).+"}, b'"' + b"a" * 1_000_000 + b'"'),
    ({"pattern": r"^(?!x)(?=.*\d)[a-z0-9]+$"}, b'"' + b"a1" * 100_000 + b'"'),
    ({"items": {"pattern": "(?<!a)b"}}, array(b'"cb"', 40)),
    ({"uniqueItems": True}, json.dumps([7 * 10**17 + 10**6 * n for n in range(20_000)]).encode()),
    (UNIQUE, b"[1,2," * 200 + b'"' + b"x" * 1_000_000 + b'"' + b"]" * 200),
)  # fmt: skip


@pytest.mark.parametrize(("schema", "body"), CHEAP, ids=range(len(CHEAP)))
def test_check_large_message_below_the_limit_is_judged(schema: Any, body: bytes) -> None:
    validator = build(schema)
    started = time.process_time()
    assert validator.check(body, None) is None
    assert time.process_time() - started < 2  # 0.2 at most


def test_check_just_above_the_limit_is_refused() -> None:
    validator = build({"items": alternatives("const", 500)})
    width = max(lanes[0] for lanes in validator._cost.levels)
    count = COST_NS_MAX // width
    assert validator.check(array(b'"a499"', count - 2), None) is None
    assert NO_MORE in str(validator.check(array(b'"a499"', count + 2), None))
    matches = BACKTRACK_NS_MAX // 500_000
    back = build(BACK)
    assert NO_MORE not in str(back.check(array(b'""', matches), None))
    assert NO_MORE in str(back.check(array(b'""', matches + 1), None))


def test_compile_width_is_told_by_level_and_alternatives_of_place_are_not_added() -> None:
    rule = {"type": "integer"}
    narrow = build({"properties": {f"p{n}": rule for n in range(500)}})._cost
    assert [lanes[0] for lanes in narrow.levels] == [16, 16]
    wide = build({"items": {"allOf": [rule] * 500}})._cost
    assert [lanes[0] for lanes in wide.levels] == [16, 501 * 16]
    tree = {"type": "object", "additionalProperties": {"$ref": "#"}}
    assert {lanes[0] for lanes in build(tree)._cost.levels} == {32, 48}
    assert len(build(tree)._cost.levels) == LEVELS_MAX


def test_compile_largest_schemas_take_bounded_time() -> None:
    names = {f"p{n}": {"$ref": "#/$defs/d"} for n in range(1990)}
    schemas: tuple[Any, ...] = (
        WIDE,
        {"$defs": {"d": {"anyOf": [{"type": "string"}, {"$ref": "#"}]}}, "properties": names},
    )
    for schema in schemas:
        started = time.process_time()
        build(schema)
        assert time.process_time() - started < 3


def test_explain_refused_value_of_many_alternatives_is_bounded() -> None:
    validator = build(WIDE)
    started = time.process_time()
    reason = validator.check(b'"' + b"x" * 1_000_000 + b'"', None)
    assert reason is not None and reason.startswith("'' breaks /anyOf; the rule is not searched")
    assert time.process_time() - started < 0.2
    copies = EXPLAINED_COPIES_MAX // 9001 - 2
    reason = validator.check(b'"' + b"x" * copies + b'"', None)
    assert reason is not None and "expected a value that fits one of the alternatives" in reason


def test_explain_many_values_of_few_alternatives_is_bounded() -> None:
    validator = build({"items": {"anyOf": [{"const": "a"}, {"const": "b"}]}})
    few, many = (array(b'"c"', EXPLAINED_VISITS_MAX // n) for n in (10, 2))
    assert "expected a value" in str(validator.check(few, None))
    assert "not searched" in str(validator.check(many, None))


def test_explain_large_message_without_alternatives_is_not_judged_twice() -> None:
    validator = build({"items": {"maximum": 0.5}})
    reason = validator.check(array(b"0.25", 60_000)[:-1] + b",1]", None)
    assert reason == "'' breaks /items; the rule is not searched in a message of 300003 bytes"


def test_explain_many_messages_together_are_bounded_and_recover() -> None:
    clock = Clock()
    validator = build_with({"anyOf": [{"const": n} for n in range(100)]}, clock)
    clock.step = EXPLAINED_BURST_S / 10
    reasons = [str(validator.check(b'"x"', None)) for _ in range(5000)]
    explained = sum("expected" in reason for reason in reasons)
    # Each look at the clock is a tenth of the burst, and there are one or two for a message.
    assert 5 <= explained <= 15 + 5000 * EXPLAINED_SHARE * 2
    assert "while many messages are refused" in reasons[-1] + reasons[-2] + reasons[-3]
    clock.step = 0
    clock.now += EXPLAINED_BURST_S / EXPLAINED_SHARE
    assert "expected" in str(validator.check(b'"x"', None))


def test_check_batch_of_refused_elements_costs_bounded_time() -> None:
    validator = build(WIDE)
    body = b'"' + b"a" * 32 + b'!"'
    started = time.process_time()
    for _ in range(1000):
        assert validator.check(body, None) is not None
    assert time.process_time() - started < 3  # 0.3; with each explained, 40


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        (r"^(?!\s*$).+", 2),
        (r"^(?!x)(?=.*\d)[a-z]+$", 2),
        (r"^(?!(a|b)$)\w+$", 2),
        (r"^(?:(?=a)a)*$", None),
        (r"(?!x)a", None),
        (r"^(?!x)a|b", None),
        (r"^a(?=b)", None),
        (r"^(?!(?=a)b)", None),
    ],
)
def test_split_leading_pattern_only_at_the_beginning(pattern: str, parts: int | None) -> None:
    found = split_leading(pattern)
    assert (None if found is None else len(found)) == parts
