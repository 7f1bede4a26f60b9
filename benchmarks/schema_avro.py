"""Nanoseconds per Avro message, beside fastavro: `python -m benchmarks.schema_avro`.

Bodies of about 100 B, 1 KB and 10 KB, as binary data, plain JSON and tagged JSON; good ones, and
some whose last field is wrong. fastavro reads the binary form with `schemaless_reader`, validates
what msgspec decoded from plain JSON, and reads tagged JSON with `json_reader`. Rounds are
interleaved, and the lower quartile is printed.
"""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable

import fastavro
import fastavro.validation
import msgspec

from fastgw.schema.avro import compile_avro

ITEM = {
    "type": "record",
    "name": "Item",
    "fields": [
        {"name": "sku", "type": "string"},
        {"name": "quantity", "type": "int"},
        {"name": "price", "type": "double"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
SCHEMA = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "customer", "type": "string"},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}},
        {"name": "coupon", "type": ["null", "string"], "default": None},
        {"name": "items", "type": {"type": "array", "items": ITEM}},
        {"name": "attributes", "type": {"type": "map", "values": "string"}},
        {"name": "is_gift", "type": "boolean"},
    ],
}
ROUNDS = 25


def order(items: int) -> dict[str, object]:
    return {
        "id": 9_007_199_254_740_993,
        "customer": "customer-4711@example.com",
        "state": "PAID",
        "coupon": "SPRING" if items else None,
        "items": [
            {
                "sku": f"SKU-{number:08d}",
                "quantity": number + 1,
                "price": 19.99 + number,
                "tags": ["red", "größe-xl", "summer"],
                "note": None if number % 2 else "please wrap it",
            }
            for number in range(items)
        ],
        "attributes": {"channel": "web"} if items else {},
        "is_gift": False,
    }


def tagged(value: dict[str, object]) -> dict[str, object]:
    return json.loads(  # type: ignore[no-any-return]
        json.dumps(value).replace('"please wrap it"', '{"string": "please wrap it"}')
    ) | {"coupon": {"string": value["coupon"]} if value["coupon"] else None}


def measure(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Nanoseconds per call, the lower quartile of interleaved rounds."""
    counts: dict[str, int] = {}
    for name, call in calls.items():
        call()
        began = time.perf_counter_ns()
        call()
        counts[name] = max(1, 4_000_000 // max(1, time.perf_counter_ns() - began))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = time.perf_counter_ns()
            for _ in range(counts[name]):
                call()
            times[name].append((time.perf_counter_ns() - began) / counts[name])
    return {name: statistics.quantiles(values, n=4)[0] for name, values in times.items()}


def main() -> None:
    validator = compile_avro(json.dumps(SCHEMA), resolve=lambda _: None)
    parsed = fastavro.parse_schema(json.loads(json.dumps(SCHEMA)))
    check, decode = validator.check, msgspec.json.decode
    print(f"{'':38}{'bytes':>8}{'fastgw ns':>12}{'fastavro ns':>13}")
    for items in (0, 7, 85):
        value = order(items)
        if not items:
            value["customer"] = "customer-4711@example.com" * 2
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, parsed, value)
        binary = buffer.getvalue()
        plain = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        with_tags = json.dumps(tagged(value), ensure_ascii=False, separators=(",", ":"))
        wrong = json.dumps(value | {"is_gift": 5}).encode()
        extra = json.dumps(value | {"unknown": 5}).encode()
        good = {b"avro/binary": binary, None: plain}
        for kind, message in good.items():
            assert check(message, kind) is None
        assert check(with_tags.encode(), None) is None

        def read_json(text: str = with_tags) -> None:
            list(fastavro.json_reader(io.StringIO(text), parsed))

        tag_bytes = with_tags.encode()
        rows: list[tuple[str, bytes, bytes | None, Callable[[], object] | None]] = [
            (
                "binary",
                binary,
                b"avro/binary",
                lambda: fastavro.schemaless_reader(io.BytesIO(binary), parsed, None),  # noqa: B023
            ),
            ("binary, last byte wrong", binary[:-1] + b"\x02", b"avro/binary", None),
            (
                "plain JSON",
                plain,
                None,
                lambda: fastavro.validation.validate(decode(plain), parsed),  # noqa: B023
            ),
            ("tagged JSON", tag_bytes, None, read_json),
            ("plain JSON, last field wrong", wrong, None, None),
            ("plain JSON, one field unknown", extra, None, None),
        ]
        for name, message, kind, theirs in rows:
            check(message, kind)
            calls: dict[str, Callable[[], object]] = {
                "fastgw": lambda: check(message, kind)  # noqa: B023
            }
            if theirs is not None:
                calls["fastavro"] = theirs
            found = measure(calls)
            other = f"{found['fastavro']:13,.0f}" if "fastavro" in found else f"{'-':>13}"
            print(f"{name:38}{len(message):8,}{found['fastgw']:12,.0f}{other}")


if __name__ == "__main__":
    main()
