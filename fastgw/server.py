"""Processes, sockets and signals around the gateway: one worker, or several under a supervisor.

What enters: a `Loaded` configuration. What leaves: the exit code of `fastgw serve`.
The embedded broker, when one is wanted, is a child of the process that `serve` runs in.
It must never let an expected trouble (port taken, broker away) end in a traceback.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from fastgw.door.listeners import ListenError, Listeners, bind_all, close_all
from fastgw.door.tls import find_loose_keys
from fastgw.errors import Fault
from fastgw.gateway import Gateway
from fastgw.nats.credentials import CredentialsError
from fastgw.nats.embedded import EmbeddedBroker
from fastgw.nats.folder import EmbeddedError
from fastgw.supervisor import Supervisor, Terminal
from fastgw.welcome import make_admin, say_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastgw.config import Config, Loaded
    from fastgw.config_types import NatsConfig
    from fastgw.door.listeners import Bound

log: Final = logging.getLogger("fastgw.server")

BROKER_CHECK_S: Final = 1.0
"""How often the embedded broker is looked at; one that died is started again."""

GC_THRESHOLD: Final = 50_000
"""LIMIT: allocations between collections of the youngest generation; the hot path makes few cycles
and they are broken by hand, so looking for more of them is mostly wasted time."""


def serve(loaded: Loaded) -> int:
    """Run the gateway until a signal ends it. Returns 0, or 1 after one line on stderr."""
    config = loaded.config
    _set_up_logging(config)
    for warning in (*loaded.warnings, *find_loose_keys(config.all_listeners())):
        log.warning("%s", warning)
    # WHY: a signal for renewed certificates may come before anyone can act on it, and must not end
    # us; a function, unlike "ignore", is not inherited by the broker.
    if not Terminal().is_there:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    broker: EmbeddedBroker | None = None
    bounds: list[Bound] = []
    try:
        bounds = bind_all(config)
        if config.embedded:
            broker = EmbeddedBroker.start(config.data, config.nats)
        nats = config.nats if broker is None else broker.address.apply(config.nats)
        if config.workers_count == 1:
            return _run_worker(config, nats, bounds, broker, 0)
        run = functools.partial(_run_forked, config, nats, bounds)
        # WHY: a unix socket is the same one in every process: the clients of one that no worker
        # accepts from any more would wait in vain.
        close = functools.partial(close_all, bounds)
        return Supervisor(config.workers_count, run, broker, close).run()
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


def _run_forked(
    config: Config,
    nats: NatsConfig,
    bounds: Sequence[Bound],
    index: int,
    on_ready: Callable[[], None],
) -> int:
    """Run worker `index` in a forked process, on TCP sockets of its own."""
    own = [bound.in_worker() for bound in bounds]
    return _run_worker(config, nats, own, None, index, on_ready)


def _run_worker(
    config: Config,
    nats: NatsConfig,
    bounds: Sequence[Bound],
    broker: EmbeddedBroker | None,
    index: int,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Run one gateway on this process's event loop until SIGTERM or SIGINT."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_work(config, nats, bounds, broker, index, on_ready))
    except Fault as fault:
        return _fail(fault.text)


async def _work(
    config: Config,
    nats: NatsConfig,
    bounds: Sequence[Bound],
    broker: EmbeddedBroker | None,
    index: int,
    on_ready: Callable[[], None],
) -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    gateway = Gateway(config, nats)
    terminal = Terminal()
    try:
        await gateway.start()
        admin = await make_admin(gateway.users, config) if index == 0 else None
        listeners = Listeners(bounds, config.limits, gateway.ingress)
        await listeners.start()
        loop.add_signal_handler(signal.SIGHUP, _on_hang_up, listeners, terminal, ended)
        on_ready()
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 50)
        if index == 0:
            urls = [bound.url for bound in bounds]
            _announce(config, urls)
            say_ready(config, urls, admin, known_users=len(gateway.users.records))
        keeper = loop.create_task(_keep_broker(broker)) if broker is not None else None
        await ended.wait()
        log.info("stopping: answering what was accepted")
        if keeper is not None:
            keeper.cancel()
        listeners.stop_accepting()
        await gateway.drain()
        await listeners.close()
    finally:
        await gateway.stop()
    return 0


def _on_hang_up(listeners: Listeners, terminal: Terminal, ended: asyncio.Event) -> None:
    """Read renewed certificates; or end, when it is our terminal that was closed."""
    if terminal.is_gone():
        ended.set()
    else:
        listeners.reload()


def _announce(config: Config, urls: Sequence[str]) -> None:
    """Leave the addresses in the data folder, for scripts that had the system choose the port."""
    path = Path(config.data) / "gateway.json"
    # WHY: who reads this wants the process to send a signal to, which is the workers' parent.
    pid = os.getpid() if config.workers_count == 1 else os.getppid()
    told = {"address": urls[0], "pid": pid, "listeners": list(urls)}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(told))
        draft.replace(path)
    except OSError as error:
        # WHY: a sidecar with a broker of its own may run on a read-only file system.
        log.info("no gateway.json: %s", error)


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
