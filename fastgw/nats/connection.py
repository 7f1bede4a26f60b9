"""The two connections of a worker to the broker: who we are, the control plane, the data plane.

What enters: the broker's table of the configuration and a maker of links.
What leaves: `open_control`, a nats-py client that never gives up (see `client.py`), and
`DataPlane`, which keeps one fast connection alive and tells when it is live and when it is lost.
Called by the gateway's assembly. The data plane must never wait without a bound, never send to a
server that announced its end, and never let its one task die.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from fastgw.errors import UpstreamFault, clip
from fastgw.nats.client import ControlClient, open_control
from fastgw.nats.credentials import Credentials, CredentialsError
from fastgw.nats.dial import DialError, Link, Session
from fastgw.nats.quiet import QuietLog
from fastgw.nats.reasons import os_reason
from fastgw.nats.servers import Backoff, ServerPool, parse_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.config_types import NatsConfig

__all__ = [
    "ControlClient",
    "Credentials",
    "CredentialsError",
    "DataPlane",
    "Link",
    "open_control",
]

log = logging.getLogger("fastgw.nats")

STABLE_S: Final = 1.0
"""LIMIT: a link that lived this long is redialled at once. WHY: an expired JWT gets its PONG first
and is thrown out after it; without this bound we would dial such a server in a tight loop."""

RETIRED_S_MAX: Final = 10.0
"""LIMIT: nats-server closes clients 10 s (its grace period) after it announced a lame duck; a
retired link that is still not idle by then is closed."""

CLOSE_S_MAX: Final = 1.0

LOOK_S: Final = 0.25
"""How often a live link is looked at."""

DIAL_STAGGER_S: Final = 0.5
"""LIMIT: after so long the next server is dialled beside the one that has not answered."""

BARREN_S: Final = 2.0
"""LIMIT: where no stream answers for so long, another server is tried. WHY: a server that lost the
others of its cluster stays connected and refuses, or keeps silent, for as long as they are away."""

BARREN_S_MAX: Final = 60.0
"""LIMIT: each try in vain doubles the patience: perhaps no server has the stream."""

_ACK_SUBJECT: Final = re.compile(r"(\$JS\.ACK\.[^.\"]+\.[^.\"]+)\.[^\"]*")


class DataPlane:
    """Keeps one data-plane connection alive.

    Each `on_live(link)` is followed by exactly one `on_lost()`: when the connection ends, when its
    server announces its end (the link is retired then, and closes itself when nothing is in flight
    on it), or at `stop`. Both are called on the loop and must not raise.

    Args:
        loop: the loop of the worker.
        config: the broker's table of the configuration; `url` holds at least one server.
        make_link: returns a fresh link for each dial.
        on_live: takes the link that may carry publishes from now on.
        on_lost: told when there is no such link any more.
        on_barren: told the address of a server that is left because no stream answers there.

    Raises:
        CredentialsError: a configured key file cannot be used.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: NatsConfig,
        make_link: Callable[[], Link],
        on_live: Callable[[Link], None],
        on_lost: Callable[[], None],
        on_barren: Callable[[str], None] = lambda server: None,
    ) -> None:
        self.last_error: str = ""
        self._loop = loop
        self._config = config
        self._credentials = Credentials(config, "data")
        self._pool = ServerPool([parse_server(url) for url in config.url])
        self._backoff = Backoff(config)
        self._make_link = make_link
        self._on_live = on_live
        self._on_lost = on_lost
        self._on_barren = on_barren
        self._patience_s = BARREN_S
        self._quiet = QuietLog(log)
        self._live: Session | None = None
        self._live_event = asyncio.Event()
        self._retired: dict[Session, asyncio.TimerHandle] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def link(self) -> Link | None:
        """The live link, or None while there is none."""
        return None if self._live is None else self._live.link

    @property
    def server(self) -> str:
        """The address of the live server, "" while there is none."""
        return "" if self._live is None else self._live.server.label

    @property
    def servers(self) -> list[str]:
        """The addresses that are dialled, discovered ones included."""
        return [server.label for server in self._pool.servers]

    def start(self) -> None:
        """Begin to dial; returns at once."""
        if self._task is None:
            self._task = self._loop.create_task(self._keep_alive(), name="fastgw-data-plane")

    async def wait_live(self, timeout_s: float) -> None:
        """Return when a link is live.

        Raises:
            UpstreamFault: "broker-away", after `timeout_s`, with the last reason.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._live_event.wait()
        except TimeoutError:
            reason = self.last_error or "no server answered yet"
            raise UpstreamFault(
                "broker-away", f"no broker connection within {timeout_s:g} s: {reason}"
            ) from None

    async def stop(self) -> None:
        """Close every link and end the task; returns within `CLOSE_S_MAX` or so."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        sessions = list(self._retired)
        for timer in self._retired.values():
            timer.cancel()
        self._retired.clear()
        if self._live is not None:
            sessions.append(self._live)
            self._go_down(self._live)
        for session in sessions:
            session.link.close()
        if sessions:
            await asyncio.wait({session.lost for session in sessions}, timeout=CLOSE_S_MAX)
        for session in sessions:
            if not session.lost.done():
                session.abort()

    async def _keep_alive(self) -> None:
        while True:
            try:
                session = await self._dial_round()
                if session is None:
                    await asyncio.sleep(self._backoff.next_s())
                    continue
                lived_s = await self._hold(session)
                if lived_s >= STABLE_S or session.lame.done():
                    self._backoff.reset()
                else:
                    await asyncio.sleep(self._backoff.next_s())
            except Exception:
                # WHY: a defect here must not leave the gateway without a broker for ever.
                log.exception("defect in the data plane; dialling again")
                self._drop_live()
                await asyncio.sleep(self._backoff.next_s())

    async def _dial_round(self) -> Session | None:
        """Dial each known server once; return the first that takes us.

        WHY the next beside one that keeps silent: a frozen server's kernel still accepts us.
        """
        servers = self._pool.round()
        dials: dict[asyncio.Task[bool], Session] = {}
        try:
            while servers or dials:
                if servers:
                    session = Session(self._loop, servers.pop(0), self._make_link())
                    dials[self._loop.create_task(self._dial(session))] = session
                done, _ = await asyncio.wait(
                    dials,
                    timeout=DIAL_STAGGER_S if servers else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    if task.result():
                        return dials.pop(task)
                    del dials[task]
            return None
        finally:
            for task, session in dials.items():
                task.cancel()
                session.abort()
            if dials:
                await asyncio.wait(dials)

    async def _dial(self, session: Session) -> bool:
        """Dial one server; return whether it took us."""
        opened = False
        try:
            await session.open(self._config, self._credentials, "fastgw-data")
            opened = True
        except DialError as error:
            self.last_error = str(error)
            self._quiet.warning(f"data plane: {error}")
        finally:
            if not opened:
                session.abort()
        return opened

    async def _hold(self, session: Session) -> float:
        """Serve one live link until its end; return how long it lived, in seconds."""
        started = self._loop.time()
        self._go_up(session)
        interval_s = self._config.ping_interval_ms / 1000
        ping_at = started + interval_s
        ends: set[asyncio.Future[Any]] = {session.lost, session.lame}
        while not session.lost.done() and not session.lame.done():
            wait_s = min(LOOK_S, max(0.0, ping_at - self._loop.time()))
            done, _ = await asyncio.wait(ends, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if done or self._leave_barren(session):
                break
            if self._loop.time() < ping_at:
                continue
            ping_at = self._loop.time() + interval_s
            if session.link.pings_out >= self._config.pings_out_max:
                self.last_error = (
                    f"{session.server.label} answered none of {session.link.pings_out} PINGs"
                )
                # WHY: a frozen server's kernel still accepts, and would hold the next dial up.
                self._pool.put_off(session.server)
                self._go_down(session)
                # WHY: abort, not close: a dead peer would never let the last bytes out.
                session.abort()
                break
            session.link.ping()
        return self._loop.time() - started

    def _go_up(self, session: Session) -> None:
        session.on_update = self._on_update
        session.on_down = self._on_down
        session.on_error = self._on_error
        self._pool.merge(session.info.get("connect_urls"), session.server)
        if session.lost.done():
            # It ended between its PONG and this turn of the loop; nobody was told that it lived.
            self.last_error = _reason(session)
            return
        self._live = session
        session.link.go_live(session.info)
        self._live_event.set()
        log.info("data plane connected to %s", session.server.label)
        self._on_live(session.link)

    def _go_down(self, session: Session) -> None:
        if self._live is not session:
            return
        self._live = None
        self._live_event.clear()
        self._on_lost()

    def _drop_live(self) -> None:
        session = self._live
        if session is not None:
            self._go_down(session)
            session.abort()

    def _leave_barren(self, session: Session) -> bool:
        """Leave a server where no stream answers, when there are others. Returns whether it did."""
        barren_s = session.link.barren_ms / 1000
        if not barren_s and session.link.is_fruitful:
            self._patience_s = BARREN_S
            self._pool.forgive()
        if barren_s < self._patience_s or len(self._pool.servers) == 1:
            return False
        self._patience_s = min(BARREN_S_MAX, 2 * self._patience_s)
        label = session.server.label
        self._leave(session, f"at {label} no stream answers for {barren_s:.1f} s; trying others")
        self._on_barren(label)
        return True

    def _on_update(self, session: Session, info: dict[str, object]) -> None:
        self._pool.merge(info.get("connect_urls"), session.server)
        if info.get("ldm") and not session.lame.done():
            # WHY: JetStream is shut down already; every publish from here on would be a false 503.
            self._leave(session, f"{session.server.label} is going away (lame duck)")

    def _leave(self, session: Session, why: str) -> None:
        """Send nothing new over this link; it closes when what is in flight is answered."""
        log.warning("data plane: %s", why)
        self.last_error = why
        self._retired[session] = self._loop.call_later(RETIRED_S_MAX, session.link.close)
        session.link.retire()
        session.lame.set_result(None)
        self._pool.put_off(session.server)
        self._go_down(session)

    def _on_down(self, session: Session) -> None:
        timer = self._retired.pop(session, None)
        if timer is not None:
            timer.cancel()
        if self._live is not session:
            return
        self.last_error = _reason(session)
        self._quiet.warning(f"data plane: {self.last_error}")
        self._go_down(session)

    def _on_error(self, session: Session, text: str) -> None:
        # WHY: each refused ack names its message, and no line would be like the one before.
        text = _ACK_SUBJECT.sub(r"\1.…", text)
        self.last_error = f"{session.server.label} said: {text}"
        self._quiet.warning(f"data plane: {self.last_error}")


def _reason(session: Session) -> str:
    """Say in one line why the connection ended."""
    if session.error is not None:
        return f"{session.server.label} ended the connection: {session.error}"
    error = session.lost.result() if session.lost.done() else None
    if error is None:
        return f"lost {session.server.label}: closed by the broker"
    reason = os_reason(error) if isinstance(error, OSError) else clip(error)
    return f"lost {session.server.label}: {reason}"
