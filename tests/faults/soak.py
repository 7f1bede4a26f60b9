"""A long mixed load without a fault (R9): memory and descriptors stay what they were.

What enters: a `Plan`; its seconds are how long. What leaves: an `Outcome`.
Beside the producers there are the visitors, and now and then the configuration changes, so that a
new gateway takes over in the same process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

from tests.faults.scene import STATION, Scene, children, rss_bytes
from tests.faults.visitors import Visitors
from tests.wire.gateway import ADMIN, PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.outcome import Outcome
    from tests.faults.scene import Plan

WARM_UP_PART: Final = 0.2
"""How much of the time nothing is judged."""

GROWTH_MAX: Final = 0.05
"""SOURCE: target R9, resident memory is flat within 5 %."""

FILES_MAX: Final = 2
SAMPLES_MIN: Final = 20
PAUSE_S: Final = 0.5
"""LIMIT: the ledger keeps every message; an hour of this load is about half a million."""

RELOADS: Final = 24
"""How often the configuration changes in the whole time."""

TENTHS: Final = 10
TOKEN_MINUTES: Final = 48 * 60
TAKEN_OVER: Final = "the old gateway has left"
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """What the gateway held at one moment."""

    memory_bytes: int
    files_count: int


async def soak(plan: Plan) -> Outcome:
    """R9: a mixed load for a long time; memory is flat and no descriptor is left behind."""
    settings = plan.folder / "soak.toml"
    _configure(settings, 0)
    scene = Scene(
        replace(plan, pause_s=PAUSE_S),
        "soak",
        flags=("--config", str(settings)),
        env={"FASTGW_AUTH_MODE": "users"},
        before=_log_in,
    )
    async with scene:
        assert scene.gateway.process is not None
        visitors = Visitors(scene.gateway.address, STATION, _token(scene))
        await visitors.prepare()
        visitors.start()
        try:
            samples = await _watch(scene, settings)
        finally:
            await visitors.stop()
        told, problems = judge_samples(samples)
        scene.note(told)
        scene.outcome.problems.extend(problems)
        _judge_answers(scene)
        _judge_visitors(scene, visitors)
    return scene.outcome


def _configure(path: Path, number: int) -> None:
    """Write a configuration that differs from the one before."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text(f"[limits]\nidle_timeout_ms = {60_000 + number % 2 * 1000}\n")
    fresh.replace(path)


def _token(scene: Scene) -> str:
    login = {"username": ADMIN, "password": PASSWORD, "token_expiry_in_minutes": TOKEN_MINUTES}
    return str(scene.gateway.authenticate(login).json()["jwt"])


def _log_in(scene: Scene) -> None:
    scene.headers = {"Authorization": f"Bearer {_token(scene)}"}


async def _watch(scene: Scene, settings: Path) -> list[Sample]:
    """Sample the gateway until the time is over, and change its configuration now and then."""
    assert scene.gateway.process is not None
    pid, seconds = scene.gateway.process.pid, scene.plan.seconds
    samples = []
    reloads = 0
    started, cpu_s, own_s = time.monotonic(), _cpu_s(pid), time.process_time()
    step = min(1.0, seconds / (2 * SAMPLES_MIN))
    while (passed := time.monotonic() - started) < seconds:
        if passed >= seconds * WARM_UP_PART:
            samples.append(Sample(rss_bytes(pid), len(os.listdir(f"/proc/{pid}/fd"))))
        # WHY not at the end: the last one has to be over when the last samples are taken.
        if passed >= (reloads + 1) * seconds / (RELOADS + 2) and reloads < RELOADS:
            reloads += 1
            _configure(settings, reloads)
            scene.gateway.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(step)
    seen = scene.gateway.log_text().count(TAKEN_OVER)
    scene.note(
        f"{seen} of {reloads} reloads done; the gateway took "
        f"{(_cpu_s(pid) - cpu_s) / seconds * 100:.1f} % of a core, the load and its judges "
        f"{(time.process_time() - own_s) / seconds * 100:.1f} %"
    )
    if seen < reloads:
        scene.problem(f"only {seen} of {reloads} reloads were done")
    return samples


def _cpu_s(pid: int) -> float:
    """The processor time of a process and its children so far."""
    total = 0
    for one in (pid, *children(pid)):
        with open(f"/proc/{one}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def judge_samples(samples: list[Sample]) -> tuple[str, list[str]]:
    """Compare the first fifth after the warm-up with the last; return figures and problems."""
    fifth = max(1, len(samples) // 5)
    first, last = samples[:fifth], samples[-fifth:]
    memory = [median(one.memory_bytes for one in part) for part in (first, last)]
    files = [median(one.files_count for one in part) for part in (first, last)]
    lowest, highest = (f(one.memory_bytes for one in samples) for f in (min, max))
    problems = []
    if memory[1] > memory[0] * (1 + GROWTH_MAX):
        problems.append(f"memory grew by {(memory[1] / memory[0] - 1) * 100:.1f} %")
    if files[1] > files[0] + FILES_MAX:
        problems.append(f"{files[1] - files[0]:.0f} descriptors were left behind")
    told = (
        f"memory {memory[0] / MIB:.1f} -> {memory[1] / MIB:.1f} MiB (from {lowest / MIB:.1f} to "
        f"{highest / MIB:.1f}), descriptors {files[0]:.0f} -> {files[1]:.0f}, "
        f"{len(samples)} samples"
    )
    return f"{told}; MiB by tenth after the warm-up: {_by_tenth(samples)}", problems


def _by_tenth(samples: list[Sample]) -> str:
    """How the memory went: what flattens has only come late, what does not is a leak."""
    edges = [len(samples) * part // TENTHS for part in range(TENTHS + 1)]
    parts = [samples[a:b] for a, b in pairwise(edges) if a < b]
    return " ".join(f"{median(one.memory_bytes for one in part) / MIB:.1f}" for part in parts)


def _judge_answers(scene: Scene) -> None:
    """Nothing was broken, so nobody has a reason not to be answered."""
    others = set(scene.ledger.words) - {"bad-subject"}
    if others or scene.ledger.broken_count or scene.ledger.refused_count:
        scene.problem(
            f"without a fault: answers {sorted(others)}, {scene.ledger.broken_count} requests cut, "
            f"{scene.ledger.refused_count} connections refused"
        )


def _judge_visitors(scene: Scene, visitors: Visitors) -> None:
    told = ", ".join(f"{count} {name}" for name, count in sorted(visitors.counts.items()))
    scene.note(f"visits: {told}; {visitors.consumed_count} messages consumed")
    if visitors.faults_count:
        texts = "; ".join(visitors.faults[:5])
        scene.problem(f"{visitors.faults_count} visits went wrong: {texts}")
    if not visitors.consumed_count:
        scene.problem("nothing was consumed")
