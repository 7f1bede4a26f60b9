"""No document that the caches accept is one that graphql-core refuses."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec
from graphql import GraphQLError, build_schema, parse, validate
from graphql.execution.values import get_variable_values
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.schema.graphql_shape import find_shape, is_sure
from fastgw.schema.graphql_variables import compile_variables
from fastgw.schema.graphql_worker import describe_variables

SDL = """
directive @mark(n: Int, s: String) on FIELD | QUERY
scalar Any
enum Role { ADMIN USER }
input Deep { n: Int! = 4, f: Float, id: ID, b: Boolean, r: Role, l: [[Int!]], d: Deep2, a: Any }
input Deep2 { s: String!, any: [Any!] }
input One @oneOf { a: Int, b: String }
type User { id: ID!, name(s: String, n: Int): String, list(f: Float, l: [Int!], d: Deep): [User!] }
type Query { user(id: ID!, r: Role, a: Any): User, one(o: One!): Int, b(b: Boolean!): Int }
"""
SCHEMA = build_schema(SDL)

SEEDS = [
    b"{ user(id: 1) { name } }",
    b'{ a: user(id: 1) { name(s: "x") } b: user(id: "2") { name(s: "y", n: 3) } }',
    b'{ a: user(id: 1) { n: name(s: "x") } a: user(id: 1) { n: name(s: "x") id } }',
    b"query Q($id: ID = 5, $n: Int = 1) { user(id: $id, a: {x: 1, y: [2.5, 1]}) { name(n: $n) } }",
    b'{ user(id: 1) { list(f: 1.5, l: [1, 2], d: {n: 1, f: 2, id: 3, d: {s: ""}}) { id } } }',
    b"{ one(o: {a: 1}) b(b: true) user(id: 1, r: ADMIN) { id @mark(n: 1) @skip(if: false) } }",
    b"{ user(id: 1) { ...F ... on User { name } } } fragment F on User { list(l: 1) { id } }",
    b'query A { b(b: true) } query B @mark(s: "q") { b(b: false) }',
]
PIECES = [
    b"1", b"2", b"0", b"-1", b"-0", b"00", b"01", b"999999999", b"2147483648", b"99999999999",
    b"1.5", b"1.", b".5", b"1e5", b"1.5e3", b'""', b'"x"', b'"y"', b'"""b"""', b'"\\n"', b'"\\q"',
    b'"', b"'", b"#", b"# c\n", b"{", b"}", b"(", b")", b"[", b"]", b":", b"=", b"!", b"|", b"&",
    b"$", b"@", b"...", b"..", b".", b",", b" ", b"\n", b"\r", b"\t", b"\0", b"\x01", b"\x02",
    b"\x0b", b"\xc3\xa9", b"\xff", b"\xef\xbb\xbf", b"-", b"+", b"a", b"A1", b"_", b"true",
    b"null", b"on", b"id", b"name", b"user", b"ADMIN", b"$n", b"\x01i0\x02", b"\x01s1\x02", b"1a",
    b'""""', b'"a""b"',
]  # fmt: skip
TOKEN = re.compile(rb'"[^"]*"|[\w.-]+|\s+|.', re.DOTALL)


def mutate(document: bytes, rng: random.Random) -> bytes:
    """Change literals, names or structure of a document."""
    tokens = TOKEN.findall(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(tokens))
        how = rng.randrange(6)
        if how <= 2:
            literals = [i for i, t in enumerate(tokens) if t[:1].isdigit() or t[:1] == b'"']
            if how and literals:
                tokens[rng.choice(literals)] = rng.choice(PIECES[:23])
            else:
                tokens[at] = rng.choice(PIECES)
        elif how == 3:
            tokens.insert(at, rng.choice(PIECES))
        elif how == 4 and len(tokens) > 1:
            del tokens[at]
        else:
            tokens[at] = tokens[rng.randrange(len(tokens))]
    return b"".join(tokens)


def is_valid(document: bytes) -> bool:
    try:
        tree = parse(document.decode(), max_tokens=2000, allow_empty_selection_sets=False)
        return not validate(SCHEMA, tree, allow_empty_selection_sets=False)
    except (GraphQLError, UnicodeDecodeError):
        return False


class Shapes:
    """The cache without bounds: shapes of all documents that were found valid."""

    def __init__(self) -> None:
        self.known: dict[bytes, bytes] = {}
        self.tried = self.hits = 0

    def attempt(self, document: bytes) -> None:
        self.tried += 1
        shape = find_shape(document)
        valid = is_valid(document)
        if shape in self.known:
            self.hits += 1
            assert valid, f"{document!r} has the shape of {self.known[shape]!r}"
        elif valid and shape is not None and is_sure(shape):
            self.known[shape] = document


SHAPES = Shapes()
for seed in SEEDS:
    assert is_valid(seed), seed
    SHAPES.attempt(seed)


@settings(max_examples=400, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(SEEDS))
def test_shape_hit_is_a_valid_document(rng: random.Random, document: bytes) -> None:
    for _ in range(3):
        document = mutate(document, rng)
        if not document:
            return
        SHAPES.attempt(document)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_shape_of_any_pieces_is_sure_only_for_what_lexes(text: bytes) -> None:
    shape = find_shape(text)
    if shape is None or not is_sure(shape):
        return
    # Whatever the pieces mean, a sure shape must at least be made of GraphQL tokens.
    from graphql import Lexer, Source, TokenKind

    lexer = Lexer(Source(text.decode()))
    while lexer.advance().kind is not TokenKind.EOF:
        pass


QUERIES = [
    'query Q($n: Int!, $f: Float, $s: String = "d", $b: Boolean! = true, $i: ID) { b(b: $b) }',
    "query Q($d: Deep!, $l: [[Int!]!], $r: [Role!]!) { b(b: true) }",
    "query Q($a: Any!, $x: [Any], $class: Int) { b(b: true) }",
    "query Q($o: One!) { one(o: $o) }",
]
NAMES = ["n", "f", "s", "b", "i", "d", "l", "r", "a", "x", "o", "id", "any", "class", "zz"]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(-3, 3), st.floats(),
    st.sampled_from([2**31, 2**31 - 1, -(2**31), 2**53 + 1, 10**400, 1.0, 1e300]),
    st.text(max_size=3), st.sampled_from(["ADMIN", "USER", "NO"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=12,
)
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "n": SCALARS, "f": SCALARS, "s": SCALARS, "b": st.booleans(), "i": SCALARS,
        "d": st.fixed_dictionaries(
            {},
            optional={
                "n": SCALARS, "f": SCALARS, "id": SCALARS, "b": st.booleans(), "r": SCALARS,
                "l": VALUES, "d": st.fixed_dictionaries({"s": SCALARS}), "a": VALUES,
            },
        ),
        "l": VALUES, "r": st.lists(st.sampled_from(["ADMIN", "NO", None]), max_size=2),
        "a": VALUES, "x": VALUES, "o": VALUES, "class": SCALARS,
    },
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(QUERIES), LIKELY | st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_variables_accepted_are_coerced_by_the_library(query: str, values: dict[str, Any]) -> None:
    import json

    operation: Any = parse(query).definitions[0]
    kinds = describe_variables(operation, SCHEMA)
    if kinds is None:
        assert "One" in query
        return
    accepts = compile_variables(msgspec.json.encode(kinds))
    assert accepts is not None
    text = json.dumps(values).encode()
    if accepts(text):
        result = get_variable_values(SCHEMA, operation.variable_definitions, json.loads(text))
        assert not isinstance(result, list), (text, result)
