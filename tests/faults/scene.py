"""The scene of a fault: a broker, a gateway, producers under way, and the audit at the end.

What enters: where the broker is, how the gateway is configured, which producers. What leaves: an
`Outcome`. Called by every fault. Whatever a fault does, at the end the producers have ended within
bounds, the gateway was stopped and its exit code and log were judged, and the stream was read.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.faults.audit import Findings, judge
from tests.faults.ledger import Ledger
from tests.faults.outcome import Outcome
from tests.faults.producers import ANSWER_S_MAX, MIXTURE, Goal, Kind, Producer
from tests.faults.stream import ReadError, read_stream
from tests.wire.gateway import Broker, Gateway, run_fastgw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STATION: Final = "audit"
RESUME_S_MAX: Final = 15.0
"""LIMIT: a fault from which nothing recovers by then has failed."""

STEADY_COUNT: Final = 50
"""So many 200s are a load that runs."""

ENV: Final = {
    "FASTGW_AUTH_MODE": "none",
    "FASTGW_STATIONS_AUTO_CREATE": "true",
    "FASTGW_LIMITS_ACK_TIMEOUT_MS": "1000",
    "FASTGW_NATS_RECONNECT_WAIT_MS_MAX": "250",
    "FASTGW_NATS_PING_INTERVAL_MS": "300",
}
ACK_TIMEOUT_S: Final = 1.0
PINGS_S: Final = 0.9
"""A link that is silent for so long is given up: two pings out, and the look after them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of a fault is done.

    Args:
        folder: where everything is written.
        rounds: how often the fault comes.
        seconds: how long the load runs between two of them.
        pause_s: a producer's rest after each request.
        kinds: the producers.
        patience: how many times what is promised in seconds may take; more than 1 where a machine
            is busy with other work, so that its pauses are not taken for the gateway's.
    """

    folder: Path
    rounds: int = 3
    seconds: float = 0.5
    pause_s: float = 0.004
    kinds: Sequence[Kind] = MIXTURE
    patience: float = 1.0


@dataclass
class Scene:
    """A gateway at a broker, with a load. Use as `async with`; then `outcome` is complete.

    Args:
        plan: how much.
        fault: the name in the table.
        gateway_url: the broker as the gateway sees it; None for the broker's own address.
        flags: more flags of `fastgw serve`.
        env: more settings of the gateway.
        address: where producers connect to; None for the gateway's own address.
        audit_url: where the stream is read; None for the broker's own address.
        has_broker: whether a broker is started here.
        before: called when the gateway is ready, before the load.
        listen: where the gateway listens.
        make_broker: makes the broker in a folder, when the usual one will not do.
        connecting: how the audit logs in, where the URL does not say it.
    """

    plan: Plan
    fault: str
    gateway_url: Callable[[Broker], str] | None = None
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    address: tuple[str, int] | None = None
    audit_url: str | None = None
    has_broker: bool = True
    before: Callable[[Scene], None] | None = None
    listen: str = "127.0.0.1:0"
    make_broker: Callable[[Path], Broker] = Broker
    connecting: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.plan.folder / self.fault.replace(" ", "-")
        self.broker = self.make_broker(self.folder / "broker")
        self.gateway: Gateway
        self.ledger = Ledger()
        self.ledgers = {STATION: self.ledger}
        """One for each station; `ledger` is that of the load which is waited for."""
        self.headers: dict[str, str] = {}
        """What producers that are started from now on send beside their own."""
        self.outcome = Outcome(self.fault, self.plan.rounds)
        self.found_keys: set[str] = set()
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._count = 0

    async def __aenter__(self) -> Self:
        try:
            if self.has_broker:
                await asyncio.to_thread(self.broker.start)
            url = self.gateway_url(self.broker) if self.gateway_url else self.broker.url
            self.gateway = self.make_gateway("gateway", url)
            await asyncio.to_thread(self.gateway.start, self.listen)
            if self.before is not None:
                await asyncio.to_thread(self.before, self)
            self.start_load(self.plan.kinds)
            await self.resume("the start")
        except BaseException:
            await self.end_load()
            self._kill_all()
            raise
        return self

    def make_gateway(self, name: str, url: str) -> Gateway:
        """Describe a gateway of this scene; it is not started."""
        flags = ("--nats", url, *self.flags)
        return Gateway(self.folder / name, flags=flags, env=ENV | self.env)

    def start_load(self, kinds: Sequence[Kind], station: str = STATION) -> None:
        """Start producers, beside those that run."""
        ledger = self.ledgers.setdefault(station, Ledger())
        goal = Goal(self.address or self.gateway.address, station, dict(self.headers))
        for kind in kinds:
            self._count += 1
            name = f"{kind.name}-{self._count}"
            producer = Producer(name, kind, goal, ledger, self.plan.pause_s)
            self._tasks.append(asyncio.create_task(producer.run(self._ended), name=name))

    async def resume(self, what: str, timeout_s: float = RESUME_S_MAX) -> float:
        """Wait for the load to run again; note it as a problem when it does not."""
        took_s = await self.ledger.wait_stored(STEADY_COUNT, timeout_s)
        if took_s is None:
            self.problem(f"no {STEADY_COUNT} answers 200 within {timeout_s:g} s after {what}")
            return timeout_s
        return took_s

    async def run_load(self) -> None:
        """Let the load run between two faults."""
        await asyncio.sleep(self.plan.seconds)

    def problem(self, text: str) -> None:
        """Note what was not as promised."""
        self.outcome.problems.append(text)

    def note(self, text: str) -> None:
        """Note a figure."""
        self.outcome.notes.append(text)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        try:
            await self.end_load()
            if error is None:
                await self._audit()
                await self._stop_gateway()
        finally:
            self._kill_all()

    async def end_load(self) -> None:
        """Tell the producers to end, and wait for them; one that hangs is a problem."""
        self._ended.set()
        if not self._tasks:
            return
        for ledger in self.ledgers.values():
            ledger.close()
        done, pending = await asyncio.wait(self._tasks, timeout=2 * ANSWER_S_MAX)
        for task in pending:
            self.problem(f"the producer {task.get_name()} hangs")
            task.cancel()
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                self.problem(f"the producer {task.get_name()} failed: {task.exception()!r}")
        self._tasks.clear()

    async def _audit(self) -> None:
        url = self.audit_url or self.broker.url
        findings = Findings()
        for station, ledger in self.ledgers.items():
            try:
                found = await read_stream(url, station, **self.connecting)
            except ReadError as error:
                self.problem(f"the stream {station} cannot be read: {error}")
                return
            self.found_keys |= {one.key for one in found}
            findings.add(judge(ledger.messages, found))
            if ledger.hopeless_count:
                self.problem(f"{ledger.hopeless_count} answers 429 or 503 without Retry-After")
        self.outcome.take(list(self.ledgers.values()), findings)

    async def _stop_gateway(self) -> None:
        process = self.gateway.process
        if process is None or process.poll() is not None:
            return
        code = await asyncio.to_thread(self.gateway.stop)
        if code != 0:
            self.problem(f"the gateway ended with {code}")
        self.check_log(self.gateway)

    def check_log(self, gateway: Gateway) -> None:
        """A traceback in a gateway's log is a defect."""
        for log in gateway.logs:
            text = log.read_text("utf-8", "replace")
            if "Traceback" in text:
                self.problem(f"a traceback in {log}: {text[text.index('Traceback') :][:400]}")

    def _kill_all(self) -> None:
        gateway = getattr(self, "gateway", None)
        if gateway is not None and gateway.process is not None:
            gateway.process.kill()
            gateway.process.wait()
        if self.broker.process is not None:
            with suppress(ProcessLookupError):
                self.broker.signal(signal.SIGCONT)
            self.broker.kill()


def add_station(scene: Scene, station: str = STATION, *flags: str) -> None:
    """Make a station by the command line."""
    done = run_fastgw("station", "add", station, *flags, "--nats", scene.broker.url)
    if done.returncode:
        raise RuntimeError(done.stderr)


def rss_bytes(pid: int) -> int:
    """The resident memory of a process and its children."""
    total = 0
    for one in (pid, *children(pid)):
        with suppress(OSError):
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
    return total


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]
