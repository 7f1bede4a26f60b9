"""Faults of the gateway's own processes: a worker that dies, an end under load, a restart.

What enters: a `Plan`. What leaves: an `Outcome` for each fault.
A client that was cut off is judged by the stream: a request whose message is there was accepted,
and what was accepted must be answered.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.faults.audit import BROKEN
from tests.faults.producers import MIXTURE, SINGLE_SHOT
from tests.faults.proxy import Proxy
from tests.faults.scene import RESUME_S_MAX, Scene, children
from tests.wire.gateway import Gateway, free_port

if TYPE_CHECKING:
    from tests.faults.outcome import Outcome
    from tests.faults.scene import Plan

REPLACE_S_TARGET: Final = 1.0
"""SOURCE: target R2, the supervisor replaces a worker within a second."""

STEADY_S: Final = 5.2
"""LIMIT: the supervisor waits longer for a worker that lived less than 5 s."""

GRACE_S: Final = 10.0
"""SOURCE: limits.drain_grace_ms."""

LOOK_S: Final = 0.005
SHOTS: Final = (SINGLE_SHOT,) * 4


async def worker_kill(plan: Plan) -> Outcome:
    """R2: kill -9 one of two workers under load, in turn."""
    async with Scene(plan, "worker kill -9", flags=("--workers", "2")) as scene:
        assert scene.gateway.process is not None
        parent = scene.gateway.process.pid
        born: dict[int, float] = {}
        replaced = []
        for number in range(plan.rounds):
            workers = children(parent)
            if len(workers) != 2:
                scene.problem(f"{len(workers)} workers before round {number + 1}")
                break
            victim = min(workers, key=lambda pid: born.get(pid, 0.0))
            await asyncio.sleep(
                max(plan.seconds, STEADY_S - (time.monotonic() - born.get(victim, 0)))
            )
            os.kill(victim, signal.SIGKILL)
            took_s = await _wait_replaced(parent, victim, scene.gateway.address[1])
            if took_s is None:
                scene.problem(f"no new worker within {RESUME_S_MAX:g} s")
                break
            for pid in children(parent):
                born.setdefault(pid, time.monotonic())
            replaced.append(took_s)
            await scene.resume(f"kill {number + 1}")
        if replaced:
            scene.note(
                f"replaced after {sorted(replaced)[len(replaced) // 2]:.2f} s (median), "
                f"{max(replaced):.2f} s (longest)"
            )
            if max(replaced) > REPLACE_S_TARGET * plan.patience:
                scene.problem(f"replaced only after {max(replaced):.2f} s")
        gap_s = scene.ledger.longest_gap_s()
        if gap_s > REPLACE_S_TARGET * plan.patience:
            scene.problem(f"the other worker did not serve on: {gap_s:.2f} s without a 200")
    return scene.outcome


async def _wait_replaced(parent: int, victim: int, port: int) -> float | None:
    """Wait until two workers accept clients, none of which is the one that was killed."""
    started = time.monotonic()
    while time.monotonic() - started < RESUME_S_MAX:
        workers = children(parent)
        if victim not in workers and len(workers) == 2 and listening_count(port) == 2:
            return time.monotonic() - started
        await asyncio.sleep(LOOK_S)
    return None


def listening_count(port: int) -> int:
    """How many sockets accept clients on a port of loopback."""
    # SOURCE: proc(5), /proc/net/tcp: local address and port in hex, state 0A is LISTEN.
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return sum(one[1].endswith(f":{port:04X}") and one[3] == "0A" for one in fields)


async def end_under_load(plan: Plan) -> Outcome:
    """R5: SIGTERM under load; every accepted request is answered, and the exit is 0 in time."""
    plan = replace(plan, kinds=(*MIXTURE, *SHOTS))
    port = free_port()
    async with Scene(plan, "SIGTERM under load", listen=f"127.0.0.1:{port}") as scene:
        took = []
        for number in range(plan.rounds):
            await scene.run_load()
            started = time.monotonic()
            code = await asyncio.to_thread(scene.gateway.stop)
            took.append(time.monotonic() - started)
            if code != 0:
                scene.problem(f"exit code {code} in round {number + 1}")
            await asyncio.to_thread(scene.gateway.start, f"127.0.0.1:{port}")
            await scene.resume(f"start {number + 1}")
        scene.note(f"ended within {max(took):.2f} s (longest)")
        if max(took) > GRACE_S:
            scene.problem(f"the end took {max(took):.2f} s, above the grace of {GRACE_S:g} s")
        scene.check_log(scene.gateway)
    await _judge_unanswered(scene)
    return scene.outcome


async def _judge_unanswered(scene: Scene) -> None:
    """Whoever was cut off must not be there: he was not accepted."""
    there = scene.found_keys
    cut = [
        message
        for message in scene.ledger.messages
        if message.answers and message.answers[0].status == BROKEN
    ]
    accepted = [message.key for message in cut if message.key in there and message.id is None]
    by_kind = Counter(message.producer.rpartition("-")[0] for message in cut)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(by_kind.items())) or "none"
    scene.note(f"messages without an answer: {told}; {len(accepted)} of them stored")
    if accepted:
        scene.problem(f"{len(accepted)} accepted without an answer, as {accepted[:5]}")


async def rolling_restart(plan: Plan) -> Outcome:
    """R5: two gateways behind one balancer are restarted in turn; nobody is refused."""
    ports = [free_port(), free_port()]
    plan = replace(plan, kinds=(*MIXTURE, *SHOTS))
    async with AsyncExitStack() as stack:
        balancer = await stack.enter_async_context(Proxy([("127.0.0.1", port) for port in ports]))
        listen = f"127.0.0.1:{ports[0]}"
        # WHY: so long the one that leaves still serves, and tells each client to come anew.
        env = {"FASTGW_LIMITS_DRAIN_DELAY_MS": "1000"}
        scene = Scene(plan, "rolling restart", address=balancer.address, listen=listen, env=env)
        await stack.enter_async_context(scene)
        other = scene.make_gateway("other", scene.broker.url)
        pair = [scene.gateway, other]
        await asyncio.to_thread(other.start, f"127.0.0.1:{ports[1]}")
        try:
            for number in range(plan.rounds):
                for gateway, port in zip(pair, ports, strict=True):
                    await scene.run_load()
                    await _restart(scene, gateway, f"127.0.0.1:{port}", number)
            await scene.run_load()
            await scene.end_load()
        finally:
            await _stop(scene, other)
    await _judge_unanswered(scene)
    ledger = scene.ledger
    away = {word for word in ledger.words if word != "bad-subject"}
    if balancer.failed_count or ledger.refused_count:
        scene.problem(
            f"{balancer.failed_count} connections refused by both gateways, "
            f"{ledger.refused_count} by the balancer"
        )
    if ledger.count(5):
        scene.problem(f"{ledger.count(5)} requests refused: {sorted(away)}")
    if ledger.broken_count:
        scene.problem(f"{ledger.broken_count} requests were cut off")
    return scene.outcome


async def _restart(scene: Scene, gateway: Gateway, listen: str, number: int) -> None:
    code = await asyncio.to_thread(gateway.stop)
    if code != 0:
        scene.problem(f"exit code {code} in round {number + 1}")
    await scene.resume(f"one of two has ended in round {number + 1}")
    await asyncio.to_thread(gateway.start, listen)


async def _stop(scene: Scene, gateway: Gateway) -> None:
    if gateway.process is None or gateway.process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        code = await asyncio.to_thread(gateway.stop)
        if code != 0:
            scene.problem(f"the other gateway ended with {code}")
    scene.check_log(gateway)


__all__ = ["end_under_load", "rolling_restart", "worker_kill"]
