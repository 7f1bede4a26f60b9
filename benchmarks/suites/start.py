"""The start: from a command line to the first message stored, beside a running broker (P11).

What enters: a scene and options. What leaves: milliseconds to the first 200 of `/readyz` and of a
produce. The first start on a broker makes secrets and the admin; it is reported, and apart: a
password is hashed there, which is slow by design. It must never count a start that failed.
"""

from __future__ import annotations

import http.client
import resource
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.proc import measure_core_busy_us, measure_cpu_us_finely
from benchmarks.processes import Child, Failed, find_free_port
from benchmarks.report import Findings, SuiteOptions, Table
from benchmarks.scene import Scene
from benchmarks.subjects import ADMIN, READY_TIMEOUT_S, authenticate
from benchmarks.targets import judge
from benchmarks.workloads import WORKLOADS, Request

WORKLOAD: Final = WORKLOADS["single"]
POLL_S: Final = 0.001
STARTS_A_ROUND: Final = 3
READY: Final = Request("/readyz", {}, b"")


@dataclass(frozen=True, slots=True)
class Start:
    """One start: milliseconds until ready and until a message was stored, CPU spent, a token."""

    ready_ms: float
    stored_ms: float
    cpu_ms: float
    token: str


def run_start(scene: Scene, options: SuiteOptions) -> Findings:
    """Start the gateway several times and judge P11."""
    found = Findings()
    scene.bench.broker.make_stream(WORKLOAD.station)
    launcher_ms, launcher_cpu_ms = measure_launcher(scene)
    scene.say("the first start on this broker")
    first = _start(scene, None)
    later: list[Start] = []
    for number in range(1, options.rounds * STARTS_A_ROUND + 1):
        scene.say(f"start {number} of {options.rounds * STARTS_A_ROUND}")
        later.append(_start(scene, first.token))
    first_ms = found.set("first.ready_ms", first.ready_ms - launcher_ms)
    ready_ms = found.set("ready_ms", median(one.ready_ms for one in later) - launcher_ms)
    stored_ms = found.set("stored_ms", median(one.stored_ms for one in later) - launcher_ms)
    cpu_ms = found.set("cpu_ms", median(one.cpu_ms for one in later) - launcher_cpu_ms)
    found.set("launcher_ms", launcher_ms)
    rows = [
        ["the first on a broker: secrets and the admin are made", f"{first_ms:.0f}", "-", "-"],
        [f"median of {len(later)} later ones"]
        + [f"{value:.0f}" for value in (ready_ms, stored_ms, cpu_ms)],
    ]
    heads = ["start", "first 200 of /readyz, ms", "first message stored, ms", "CPU until then, ms"]
    found.tables.append(Table("From the command line to the first answer", heads, rows))
    found.notes.append(
        f"the launcher that pins the process took {launcher_ms:.0f} ms, which is taken off"
    )
    found.verdicts.append(judge("P11.start", stored_ms))
    return found


def measure_launcher(scene: Scene) -> tuple[float, float]:
    """Measure the milliseconds and the CPU of the launcher alone: it is no part of the gateway."""
    times = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(STARTS_A_ROUND):
        began = time.monotonic()
        child = Child(["true"], scene.bench.core, scene.folder / "true.log", {})
        child.wait(READY_TIMEOUT_S)
        times.append((time.monotonic() - began) * 1000)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return median(times), spent_s * 1000 / STARTS_A_ROUND


def _start(scene: Scene, token: str | None) -> Start:
    """Start once, log in if there is no token yet, store one message, and end it."""
    bench, port = scene.bench, find_free_port()
    env = {"FASTGW_ADMIN_USER": ADMIN, "FASTGW_ADMIN_PASSWORD": bench.password}
    env["FASTGW_STATIONS_AUTO_CREATE"] = "true"
    argv = [sys.executable, "-m", "fastgw", "serve", "--listen", f"127.0.0.1:{port}"]
    argv += ["--nats", bench.broker.url, "--data", str(scene.folder / "fastgw-data")]
    began = time.monotonic()
    busy_us, broker_us = _measure_core(scene)
    child = Child(argv, bench.core, scene.folder / "fastgw.log", env)
    try:
        _wait_for_200(child, port, READY, "GET")
        ready_ms = (time.monotonic() - began) * 1000
        if token is None:
            token = authenticate(port, {"username": ADMIN, "password": bench.password})
        _wait_for_200(child, port, WORKLOAD.build_request(token), "POST")
        stored_ms = (time.monotonic() - began) * 1000
        cpu_us = measure_cpu_us_finely(child.pid)
        busy_after_us, broker_after_us = _measure_core(scene)
        others_us = busy_after_us - busy_us - (broker_after_us - broker_us) - cpu_us
        scene.others.append(max(0.0, 100 * others_us / (stored_ms * 1000)))
        return Start(ready_ms, stored_ms, cpu_us / 1000, token)
    finally:
        child.stop()


def _measure_core(scene: Scene) -> tuple[int, int]:
    """Read what the server's core has spent, and the broker on it; in microseconds."""
    broker = scene.bench.broker.child.pid
    return measure_core_busy_us(scene.bench.core), measure_cpu_us_finely(broker)


def _wait_for_200(child: Child, port: int, request: Request, method: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        child.check_alive()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_TIMEOUT_S)
        try:
            connection.request(method, request.path, request.body, request.headers)
            if connection.getresponse().status == 200:
                return
        except ConnectionError:
            pass
        finally:
            connection.close()
        time.sleep(POLL_S)
    raise Failed(f"no 200 within {READY_TIMEOUT_S:.0f} s: {child.read_log()}")
