"""The suite's own tools: the proxy, the ledger, the reading of answers, and the table."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.audit import Answer, Findings
from tests.faults.ledger import Ledger
from tests.faults.markdown import table
from tests.faults.outcome import COLUMNS, Outcome, head, show
from tests.faults.producers import Reply, answers_of
from tests.faults.proxy import Proxy
from tests.faults.registry import FAULTS

WAIT_S = 5.0
SILENCE_S = 0.1

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that sends back what it gets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def say(streams: Streams, data: bytes) -> bytes:
    streams[1].write(data)
    async with asyncio.timeout(WAIT_S):
        return await streams[0].readexactly(len(data))


async def is_silent(streams: Streams, data: bytes) -> bool:
    streams[1].write(data)
    try:
        async with asyncio.timeout(SILENCE_S):
            return await streams[0].read(1000) == b"never"
    except TimeoutError:
        return True


async def test_proxy_passes_bytes_and_ends() -> None:
    async with echo() as port, Proxy([("127.0.0.1", port)]) as proxy:
        one = await asyncio.open_connection(*proxy.address)
        assert await say(one, b"x" * 200_000) == b"x" * 200_000
        one[1].write_eof()
        async with asyncio.timeout(WAIT_S):
            assert await one[0].read() == b""
        one[1].close()


async def test_proxy_cut_resets_and_refuses_until_mended() -> None:
    async with echo() as port, Proxy([("127.0.0.1", port)]) as proxy:
        one = await asyncio.open_connection(*proxy.address)
        assert await say(one, b"a") == b"a"
        await proxy.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await say(one, b"b")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*proxy.address)
        await proxy.mend()
        two = await asyncio.open_connection(*proxy.address)
        assert await say(two, b"c") == b"c"
        for streams in (one, two):
            streams[1].close()


async def test_proxy_blackhole_keeps_bytes_back_until_unblocked() -> None:
    async with echo() as port, Proxy([("127.0.0.1", port)]) as proxy:
        one = await asyncio.open_connection(*proxy.address)
        assert await say(one, b"a") == b"a"
        proxy.blackhole()
        assert await is_silent(one, b"late")
        proxy.unblock()
        async with asyncio.timeout(WAIT_S):
            assert await one[0].readexactly(4) == b"late"
        one[1].close()


async def test_proxy_forgets_old_connections_and_serves_new_ones() -> None:
    async with echo() as port, Proxy([("127.0.0.1", port)]) as proxy:
        one = await asyncio.open_connection(*proxy.address)
        assert await say(one, b"a") == b"a"
        proxy.blackhole()
        proxy.forget()
        two = await asyncio.open_connection(*proxy.address)
        assert await say(two, b"b") == b"b"
        assert await is_silent(one, b"never")
        for streams in (one, two):
            streams[1].close()


async def test_balancer_goes_on_to_the_target_that_is_there() -> None:
    async with echo() as port, Proxy([("127.0.0.1", 1), ("127.0.0.1", port)]) as balancer:
        many = [await asyncio.open_connection(*balancer.address) for _ in range(4)]
        for streams in many:
            assert await say(streams, b"a") == b"a"
            streams[1].close()
        assert balancer.failed_count == 0


async def test_ledger_measures_the_longest_time_without_a_200(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    ledger = Ledger()
    for at, status in ((1.0, 200), (1.5, 200), (2.0, 503), (4.0, 200), (4.1, 0), (4.2, 200)):
        now[0] = 100.0 + at
        ledger.on_request(status, "broker-away" if status == 503 else "")
    assert ledger.longest_gap_s() == pytest.approx(2.5)
    assert ledger.longest_gap_s(104.1) == pytest.approx(0.2)
    now[0] = 110.0
    assert ledger.longest_gap_s() == pytest.approx(5.8)
    ledger.close()
    now[0] = 200.0
    assert ledger.longest_gap_s() == pytest.approx(5.8)
    assert (ledger.stored_count, ledger.count(5), ledger.broken_count) == (4, 1, 1)
    assert ledger.requests_count == 6
    assert ledger.words == {"broker-away": 1}


def reply(status: int, body: object = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, json.dumps(body).encode())


def test_answers_of_a_batch_stand_one_by_one() -> None:
    results = {"results": [{"seq": 7}, {"error": "no"}]}
    assert answers_of(reply(503, results, error_code="outcome-unknown"), 2) == [
        Answer(200, "", 7),
        Answer(503, "outcome-unknown"),
    ]
    assert (
        answers_of(reply(503, {"error": "away"}, error_code="broker-away"), 2)
        == [Answer(503, "broker-away")] * 2
    )
    assert answers_of(reply(200, None, nats_sequence="9"), 1) == [Answer(200, "", 9)]


def test_every_fault_has_a_name_of_its_own_and_a_line_about_it() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    assert all(fault.about for fault in FAULTS)
    assert all(len(name) <= COLUMNS[0][1] for name in names)


def test_the_table_shows_what_failed() -> None:
    outcome = Outcome("some fault", 3, problems=["it broke"], notes=["a figure"])
    assert "FAILED: it broke" in show(outcome)
    assert "a figure" in show(outcome)
    assert show(outcome).splitlines()[0].startswith("some fault")
    assert head().split()[0] == "fault"
    assert outcome.to_json()["verdict"] == "FAILED"
    outcome.problems.clear()
    assert outcome.to_json()["verdict"] == "held"


def test_markdown_has_a_row_for_each_audited_fault_and_every_note() -> None:
    outcome = Outcome("some fault", 2, notes=["interruption / election: 1.00 s / 0.90 s", "more"])
    ledger = Ledger()
    for _ in range(1234):
        ledger.on_request(200)
    outcome.take([ledger], Findings(lost=["x"], unknown=3, unknown_found=2))
    text = table([outcome.to_json(), Outcome("a crowd", notes=["p99 is fine"]).to_json()])
    rows = [line for line in text.splitlines() if line.startswith("| some fault")]
    assert rows == [
        "| some fault | 2 | 1,234 | 1,234 | 0 | 0 | 0 | 3 (2) | 1.00 s / 0.90 s | FAILED |"
    ]
    assert text.splitlines()[-3:] == [
        "- some fault: more",
        "- some fault: **FAILED**: 1 lost: x",
        "- a crowd: p99 is fine",
    ]
