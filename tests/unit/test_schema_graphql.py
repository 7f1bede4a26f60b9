"""GraphQL schemas: documents and envelopes, what the caches may say, and the worker's bounds."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from fastgw.errors import ClientFault, UpstreamFault
from fastgw.schema import graphql, graphql_pool
from fastgw.schema.base import REASON_CHARS_MAX, SchemaError
from fastgw.schema.graphql import GraphqlValidator, compile_graphql

SDL = """
scalar DateTime
enum Role { ADMIN USER }
input UserIn { name: String!, age: Int = 3, role: Role, tags: [String!], at: DateTime }
input Key @oneOf { id: ID, name: String }
type User { id: ID!, name: String, friends(first: Int, after: String, near: Float): [User!]! }
type Query { user(id: ID!): User, find(key: Key!): User }
type Mutation { add(in: UserIn!): User, rename(id: ID!, name: String!): User }
"""
PREFIX = "invalid message format, expecting GraphQL: "
JSON = b"application/json"


def nothing(name: str) -> str | None:
    return None


@pytest.fixture(scope="module", autouse=True)
def ended_pool() -> Iterator[None]:
    yield
    graphql_pool.close_pool()


@pytest.fixture
def validator() -> GraphqlValidator:
    return GraphqlValidator(SDL)


async def judge(
    validator: GraphqlValidator, message: bytes, content_type: bytes | None = None
) -> object:
    verdict = validator.check(message, content_type)
    return verdict if verdict is None or isinstance(verdict, str | bytes) else await verdict


def at_once(validator: GraphqlValidator, message: bytes, content_type: bytes | None = None) -> bool:
    verdict = validator.check(message, content_type)
    if verdict is not None and not isinstance(verdict, str | bytes):
        verdict.close()  # type: ignore[attr-defined]
        return False
    return verdict is None


@pytest.mark.parametrize(
    "message",
    [
        b"{ user(id: 1) { name } }",
        b"query Q($id: ID!) { user(id: $id) { ...F } } fragment F on User { id name }",
        b'mutation { rename(id: 7, name: "x") { id } }',
        '{ user(id: "é") { id } }'.encode(),
        b'{ user(id: """block""") { id } }',
        b"\xef\xbb\xbf{ user(id: 1) { id } }",
        b"query A { user(id: 1) { id } } query B { user(id: 2) { id } }",
        b"# said\n{ __schema { types { name } } }",
    ],
)
async def test_check_document_is_good(validator: GraphqlValidator, message: bytes) -> None:
    for content_type in (None, b"application/graphql", b"text/plain"):
        assert await judge(validator, message, content_type) is None
        assert at_once(validator, message, content_type)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"{ user(id: 1) { nope } }", "line 1, column 17: Cannot query field 'nope'"),
        (b"{ user { name } }", "of type 'ID!' is required"),
        (b"{\n user(id: 1) { id }", "line 2, column 20: Syntax Error"),
        (b"query Q($a: Int) { user(id: 1) { id } }", "Variable '$a' is never used"),
        (b"{ user(id: 1) { id } } fragment F on User { id }", "Fragment 'F' is never used"),
        (b"{ a: user(id: 1) { id } a: user(id: 2) { id } }", "conflict"),
        (b"mutation { rename(id: 1, name: 5) { id } }", "String cannot represent"),
        (b"fragment F on User { id }", "never used"),
        (b"type Query { a: Int }", "not executable"),
        (b"", "Syntax Error"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b'"just text"', "Syntax Error"),
    ],
)
async def test_check_bad_document_says_place_and_rule(
    validator: GraphqlValidator, message: bytes, reason: str
) -> None:
    verdict = await judge(validator, message)
    assert isinstance(verdict, str)
    assert verdict.startswith(PREFIX) and reason in verdict
    assert await judge(validator, message) == verdict


async def test_check_same_shape_is_judged_at_once(validator: GraphqlValidator) -> None:
    assert (
        await judge(validator, b'{ user(id: 1) { friends(first: 10, after: "x") { id } } }') is None
    )
    assert at_once(validator, b'{ user(id:  22) { friends(first: 3, after: "") {\n id } } }')
    for other in (
        b'{ user(id: 1) { friends(first: 10.5, after: "x") { id } } }',
        b'{ user(id: 1) { friends(first: "10", after: "x") { id } } }',
        b'{ user(id: 1) { friends(first: 3000000000, after: "x") { id } } }',
        b'{ user(id: 1) { friends(first: 10, after: "x" { id } } }',
        b'{ user(id: 1) { friends(first: 10, after: "\\q") { id } } }',
    ):
        assert not at_once(validator, other)
        assert isinstance(await judge(validator, other), str)


async def test_check_equal_literals_are_told_from_unequal_ones(
    validator: GraphqlValidator,
) -> None:
    assert await judge(validator, b"{ a: user(id: 1) { id } a: user(id: 1) { name } }") is None
    assert at_once(validator, b"{ a: user(id: 2) { id } a: user(id: 2) { name } }")
    assert not at_once(validator, b"{ a: user(id: 2) { id } a: user(id: 3) { name } }")


async def test_check_forged_marks_do_not_hit_the_cache(validator: GraphqlValidator) -> None:
    assert await judge(validator, b"{ user(id: 1) { id } }") is None
    for forged in (b"{ user(id: \x01i0\x02) { id } }", b"{ user(id: i0) { id } }\x03"):
        assert not at_once(validator, forged)
        assert isinstance(await judge(validator, forged), str)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        (b'{"in": {"name": "a"}}', None),
        (b'{"in": {"name": "b", "role": "ADMIN", "tags": ["x"], "at": {"any": 1}}}', None),
        (b'{"in": {"name": "b", "tags": "x", "age": 4.0}}', None),
        (b'{"in": {"name": "b"}, "other": ' + b"9" * 5000 + b"}", None),
        (b'{"in": {"name": "b", "role": "NO"}}', "'NO'"),
        (b'{"in": {"name": "b", "zz": 1}}', "'zz'"),
        (b'{"in": {"name": null}}', "non-null type"),
        (b'{"in": {"name": "b", "age": 2147483648}}', "32-bit"),
        (b'{"in": {"name": "b", "age": true}}', "Int cannot represent"),
        (b"{}", "'$in'"),
        (b"null", "'$in'"),
        (b" null ", "'$in'"),
        (b"[]", "variables: expected an object, got []"),
        (b'"x"', "variables: expected an object"),
    ],
)
async def test_check_variables_are_coerced_by_the_schema(
    validator: GraphqlValidator, variables: bytes, reason: str | None
) -> None:
    query = b'{"query": "mutation M($in: UserIn!) { add(in: $in) { id } }", "variables": '
    for _ in range(2):
        verdict = await judge(validator, query + variables + b"}", JSON)
        if reason is None:
            assert verdict is None
        else:
            assert isinstance(verdict, str)
            assert reason in verdict
        # The second time the document is known, and only its variables are judged.
        assert await judge(validator, query + b'{"in": {"name": "z"}}}', JSON) is None
    assert at_once(validator, query + b'{"in": {"name": "new", "age": 1}}}', JSON)


async def test_check_one_of_variables_always_go_to_the_worker(
    validator: GraphqlValidator,
) -> None:
    query = b'{"query": "query Q($k: Key!) { find(key: $k) { id } }", "variables": {"k": '
    assert await judge(validator, query + b'{"id": 1}}}', JSON) is None
    assert not at_once(validator, query + b'{"id": 2}}}', JSON)
    assert await judge(validator, query + b'{"id": 2}}}', JSON) is None
    assert "exactly one field" in str(await judge(validator, query + b'{"id": 1, "name": "x"}}}'))


async def test_check_operation_name_must_name_one(validator: GraphqlValidator) -> None:
    two = b'{"query": "query A { user(id: 1) { id } } query B { user(id: 2) { id } }"'
    assert "expected operationName" in str(await judge(validator, two + b"}", JSON))
    assert await judge(validator, two + b', "operationName": "A"}', JSON) is None
    assert await judge(validator, two + b', "operationName": "B"}', JSON) is None
    assert "names no operation" in str(
        await judge(validator, two + b', "operationName": "C"}', JSON)
    )


@pytest.mark.parametrize(
    "message",
    [b"", b"[]", b"{}", b'{"query": 1}', b'{"query": null}', b"{ user(id: 1) { id } }",
     b'{"query": "{ __typename }", "operationName": 5}', b'{"query": "{ __typename }"',
     b'{"query": "{ __typename }", "x": "\xff"}', b'{"query": "\\ud800"}', b'{"a":' * 100_000],
)  # fmt: skip
async def test_check_json_that_is_no_envelope(validator: GraphqlValidator, message: bytes) -> None:
    assert str(await judge(validator, message, JSON)).startswith(PREFIX)


async def test_check_form_follows_the_content_type(validator: GraphqlValidator) -> None:
    envelope = b' {"query": "{ user(id: 1) { id } }", "extensions": {"x": 1}}'
    for content_type in (None, JSON, b"application/graphql+json; charset=utf-8", b"text/plain"):
        assert await judge(validator, envelope, content_type) is None
    assert "Syntax Error" in str(await judge(validator, envelope, b"application/graphql"))
    for foreign in (b"application/x-protobuf", b"avro/binary", b"application/vnd.google.protobuf"):
        with pytest.raises(ClientFault, match="contradicts"):
            validator.check(envelope, foreign)


def hostile() -> Iterator[bytes]:
    yield b"{" * 65_536
    yield b"{a " * 20_000
    yield b"a " * 32_000
    yield b"#\n" * 32_000
    yield b"{user(id:" + b"[" * 900 + b"]" * 900 + b"){id}}"
    yield b"{user(id:1){" + b"friends{" * 900 + b"id" + b"}" * 902
    yield b"x" * 100_000
    yield b"{" + b"user(id:1){nope} " * 180 + b"}"
    yield b'{user(id:"' + b"\\u0041" * 10_000 + b'"){nope}}'
    yield b'{"query":"' + b"{" * 60_000 + b'"}'
    yield b'{"query":"{__typename}","variables":{"a":' + b"[" * 100_000
    # Fragments that spread each other and overlap, up to the limit of tokens.
    names = range(24)
    yield b"{user(id:1){...F0}}" + b"".join(
        b" fragment F%d on User{%s nope}"
        % (i, b" ".join(b"friends{...F%d}" % j for j in names if j > i))
        for i in names
    )
    yield (
        b"{user(id:1){"
        + b" ".join(b"a:friends{b:friends{c:friends{d:nope}}}" for _ in range(90))
        + b"}}"
    )


@pytest.mark.parametrize("message", list(hostile()), ids=range(13))
async def test_check_hostile_message_is_refused_in_bounded_time(
    validator: GraphqlValidator, message: bytes
) -> None:
    await judge(validator, b"{ __typename }")
    begun = time.monotonic()
    verdict = await judge(validator, message)
    assert isinstance(verdict, str)
    assert verdict.startswith(PREFIX) and len(verdict) <= REASON_CHARS_MAX
    assert time.monotonic() - begun < graphql_pool.JOB_S_MAX


async def test_check_burst_of_one_shape_asks_once(
    validator: GraphqlValidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    pool = graphql_pool.find_pool()
    submit = pool.submit
    monkeypatch.setattr(pool, "submit", lambda job, sdl: asked.append(job) or submit(job, sdl))
    bodies = [b"{ user(id: %d) { name } }" % number for number in range(1000)]
    assert await asyncio.gather(*(judge(validator, body) for body in bodies)) == [None] * 1000
    assert len(asked) == 1


async def test_check_full_queue_is_overloaded(
    validator: GraphqlValidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = graphql_pool.Pool(jobs_max=2)
    monkeypatch.setattr(graphql, "find_pool", lambda: pool)
    bodies = [b"{ user(id: 1) { a%d: name } }" % number for number in range(5)]
    results = await asyncio.gather(
        *(judge(validator, body) for body in bodies), return_exceptions=True
    )
    pool.close()
    assert results[:2] == [None, None]
    for result in results[2:]:
        assert isinstance(result, UpstreamFault)
        assert result.kind.word == "overloaded"


async def test_check_cancelled_message_leaves_the_others(validator: GraphqlValidator) -> None:
    first = asyncio.ensure_future(judge(validator, b"{ user(id: 1) { q: name } }"))
    second = asyncio.ensure_future(judge(validator, b"{ user(id: 2) { q: name } }"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is None
    assert first.cancelled() or first.done()


async def test_pool_dead_worker_is_replaced(
    validator: GraphqlValidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = graphql_pool.Pool()
    monkeypatch.setattr(graphql, "find_pool", lambda: pool)
    assert await judge(validator, b"{ user(id: 1) { a: id } }") is None
    pid = pool.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert await judge(validator, b"{ user(id: 1) { b: id } }") is None
    assert pool.worker_pid not in {pid, None}
    pool.close()


async def test_pool_slow_job_is_killed_and_the_next_one_is_served(
    validator: GraphqlValidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = graphql_pool.Pool(job_s_max=1.0)
    monkeypatch.setattr(graphql, "find_pool", lambda: pool)
    assert await judge(validator, b"{ user(id: 1) { a: id } }") is None
    pid = pool.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(UpstreamFault, match="took more than 1 s") as raised:
        await judge(validator, b"{ user(id: 1) { b: id } }")
    assert raised.value.kind.word == "overloaded"
    assert await judge(validator, b"{ user(id: 1) { b: id } }") is None
    pool.close()


async def test_pool_costly_document_is_refused_by_processor_time(
    validator: GraphqlValidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = graphql_pool.Pool(cpu_s_max=0.002)
    monkeypatch.setattr(graphql, "find_pool", lambda: pool)
    await judge(validator, b"{ __typename }")
    pid = pool.worker_pid
    costly = b"{" + b" ".join(b"a%d: user(id: 1) { id }" % n for n in range(150)) + b"}"
    verdict = await judge(validator, costly)
    assert verdict == PREFIX + "validating takes more than 0.002 s of processor time"
    assert pool.worker_pid == pid
    pool.close()


async def test_pool_that_cannot_start_is_overloaded(
    validator: GraphqlValidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = graphql_pool.Pool()
    monkeypatch.setattr(graphql, "find_pool", lambda: pool)
    monkeypatch.setattr(graphql_pool.sys, "executable", "/nonexistent/python")
    for _ in range(2):
        with pytest.raises(UpstreamFault, match="cannot start"):
            await judge(validator, b"{ user(id: 1) { a: id } }")
    pool.close()


def test_worker_dies_with_its_parent() -> None:
    program = (
        "import os; from fastgw.schema.graphql_pool import Worker; w = Worker();"
        "print(w.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, check=False
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.01)
    pytest.fail(f"worker {pid} outlived its parent")


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", "line 1", "Syntax Error"),
        ("type Query {", "line 1, column 13", "Syntax Error"),
        ("type A { x: Int }", "", "Query root type must be provided"),
        ("type Query {\n a: B }", "line 2, column 5", "Unknown type 'B'"),
        ("query { a }", "", ""),
        ("type Query { a: Int } type Query { b: Int }", "line 1", "There can be only one type"),
        ("{" * 200_000, "line 1", "Syntax Error"),
        ("type Query { a: " + "[" * 50_000, "line 1", "nested too deeply"),
        ("type Query { a: Int }" + "type A { a: Int }" * 15_000, "line 1", "60000 tokens"),
        ("x" * 300_000, "", "300000 bytes exceeds 262144"),
        ("type Query { a: Int } #\ud800", "", "lone surrogate"),
    ],
)
def test_compile_bad_text_says_place_and_reason(text: str, place: str, reason: str) -> None:
    with pytest.raises(SchemaError) as raised:
        compile_graphql(text, resolve=nothing)
    assert reason in raised.value.reason
    assert raised.value.place.startswith(place)
    assert len(raised.value.reason) <= REASON_CHARS_MAX


async def test_compile_good_text_judges() -> None:
    found = compile_graphql(SDL, resolve=nothing)
    assert await judge(found, b"{ user(id: 1) { name } }") is None


def test_compile_without_the_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SchemaError, match=r"fastgw\[schemas\]"):
        compile_graphql(SDL, resolve=nothing)


def test_cache_is_bounded_in_entries_and_bytes() -> None:
    cache = graphql.Cache()
    for number in range(graphql.ENTRIES_MAX + 10):
        cache.put(number, True, 1)
    assert len(cache.values) == graphql.ENTRIES_MAX
    assert 9 not in cache.values
    for number in range(100):
        cache.put(str(number), True, 1 << 20)
    assert len(cache.values) <= 4
