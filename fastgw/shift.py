"""One process's gateways and its signals: serve, take a new configuration, drain, end.

What enters: a plan, bound addresses, and signals. What leaves: the exit code. `server` runs it as
the only process, or in each forked worker. A shift is one gateway with its listeners, from the
start to the last answer; the only process may hold two while one takes over from the other.
It must never close a socket whose waiting clients nobody else accepts, before it has taken them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastgw.crew import AGAIN_S, BEAT_S, FORCED, READY_S_MAX, Terminal, Voice
from fastgw.door.listeners import Listeners
from fastgw.errors import Fault
from fastgw.gateway import Gateway
from fastgw.nats.credentials import CredentialsError
from fastgw.nats.folder import EmbeddedError
from fastgw.welcome import make_admin, say_ready, wait_admin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastgw.config import Config
    from fastgw.door.listeners import Bound
    from fastgw.nats.embedded import EmbeddedBroker
    from fastgw.observe import Board
    from fastgw.reload import Plan, Reloader

log: Final = logging.getLogger("fastgw.shift")

BROKER_CHECK_S: Final = 1.0
"""How often the embedded broker is looked at; one that died is started again."""

LOOK_S: Final = 0.02
"""How often a drain looks whether the last connection is gone."""

LAST_TURNS: Final = 5
"""Turns of the loop in which those in the queue are accepted, and what they have sent is read."""

STOP_S_MAX: Final = 4.0
"""LIMIT: for closing both planes; less than the margin after which a parent kills."""

HURRY_S_MAX: Final = 0.5
"""LIMIT: the same when a second signal said that nobody waits for it."""

GC_THRESHOLD: Final = 50_000
"""LIMIT: allocations between collections of the youngest generation; the hot path makes few cycles
and they are broken by hand, so looking for more of them is mostly wasted time."""


class Shift:
    """One gateway and its listeners.

    Args:
        plan: what it runs by.
        bounds: its addresses; their sockets are owned from `start` on.
        hurry: set when answers are no longer waited for.
        board: where it counts.
        seat: a number that no other living shift has; its row of the board.
    """

    def __init__(
        self, plan: Plan, bounds: Sequence[Bound], hurry: asyncio.Event, board: Board, seat: int
    ) -> None:
        self.plan: Final = plan
        self.seat: Final = seat
        self.bounds: Final = list(bounds)
        self.gateway: Final = Gateway(plan.config, plan.nats, board, seat)
        self._hurry: Final = hurry
        self._is_pressed = False
        self.is_cut = False
        self._listeners: Listeners | None = None

    async def connect(self) -> None:
        """Connect to the broker and read what it keeps.

        Raises:
            Fault, CredentialsError, OSError: it cannot serve; `stop` is to be called.
        """
        await self.gateway.start()

    async def open(self) -> None:
        """Accept clients, once `connect` is done."""
        limits = self.plan.config.limits
        self._listeners = Listeners(self.bounds, limits, self.gateway.ingress)
        await self._listeners.start()

    def reload_certificates(self) -> None:
        """Read renewed certificates; connections that stand go on with the old ones."""
        if self._listeners is not None:
            self._listeners.reload()

    async def hand_over(self) -> None:
        """Accept nobody, as somebody else does from the same queues; let clients leave politely.

        Each answer ends its connection from now on. Who asks nothing is let be for the grace
        period, so that a request on its way is not cut off.
        """
        assert self._listeners is not None
        self._listeners.stop_accepting()
        self.gateway.begin_drain(is_replaced=True)
        await self._wait_for_nobody(self.plan.times.grace_s)
        await self._answer_the_rest()

    def press(self) -> None:
        """Let idle clients go now: the whole process ends."""
        self._is_pressed = True

    async def end(self) -> None:
        """Say that we leave, take whoever comes meanwhile, and answer what was accepted."""
        assert self._listeners is not None
        self.gateway.begin_drain(is_replaced=False)
        if self.plan.times.delay_s:
            await self._race(limit_s=self.plan.times.delay_s)
        # WHY: a socket that is closed resets those that wait in its queue, so they are taken first.
        for _ in range(LAST_TURNS):
            await asyncio.sleep(0)
        self._listeners.stop_accepting()
        await self._answer_the_rest()

    async def _answer_the_rest(self) -> None:
        assert self._listeners is not None
        draining = asyncio.ensure_future(self.gateway.drain())
        await self._race(draining)
        if draining.done():
            draining.result()
        else:
            draining.cancel()
            self.is_cut = self.gateway.ingress.stats()["connections"] > 0
        await self._listeners.close()

    async def stop(self) -> None:
        """Close everything, also after a start that failed; whoever still waits is told."""
        if self._listeners is None:
            for bound in self.bounds:
                bound.sock.close()
        else:
            await self._listeners.close()
        stopping = asyncio.ensure_future(self.gateway.stop())
        limit_s = HURRY_S_MAX if self._hurry.is_set() else STOP_S_MAX
        done, _ = await asyncio.wait({stopping}, timeout=limit_s)
        if done:
            stopping.result()
        else:
            log.warning("closing took more than %g s; leaving it", limit_s)
            stopping.cancel()

    async def _wait_for_nobody(self, limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while self.gateway.ingress.stats()["connections"] and loop.time() < deadline:
            if self._is_pressed or self._hurry.is_set():
                return
            await asyncio.sleep(LOOK_S)

    async def _race(self, *works: asyncio.Future[Any], limit_s: float | None = None) -> None:
        """Wait for the works, for the limit, or until nothing is waited for any more."""
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait(
                {hurry, *works}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            hurry.cancel()


class Worker:
    """What one process does from its start to its end.

    Args:
        plan: what it runs by at first.
        bounds: its addresses.
        voice: tells a parent how it is.
        board: where its gateways count.
        reloader: reads the configuration again; None in a forked worker, whose parent does.
        broker: the embedded broker, when it is this process's child.
        index: the worker's number.
    """

    def __init__(
        self,
        plan: Plan,
        bounds: Sequence[Bound],
        voice: Voice,
        board: Board,
        reloader: Reloader | None = None,
        broker: EmbeddedBroker | None = None,
        *,
        index: int = 0,
    ) -> None:
        self._voice: Final = voice
        self._board: Final = board
        self._reloader: Final = reloader
        self._broker: Final = broker
        # WHY less in a worker: its parent has waited that long before it passes the second one on.
        self._again_s: Final = AGAIN_S if reloader is not None else AGAIN_S / 2
        self._is_first: Final = index == 0 and voice.is_first
        self._plan = plan
        self.bounds = list(bounds)
        self._hurry = asyncio.Event()
        self._ended = asyncio.Event()
        self._asked = asyncio.Event()
        self._is_reload_asked = False
        self._is_fresh_asked = False
        self._is_replaced = False
        self._end_asked_at: float | None = None
        self._forced_by = 0
        self._terminal = Terminal()
        self._shift: Shift
        self._old: Shift | None = None
        self._leaving: asyncio.Future[None] | None = None

    async def work(self) -> int:
        """Serve until a signal; return the exit code.

        Raises:
            Fault, CredentialsError, OSError: it cannot serve.
        """
        loop = asyncio.get_running_loop()
        shift = self._shift = Shift(
            self._plan, self.bounds, self._hurry, self._board, self._voice.seat
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            if number == signal.SIGTERM or self._reloader is not None:
                loop.add_signal_handler(number, self._on_end, number)
        self._beat()
        try:
            await shift.connect()
            users = shift.gateway.users
            # WHY before anyone is let in: who is told that we are ready may log in at once.
            admin = await make_admin(users, self._plan.config) if self._is_first else None
            if self._voice.is_first:
                await wait_admin(users, self._plan.config)
            await shift.open()
            loop.add_signal_handler(signal.SIGHUP, self._on_hang_up)
            loop.add_signal_handler(signal.SIGUSR2, self._on_restart)
            _settle_memory(has_predecessor=False)
            if self._is_first:
                urls = [bound.url for bound in self.bounds]
                self._announce(urls)
                say_ready(self._plan.config, urls, admin, known_users=len(users.records))
            self._voice.say_ready()
            await self._serve()
        finally:
            await self._shift.stop()
        # WHY: whoever asks twice when the last answer was given already has what he wanted.
        is_cut = self._shift.is_cut or (self._old is not None and self._old.is_cut)
        return FORCED + self._forced_by if is_cut else 0

    async def _serve(self) -> None:
        """Keep what is to be kept, until the end is asked for; then answer what was accepted."""
        tasks = [asyncio.ensure_future(self._keep_changing())]
        if self._broker is not None:
            tasks.append(asyncio.ensure_future(_keep_broker(self._broker)))
        try:
            await self._ended.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        log.info("stopping: answering what was accepted")
        ending = self._shift.hand_over() if self._is_replaced else self._shift.end()
        await asyncio.gather(ending, *([self._leaving] if self._leaving else []))

    # --- signals --------------------------------------------------------------------------------

    def _on_end(self, number: int) -> None:
        """End; at once when it is asked for again."""
        now = asyncio.get_running_loop().time()
        for shift in (self._shift, self._old):
            if shift is not None:
                shift.press()
        if self._end_asked_at is None:
            self._end_asked_at = now
            self._ended.set()
        elif now >= self._end_asked_at + self._again_s:
            log.warning("told to end once more: ending at once")
            self._forced_by = number
            self._hurry.set()

    def _on_hang_up(self) -> None:
        """Read the configuration again; or end, when it is our terminal that was closed."""
        if self._terminal.is_gone():
            # WHY once: the terminal and the shell in it may both say so.
            if not self._ended.is_set():
                self._on_end(signal.SIGHUP)
        elif self._reloader is None:
            self._shift.reload_certificates()
        else:
            self._is_reload_asked = True
            self._asked.set()

    def _on_restart(self) -> None:
        """Start over; in a forked worker this is its parent's word that a successor serves."""
        if self._reloader is None:
            self._is_replaced = True
            self._ended.set()
        else:
            self._is_fresh_asked = True
            self._asked.set()

    def _beat(self) -> None:
        self._voice.beat()
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    # --- a new configuration in the same process ------------------------------------------------

    async def _keep_changing(self) -> None:
        """Change as often as it is asked for, one after another."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._change()
            except Exception:
                # WHY: a defect here must not keep later changes from being tried.
                log.exception("defect while a new gateway took over")

    async def _change(self) -> None:
        is_fresh, self._is_fresh_asked = self._is_fresh_asked, False
        plan = self._plan
        if self._is_reload_asked and self._reloader is not None:
            self._is_reload_asked = False
            plan = self._reloader.read_again(plan) or plan
        if not is_fresh and plan is self._plan:
            return
        await self._take_over(plan)
        if self._leaving is not None:
            # WHY shielded: the process's end cancels this task, but not the answers still owed.
            await asyncio.shield(self._leaving)
            if self._old is not None:
                self._board.reset_gauges(self._old.seat)
            self._old = self._leaving = None
            log.info("the old gateway has left")
            _settle_memory(has_predecessor=True)

    async def _take_over(self, plan: Plan) -> None:
        """Start a second gateway on the same sockets, and let the first one leave."""
        old = self._shift
        new = Shift(plan, [], self._hurry, self._board, 1 - old.seat)
        try:
            told = zip(old.bounds, plan.listeners, plan.certificates, strict=True)
            for bound, config, found in told:
                new.bounds.append(bound.again(config, found))
            async with asyncio.timeout(READY_S_MAX):
                await new.connect()
                await new.open()
        except (Fault, CredentialsError, OSError, TimeoutError) as error:
            await new.stop()
            log.error("the old configuration stays in force: %s", str(error) or "not ready in time")
            return
        except BaseException:
            await new.stop()
            raise
        for before, after in zip(old.bounds, new.bounds, strict=True):
            before.pass_file(after)
        self._shift, self._plan, self.bounds = new, plan, new.bounds
        plan.set_log_level()
        log.info("a new gateway serves; the old one answers what it accepted")
        self._old, self._leaving = old, asyncio.ensure_future(_let_go(old))

    # --- telling --------------------------------------------------------------------------------

    def _announce(self, urls: Sequence[str]) -> None:
        """Leave the addresses in the data folder, for scripts that let the system choose a port."""
        config: Config = self._plan.config
        path = Path(config.data) / "gateway.json"
        # WHY: who reads this wants the process to send a signal to, which is the workers' parent.
        pid = os.getpid() if self._reloader is not None else os.getppid()
        told = {"address": urls[0], "pid": pid, "listeners": list(urls)}
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_suffix(".tmp")
            draft.write_text(json.dumps(told))
            draft.replace(path)
        except OSError as error:
            # WHY: a sidecar with a broker of its own may run on a read-only file system.
            log.info("no gateway.json: %s", error)


async def _let_go(shift: Shift) -> None:
    try:
        await shift.hand_over()
    finally:
        await shift.stop()


def _settle_memory(*, has_predecessor: bool) -> None:
    """Leave what lives long out of later collections; drop what a predecessor left behind."""
    if has_predecessor:
        # WHY not always: the modules' objects, which were left out before, take 20 ms to look at.
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


async def _keep_broker(broker: EmbeddedBroker) -> None:
    """Start the embedded broker again when it has died; the planes reconnect by themselves."""
    while True:
        await asyncio.sleep(BROKER_CHECK_S)
        code = broker.poll()
        if code is None:
            continue
        log.error("the embedded broker ended with code %s; starting it again", code)
        try:
            broker.restart()
        except EmbeddedError as error:
            log.error("%s", error)
