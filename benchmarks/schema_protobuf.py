"""`python -m benchmarks.schema_protobuf`: ns per message of the protobuf validator beside upb.

What enters: nothing. What leaves: a table; the 25th percentile of interleaved rounds in one
process, for wire bodies of about 100 B, 1 KB and 10 KB and for the same messages as JSON.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fastgw.schema.protobuf import compile_protobuf

TEXT = """
syntax = "proto3"; package bench;
message Item {
  int64 id = 1; string name = 2; double price = 3; bool ok = 4; repeated int32 n = 5;
}
message Order {
  int64 id = 1; string user = 2; repeated Item items = 3; map<string, string> tags = 4;
}
"""
ROUNDS = 25


def measure(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Time each work in turn, round by round; returns ns per call, the 25th percentile."""
    counts: dict[str, int] = {}
    for name, work in works.items():
        begun = time.perf_counter_ns()
        for _ in range(20):
            work()
        counts[name] = max(10, int(10_000_000 / max(1, (time.perf_counter_ns() - begun) / 20)))
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            begun = time.perf_counter_ns()
            for _ in range(counts[name]):
                work()
            taken[name].append((time.perf_counter_ns() - begun) / counts[name])
    return {name: sorted(values)[len(values) // 4] for name, values in taken.items()}


def build_order(items_count: int) -> bytes:
    """Build the JSON of an order of about 90 bytes of wire form for each item."""
    items = ",".join(
        f'{{"id":"{i}","name":"item number {i} with a plain name of some length","price":{i}.25,'
        f'"ok":true,"n":[1,2,3,{i}]}}'
        for i in range(items_count)
    )
    return f'{{"id":"123456","user":"someone","tags":{{"a":"b"}},"items":[{items}]}}'.encode()


def main() -> int:
    """Measure and print."""
    from google.protobuf import json_format

    plain = compile_protobuf(TEXT, resolve=lambda path: None, message="Order")
    strict = compile_protobuf(
        TEXT, resolve=lambda path: None, message="Order", unknown_fields="refuse"
    )
    bare: Any = plain._class
    print(f"{'body':>8} {'subject':<32} {'ns':>10}")
    for items_count in (1, 13, 135):
        body = build_order(items_count)
        wire = plain.transcode(body)
        sized = {
            "upb FromString": (wire, bare.FromString),
            "check, wire": (wire, lambda wire: plain.check(wire, None)),
            "check, wire, unknown refused": (wire, lambda wire: strict.check(wire, None)),
            "json_format.Parse + Serialize": (
                body,
                lambda body: json_format.Parse(body, bare()).SerializeToString(),
            ),
            "check, JSON": (body, lambda body: plain.check(body, b"application/json")),
        }
        figures = measure({name: partial(work, of) for name, (of, work) in sized.items()})
        for name, nanoseconds in figures.items():
            print(f"{len(sized[name][0]):>6} B {name:<32} {nanoseconds:>10,.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
