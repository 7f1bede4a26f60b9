"""Faults of one broker, or of the way to it.

What enters: a `Plan`. What leaves: an `Outcome` for each fault. Called by the registry in
`__main__` and by the short form in the tests.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests.faults.producers import SINGLE, Kind
from tests.faults.proxy import Proxy
from tests.faults.scene import ACK_TIMEOUT_S, PINGS_S, STATION, Scene, rss_bytes
from tests.wire.gateway import Broker, free_port, run_fastgw

if TYPE_CHECKING:
    from tests.faults.outcome import Outcome
    from tests.faults.scene import Plan

DOWN_S: Final = 0.3
RESUME_S_TARGET: Final = 2.0
"""LIMIT: the longest pause between two dials here is 0.25 s; what takes longer than this to resume
after the fault is over waits for something else."""

SLOW_PINGS: Final = {"FASTGW_NATS_PING_INTERVAL_MS": "5000"}
"""The link is not given up meanwhile, so that requests wait for their acks."""

FULL_STEP: Final = 500
FULL_S_MAX: Final = 30.0
BIG_COUNT: Final = 1000
MIB: Final = 1 << 20


async def broker_kill(plan: Plan) -> Outcome:
    """R1: kill -9 under load and start again, over and over."""
    async with Scene(plan, "broker kill -9") as scene:
        took = []
        for number in range(plan.rounds):
            await scene.run_load()
            scene.broker.kill()
            # WHY: every other time it is back at once, so that dials meet a half-started broker.
            await asyncio.sleep(DOWN_S if number % 2 else 0)
            await asyncio.to_thread(scene.broker.start)
            took.append(await scene.resume(f"kill {number + 1}"))
        _note_resumed(scene, took)
    return scene.outcome


async def broker_freeze(plan: Plan) -> Outcome:
    """R3: SIGSTOP for longer than an ack may take, then SIGCONT."""
    async with Scene(plan, "broker SIGSTOP", env=SLOW_PINGS) as scene:
        took = []
        for number in range(plan.rounds):
            await scene.run_load()
            await asyncio.to_thread(scene.broker.freeze)
            # WHY: once acks come late, once they come too late, for requests answered 504.
            await asyncio.sleep(0.6 if number % 2 else ACK_TIMEOUT_S + PINGS_S)
            scene.broker.signal(signal.SIGCONT)
            took.append(await scene.resume(f"SIGCONT {number + 1}"))
        _note_resumed(scene, took)
    return scene.outcome


async def link_cut(plan: Plan) -> Outcome:
    """R3: every connection to the broker is reset, new ones are refused for a while."""
    return await _through_proxy(plan, "link cut", _cut)


async def link_blackhole(plan: Plan) -> Outcome:
    """R3: nothing comes through; later the old connections stay silent, new ones work."""
    return await _through_proxy(plan, "link black hole", _blackhole)


async def link_slow(plan: Plan) -> Outcome:
    """R3: a delay on each read, then little bandwidth."""
    return await _through_proxy(plan, "link slow", _slow, SLOW_PINGS)


async def _cut(scene: Scene, proxy: Proxy, number: int) -> None:
    await proxy.cut()
    await asyncio.sleep(DOWN_S * (number % 3))
    await proxy.mend()


async def _blackhole(scene: Scene, proxy: Proxy, number: int) -> None:
    proxy.blackhole()
    if number % 2:
        # What waited arrives late: acks of requests that were answered 504 meanwhile.
        await asyncio.sleep(ACK_TIMEOUT_S + 0.2)
        proxy.unblock()
    else:
        await asyncio.sleep(DOWN_S)
        proxy.forget()


async def _slow(scene: Scene, proxy: Proxy, number: int) -> None:
    if number % 2:
        proxy.delay_s = 0.1
    else:
        proxy.bytes_per_s = 20_000
    await asyncio.sleep(max(2.0, scene.plan.seconds))
    proxy.delay_s, proxy.bytes_per_s = 0.0, None


async def _through_proxy(
    plan: Plan, name: str, fault: _Fault, env: dict[str, str] | None = None
) -> Outcome:
    port = free_port()
    async with Proxy([("127.0.0.1", port)]) as proxy:

        def url(broker: Broker) -> str:
            return broker.url.replace(f":{port}", f":{proxy.port}")

        scene = Scene(plan, name, gateway_url=url, env=env or {})
        scene.broker.port = port
        async with scene:
            took = []
            for number in range(plan.rounds):
                await scene.run_load()
                await fault(scene, proxy, number)
                took.append(await scene.resume(f"{name} {number + 1}"))
            _note_resumed(scene, took)
    return scene.outcome


async def lame_duck(plan: Plan) -> Outcome:
    """The only broker says goodbye, ends, and another one takes its place."""
    async with Scene(plan, "broker lame duck") as scene:
        took = []
        for number in range(plan.rounds):
            await scene.run_load()
            scene.broker.signal(signal.SIGUSR2)
            await asyncio.sleep(DOWN_S)
            # WHY: its grace period is 10 s; what matters came before it.
            scene.broker.kill()
            await asyncio.to_thread(scene.broker.start)
            took.append(await scene.resume(f"lame duck {number + 1}"))
        _note_resumed(scene, took)
    return scene.outcome


async def stream_full(plan: Plan) -> Outcome:
    """A stream that takes no more: told apart from every other trouble, and nothing is stored."""
    from tests.faults.stream import ask, connect

    bound = FULL_STEP

    def make(scene: Scene) -> None:
        done = run_fastgw("station", "add", STATION, "--nats", scene.broker.url)
        if done.returncode:
            raise RuntimeError(done.stderr)

    async def set_bound(scene: Scene, messages_max: int) -> None:
        client = await connect(scene.broker.url)
        try:
            config = (await ask(client, f"STREAM.INFO.{STATION}", {}))["config"]
            config |= {"max_msgs": messages_max, "discard": "new"}
            answer = await ask(client, f"STREAM.UPDATE.{STATION}", config)
            if "error" in answer:
                scene.problem(f"the stream's bound cannot be set: {answer['error']}")
        finally:
            await client.close()

    async with Scene(plan, "stream full", before=make) as scene:
        await set_bound(scene, len(scene.ledger.messages) + bound)
        took = []
        for number in range(plan.rounds):
            before = scene.ledger.words["stream-full"]
            if not await scene.ledger.wait_word("stream-full", before + 20, FULL_S_MAX):
                scene.problem(f"no answers stream-full within {FULL_S_MAX:g} s")
            await scene.run_load()
            await set_bound(scene, scene.ledger.stored_count * 4 + FULL_STEP * (number + 2))
            took.append(await scene.resume(f"the bound was raised {number + 1}"))
        await set_bound(scene, -1)
        _note_resumed(scene, took)
        others = set(scene.ledger.words) - {"stream-full", "bad-subject"}
        if others:
            scene.problem(f"answers other than stream-full: {sorted(others)}")
    return scene.outcome


async def overload(plan: Plan) -> Outcome:
    """R3: a frozen broker and many large requests: the memory of the gateway stays bounded."""
    waiting = 8 * MIB
    big = Kind("big", padding_bytes=100_000, rest_s=0.5)
    env = {"FASTGW_LIMITS_WAITING_BYTES_MAX": str(waiting), "FASTGW_LIMITS_WAITING_MS_MAX": "500"}
    env |= SLOW_PINGS
    plan = replace(plan, kinds=(SINGLE,) * 8 + (big,) * 8)
    async with Scene(plan, "overload", env=env) as scene:
        assert scene.gateway.process is not None
        pid = scene.gateway.process.pid
        await scene.run_load()
        before = rss_bytes(pid)
        scene.start_load([big] * BIG_COUNT)
        peak = before
        took = []
        for number in range(plan.rounds):
            await asyncio.to_thread(scene.broker.freeze)
            for _ in range(20):
                await asyncio.sleep(0.1)
                peak = max(peak, rss_bytes(pid))
            scene.broker.signal(signal.SIGCONT)
            took.append(await scene.resume(f"overload {number + 1}"))
            peak = max(peak, rss_bytes(pid))
        scene.note(
            f"memory {before / MIB:.1f} MiB before, {peak / MIB:.1f} MiB at the peak, with "
            f"{len(plan.kinds) + BIG_COUNT} connections and {waiting / MIB:.0f} MiB allowed to wait"
        )
        _note_resumed(scene, took)
        # LIMIT: what waits, as much again in socket and write buffers, and the allocator's slack.
        if peak > before + 4 * waiting + 32 * MIB:
            scene.problem(f"memory grew to {peak / MIB:.0f} MiB")
    return scene.outcome


def _note_resumed(scene: Scene, took: list[float]) -> None:
    """Note how long the load needed to run again, and judge it."""
    ordered = sorted(took)
    scene.note(
        f"resumed {ordered[len(ordered) // 2]:.2f} s (median), {ordered[-1]:.2f} s (longest) after"
        " the fault was over"
    )
    if ordered[-1] > RESUME_S_TARGET:
        scene.problem(f"resumed only {ordered[-1]:.2f} s after the fault was over")


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    _Fault = Callable[[Scene, Proxy, int], Awaitable[None]]
