"""A short run of every fuzz target, and that each of them notices what it is there to notice."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from fastgw import _core
from tests.fuzz import (
    broker_bytes,
    front_door,
    http_bytes,
    json_bytes,
    mutator,
    seeds,
    usual_bytes,
)
from tests.fuzz.answers import read_answers
from tests.fuzz.strict_http import read_requests
from tests.fuzz.targets import TARGETS
from tests.fuzz.world import World, cuts
from tests.unit.dialogue import HEAD, Answer, Client, Frame, request

RUNS = {"http": 6000, "headers": 4000, "usual": 4000, "broker": 4000}
RUNS_OF_OTHERS = 8000
BLOCKS_MAX = 3000
"""LIMIT: objects that a target may keep: caches of regular expressions, interned names."""


@pytest.mark.parametrize("name", TARGETS)
def test_target_on_mutated_seeds_breaks_no_rule_and_keeps_nothing(name: str) -> None:
    runs = RUNS.get(name, RUNS_OF_OTHERS)
    blocks = 0
    for count, data in enumerate(
        mutator.run(TARGETS[name], seeds.seeds(name), seeds.WORDS[name], number=7, runs=runs)
    ):
        assert len(data) <= mutator.INPUT_BYTES_MAX or data in seeds.seeds(name)
        if count == runs // 2:
            blocks = sys.getallocatedblocks()
    assert sys.getallocatedblocks() - blocks < BLOCKS_MAX


def test_mutator_same_number_makes_the_same_inputs() -> None:
    one, other = (list(mutator.mutations((b"abc", b"defg"), (b"word",), 3, 200)) for _ in range(2))
    assert one == other
    assert len(one) == 200 and len(set(one)) > 100


@pytest.mark.parametrize("kind", range(4))
def test_cuts_join_to_the_whole(kind: int) -> None:
    data = bytes(range(256)) * 20
    for seed in (0, 1, 77, 255):
        assert b"".join(cuts(data, kind, seed)) == data


# --- a target that cannot fail is a defect --------------------------------------------------------


def judged(stream: bytes, frames: list[Frame], written: bytes | None = None) -> None:
    http_bytes.judge(read_requests(stream), frames, written)


def frame(payload: bytes = b"hello", subject: bytes = b"orders", *headers: Any) -> Frame:
    return Frame(subject, b"_INBOX.x.1", list(headers), payload)


WHOLE = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\n{}"


def test_judge_takes_what_was_sent() -> None:
    judged(request(), [frame()], WHOLE)
    judged(request(extra=b"X-A: 1\r\n"), [frame(b"hello", b"orders", (b"X-A", b"1"))], WHOLE)


@pytest.mark.parametrize(
    ("frames", "written"),
    [
        ([frame(b"other")], None),
        ([frame(), frame()], None),
        ([frame(b"hello", b"elsewhere")], None),
        ([frame(b"hello", b"orders.*")], None),
        ([frame(b"hello", b"orders", (b"X-A", b"2"))], None),
        ([frame(b"hello", b"orders", (b"Nats-Rollup", b"all"))], None),
        ([frame(b"hello", b"orders", (b"Authorization", b"Bearer good"))], None),
        ([frame()], WHOLE * 3),
        ([], WHOLE),
    ],
)
def test_judge_notices(frames: list[Frame], written: bytes | None) -> None:
    with pytest.raises(AssertionError):
        judged(request(), frames, written)


@pytest.mark.parametrize(
    "written",
    [
        WHOLE + b"x",
        WHOLE.replace(b"Date: x\r\n", b""),
        WHOLE.replace(b"2\r\n", b"3\r\n"),
        WHOLE.replace(b"200 OK", b"500 Internal Server Error"),
        WHOLE.replace(b"200 OK", b"299 OK"),
        WHOLE.replace(b"Date: x", b"Date: x\r\nA\x01: b"),
        WHOLE.replace(b"Date: x", b"Date: x\r\nConnection: close") + WHOLE,
    ],
)
def test_answers_that_are_none_are_noticed(written: bytes) -> None:
    with pytest.raises(AssertionError):
        read_answers(written, [])


def test_http_callback_that_raises_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Client, data: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(http_bytes, "WORLD", [])
    monkeypatch.setattr(Client, "send", fail)
    with pytest.raises(ZeroDivisionError):
        http_bytes.fuzz_http(b"\0\0" + request())
    assert not http_bytes.WORLD


@pytest.mark.parametrize("choice", range(4))
def test_usual_request_that_is_read_otherwise_is_noticed(
    monkeypatch: pytest.MonkeyPatch, choice: int
) -> None:
    data = bytes([choice, 0]) + request(extra=b"X-Signature: good hello\r\n")
    usual_bytes.fuzz_usual(data)
    monkeypatch.setattr(usual_bytes, "WORLDS", {})
    monkeypatch.setattr(
        usual_bytes, "cuts", lambda stream, *_: [stream.replace(b"hello", b"other")]
    )
    with pytest.raises(AssertionError, match="through the parser"):
        usual_bytes.fuzz_usual(data)


def test_world_that_is_not_empty_is_noticed() -> None:
    world = World()
    client = world.client()
    client.send(request())
    world.dialogue.run_turns()
    with pytest.raises(AssertionError, match="left over"):
        world.end(client)


def test_broker_answers_that_no_ack_stands_behind_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broker_bytes, "WORLD", [])
    monkeypatch.setattr(broker_bytes, "read_answers", lambda *_: [Answer(200, {}, b"{}")])
    with pytest.raises(AssertionError, match="stored without an ack"):
        broker_bytes.fuzz_broker(b"\0\0PING\r\n")


def test_batch_that_is_split_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    json_bytes.fuzz_batch(b"\0[1,2]")
    monkeypatch.setattr(_core, "split_batch", lambda *_: [b"1"])
    with pytest.raises(AssertionError, match="plainly"):
        json_bytes.fuzz_batch(b"\0[1,2]")


def test_proxy_header_that_takes_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = b"\0\0PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n"
    front_door.fuzz_proxy(stream)
    monkeypatch.setattr(front_door, "read_header", lambda _: (len(stream), "complete", None))
    with pytest.raises(AssertionError):
        front_door.fuzz_proxy(stream)


def test_strict_reader_finds_the_requests_and_nothing_behind_them() -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    found = read_requests(request() + chunked + request(extra=b"Connection: close\r\n") + request())
    assert [one.body for one in found] == [b"hello", b"abc", b"hello"]
    assert all(one.is_whole for one in found)
    both = HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"
    assert not read_requests(both)[0].is_whole
    assert read_requests(HEAD.replace(b"Host:", b"Host :") + b"\r\n") == []
    assert json.loads(seeds.bodies()[0]) == []
