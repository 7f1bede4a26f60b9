"""The tools of the faults of clocks, rights and the broker's bounds, and of the soak."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.faults.audit import Answer, Findings
from tests.faults.brokers import ConfiguredBroker
from tests.faults.clock import HOUR_S, JumpingClock, compiler
from tests.faults.ledger import Ledger
from tests.faults.operator_mode import Operator
from tests.faults.outcome import Outcome
from tests.faults.producers import ARRIVAL, BATCH_COUNT, BATCH_ID, SINGLE_ID, Goal, Job, Producer
from tests.faults.rights_faults import are_mixed
from tests.faults.scene import Plan, Scene
from tests.faults.soak import MIB, Sample, judge_samples
from tests.wire.gateway import clean_env, nats_server_path

needs_broker = pytest.mark.skipif(nats_server_path() is None, reason="nats-server is not installed")
WAIT_S = 10.0

TELLING = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
libc.time.restype = ctypes.c_long
for _ in sys.stdin:
    pair = (ctypes.c_long * 2)()
    libc.gettimeofday(pair, None)
    print(time.time(), libc.time(None), pair[0], time.monotonic(), flush=True)
"""
"""Tells on each line what three ways of asking for the time say, and the monotonic clock."""


@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
def test_clock_that_jumps_moves_what_can_be_set_and_nothing_else(tmp_path: Path) -> None:
    clock = JumpingClock(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", TELLING],
        env=clean_env(clock.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        for offset_s in (0, HOUR_S, -HOUR_S, 0):
            clock.set(offset_s)
            child.stdin.write("\n")
            child.stdin.flush()
            *told, monotonic = map(float, child.stdout.readline().split())
            for one in told:
                assert abs(one - clock.now_s()) < 5, (offset_s, told)
            assert abs(monotonic - time.monotonic()) < 5
            assert abs(clock.now_s() - time.time() - offset_s) < 5
    finally:
        child.stdin.close()
        assert child.wait(WAIT_S) == 0
        child.stdout.close()


def test_clock_without_a_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no C compiler"):
        JumpingClock(tmp_path)


def options(*denied: str) -> dict[str, Any]:
    permissions = {"publish": {"allow": [">"], "deny": list(denied)}}
    user = {"user": "gateway", "password": ConfiguredBroker.password, "permissions": permissions}
    return {"authorization": {"users": [user]}, "max_payload": 4096}


@needs_broker
async def test_configured_broker_has_other_rights_after_a_reload(tmp_path: Path) -> None:
    broker = ConfiguredBroker(tmp_path, options=options())
    await asyncio.to_thread(broker.start)
    errors: asyncio.Queue[Exception] = asyncio.Queue()
    client = await nats.connect(broker.url, error_cb=errors.put)
    try:
        assert client.max_payload == 4096
        await client.publish("a", b"1")
        await client.flush()
        assert errors.empty()
        await asyncio.to_thread(broker.reload, options("a"))
        await client.publish("a", b"1")
        async with asyncio.timeout(WAIT_S):
            assert "permissions violation" in str(await errors.get()).lower()
    finally:
        await client.close()
        broker.kill()


@needs_broker
async def test_operator_ends_a_user_when_his_time_is_over(tmp_path: Path) -> None:
    operator = Operator()
    lasting, brief = tmp_path / "lasting.creds", tmp_path / "brief.creds"
    operator.write_creds(lasting)
    operator.write_creds(brief, 2.0)
    assert brief.stat().st_mode & 0o777 == 0o600
    assert all(
        secret in "".join(map(Path.read_text, (lasting, brief))) for secret in operator.secrets
    )
    broker = ConfiguredBroker(tmp_path / "broker", user="", options=operator.options())
    await asyncio.to_thread(broker.start)
    ended = asyncio.Event()

    async def end() -> None:
        ended.set()

    one = await nats.connect(broker.url, user_credentials=str(lasting))
    two = await nats.connect(
        broker.url, user_credentials=str(brief), allow_reconnect=False, closed_cb=end
    )
    try:
        # The account has JetStream.
        assert "streams" in str((await one.request("$JS.API.INFO", b"", timeout=WAIT_S)).data)
        async with asyncio.timeout(WAIT_S):
            await ended.wait()
        assert "expired" in str(two.last_error).lower()
        assert one.is_connected
    finally:
        await one.close()
        await two.close()
        broker.kill()


def test_job_that_the_broker_is_too_busy_for_is_sent_again() -> None:
    job = Job(b"", [])
    for status, is_settled in ((200, True), (400, True), (403, True), (429, False), (503, False)):
        job.status = status
        assert job.is_settled is is_settled


def test_job_of_which_a_part_was_refused_promises_no_order() -> None:
    ledger = Ledger()
    for answers, is_ordered in (
        ([Answer(200, "", 1), Answer(503, "overloaded")], False),
        ([Answer(200, "", 1), Answer(503, "outcome-unknown")], True),
        ([Answer(503, "overloaded")] * 2, True),
    ):
        messages = [ledger.open("p", number, None) for number in range(2)]
        Job(b"", messages).enter(answers)
        assert [one.is_ordered for one in messages] == [is_ordered] * 2


async def test_producer_counts_answers_that_do_not_say_when_to_come_again() -> None:
    heads = [b"HTTP/1.1 503 x\r\n", b"HTTP/1.1 429 x\r\nRetry-After: 1\r\n", b"HTTP/1.1 200 x\r\n"]
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for head in heads:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(len('"p:0"'))
            writer.write(head + b"Nats-Sequence: 1\r\nContent-Length: 0\r\n\r\n")
        ended.set()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    ledger, ended, gone = Ledger(), asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    goal = Goal(server.sockets[0].getsockname(), "s", {"X-API-Key": "k"})
    async with asyncio.timeout(WAIT_S):
        await Producer("p", replace(SINGLE_ID, rest_s=0.0), goal, ledger, 0.0).run(ended)
        await gone.wait()
    server.close()
    assert ledger.hopeless_count == 1
    assert [answer.status for answer in ledger.messages[0].answers] == [503, 429, 200]
    assert all(b"\r\nX-API-Key: k\r\n" in head and b"POST /stations/s/" in head for head in seen)


async def test_producer_with_a_pause_of_his_own_keeps_it() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 x\r\nNats-Sequence: 1\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    ledger, ended = Ledger(), asyncio.Event()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    goal = Goal(server.sockets[0].getsockname(), "s")
    producer = Producer("p", replace(ARRIVAL, pause_s=0.01), goal, ledger, pause_s=WAIT_S)
    running = asyncio.create_task(producer.run(ended))
    assert await ledger.wait_stored(3, WAIT_S / 2) is not None
    ended.set()
    async with asyncio.timeout(WAIT_S):
        await running
    server.close()


def test_outcome_of_two_streams_adds_them_up() -> None:
    one, two = Ledger(), Ledger()
    one.on_request(200)
    two.on_request(403, "forbidden")
    findings = Findings(lost=["a"])
    findings.add(Findings(lost=["b"], phantom=["c"], unknown=2, unknown_found=1))
    outcome = Outcome("two")
    outcome.take([one, two], findings)
    row = outcome.row()
    assert (row["requests"], row["200"], row["4xx"], row["unknown"], row["there"]) == (
        2,
        1,
        1,
        2,
        1,
    )
    assert (row["lost"], row["phantom"], row["verdict"]) == (2, 1, "FAILED")
    assert outcome.figures["words"] == {"forbidden": 1}


@needs_broker
async def test_scene_audits_every_station_of_its_load(tmp_path: Path) -> None:
    async with Scene(Plan(tmp_path, kinds=(BATCH_ID,)), "two stations") as scene:
        scene.start_load((SINGLE_ID,), "other")
        assert await scene.ledgers["other"].wait_stored(20, WAIT_S) is not None
        await scene.end_load()
        scene.ledgers["other"].open("p", 0, None).answers.append(Answer(200, "", 0))
    assert scene.outcome.problems == ["1 lost: p:0"]
    assert {key.partition("-")[0] for key in scene.found_keys} == {"batch", "single"}


@pytest.mark.parametrize(
    ("memory", "files", "expected"),
    [
        ((100.0, 104.0), (20, 22), []),
        ((100.0, 106.0), (20, 20), ["memory grew by 6.0 %"]),
        ((100.0, 90.0), (20, 23), ["3 descriptors were left behind"]),
    ],
)
def test_soak_judges_what_grows(
    memory: tuple[float, float], files: tuple[int, int], expected: list[str]
) -> None:
    first, last = (Sample(int(m * MIB), f) for m, f in zip(memory, files, strict=True))
    told, problems = judge_samples([first] * 30 + [last] * 30)
    assert problems == expected
    assert told.endswith(" ".join([f"{memory[0]:.1f}"] * 5 + [f"{memory[1]:.1f}"] * 5))


def test_bad_batch_is_right_for_a_batch_that_was_stored_in_part() -> None:
    ledger = Ledger()
    for number in range(BATCH_COUNT):
        stored, refused = (ledger.open(name, number, None) for name in ("mixed", "single"))
        stored.answers.append(Answer(200, "", 1) if number < 3 else Answer(400, "bad-batch"))
        refused.answers.append(Answer(403, "forbidden"))
    assert are_mixed(ledger.messages)
    for number in range(BATCH_COUNT):
        ledger.open("whole", number, None).answers.append(Answer(400, "bad-batch"))
    assert not are_mixed(ledger.messages)
