"""`python -m benchmarks.schema_graphql`: ns per message of the GraphQL validator and the library.

What enters: nothing. What leaves: a table; the 25th percentile of interleaved rounds in one
process, for documents of about 100 B, 1 KB and 10 KB: seen before byte for byte, of a known shape,
in a JSON envelope with variables, sent to the worker process, and graphql-core in this process.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable

from benchmarks.schema_protobuf import measure
from fastgw.schema.graphql import GraphqlValidator
from fastgw.schema.graphql_pool import close_pool

SDL = """
type User { id: ID!, name: String, email: String, friends(first: Int, after: String): [User!]! }
type Query { user(id: ID!): User }
type Mutation { rename(id: ID!, name: String!): User }
"""
ENVELOPE = (
    b'{"query":"mutation Rename($id: ID!, $name: String!) { rename(id: $id, name: $name) { id name '
    b'} }","operationName":"Rename","variables":{"id":"user-%d","name":"A plain name"}}'
)
MISSES = 40
PARTS_MAX = 60
FILLER = b" and more" * 8
"""WHY: 10 KB of short literals would exceed the limit of 2,000 tokens."""


def build_document(parts: int, number: int) -> bytes:
    """Build a mutation of about 110 bytes for each part, with literals of its own."""
    inner = b" ".join(
        b'r%d: rename(id: "user-%d", name: "A plain name of user %d%s") { id friends(first: 10) '
        b"{ name email } }" % (part, number, number + part, FILLER if parts == PARTS_MAX else b"")
        for part in range(parts)
    )
    return b"mutation { %s }" % inner


async def measure_miss(validator: GraphqlValidator, parts: int) -> float:
    """Time documents of new shapes, one after another, in ns."""
    taken = []
    for number in range(MISSES):
        document = build_document(parts, 1).replace(b"mutation", b"mutation M%d" % number, 1)
        begun = time.perf_counter_ns()
        verdict = validator.check(document, None)
        if isinstance(verdict, Awaitable):
            verdict = await verdict
        taken.append(time.perf_counter_ns() - begun)
        assert verdict is None, verdict
    return sorted(taken)[MISSES // 4]


async def prepare(validator: GraphqlValidator, message: bytes) -> None:
    """Have a message judged, so that the caches know it."""
    verdict = validator.check(message, None)
    if isinstance(verdict, Awaitable):
        verdict = await verdict
    assert verdict is None, verdict


def measure_size(validator: GraphqlValidator, parts: int) -> None:
    """Measure and print one size."""
    from graphql import build_schema, parse, validate

    schema = build_schema(SDL)
    same = build_document(parts, 1)
    others = itertools.cycle([build_document(parts, number) for number in range(100, 164)])
    envelopes = itertools.cycle([ENVELOPE % number for number in range(100, 164)])
    asyncio.run(prepare(validator, same))
    asyncio.run(prepare(validator, ENVELOPE % 1))
    text = same.decode()
    works: dict[str, Callable[[], object]] = {
        "seen before": lambda: validator.check(same, None),
        "of a known shape": lambda: validator.check(next(others), None),
        "graphql-core parse + validate": lambda: validate(schema, parse(text)),
    }
    if parts == 1:
        works["envelope, new variables"] = lambda: validator.check(next(envelopes), None)
    figures = measure(works)
    figures["new shape, by the worker"] = asyncio.run(measure_miss(validator, parts))
    for name, nanoseconds in figures.items():
        print(f"{len(same):>6} B {name:<32} {nanoseconds:>12,.0f}")


def main() -> int:
    """Measure and print."""
    print(f"{'body':>8} {'subject':<32} {'ns':>12}")
    validator = GraphqlValidator(SDL)
    for parts in (1, 9, PARTS_MAX):
        measure_size(validator, parts)
    close_pool()
    return 0


if __name__ == "__main__":
    sys.exit(main())
