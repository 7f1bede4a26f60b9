"""Processes, sockets and signals around the gateway: one worker, or several under a supervisor.

What enters: a `Loaded` configuration, and a way to read it again. What leaves: the exit code of
`fastgw serve`. The embedded broker, when one is wanted, is a child of the process that `serve`
runs in. What one process does with signals is `shift`'s; what a parent does is `supervisor`'s.
It must never let an expected trouble (port taken, broker away) end in a traceback.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

import uvloop

from fastgw._core import METRICS
from fastgw.allocator import return_large_blocks
from fastgw.crew import Terminal, Times, Voice
from fastgw.door.descriptors import raise_limit
from fastgw.door.listeners import ListenError, bind_all, close_all
from fastgw.door.sockets import WorkerSockets
from fastgw.door.tls import find_loose_keys
from fastgw.errors import Fault
from fastgw.nats.credentials import CredentialsError
from fastgw.nats.folder import EmbeddedError
from fastgw.observe import Board
from fastgw.reload import Plan, Reloader
from fastgw.shift import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from fastgw.config import Config, Loaded
    from fastgw.door.listeners import Bound
    from fastgw.nats.embedded import EmbeddedBroker

log: Final = logging.getLogger("fastgw.server")


def serve(loaded: Loaded, read: Callable[[], Loaded] | None = None) -> int:
    """Run the gateway until a signal ends it.

    Args:
        loaded: the configuration.
        read: finds it anew, for SIGHUP; None renews certificates only.

    Returns:
        0 after a wanted end, 1 after one line on stderr, or when a worker had to be killed at the
        end; 128 and the signal's number when a second signal cut the end short.
    """
    config = loaded.config
    return_large_blocks()
    _set_up_logging(config)
    for warning in (*loaded.warnings, *find_loose_keys(config.all_listeners())):
        log.warning("%s", warning)
    if scarce := raise_limit(config.limits.connections_max):
        # WHY not always a warning: nobody has asked for as many as the default allows.
        is_asked = loaded.origins.get("limits.connections_max", "default") != "default"
        log.log(logging.WARNING if is_asked else logging.DEBUG, "%s", scarce)
    # WHY: a signal to reload may come before anyone can act on it, and must not end us; a function,
    # unlike "ignore", is not inherited by the broker.
    for number in (signal.SIGHUP, signal.SIGUSR2):
        if number != signal.SIGHUP or not Terminal().is_there:
            signal.signal(number, lambda number, frame: None)
    broker: EmbeddedBroker | None = None
    bounds: list[Bound] = []
    try:
        bounds = bind_all(config)
        if config.embedded:
            from fastgw.nats.embedded import EmbeddedBroker

            broker = EmbeddedBroker.start(config.data, config.nats)
        nats = config.nats if broker is None else broker.address.apply(config.nats)
        plan = Plan(config, nats, tuple(bound.certificates for bound in bounds))
        reloader = Reloader(read, None if broker is None else broker.address)
        board = Board(config.workers_count, METRICS)
        if config.workers_count == 1:
            worker = Worker(plan, bounds, Voice(), board, reloader, broker)
            try:
                return _run(worker.work())
            finally:
                bounds = worker.bounds
        # WHY here, as the broker above: one worker beside a running broker needs neither.
        from fastgw.supervisor import Supervisor

        crew = ForkedCrew(bounds, reloader, board)
        return Supervisor(config.workers_count, crew, plan, broker).run()
    except (EmbeddedError, CredentialsError, ListenError, OSError) as error:
        return _fail(str(error))
    finally:
        close_all(bounds)
        if broker is not None:
            broker.stop()


def _fail(text: str) -> int:
    print(f"fastgw: {text}", file=sys.stderr)
    return 1


def _set_up_logging(config: Config) -> None:
    logging.basicConfig(
        level=config.log.level.upper(),
        format="%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stderr,
    )
    logging.Formatter.converter = time.gmtime
    # WHY: the control plane reports its own trouble; the library's lines would repeat it.
    logging.getLogger("nats").setLevel(logging.CRITICAL)


def _run(work: Coroutine[Any, Any, int]) -> int:
    """Run one process's part on an event loop of its own."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except Fault as fault:
        return _fail(fault.text)
    finally:
        # WHY here: few have GraphQL, and where nobody had, this is the end of the process anyway.
        from fastgw.schema.graphql_pool import close_pool

        close_pool()


class ForkedCrew:
    """Several workers, each with TCP sockets of its own, which their parent holds.

    Args:
        bounds: every address, bound.
        reloader: reads the configuration again.
        board: where the workers count; a seat is a row of it.
    """

    def __init__(
        self,
        bounds: Sequence[Bound],
        reloader: Reloader,
        board: Board,
    ) -> None:
        self.left: Final = board.reset_gauges
        self._board: Final = board
        self._bounds: Final = bounds
        self._sockets: Final = WorkerSockets(bounds)
        self._reloader: Final = reloader

    def times(self, plan: Plan) -> Times:
        """Return the bounds of the configuration."""
        return plan.times

    def open(self, index: int) -> None:
        """Open worker `index`'s sockets."""
        self._sockets.open(index)

    def forget(self, index: int) -> None:
        """Leave its clients to the other workers."""
        self._sockets.forget(index)

    def run(self, index: int, plan: Plan, voice: Voice) -> int:
        """Be worker `index`."""
        plan.set_log_level()
        bounds = self._sockets.take(index, plan.listeners, plan.certificates)
        try:
            return _run(Worker(plan, bounds, voice, self._board, index=index).work())
        except (CredentialsError, OSError) as error:
            return _fail(str(error))

    def read_again(self, plan: Plan) -> Plan | None:
        """Read the configuration."""
        found = self._reloader.read_again(plan)
        if found is not None:
            found.set_log_level()
        return found

    def close_sockets(self) -> None:
        """Close the parent's TCP sockets."""
        self._sockets.close()

    def close_files(self) -> None:
        """Unlink the unix sockets' files and close them."""
        close_all(self._bounds)
