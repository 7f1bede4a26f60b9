"""The short form of `python -m tests.faults`: each fault once or twice, with the audit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults import (
    broker_faults,
    clock_faults,
    cluster_faults,
    crowds,
    process_faults,
    rights_faults,
)
from tests.faults.clock import compiler
from tests.faults.outcome import Outcome, show
from tests.faults.producers import ANSWER_S_MAX
from tests.faults.scene import STATION, Plan, Scene
from tests.faults.stream import ask, connect
from tests.faults.visitors import Visitors
from tests.integration.brokers import eventually
from tests.wire.gateway import Gateway, nats_server_path

pytestmark = [
    pytest.mark.skipif(nats_server_path() is None, reason="nats-server is not installed"),
    pytest.mark.skipif(
        not Path("/proc/self/task").exists(), reason="children are looked up in /proc"
    ),
]

Run = Callable[[Plan], Awaitable[Outcome]]

VISITS = 6
"""The kinds of visits that `Visitors` makes."""

PATIENCE = 3.0
"""These run wherever the tests do, beside whatever else; `python -m tests.faults` is exact."""

REQUESTS_MIN = 300
"""LIMIT: with fewer the load did not run, and the audit says nothing."""


@pytest.mark.parametrize(
    ("run", "rounds"),
    [
        (broker_faults.broker_kill, 3),
        (broker_faults.group_kill, 2),
        (broker_faults.broker_freeze, 1),
        (broker_faults.lame_duck, 1),
        (broker_faults.link_cut, 2),
        (broker_faults.link_blackhole, 2),
        (broker_faults.stream_full, 1),
        (broker_faults.queue_full, 1),
        (rights_faults.credentials_expire, 1),
        (rights_faults.permission_lost, 3),
        (cluster_faults.second_address, 1),
        (process_faults.worker_kill, 1),
        (process_faults.end_under_load, 2),
        (process_faults.rolling_restart, 1),
    ],
)
async def test_a_fault_breaks_no_promise(run: Run, rounds: int, tmp_path: Path) -> None:
    outcome = await run(Plan(tmp_path, rounds, seconds=0.3, patience=PATIENCE))
    assert not outcome.problems, show(outcome)
    assert outcome.findings is not None
    assert outcome.findings.is_clean
    assert outcome.figures["requests"] >= REQUESTS_MIN, show(outcome)
    assert outcome.figures["200"], show(outcome)


@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
async def test_a_clock_that_jumps_is_not_noticed(tmp_path: Path) -> None:
    outcome = await clock_faults.clock_jumps(Plan(tmp_path, 1, seconds=0.2, patience=PATIENCE))
    assert not outcome.problems, show(outcome)
    assert outcome.figures["requests"] >= REQUESTS_MIN, show(outcome)


async def test_visitors_of_the_soak_come_and_find_what_they_expect(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "data").start()
    try:
        gateway.produce("audit", b"1")
        visitors = Visitors(gateway.address, "audit", gateway.token())
        await visitors.prepare()
        visitors.start()
        await eventually(
            lambda: len(visitors.counts) == VISITS and visitors.consumed_count > 0, ANSWER_S_MAX
        )
        await visitors.stop()
        assert visitors.faults == []
        assert gateway.ask("/healthz", None, method="GET").status == 200
    finally:
        assert gateway.stop() == 0


async def test_no_descriptor_left_turns_newcomers_away_and_nobody_else(tmp_path: Path) -> None:
    outcome = await crowds.descriptor_limit(Plan(tmp_path, 1))
    assert not outcome.problems, show(outcome)


async def test_the_audit_of_a_real_stream_finds_what_is_planted(tmp_path: Path) -> None:
    """A message taken out of the stream behind the gateway's back, and one put in twice."""
    async with Scene(Plan(tmp_path), "planted") as scene:
        await scene.end_load()
        stored = [one for one in scene.ledger.messages if one.is_stored and one.id is None]
        gone, twice = stored[3], stored[-3]
        client = await connect(scene.broker.url)
        answer = await ask(client, f"STREAM.MSG.DELETE.{STATION}", {"seq": gone.answers[0].seq})
        assert answer.get("success"), answer
        await client.request(STATION, f'"{twice.key}"'.encode(), timeout=5)
        await client.request(STATION, b'"nobody:0"', timeout=5)
        await client.close()
    findings = scene.outcome.findings
    assert findings is not None
    assert findings.lost == [gone.key]
    assert findings.doubled == [f"{twice.key} (2 times)"]
    assert findings.phantom == ["nobody:0 (nobody sent it)"]
    assert len(scene.outcome.problems) == 3
