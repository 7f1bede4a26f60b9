"""A long mixed load without a fault (R9): memory and descriptors stay what they were.

What enters: a `Plan`; its seconds are how long. What leaves: an `Outcome`.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Final

from tests.faults.scene import Scene, rss_bytes

if TYPE_CHECKING:
    from tests.faults.outcome import Outcome
    from tests.faults.scene import Plan

WARM_UP_PART: Final = 0.2
"""How much of the time nothing is judged."""

GROWTH_MAX: Final = 0.05
"""SOURCE: target R9, resident memory is flat within 5 %."""

FILES_MAX: Final = 2
SAMPLES_MIN: Final = 20
PAUSE_S: Final = 0.1
"""LIMIT: the ledger keeps every message; an hour of this load is about two million."""

MIB: Final = 1 << 20


async def soak(plan: Plan) -> Outcome:
    """R9: a mixed load for a long time; memory is flat and no descriptor is left behind."""
    async with Scene(replace(plan, pause_s=PAUSE_S), "soak") as scene:
        assert scene.gateway.process is not None
        pid = scene.gateway.process.pid
        samples: list[tuple[int, int]] = []
        started = time.monotonic()
        step = min(1.0, plan.seconds / (2 * SAMPLES_MIN))
        while (passed := time.monotonic() - started) < plan.seconds:
            if passed >= plan.seconds * WARM_UP_PART:
                samples.append((rss_bytes(pid), len(os.listdir(f"/proc/{pid}/fd"))))
            await asyncio.sleep(step)
        _judge(scene, samples)
    return scene.outcome


def _judge(scene: Scene, samples: list[tuple[int, int]]) -> None:
    """Compare the first fifth after the warm-up with the last."""
    fifth = max(1, len(samples) // 5)
    first, last = samples[:fifth], samples[-fifth:]
    memory = [median(one[0] for one in part) for part in (first, last)]
    files = [median(one[1] for one in part) for part in (first, last)]
    scene.note(
        f"memory {memory[0] / MIB:.1f} -> {memory[1] / MIB:.1f} MiB, "
        f"descriptors {files[0]:.0f} -> {files[1]:.0f}, {len(samples)} samples"
    )
    if memory[1] > memory[0] * (1 + GROWTH_MAX):
        scene.problem(f"memory grew by {(memory[1] / memory[0] - 1) * 100:.1f} %")
    if files[1] > files[0] + FILES_MAX:
        scene.problem(f"{files[1] - files[0]:.0f} descriptors were left behind")
