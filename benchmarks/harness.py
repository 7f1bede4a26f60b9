"""The run itself: broker, subjects, rounds in turn, and the figures of each round.

What enters: `Options`. What leaves: samples, idle memory and failures; `__main__` prints them.
For each workload all subjects are started, warmed up, and then loaded in turn A B C, A B C, so that
a noisy minute hits all alike. Every wait has a bound, and all that was started is ended.
A round counts only when nothing but 200 was answered and the broker holds all that was answered.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.broker import Broker, start_broker
from benchmarks.load.publish import publish_for
from benchmarks.load.wrk import Load, LoadPlan, run_load
from benchmarks.proc import measure_core_busy_us, measure_cpu_us, measure_memory
from benchmarks.processes import Failed, find_cores
from benchmarks.results import Figures, Options, Sample
from benchmarks.subjects import FLOOR, SUBJECTS, Bench, Running, start_ready
from benchmarks.workloads import FORWARDED, WORKLOADS, Workload, build_message

WARM_UP_S: Final = 1
SETTLE_S: Final = 0.2
"""WHY: a purge leaves the broker work for a moment, which must not fall into the round."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Record:
    """What a run has measured so far."""

    samples: list[Sample] = field(default_factory=list)
    idle_rss_kb: dict[tuple[str, str], int] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    publisher_rates: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """Counters of the kernel before a round; `measure` gives what was spent since."""

    server: int
    broker: int
    core: int
    at_s: float
    spent: tuple[int, int, int]

    @classmethod
    def take(cls, server: int, broker: int, core: int) -> Probe:
        """Read the counters of server, broker and core now."""
        spent = (measure_cpu_us(server), measure_cpu_us(broker), measure_core_busy_us(core))
        return cls(server, broker, core, time.monotonic(), spent)

    def measure(self) -> tuple[int, int, float]:
        """Return the server's and the broker's CPU microseconds, and the percentage of others."""
        server = measure_cpu_us(self.server) - self.spent[0]
        broker = measure_cpu_us(self.broker) - self.spent[1]
        busy = measure_core_busy_us(self.core) - self.spent[2]
        elapsed_us = (time.monotonic() - self.at_s) * 1e6
        return server, broker, max(0.0, round(100 * (busy - server - broker) / elapsed_us, 1))


class Harness:
    """One run of the whole table.

    Args:
        options: workloads, subjects, rounds, seconds and connections.
        folder: a temporary folder for the broker's store, logs and scripts.
        say: takes one line for each step that is done, for the progress display.
    """

    def __init__(self, options: Options, folder: Path, say: Say) -> None:
        self._options = options
        self._folder = folder
        self._say = say
        self._core, self._load_core = find_cores()
        self.record = Record()

    def run(self) -> Record:
        """Run all workloads; a subject that fails is recorded and the others go on."""
        broker = start_broker(self._folder, self._core)
        try:
            bench = Bench(broker, self._core, self._folder)
            for name in self._options.workloads:
                workload = WORKLOADS[name]
                broker.make_stream(workload.station)
                with self._start_all(bench, workload) as running:
                    self._run_rounds(broker, workload, running)
        finally:
            broker.child.stop()
        return self.record

    @contextmanager
    def _start_all(self, bench: Bench, workload: Workload) -> Iterator[dict[str, Running]]:
        running: dict[str, Running] = {}
        try:
            for name in self._options.subjects:
                self._say(f"{workload.name}: starting {name}")
                try:
                    server = start_ready(SUBJECTS[name], bench, workload)
                    running[name] = server
                    if name != FLOOR:  # The floor looks at no header.
                        self._check_message(bench.broker, workload)
                except Failed as error:
                    self.record.failures[workload.name, name] = str(error)
                    self._say(f"{workload.name}: {name} does not take part: {error}")
                    continue
                memory = measure_memory(server.child.pid)
                self.record.idle_rss_kb[workload.name, name] = memory.rss_kb
            yield {
                n: r for n, r in running.items() if (workload.name, n) not in self.record.failures
            }
        finally:
            for server in running.values():
                server.child.stop()

    def _check_message(self, broker: Broker, workload: Workload) -> None:
        """Check that the newest message is what the workload says, to the byte."""
        last = broker.find_last(workload.station)
        if last.data != build_message():
            raise Failed(f"it stored {(last.data or b'')[:60]!r} instead of the message")
        names = {name.lower() for name in last.headers or {}}
        if "authorization" in names:
            raise Failed("it stored the Authorization header with the message")
        wanted = {name.lower() for name in FORWARDED} if workload.forwards else set()
        missing, added = wanted - names, names - wanted if not wanted else set()
        if missing or added:
            raise Failed(f"message headers missing: {sorted(missing)}; not wanted: {sorted(added)}")

    def _run_rounds(self, broker: Broker, workload: Workload, running: dict[str, Running]) -> None:
        for name, server in running.items():
            self._say(f"{workload.name}: warming up {name}")
            try:
                self._load(workload, server, WARM_UP_S)
            except Failed as error:
                self.record.failures[workload.name, name] = str(error)
        for number in range(1, self._options.rounds + 1):
            for name, server in running.items():
                if (workload.name, name) in self.record.failures:
                    continue
                self._say(f"{workload.name}: round {number} of {self._options.rounds}, {name}")
                try:
                    figures = self._run_round(broker, workload, server)
                except Failed as error:
                    self.record.failures[workload.name, name] = str(error)
                    continue
                sample = Sample(workload.name, name, number, figures)
                self.record.samples.append(sample)
            if workload.messages > 1:
                self._publish_raw(broker, workload)

    def _publish_raw(self, broker: Broker, workload: Workload) -> None:
        """Measure what a raw publisher gets in the gateway's place, from the same broker."""
        broker.purge(workload.station)
        time.sleep(SETTLE_S)
        done = publish_for(broker, workload.station, self._options.seconds, self._core)
        self.record.publisher_rates.setdefault(workload.name, []).append(done.rate)

    def _load(self, workload: Workload, server: Running, seconds: int) -> Load:
        plan = LoadPlan(self._options.connections, seconds, self._load_core)
        request = workload.build_request(server.token)
        return run_load(request, server.port, plan, self._folder / "load.lua")

    def _run_round(self, broker: Broker, workload: Workload, server: Running) -> Figures:
        broker.purge(workload.station)
        time.sleep(SETTLE_S)
        probe = Probe.take(server.child.pid, broker.child.pid, self._core)
        load = self._load(workload, server, self._options.seconds)
        server_us, broker_us, others = probe.measure()
        server.child.check_alive()
        memory = measure_memory(server.child.pid)
        stored = broker.count_stored(workload.station)
        answers = max(1, load.requests)
        return Figures(
            requests=load.requests,
            rate=round(load.rate, 1),
            cpu_us=round(server_us / answers, 3),
            broker_cpu_us=round(broker_us / answers, 3),
            p50_us=load.p50_us,
            p90_us=load.p90_us,
            p99_us=load.p99_us,
            p999_us=load.p999_us,
            max_us=load.max_us,
            rss_kb=memory.rss_kb,
            peak_kb=memory.peak_kb,
            stored=stored,
            others_cpu_percent=others,
            problem=judge(load, stored, workload.messages),
        )


def judge(load: Load, stored: int, messages: int) -> str:
    """Say why a round does not count; an empty text when it does.

    Args:
        load: what wrk counted.
        stored: messages that the broker held afterwards.
        messages: how many messages each answered request had to store.
    """
    if load.refused:
        return f"{load.refused} of {load.requests} answers were not 2xx"
    if load.socket_errors:
        return f"{load.socket_errors} connections failed or timed out"
    if not load.requests:
        return "no request was answered"
    if stored < load.requests * messages:
        return f"{load.requests} answers of 200 but only {stored} messages stored"
    return ""


def run_harness(options: Options, say: Say) -> Record:
    """Run everything in a temporary folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="fastgw-bench-") as folder:
        return Harness(options, Path(folder), say).run()
