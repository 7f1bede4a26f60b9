"""A run from its first connection to its last answer: the schedule, and what became of it.

What enters: a `Plan`. What leaves: counts and histograms, which `report` puts into words.
Request number i is due at `start + i / rate`, answered or not what was sent before. It goes out on
a connection that waits for nothing; when there is none it stays due, and its waiting counts.
Called by `fastgw bench`. It must never queue what it can derive: what is due and not sent is one
number, so a server that stands still costs no memory here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final

from fastgw.errors import clip
from fastgw.load.connection import Connection
from fastgw.load.histogram import Histogram
from fastgw.load.pace import choose_tick_ns, start_ticker
from fastgw.load.plan import Plan, PlanError

ANSWER_S_MAX: Final = 10.0
"""LIMIT: twice the time within which a gateway answers, whatever happens to its broker."""
CONNECT_S_MAX: Final = 5.0
CONNECTING_MAX: Final = 128
"""LIMIT: fewer than the queue of new connections that a server has by default."""
RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 1.0
GRACE_S: Final = 1.0
"""LIMIT: how long after the last moment something that is still due is sent."""
UNSENT_RECORDS_MAX: Final = 100_000
"""LIMIT: what a server that stood still for an hour leaves is counted in steps, within a second."""
HEAD_START_NS: Final = 1_000_000
"""WHY: the timer is set up before the first request is due."""
SWEEP_S: Final = 0.1
REASONS_MAX: Final = 50
"""LIMIT: how many different error codes, and reasons of failures, are told apart."""
OTHERS: Final = "others"
UNANSWERED: Final = f"no answer within {ANSWER_S_MAX:g} s"
_GC_SELDOM: Final = (100_000, 50, 100)

Say = Callable[["Session"], None]


class Session:
    """One run.

    Args:
        plan: what to do.
        answer_s_max: seconds after which a request counts as unanswered.
    """

    def __init__(self, plan: Plan, answer_s_max: float = ANSWER_S_MAX) -> None:
        self.plan: Final = plan
        self.latency: Final = Histogram()
        """From the moment when each request was due."""
        self.service: Final = Histogram()
        """From the moment when each answered request was sent."""
        self.lag: Final = Histogram()
        """How late this client sent what it could have sent: its own fault."""
        self.statuses: Final[Counter[int]] = Counter()
        self.codes: Final[Counter[str]] = Counter()
        self.failures: Final[Counter[str]] = Counter()
        self.sent = 0
        self.waited = 0
        """Requests that had to wait for a connection that was free."""
        self.unsent = 0
        self.bytes_received = 0
        self.lost = 0
        """Connections that had to be made again."""
        self.is_interrupted = False
        self.started = 0
        self.ended = 0
        self.cpu_s = 0.0
        self._answer_ns_max: Final = round(answer_s_max * 1e9)
        self._interval_ns: Final = 1e9 / plan.rate
        self._requests: Final = plan.requests
        self._idle: Final[deque[Connection]] = deque()
        self._busy: Final[dict[Connection, None]] = {}
        """In the order of sending, so that the oldest comes first."""
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._is_sending = False
        self._is_closed = False
        self._done = asyncio.Event()

    # --- what the report and the progress line read ----------------------------------------------

    @property
    def answered(self) -> int:
        """Requests that have an answer, whatever it says."""
        return self.service.count

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer."""
        return len(self._busy)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first request was due, until now or the end."""
        if not self.started:
            return 0.0
        return max(0, (self.ended or time.monotonic_ns()) - self.started) / 1e9

    def count_due(self, now: int) -> int:
        """Count the requests whose moment has come."""
        return min(self._requests, int((now - self.started) // self._interval_ns) + 1)

    def count_due_now(self) -> int:
        """Count them now; none before the start."""
        return self.count_due(time.monotonic_ns()) if self.started else 0

    # --- the run ---------------------------------------------------------------------------------

    async def run(self, say: Say | None = None, every_s: float = 0.5) -> None:
        """Connect, send at the rate, and wait for what is still to come.

        Args:
            say: called now and then while requests are sent.
            every_s: how often.

        Raises:
            PlanError: a connection could not be made, or the first request was refused for good.
        """
        try:
            await self._connect_all()
            await self._try_one()
            with _seldom_collecting():
                await self._measure(say, every_s)
        finally:
            self._close()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def interrupt(self) -> None:
        """End now, with what was measured so far."""
        self.is_interrupted = True
        self._done.set()

    async def _measure(self, say: Say | None, every_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._forget()
        cpu_s = time.process_time()
        self.started = time.monotonic_ns() + HEAD_START_NS
        self._is_sending = True
        tick_ns = choose_tick_ns(self.plan.rate)
        ticker = start_ticker(loop, self.started, tick_ns, self._on_tick)
        sweeper = loop.create_task(self._sweep(say, every_s))
        try:
            await self._done.wait()
        finally:
            ticker.close()
            sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeper
        self.ended = time.monotonic_ns()
        self.cpu_s = time.process_time() - cpu_s
        self._give_up(self.ended)

    def _forget(self) -> None:
        """Forget the trial."""
        for histogram in (self.latency, self.service, self.lag):
            histogram.clear()
        self.statuses.clear()
        self.codes.clear()
        self.failures.clear()
        self.sent = self.bytes_received = self.lost = 0

    def _give_up(self, now: int) -> None:
        """Count what was due and never sent, each with the time that it had waited."""
        due = self.count_due(now)
        self.unsent = max(0, due - self.sent)
        step = 1 + self.unsent // UNSENT_RECORDS_MAX
        for number in range(self.sent, due, step):
            times = min(step, due - number)
            self.latency.record(now - self._moment(number), times)

    def _moment(self, number: int) -> int:
        return self.started + int(number * self._interval_ns)

    def _on_tick(self) -> None:
        if self._idle:
            self._send_due(time.monotonic_ns(), is_late=True)

    def _send_due(self, now: int, *, is_late: bool) -> None:
        """Send what is due, as far as connections are free.

        `is_late`: connections were free all the time, so the delay is this client's own.
        """
        if not self._is_sending:
            return
        idle, due = self._idle, self.count_due(now)
        while self.sent < due and idle:
            connection = idle.popleft()
            moment = self._moment(self.sent)
            self.sent += 1
            if is_late:
                self.lag.record(now - moment)
            else:
                self.waited += 1
            self._busy[connection] = None
            connection.send(moment, now)

    async def _sweep(self, say: Say | None, every_s: float) -> None:
        """Look now and then for requests without an answer, and for the end."""
        end = self.started + round((self.plan.seconds + GRACE_S) * 1e9)
        say_at = time.monotonic() + every_s
        while not self._done.is_set():
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic_ns()
            self._end_unanswered(now)
            if now >= end:
                self._is_sending = False
            self._check_done()
            if say is not None and time.monotonic() >= say_at:
                say_at += every_s
                say(self)

    def _end_unanswered(self, now: int) -> None:
        while self._busy:
            oldest = next(iter(self._busy))
            if now - oldest.sent < self._answer_ns_max:
                return
            oldest.end(UNANSWERED)

    def _check_done(self) -> None:
        if not self._busy and (self.sent >= self._requests or not self._is_sending):
            self._done.set()

    # --- connections -----------------------------------------------------------------------------

    async def _connect_all(self) -> None:
        gate = asyncio.Semaphore(CONNECTING_MAX)

        async def connect() -> None:
            async with gate:
                self._idle.append(await self._connect())

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.plan.connections):
                    group.create_task(connect())
        except* OSError as errors:
            raise PlanError(_describe(self.plan, errors.exceptions[0])) from errors

    async def _connect(self) -> Connection:
        address, loop = self.plan.address, asyncio.get_running_loop()
        name = address.host if address.context else None
        async with asyncio.timeout(CONNECT_S_MAX):
            _, connection = await loop.create_connection(
                lambda: Connection(self, self.plan.request),
                address.host,
                address.port,
                ssl=address.context,
                server_hostname=name,
            )
        return connection

    async def _try_one(self) -> None:
        """Send one request that does not count: a wrong name or key is better told than counted."""
        connection = self._idle.popleft()
        now = time.monotonic_ns()
        self._busy[connection] = None
        connection.send(now, now)
        while self._busy:
            self._end_unanswered(time.monotonic_ns())
            await asyncio.sleep(0.005)
        if self.failures:
            raise PlanError(f"the first request failed: {next(iter(self.failures))}")
        status = next(iter(self.statuses))
        if 300 <= status < 500 and status not in (408, 429):
            code = next(iter(self.codes), "")
            text = f"the first request was answered with {status} {code}".rstrip()
            raise PlanError(text)

    async def _reconnect(self, *, at_once: bool) -> None:
        pause = RETRY_S_MIN
        if not at_once:
            await asyncio.sleep(pause)
        while True:  # Until `_close` cancels it.
            try:
                connection = await self._connect()
            except OSError:  # A timeout is one, too.
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_S_MAX)
            else:
                self._free(connection)
                return

    def _free(self, connection: Connection) -> None:
        """Let a connection send what is due, or wait for its turn."""
        had_none = not self._idle
        self._idle.append(connection)
        if self.started:
            self._send_due(time.monotonic_ns(), is_late=not had_none)

    def _close(self) -> None:
        self._is_closed = True
        self._is_sending = False
        for task in self._tasks:
            task.cancel()
        for connection in [*self._busy, *self._idle]:
            connection.end()
        self._busy.clear()
        self._idle.clear()

    # --- what connections tell -------------------------------------------------------------------

    def on_answer(self, connection: Connection, status: int, code: str, now: int) -> None:
        """Count an answer; the connection takes the next request."""
        self._busy.pop(connection, None)
        self.statuses[status] += 1
        if code:
            _count(self.codes, code)
        self.latency.record(now - connection.due)
        self.service.record(now - connection.sent)
        self.bytes_received += connection.answer_bytes
        if not connection.is_over:
            self._free(connection)
        if not self._busy and self.sent >= self._requests:
            self._done.set()

    def on_failure(self, connection: Connection, reason: str) -> None:
        """Count a request that nobody answered, with the time that it had waited."""
        self._busy.pop(connection, None)
        if self._is_closed:
            return
        _count(self.failures, reason)
        self.latency.record(time.monotonic_ns() - connection.due)
        self.on_gone(connection)

    def on_gone(self, connection: Connection) -> None:
        """Make another connection in the place of one that is gone."""
        if self._is_closed:
            return
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self.lost += 1
        # WHY: a server that accepts and hangs up is not to be run over.
        again = self._reconnect(at_once=connection.has_answered)
        task = asyncio.get_running_loop().create_task(again)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _count(counts: Counter[str], word: str) -> None:
    counts[word if word in counts or len(counts) < REASONS_MAX else OTHERS] += 1


def _describe(plan: Plan, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
    where = f"{plan.address.host}:{plan.address.port}"
    return f"cannot connect to {clip(where, 80)}: {clip(reason, 120)}"


@contextlib.contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Keep the collector from stopping the client in the middle of a run."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
