"""The scene of a suite: a broker, servers beside it, and rounds of paced load with their costs.

What enters: a subject, a workload, requests, a pace. What leaves: a `Round`: what the pacer counted
and what the server and the broker spent. Suites call it; the comparison has a harness of its own.
A round counts only when nothing but 2xx was answered and the broker holds all that was answered.
It must never leave a process behind.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.broker import start_broker
from benchmarks.load.pace import Pace, Paced, build_bytes, run_pace, write_requests
from benchmarks.proc import measure_core_busy_us, measure_cpu_us_finely
from benchmarks.processes import Failed, find_cores
from benchmarks.results import OTHERS_PERCENT_CALM
from benchmarks.subjects import (
    GATEWAY,
    SUBJECTS,
    Bench,
    Running,
    Setup,
    start_gateway,
    start_ready,
    wait_for_answer,
)
from benchmarks.workloads import Request, Workload

SETTLE_S: Final = 0.2
"""WHY: a purge leaves the broker work for a moment, which must not fall into the round."""

EVERYWHERE: Final = Workload("crowd", "crowd", 1, True, "one message to one of many stations")
"""A workload that spreads over many streams; its own station is one more."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Round:
    """One load of one server: what was counted, and the CPU microseconds that it took."""

    paced: Paced
    server_us: int
    broker_us: int
    problem: str

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of the server for each answer."""
        return self.server_us / max(1, self.paced.answers)

    @property
    def broker_cpu_us(self) -> float:
        """CPU microseconds of the broker for each answer."""
        return self.broker_us / max(1, self.paced.answers)


@dataclass(slots=True)
class Scene:
    """What the rounds of a suite share."""

    bench: Bench
    load_core: int
    say: Say
    others: list[float] = field(default_factory=list)
    """How busy the server's core was with others, in percent, in each round so far."""

    @property
    def folder(self) -> Path:
        """Where logs, requests and the broker's store are while the suite runs."""
        return self.bench.folder

    @contextmanager
    def serve(
        self, subject: str, workload: Workload, setup: Setup | None = None
    ) -> Iterator[Running]:
        """Start a subject, wait for its first stored message, and end it afterwards.

        Raises:
            Failed: it did not start, or did not answer 200.
        """
        self.say(f"starting {subject}")
        self.bench.broker.make_stream(workload.station)
        if subject == GATEWAY:
            server = start_gateway(self.bench, workload, setup)
        else:
            server = start_ready(SUBJECTS[subject], self.bench, workload)
        try:
            wait_for_answer(server, workload.build_request(server.token))
            yield server
            server.child.check_alive()
        finally:
            server.child.stop()

    def write(self, name: str, requests: Iterable[Request]) -> Path:
        """Write requests for the pacer into a file of the folder."""
        path = self.folder / f"{name}.requests"
        varied = (one for request in requests for one in request.vary())
        return write_requests((build_bytes(request) for request in varied), path)

    def load(
        self, server: Running, requests: Path, pace: Pace, stores: Workload | None = None
    ) -> Round:
        """Load a server for one round.

        Args:
            server: the one to load.
            requests: a file of `write`.
            pace: how.
            stores: the workload whose messages are counted, if any: its station is emptied before,
                or, for `EVERYWHERE`, all streams are counted before and afterwards.
        """
        held = 0
        if stores is EVERYWHERE:
            held = self.bench.broker.count_everything()
        elif stores:
            self.bench.broker.purge(stores.station)
            time.sleep(SETTLE_S)
        marks: list[tuple[int, int, int, int]] = []
        paced = run_pace(requests, server.port, pace, lambda: marks.append(self._measure(server)))
        server.child.check_alive()
        spent = [after - before for before, after in zip(marks[0], marks[1], strict=True)]
        server_us, broker_us, busy_us, elapsed_us = spent
        problem = paced.problem
        if stores and not problem:
            stored, wanted = self._count(stores) - held, paced.answers * stores.messages
            if stored < wanted:
                problem = f"{wanted} messages answered with 200 but only {stored} stored"
        others = 100 * (busy_us - server_us - broker_us) / elapsed_us
        self.others.append(max(0.0, others))
        return Round(paced, server_us, broker_us, problem)

    def describe_noise(self) -> list[str]:
        """Say in how many rounds others took more of the server's core than the kernel does."""
        noisy = [percent for percent in self.others if percent > OTHERS_PERCENT_CALM]
        if not noisy:
            return []
        return [
            f"disturbed: in {len(noisy)} of {len(self.others)} rounds others took more than "
            f"{OTHERS_PERCENT_CALM:g} % of the server's core, up to {max(noisy):.0f} %"
        ]

    def _count(self, stores: Workload) -> int:
        broker = self.bench.broker
        is_everywhere = stores is EVERYWHERE
        return broker.count_everything() if is_everywhere else broker.count_stored(stores.station)

    def _measure(self, server: Running) -> tuple[int, int, int, int]:
        """Read what server, broker and their core have spent, and the time; all in microseconds."""
        broker, core = self.bench.broker, self.bench.core
        spent = measure_cpu_us_finely(server.child.pid), measure_cpu_us_finely(broker.child.pid)
        return *spent, measure_core_busy_us(core), time.monotonic_ns() // 1000

    def load_well(
        self, server: Running, requests: Path, pace: Pace, stores: Workload | None = None
    ) -> Round:
        """Load a server and insist that the round counts.

        Raises:
            Failed: it does not.
        """
        done = self.load(server, requests, pace, stores)
        if done.problem:
            raise Failed(f"{done.problem}: {server.child.read_log()}")
        return done


@contextmanager
def open_scene(say: Say) -> Iterator[Scene]:
    """Start a broker in a temporary folder; all is gone afterwards."""
    core, load_core = find_cores()
    with tempfile.TemporaryDirectory(prefix="fastgw-bench-") as name:
        say("starting the broker")
        broker = start_broker(Path(name), core)
        try:
            yield Scene(Bench(broker, core, Path(name)), load_core, say)
        finally:
            broker.child.stop()
