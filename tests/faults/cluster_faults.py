"""Faults of a cluster of three brokers with a stream of three copies (R4).

What enters: a `Plan`. What leaves: an `Outcome` for each fault, with the interruption beside the
time that the brokers themselves needed to elect a leader.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests.faults.cluster import READY_S_MAX, Cluster, watch_election
from tests.faults.producers import ARRIVAL
from tests.faults.scene import STATION, Scene
from tests.wire.gateway import run_fastgw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.faults.cluster import Member
    from tests.faults.outcome import Outcome
    from tests.faults.scene import Plan

    Break = Callable[[Cluster, Member], Awaitable[None]]

SLACK_S: Final = 1.0
"""SOURCE: target R4, the interruption is at most the election plus a second."""

HELD_S: Final = 3.0
"""How long a fault lasts at least; an election is over by then."""

ARRIVALS: Final = 20
"""Clients who come by themselves, each about twice a second."""

ENV: Final = {"FASTGW_NATS_REPLICAS": "3"}


ADDRESSES: Final = 2
"""How many of the cluster's three addresses the gateway of `second_address` is given."""


@asynccontextmanager
async def _scene(
    plan: Plan, name: str, addresses: int | None = None
) -> AsyncIterator[tuple[Cluster, Scene]]:
    async with Cluster(plan.folder / name.replace(" ", "-")) as cluster:
        url = ",".join(cluster.url.split(",")[:addresses])

        def make(scene: Scene) -> None:
            done = run_fastgw("station", "add", STATION, "--replicas", "3", "--nats", cluster.url)
            if done.returncode:
                raise RuntimeError(done.stderr)

        scene = Scene(
            replace(plan, kinds=(*plan.kinds, *(ARRIVAL,) * ARRIVALS)),
            name,
            gateway_url=lambda _: url,
            env=ENV,
            audit_url=cluster.members[0].url,
            has_broker=False,
            before=make,
        )
        async with scene:
            await cluster.wait_ready(STATION)
            yield cluster, scene
            await cluster.mend()
            await cluster.wait_ready(STATION)


async def _play(plan: Plan, name: str, breaks: Break, heals: Break, held_s: float) -> Outcome:
    """Break the leader, measure, heal it, and wait until all three are level."""
    async with _scene(plan, name) as (cluster, scene):
        lines = []
        for number in range(plan.rounds):
            await scene.run_load()
            await _lead_from_here(cluster, scene, number)
            leader = await cluster.leader(STATION)
            other = next(one for one in cluster.members if one is not leader)
            started = time.monotonic()
            election = asyncio.create_task(watch_election(other, STATION, leader.name))
            await breaks(cluster, leader)
            await scene.resume(f"{name} {number + 1}", READY_S_MAX)
            elected_s = await election
            await asyncio.sleep(max(0.0, held_s - (time.monotonic() - started)))
            gap_s = scene.ledger.longest_gap_s(started)
            await heals(cluster, leader)
            await cluster.wait_ready(STATION)
            await scene.resume(f"healing {number + 1}")
            lines.append(_judge(scene, elected_s, gap_s))
        scene.note("interruption / election: " + ", ".join(lines))
    return scene.outcome


def _judge(scene: Scene, elected_s: float | None, gap_s: float) -> str:
    if elected_s is None:
        scene.problem("no other leader was elected")
        return f"{gap_s:.2f} s / none"
    if gap_s > elected_s + SLACK_S:
        scene.problem(f"interrupted for {gap_s:.2f} s, the election took {elected_s:.2f} s")
    return f"{gap_s:.2f} s / {elected_s:.2f} s"


async def leader_kill(plan: Plan) -> Outcome:
    """R4: kill -9 the stream's leader."""

    async def breaks(cluster: Cluster, leader: Member) -> None:
        leader.kill()

    async def heals(cluster: Cluster, leader: Member) -> None:
        cluster.start(leader)

    return await _play(plan, "leader kill -9", breaks, heals, HELD_S)


async def leader_freeze(plan: Plan) -> Outcome:
    """R4: SIGSTOP the stream's leader; it comes back and believes that it still leads."""

    async def breaks(cluster: Cluster, leader: Member) -> None:
        await asyncio.to_thread(leader.freeze)

    async def heals(cluster: Cluster, leader: Member) -> None:
        leader.signal(signal.SIGCONT)

    return await _play(plan, "leader SIGSTOP", breaks, heals, HELD_S)


async def leader_cut_off(plan: Plan) -> Outcome:
    """R4: the leader is cut off from its peers and from clients."""

    async def breaks(cluster: Cluster, leader: Member) -> None:
        await cluster.cut_off(leader, clients_too=True)

    return await _play(plan, "leader cut off", breaks, _mend, HELD_S)


async def routes_cut(plan: Plan) -> Outcome:
    """R4: the leader is cut off from its peers only; clients that are with it stay."""

    async def breaks(cluster: Cluster, leader: Member) -> None:
        await cluster.cut_off(leader, clients_too=False)

    return await _play(plan, "leader without peers", breaks, _mend, HELD_S)


async def lame_ducks(plan: Plan) -> Outcome:
    """R4: every member says goodbye, ends and comes back, one after another, the leader first."""

    async def breaks(cluster: Cluster, leader: Member) -> None:
        leader.signal(signal.SIGUSR2)

    async def heals(cluster: Cluster, leader: Member) -> None:
        # WHY: its grace period is 10 s; clients have left it before.
        leader.kill()
        cluster.start(leader)

    return await _play(plan, "lame ducks", breaks, heals, HELD_S)


async def second_address(plan: Plan) -> Outcome:
    """Point 1: of two configured addresses the one in use dies for good; the other takes over."""
    async with _scene(plan, "second address", ADDRESSES) as (cluster, scene):
        lines = []
        for number in range(plan.rounds):
            await scene.run_load()
            victim = _in_use(cluster, scene)
            await _lead_from_here(cluster, scene, number)
            other = next(one for one in cluster.members[:ADDRESSES] if one is not victim)
            was_leader = await cluster.leader(STATION) is victim
            started = time.monotonic()
            victim.kill()
            election = watch_election(other, STATION, victim.name) if was_leader else _none()
            elected_s, _ = await asyncio.gather(
                election, scene.resume(f"the end of {victim.name}", READY_S_MAX)
            )
            # WHY: the other one serves on for as long as the first is dead, however long.
            await scene.run_load()
            await asyncio.sleep(HELD_S)
            if _in_use(cluster, scene) is not other:
                scene.problem("the second address is not the one in use")
            lines.append(_judge(scene, elected_s, scene.ledger.longest_gap_s(started)))
            if number + 1 < plan.rounds:
                cluster.start(victim)
                await cluster.wait_ready(STATION)
                await scene.resume(f"the return of {victim.name}")
        # The last one stays dead until everything else has ended.
        await scene.end_load()
        cluster.start(victim)
        await cluster.wait_ready(STATION)
        scene.note("interruption / election: " + ", ".join(lines))
    return scene.outcome


async def _lead_from_here(cluster: Cluster, scene: Scene, number: int) -> None:
    """Every other round, have the member lead that the gateway is connected to; else it is luck."""
    if number % 2 == 0:
        await cluster.make_leader(STATION, _in_use(cluster, scene))
        await scene.resume("a change of leaders", READY_S_MAX)


def _in_use(cluster: Cluster, scene: Scene) -> Member:
    """The member that carries the gateway's messages, by the gateway's own account."""
    port = int(
        re.findall(r"data plane connected to nats://[^:]+:(\d+)", scene.gateway.log_text())[-1]
    )
    return next(one for one in cluster.members if cluster.doors[one.number].port == port)


async def _none() -> float:
    """How long an election takes that need not be."""
    return 0.0


async def _mend(cluster: Cluster, leader: Member) -> None:
    await cluster.mend()
