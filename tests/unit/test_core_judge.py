"""Step 4 in the core: verdicts of every kind, found at once, later, or over several turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from fastgw import _core
from fastgw.errors import ClientFault
from fastgw.schema.base import Verdict
from fastgw.schema.json import compile_json
from tests.unit.dialogue import BATCH, HEAD, Dialogue, request

Check = Callable[[bytes, bytes | None], Verdict | Awaitable[Verdict]]
SCHEMA = "Schema validation has failed: "
NO_WAIT = HEAD.replace(b"single", b"single?wait=false")


def dialogue_with(check: Check | None = None, **options: object) -> Dialogue:
    dialogue = Dialogue()
    dialogue.ingress.put_station(
        _core.Station("orders", "orders", "orders", check=check, **options)  # type: ignore[arg-type]
    )
    return dialogue


async def run_turns() -> None:
    """Let all callbacks come; by count, as a sleep on a busy machine may be a single turn."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_verdict_none_publishes_the_message_itself() -> None:
    seen = []

    def check(message: bytes, kind: bytes | None) -> Verdict:
        seen.append((message, kind))
        return None

    dialogue = dialogue_with(check)
    dialogue.client().send(request(b"x", extra=b"Content-Type: a/b; c=d\r\n"))
    assert [frame.payload for frame in dialogue.frames()] == [b"x"]
    assert seen == [(b"x", b"a/b; c=d")]


def test_verdict_text_refuses_and_keeps_the_message() -> None:
    dialogue = dialogue_with(lambda message, kind: "/a: expected string", keeps_refused=True)
    client = dialogue.client()
    client.send(request(b"bad", extra=b"X-A: 1\r\n"))
    (answer,) = client.answers()
    assert answer.status == 400
    assert answer.headers["Error-Code"] == "schema-refused"
    assert json.loads(answer.body) == {"error": SCHEMA + "/a: expected string", "success": False}
    ((block, message, why),) = dialogue.refused
    assert (message, why) == (b"bad", "/a: expected string")
    assert b"X-A: 1\r\n" in block
    assert b"good" not in block, "no credential leaves the gateway"
    assert dialogue.frames() == []


def test_verdict_bytes_are_stored_instead() -> None:
    dialogue = dialogue_with(lambda message, kind: message.upper())
    client = dialogue.client()
    client.send(request(b"abc") + request(b'["x","yy"]', head=BATCH))
    assert [frame.payload for frame in dialogue.frames()] == [b"ABC", b'"X"', b'"YY"']


def test_verdict_fault_has_its_own_status() -> None:
    def check(message: bytes, kind: bytes | None) -> Verdict:
        raise ClientFault("media-type-unsupported", "avro on a JSON station")

    dialogue = dialogue_with(check)
    client = dialogue.client()
    client.send(request(b"x"))
    assert [answer.status for answer in client.answers()] == [415]


def test_verdict_that_comes_later_is_awaited() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        verdicts: list[asyncio.Future[Verdict]] = []

        def check(message: bytes, kind: bytes | None) -> Awaitable[Verdict]:
            verdicts.append(loop.create_future())
            return verdicts[-1]

        dialogue = dialogue_with(check)
        client = dialogue.client()
        client.send(request(b"[1,2,3,4]", head=BATCH, extra=b"X-A: 1\r\n"))
        assert dialogue.frames() == []
        verdicts[3].set_result(b"four")
        verdicts[0].set_result(None)
        verdicts[1].set_result("no two")
        await run_turns()
        assert dialogue.frames() == []
        verdicts[2].set_exception(ValueError("a defect"))
        await run_turns()
        frames = dialogue.frames()
        assert [frame.payload for frame in frames] == [b"1", b"four"]
        assert all((b"X-A", b"1") in frame.headers for frame in frames)
        for number, frame in enumerate(frames):
            dialogue.store(frame, number + 1)
        (answer,) = client.answers()
        assert json.loads(answer.body)["errors"] == [SCHEMA + "no two", "internal error"]
        assert len(dialogue.defects) == 1

    asyncio.run(run())


def test_verdict_that_comes_after_the_client_left_is_dropped() -> None:
    async def run() -> None:
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        dialogue = dialogue_with(lambda message, kind: verdict)
        client = dialogue.client()
        client.send(request(b"x"))
        client.protocol.connection_lost(None)
        verdict.set_result(None)
        await run_turns()
        assert dialogue.frames() == []

    asyncio.run(run())


def test_verdict_that_comes_after_the_broker_went_is_503() -> None:
    async def run() -> None:
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        dialogue = dialogue_with(lambda message, kind: verdict)
        client = dialogue.client()
        client.send(request(b"x"))
        dialogue.link.connection_lost(None)
        verdict.set_result(None)
        await run_turns()
        (answer,) = client.answers()
        assert (answer.status, answer.headers["Error-Code"]) == (503, "broker-away")

    asyncio.run(run())


def test_large_batch_is_judged_over_several_turns() -> None:
    dialogue = dialogue_with(lambda message, kind: None if b"7" not in message else "seven")
    big = b'"' + b"x" * 100_000 + b'"'
    client = dialogue.client()
    client.send(request(b"[" + b",".join([big] * 7) + b",7]", head=BATCH))
    turns = 0
    while dialogue.loop.ready and turns < 10:
        ready, dialogue.loop.ready = dialogue.loop.ready, []
        for callback in ready:
            callback()
        turns += 1
    assert turns > 2
    frames = dialogue.frames()
    assert len(frames) == 7
    for number, frame in enumerate(frames):
        dialogue.store(frame, number + 1)
    (answer,) = client.answers()
    assert json.loads(answer.body)["sent"] == 7


def test_station_bound_of_a_message_is_413() -> None:
    dialogue = dialogue_with(message_bytes_max=3)
    client = dialogue.client()
    client.send(request(b"four") + request(b'[1,"four"]', head=BATCH))
    (frame,) = dialogue.frames()
    dialogue.store(frame, 1)
    single, batch = client.answers()
    assert (single.status, batch.status) == (413, 400)


def test_suffix_not_allowed_is_400() -> None:
    dialogue = dialogue_with(allow_suffix=False)
    client = dialogue.client()
    client.send(request(head=HEAD.replace(b"single", b"single?subject=a")))
    assert [answer.status for answer in client.answers()] == [400]


def test_no_wait_answers_202_when_written() -> None:
    dialogue = dialogue_with(allow_no_wait=True)
    client = dialogue.client()
    client.send(request(head=NO_WAIT))
    assert len(dialogue.broker.written) == 0
    (answer,) = client.answers()
    assert answer.status == 202
    (frame,) = dialogue.frames()
    dialogue.ack(frame, b'{"error":{"code":503,"err_code":10077,"description":"full"}}')
    assert client.answers() == []
    assert dialogue.link.in_flight == 0


def test_no_wait_of_a_full_ring_answers_when_all_is_written() -> None:
    dialogue = Dialogue(publishes_in_flight_max=16)
    dialogue.ingress.put_station(_core.Station("orders", "orders", "orders", allow_no_wait=True))
    client = dialogue.client()
    numbers = b",".join(b"%d" % number for number in range(20))
    client.send(request(b"[" + numbers + b"]", head=BATCH.replace(b"batch", b"batch?wait=false")))
    frames = dialogue.frames()
    assert len(frames) == 16
    assert client.answers() == []
    for frame in frames:
        dialogue.store(frame, 1)
    assert [answer.status for answer in client.answers()] == [202]


def test_wait_is_the_default() -> None:
    dialogue = dialogue_with(allow_no_wait=True)
    client = dialogue.client()
    client.send(request(head=HEAD.replace(b"single", b"single?wait=true")))
    assert len(dialogue.frames()) == 1
    assert client.answers() == []


@pytest.mark.parametrize("query", [b"wait=no", b"results=1", b"atomic=yes", b"wait=False"])
def test_switch_that_is_neither_true_nor_false_is_400(query: bytes) -> None:
    dialogue = dialogue_with(allow_no_wait=True)
    client = dialogue.client()
    client.send(request(b"[1]", head=BATCH.replace(b"batch", b"batch?" + query)))
    (answer,) = client.answers()
    assert answer.status == 400 and "is true or false; got" in answer.json()["error"]
    assert dialogue.frames() == []


def test_no_wait_with_a_refused_element_is_400() -> None:
    dialogue = dialogue_with(
        lambda message, kind: "two" if message == b"2" else None, allow_no_wait=True
    )
    client = dialogue.client()
    client.send(request(b"[1,2,3]", head=BATCH.replace(b"batch", b"batch?wait=false")))
    (answer,) = client.answers()
    body = json.loads(answer.body)
    assert (answer.status, body["sent"], body["fail"]) == (400, 2, 1)


def test_publish_of_our_own_is_told_how_it_ended() -> None:
    dialogue = Dialogue()
    station = _core.Station("dead", "dead", "dead")
    ended: list[bool] = []
    fields = _core.build_fields([(b"Why", b"bad"), (b"Why", b"worse")])
    dialogue.ingress.publish(station, fields, b"one", ended.append)
    dialogue.ingress.publish(station, b"", b"two", ended.append)
    one, two = dialogue.frames()
    assert (one.subject, one.payload) == (b"dead", b"one")
    assert one.headers == [(b"Why", b"bad"), (b"Why", b"worse")]
    assert two.headers == []
    dialogue.ack(one, b'{"stream":"dead","seq":1}')
    dialogue.ack(two, b'{"error":{"code":503,"err_code":10077,"description":"full"}}')
    assert ended == [True, False]
    dialogue.ingress.publish(station, b"", b"x" * 1048576, ended.append)
    dialogue.ingress.publish(station, b"", b"three", ended.append)
    dialogue.link.connection_lost(None)
    dialogue.ingress.publish(station, b"", b"four", ended.append)
    assert ended == [True, False, False, False, False]


@pytest.mark.parametrize("header", [(b"", b"x"), (b"a\r\nb", b"x"), (b"a:", b"x"), (b"a", b"\n")])
def test_fields_that_could_forge_a_header_are_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ClientFault):
        _core.build_fields([header])


def short_way(schema: object) -> _core.JsonWalker:
    walker = compile_json(json.dumps(schema), resolve=lambda _: None).accepts
    assert walker is not None
    return walker


def test_short_way_accepts_alone_and_leaves_every_refusal_to_the_check() -> None:
    judged: list[bytes] = []

    def check(message: bytes, kind: bytes | None) -> Verdict:
        judged.append(message)
        return "bad" if message == b"bad" else None

    dialogue = dialogue_with(check, accepts=short_way({"const": 1}))
    client = dialogue.client()
    client.send(request(b"1") + request(b"2") + request(b" 1\n") + request(b"1.0"))
    assert len(dialogue.frames()) == 4
    assert judged == [b"2", b"1.0"]
    for media, is_asked in (
        (b"application/json", False),
        (b"application/json; charset=utf-8", False),
        (b"application/x-protobuf", True),
        (b"text/plain", True),
    ):
        judged.clear()
        client.send(request(b"1", extra=b"Content-Type: %s\r\n" % media))
        assert judged == [b"1"] * is_asked
    client.send(request(b"deep") + request(b"bad"))
    assert len(dialogue.frames()) == 5
    assert judged[1:] == [b"deep", b"bad"]


@pytest.mark.parametrize("by_lines", [False, True])
def test_short_way_in_a_batch_takes_the_good_and_the_check_the_rest(by_lines: bool) -> None:
    judged: list[bytes] = []

    def check(message: bytes, kind: bytes | None) -> Verdict:
        judged.append(message)
        return "odd" if message == b"3" else None

    dialogue = dialogue_with(check, accepts=short_way({"type": "integer", "multipleOf": 2}))
    texts = (b"2", b"4", b"3", b'"x"', b"6")
    body = b"\n".join(texts) if by_lines else b'[2, 4 ,3,"x",6]'
    media = b"application/x-ndjson" if by_lines else b"application/json"
    client = dialogue.client()
    client.send(request(body, head=BATCH, extra=b"Content-Type: %s\r\n" % media))
    assert [frame.payload for frame in dialogue.frames()] == [b"2", b"4", b'"x"', b"6"]
    assert judged == [b"3", b'"x"']


@pytest.mark.parametrize("body", [b"[2,4", b"[2 4]", b"[2,]", b"[2]x", b"[2,\xff]", b"[02]"])
def test_short_way_in_a_broken_batch_publishes_nothing(body: bytes) -> None:
    dialogue = dialogue_with(lambda message, kind: None, accepts=short_way({"type": "integer"}))
    client = dialogue.client()
    client.send(request(body, head=BATCH))
    assert dialogue.frames() == []
    assert client.answers()[0].status == 400


def test_short_way_leaves_the_bounds_of_sizes_alone() -> None:
    walker = short_way({"type": "string"})
    dialogue = dialogue_with(lambda message, kind: None, accepts=walker, message_bytes_max=8)
    client = dialogue.client()
    client.send(request(b'"123456"') + request(b'"1234567"'))
    assert len(dialogue.frames()) == 1
    client.send(request(b'["123456","1234567"]', head=BATCH))
    assert [frame.payload for frame in dialogue.frames()] == [b'"123456"']
