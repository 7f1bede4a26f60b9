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
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from fastgw.errors import Fault
from fastgw.gateway import Gateway
from fastgw.nats.credentials import CredentialsError
from fastgw.nats.embedded import EmbeddedBroker
from fastgw.nats.folder import EmbeddedError
from fastgw.supervisor import Supervisor
from fastgw.welcome import make_admin, say_ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.config import Config, Loaded
    from fastgw.config_types import NatsConfig

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
    for warning in loaded.warnings:
        log.warning("%s", warning)
    broker: EmbeddedBroker | None = None
    try:
        sock = _bind(config)
        if config.embedded:
            broker = EmbeddedBroker.start(config.data, config.nats)
        nats = config.nats if broker is None else broker.address.apply(config.nats)
        if config.workers_count == 1:
            return _run_worker(config, nats, sock, broker, 0)
        # WHY: the bound socket stays here, unlistened, so that the port remains ours while every
        # worker has a socket of its own in the kernel's group.
        run = functools.partial(_run_forked, config, nats, sock)
        return Supervisor(config.workers_count, run, broker).run()
    except (EmbeddedError, CredentialsError, OSError) as error:
        return _fail(str(error))
    finally:
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


def _bind(config: Config) -> socket.socket:
    """Bind the listening address, so that a taken port is told before anything else starts."""
    host, port = config.listen_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.workers_count > 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        if config.workers_count == 1:
            # WHY: two sockets may be bound to one port until one listens; so listen here.
            sock.listen(1)
    except OSError as error:
        sock.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    sock.setblocking(False)
    return sock


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _run_forked(
    config: Config,
    nats: NatsConfig,
    bound: socket.socket,
    index: int,
    on_ready: Callable[[], None],
) -> int:
    """Run worker `index` in a forked process, on a listening socket of its own."""
    sock = socket.socket(bound.family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(bound.getsockname())
    sock.setblocking(False)
    bound.close()
    return _run_worker(config, nats, sock, None, index, on_ready)


def _run_worker(
    config: Config,
    nats: NatsConfig,
    sock: socket.socket,
    broker: EmbeddedBroker | None,
    index: int,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Run one gateway on this process's event loop until SIGTERM or SIGINT."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_work(config, nats, sock, broker, index, on_ready))
    except Fault as fault:
        return _fail(fault.text)


async def _work(
    config: Config,
    nats: NatsConfig,
    sock: socket.socket,
    broker: EmbeddedBroker | None,
    index: int,
    on_ready: Callable[[], None],
) -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    gateway = Gateway(config, nats)
    try:
        await gateway.start()
        admin = await make_admin(gateway.users, config) if index == 0 else None
        await gateway.listen(sock)
        on_ready()
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 50)
        if index == 0:
            _announce(config, _url(sock))
            users_count = len(gateway.users.records)
            say_ready(config, _url(sock), admin, known_users=users_count)
        keeper = loop.create_task(_keep_broker(broker)) if broker is not None else None
        await ended.wait()
        log.info("stopping: answering what was accepted")
        if keeper is not None:
            keeper.cancel()
        await gateway.drain()
    finally:
        await gateway.stop()
    return 0


def _announce(config: Config, url: str) -> None:
    """Leave the address in the data folder, for scripts that had the system choose the port."""
    path = Path(config.data) / "gateway.json"
    # WHY: who reads this wants the process to send a signal to, which is the workers' parent.
    pid = os.getpid() if config.workers_count == 1 else os.getppid()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps({"address": url, "pid": pid}))
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
