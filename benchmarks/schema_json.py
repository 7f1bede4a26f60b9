"""`python -m benchmarks.schema_json`: nanoseconds per message of the JSON Schema validators.

What enters: three schemas with a message each, of some 100 B, 1 KB and 10 KB. What leaves: a table:
our `check`, the fast path and the authority alone, and the bare libraries, jsonschema and
fastjsonschema where they are installed. Rounds are interleaved and the lower quartile is shown.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import jsonschema_rs
import msgspec

from fastgw.schema.json import compile_json

ROUNDS: Final = 25
ROUND_S: Final = 0.01

FLAT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "name": {"type": "string", "maxLength": 40},
        "active": {"type": "boolean"},
        "score": {"type": "number"},
        "kind": {"enum": ["view", "click", "order"]},
    },
    "required": ["id", "name"],
}
LINE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "sku": {"type": "string", "minLength": 3},
        "count": {"type": "integer", "minimum": 1, "maximum": 1000},
        "price": {"type": "number", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 8},
    },
    "required": ["sku", "count", "price"],
    "additionalProperties": False,
}
ORDER: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "order": {"$ref": "#/$defs/flat"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "minItems": 1},
    },
    "required": ["order", "lines"],
    "$defs": {"flat": FLAT, "line": LINE},
}
FLAT_MESSAGE: Final = {
    "id": 4711,
    "name": "a customer's name and first name",
    "active": True,
    "score": 0.25,
}
LINE_MESSAGE: Final = {"sku": "A-100-27", "count": 3, "price": 19.99, "tags": ["new", "blue"]}


def build_cases() -> dict[str, tuple[dict[str, Any], bytes]]:
    """Build schemas and messages by name."""
    flat = {**FLAT_MESSAGE, "kind": "order"}
    small = {"order": flat, "note": None, "lines": [LINE_MESSAGE] * 13}
    large = {"order": flat, "note": "é", "lines": [LINE_MESSAGE] * 140}
    encode = msgspec.json.encode
    return {
        "100 B": (FLAT, encode(flat)),
        "1 KB": (ORDER, encode(small)),
        "10 KB": (ORDER, encode(large)),
    }


def build_subjects(schema: dict[str, Any], message: bytes) -> dict[str, Callable[[], Any]]:
    """Build what is measured, by name."""
    validator = compile_json(json.dumps(schema), resolve=lambda _: None)
    fast = validator.accepts
    assert fast is not None
    bare = jsonschema_rs.validator_for(schema).is_valid
    decode = msgspec.json.Decoder().decode
    subjects: dict[str, Callable[[], Any]] = {
        "check": lambda: validator.check(message, b"application/json"),
        "fast path": lambda: fast.is_surely_good(message),
        "authority": lambda: validator.judge(message),
        "msgspec decode only": lambda: decode(message),
        "json + jsonschema-rs": lambda: bare(json.loads(message)),
    }
    try:
        import fastjsonschema

        compiled = fastjsonschema.compile(schema)
        subjects["json + fastjsonschema"] = lambda: compiled(json.loads(message))
    except ImportError:
        pass
    try:
        import jsonschema

        slow = jsonschema.Draft202012Validator(schema)
        subjects["json + jsonschema"] = lambda: slow.is_valid(json.loads(message))
    except ImportError:
        pass
    return subjects


def measure(subjects: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Measure nanoseconds per call: interleaved rounds, lower quartile."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    counts = {}
    for name, call in subjects.items():
        started = time.perf_counter()
        call()
        counts[name] = max(1, min(20_000, int(ROUND_S / (time.perf_counter() - started))))
    for _ in range(ROUNDS):
        for name, call in subjects.items():
            started = time.perf_counter_ns()
            for _ in range(counts[name]):
                call()
            taken[name].append((time.perf_counter_ns() - started) / counts[name])
    return {name: statistics.quantiles(times, n=4)[0] for name, times in taken.items()}


def main() -> None:
    """Print the table."""
    columns = {name: (len(case[1]), measure(build_subjects(*case))) for name, case in
               build_cases().items()}  # fmt: skip
    print(f"{'ns per message':24}" + "".join(f"{f'{size} B':>12}" for size, _ in columns.values()))
    for subject in next(iter(columns.values()))[1]:
        cells = (f"{times[subject]:>12.0f}" for _, times in columns.values())
        print(f"{subject:24}" + "".join(cells))


if __name__ == "__main__":
    main()
