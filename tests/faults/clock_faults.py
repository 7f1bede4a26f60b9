"""The gateway's wall clock jumps, ahead and back, under load.

What enters: a `Plan`. What leaves: an `Outcome`: no answer may be wrong or late because of it, no
worker may be taken for silent, and a credential that has ended by the new clock is refused.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Final

from tests.faults.clock import HOUR_S, JumpingClock
from tests.faults.producers import BATCH, PIPELINE, SINGLE, SINGLE_ID
from tests.faults.scene import STATION, Scene, children
from tests.wire.gateway import ADMIN, CHANGE_S_MAX, PASSWORD, Gateway, run_fastgw, wait_until

if TYPE_CHECKING:
    from tests.faults.outcome import Outcome
    from tests.faults.scene import Plan

GAP_S_MAX: Final = 1.0
"""LIMIT: nothing but the clock is wrong, so nobody has a reason to wait."""

MEASURED_S_MAX: Final = HOUR_S / 2
"""LIMIT: a duration with a jump in it is an hour; all others together are far below half of one."""

JUMPS: Final = ((HOUR_S, -HOUR_S, 0), (HOUR_S, 0))
"""Where the clock goes in a round, in turn; each ends at the true time."""


async def clock_jumps(plan: Plan) -> Outcome:
    """Point 8: the clock jumps an hour ahead and back under load; what has ended by it is 401."""
    clock = JumpingClock(plan.folder / "clock")
    env = clock.env | {"FASTGW_AUTH_MODE": "users"}
    scene = Scene(plan, "clock jumps", flags=("--workers", "2"), env=env, before=_log_in)
    async with scene:
        assert scene.gateway.process is not None
        workers = children(scene.gateway.process.pid)
        token = scene.gateway.token()
        long_token = await asyncio.to_thread(_token, scene.gateway, 24 * 60)
        brief_key = await asyncio.to_thread(_key, scene, "brief", "30m")
        scene.headers = {"Authorization": f"Bearer {long_token}"}
        scene.start_load((SINGLE, SINGLE_ID, BATCH, PIPELINE))
        brief = {"a token": {"Authorization": f"Bearer {token}"}}
        brief["a key"] = {"X-API-Key": brief_key}
        for number in range(plan.rounds):
            await scene.run_load()
            for offset_s in JUMPS[number % len(JUMPS)]:
                # WHY: what is refused after the jump was known to the gateway before it.
                await asyncio.to_thread(_check_brief, scene, brief, clock)
                clock.set(offset_s)
                await scene.resume(f"a jump to {offset_s:+} s")
                await asyncio.to_thread(_check_brief, scene, brief, clock)
        if children(scene.gateway.process.pid) != workers:
            scene.problem("a worker was replaced")
        _check_measured(scene)
    _judge(scene)
    return scene.outcome


def _log_in(scene: Scene) -> None:
    """Have the first producers use a key that outlives every jump."""
    scene.headers = {"X-API-Key": _key(scene, "load", "48h")}
    # Each worker hears of the key when its time comes; so many are not all answered by one.
    wait_until(
        lambda: {_produce(scene.gateway, scene.headers) for _ in range(8)} == {200},
        CHANGE_S_MAX,
        "a new key",
    )


def _key(scene: Scene, name: str, life: str) -> str:
    done = run_fastgw("key", "add", name, "--expires", life, "--json", "--nats", scene.broker.url)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return str(json.loads(done.stdout)["key"])


def _token(gateway: Gateway, minutes: int) -> str:
    login = {"username": ADMIN, "password": PASSWORD, "token_expiry_in_minutes": minutes}
    return str(gateway.authenticate(login).json()["jwt"])


def _produce(gateway: Gateway, headers: dict[str, str]) -> int:
    # To a station of its own: the audit knows nothing of this message.
    return gateway.ask(f"/stations/{STATION}-brief/produce/single", b"1", headers=headers).status


def _check_brief(scene: Scene, brief: dict[str, dict[str, str]], clock: JumpingClock) -> None:
    """Whoever has ended by the clock is refused, and nobody else; a login works at any time."""
    for what, headers in brief.items():
        status = _produce(scene.gateway, headers)
        # WHY 401, too: by a clock that went back, a token was issued in the future.
        allowed = {0: {200}, HOUR_S: {401}}.get(clock.offset_s, {200, 401})
        if status not in allowed:
            scene.problem(f"{what} for less than an hour is {status} at {clock.offset_s:+} s")
    fresh = _produce(scene.gateway, {"Authorization": f"Bearer {_token(scene.gateway, 15)}"})
    if fresh != 200:
        scene.problem(f"a new token is answered {fresh} at {clock.offset_s:+} s")


def _check_measured(scene: Scene) -> None:
    """No duration that the gateway tells has a jump in it."""
    token = scene.gateway.token()
    headers = {"Authorization": f"Bearer {token}"}
    text = scene.gateway.ask("/metrics", None, method="GET", headers=headers).body.decode()
    sums = re.findall(r"^(fastgw_\w+_seconds)_sum (\S+)$", text, re.MULTILINE)
    if not sums:
        scene.problem("no durations in /metrics")
    for name, seconds in sums:
        if not 0 <= float(seconds) < MEASURED_S_MAX:
            scene.problem(f"{name} sums up to {seconds} s")


def _judge(scene: Scene) -> None:
    others = set(scene.ledger.words) - {"bad-subject"}
    if others:
        scene.problem(f"answers with a fault: {sorted(others)}")
    if scene.ledger.broken_count or scene.ledger.refused_count:
        scene.problem("connections were cut or refused")
    gap_s = scene.ledger.longest_gap_s()
    if gap_s > GAP_S_MAX * scene.plan.patience:
        scene.problem(f"{gap_s:.2f} s without a 200")
