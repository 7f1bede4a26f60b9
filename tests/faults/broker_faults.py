"""Faults of one broker, or of the way to it.

What enters: a `Plan`. What leaves: an `Outcome` for each fault. Called by the registry in
`__main__` and by the short form in the tests.
"""

from __future__ import annotations

import asyncio
import base64
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tests.faults.brokers import ConfiguredBroker
from tests.faults.producers import MIXTURE, PIPELINE, SINGLE, Kind
from tests.faults.proxy import Proxy
from tests.faults.scene import ACK_TIMEOUT_S, PINGS_S, STATION, Scene, add_station, rss_bytes
from tests.faults.stream import ask, connect
from tests.wire.gateway import Broker, free_port

if TYPE_CHECKING:
    from pathlib import Path

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
GROUPED_LOOKED_AT: Final = 300
QUEUED_MAX: Final = 10
"""LIMIT: messages that the broker lets wait for its disk; the load has more than a hundred."""

BIG_COUNT: Final = 1000
MIB: Final = 1 << 20
SLACK_BYTES: Final = 40 * MIB


async def broker_kill(plan: Plan) -> Outcome:
    """R1: kill -9 under load and start again, over and over."""
    async with Scene(plan, "broker kill -9") as scene:
        await _kill_rounds(scene)
    return scene.outcome


async def _kill_rounds(scene: Scene) -> None:
    """Kill the broker and start it again, as often as the plan says."""
    took = []
    for number in range(scene.plan.rounds):
        await scene.run_load()
        scene.broker.kill()
        # WHY: every other time it is back at once, so that dials meet a half-started broker.
        await asyncio.sleep(DOWN_S if number % 2 else 0)
        await asyncio.to_thread(scene.broker.start)
        took.append(await scene.resume(f"kill {number + 1}"))
    _note_resumed(scene, took)


async def group_kill(plan: Plan) -> Outcome:
    """R1 with group commit: as above, on a station whose messages are synced together."""

    def make_broker(store: Path) -> Broker:
        options = {"jetstream": {"sync_interval": "always"}, **_one_user()}
        return ConfiguredBroker(store, options=options)

    def make(scene: Scene) -> None:
        add_station(scene, STATION, "--ack", "fsync")

    name = "broker kill -9, fsync"
    async with Scene(plan, name, make_broker=make_broker, before=make) as scene:
        await _kill_rounds(scene)
        await _check_grouped(scene)
    return scene.outcome


async def _check_grouped(scene: Scene) -> None:
    """Messages were stored by batches indeed, or this fault shows nothing."""
    client = await connect(scene.broker.url)
    try:
        grouped = 0
        last = max(answer.seq for one in scene.ledger.messages for answer in one.answers)
        for seq in range(max(1, last - GROUPED_LOOKED_AT), last):
            told = await ask(client, f"STREAM.MSG.GET.{STATION}", {"seq": seq})
            block = base64.b64decode(told.get("message", {}).get("hdrs", ""))
            grouped += b"Nats-Batch-Id" in block
    finally:
        await client.close()
    scene.note(
        f"{grouped} of {min(last, GROUPED_LOOKED_AT)} messages came in a batch of the broker"
    )
    if not grouped:
        scene.problem("no message was stored in a batch")


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


async def _set_bound(scene: Scene, messages_max: int) -> None:
    """Have the stream refuse what exceeds so many messages; -1 for no bound."""
    client = await connect(scene.broker.url)
    try:
        config = (await ask(client, f"STREAM.INFO.{STATION}", {}))["config"]
        config |= {"max_msgs": messages_max, "discard": "new"}
        answer = await ask(client, f"STREAM.UPDATE.{STATION}", config)
        if "error" in answer:
            scene.problem(f"the stream's bound cannot be set: {answer['error']}")
    finally:
        await client.close()


async def _wait_words(scene: Scene, word: str, count: int) -> None:
    before = scene.ledger.words[word]
    if not await scene.ledger.wait_word(word, before + count, FULL_S_MAX):
        scene.problem(f"no answers {word} within {FULL_S_MAX:g} s")


def _check_words(scene: Scene, *expected: str) -> None:
    others = set(scene.ledger.words) - {*expected, "bad-subject"}
    if others:
        scene.problem(f"answers other than {', '.join(expected)}: {sorted(others)}")


async def stream_full(plan: Plan) -> Outcome:
    """A stream that takes no more: told apart from every other trouble, and nothing is stored."""
    async with Scene(plan, "stream full", before=add_station) as scene:
        await _set_bound(scene, len(scene.ledger.messages) + FULL_STEP)
        took = []
        for number in range(plan.rounds):
            await _wait_words(scene, "stream-full", 20)
            await scene.run_load()
            await _set_bound(scene, scene.ledger.stored_count * 4 + FULL_STEP * (number + 2))
            took.append(await scene.resume(f"the bound was raised {number + 1}"))
        await _set_bound(scene, -1)
        _note_resumed(scene, took)
        _check_words(scene, "stream-full")
    return scene.outcome


async def queue_full(plan: Plan) -> Outcome:
    """Point 2: JetStream's own queue is full: 429 broker-busy, not taken for a full stream."""
    return await _fill_queue(plan, "queue full", "stored")


async def group_queue_full(plan: Plan) -> Outcome:
    """Point 2 with group commit: as above, on a station whose messages are synced together."""
    return await _fill_queue(plan, "queue full, fsync", "fsync")


async def _fill_queue(plan: Plan, name: str, ack: str) -> Outcome:
    # WHY always: each message takes as long as a sync, so that the queue fills.
    jetstream = {"max_buffered_msgs": QUEUED_MAX, "sync_interval": "always"}

    def make_broker(store: Path) -> Broker:
        return ConfiguredBroker(store, options={"jetstream": jetstream, **_one_user()})

    plan = replace(plan, kinds=(*MIXTURE, *(PIPELINE,) * 8))

    def make(scene: Scene) -> None:
        add_station(scene, STATION, "--ack", ack)

    scene = Scene(plan, name, make_broker=make_broker, before=make)
    async with scene:
        took = []
        for number in range(plan.rounds):
            await _wait_words(scene, "broker-busy", 20)
            await scene.run_load()
            # WHY: with both at once each answer has to name its own cause.
            await _set_bound(scene, 1)
            await _wait_words(scene, "stream-full", 20)
            await _set_bound(scene, -1)
            took.append(await scene.resume(f"the burst {number + 1}"))
        _note_resumed(scene, took)
        # WHY: a batch that the broker refuses is a 503 as a whole.
        _check_words(scene, "broker-busy", "stream-full", "overloaded")
        singles = (one for one in scene.ledger.messages if not one.producer.startswith("batch"))
        if any(answer.word == "overloaded" for one in singles for answer in one.answers):
            scene.problem("a single message was answered overloaded")
    return scene.outcome


def _one_user() -> dict[str, Any]:
    user = {"user": ConfiguredBroker.user, "password": ConfiguredBroker.password}
    return {"authorization": {"users": [user]}}


async def overload(plan: Plan) -> Outcome:
    """R3: a frozen broker and many large requests: the memory of the gateway stays bounded."""
    waiting = 8 * MIB
    # WHY so long a rest: a thousand of them are a load for the suite's own process, too.
    big = Kind("big", padding_bytes=100_000, rest_s=2.0)
    env = {"FASTGW_LIMITS_WAITING_BYTES_MAX": str(waiting), "FASTGW_LIMITS_WAITING_MS_MAX": "500"}
    env |= {"FASTGW_LIMITS_PUBLISHES_IN_FLIGHT_BYTES_MAX": str(waiting), **SLOW_PINGS}
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
            f"{len(plan.kinds) + BIG_COUNT} connections; {waiting / MIB:.0f} MiB may wait, and as "
            "much be under way"
        )
        _note_resumed(scene, took)
        # LIMIT: what waits and what is under way, each with its copy on the way in or out, and what
        # the allocator keeps of it.
        if peak > before + 4 * waiting + SLACK_BYTES:
            scene.problem(f"memory grew by {(peak - before) / MIB:.0f} MiB")
    return scene.outcome


def _note_resumed(scene: Scene, took: list[float]) -> None:
    """Note how long the load needed to run again, and judge it."""
    ordered = sorted(took)
    scene.note(
        f"resumed {ordered[len(ordered) // 2]:.2f} s (median), {ordered[-1]:.2f} s (longest) after"
        " the fault was over"
    )
    if ordered[-1] > RESUME_S_TARGET * scene.plan.patience:
        scene.problem(f"resumed only {ordered[-1]:.2f} s after the fault was over")


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    _Fault = Callable[[Scene, Proxy, int], Awaitable[None]]
