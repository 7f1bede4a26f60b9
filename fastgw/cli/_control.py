"""The control plane of one command: its records, on whichever broker the options mean.

What enters: a `Loaded` configuration and the work to do. What leaves: the work's result, after the
connection is closed and a broker that was started just for the command is stopped again.
Called by the commands that read or change records. It never leaves a process behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from fastgw.cli._common import Failed, is_debugging
from fastgw.config import Config, Loaded, NatsConfig

if TYPE_CHECKING:
    from fastgw.control.keys import Keys
    from fastgw.control.schemas import Schemas
    from fastgw.control.stations import Stations
    from fastgw.control.store import Store
    from fastgw.control.users import Users
    from fastgw.nats.client import ControlClient

T = TypeVar("T")

COMMAND_S_MAX: Final = 60.0
"""LIMIT: far above any answer of a broker that works; a command in a script must come to an end."""


@dataclass(frozen=True)
class ControlPlane:
    """What a command works with; all have read the broker's state."""

    users: Users
    keys: Keys
    stations: Stations
    schemas: Schemas
    client: ControlClient
    store: Store


def run_with_control(
    loaded: Loaded,
    work: Callable[[ControlPlane], Awaitable[T]],
    *,
    starts_empty: bool = False,
    seconds_max: float | None = COMMAND_S_MAX,
) -> T:
    """Do `work` with the control plane, and return what it returned.

    Args:
        loaded: the configuration; without a URL the embedded broker of its data folder is meant:
            the running one if there is one, else one that runs only for this command.
        work: called once, with everything open.
        starts_empty: whether a data folder that does not exist yet is made; without it that is
            taken for a mistake in --data.
        seconds_max: how long the work may take; None for work that shows its progress.

    Raises:
        Failed: when there is no such folder, or the work takes too long.
    """
    _set_up_log()
    with _broker(loaded.config, starts_empty=starts_empty) as nats:
        sync_interval = nats.sync_interval if loaded.config.embedded else None
        return asyncio.run(_work(nats, sync_interval, work, seconds_max))


def read_with_control(loaded: Loaded, read: Callable[[ControlPlane], T]) -> T:
    """Return what `read` finds in the records, which are all there already; nothing is asked.

    Raises:
        Failed: as `run_with_control` does.
    """

    async def work(plane: ControlPlane) -> T:
        return read(plane)

    return run_with_control(loaded, work)


def _set_up_log() -> None:
    """Keep the log of the rooms below quiet: what matters to a command arrives as an exception."""
    if is_debugging():
        logging.basicConfig(level=logging.DEBUG)
    for name in ("fastgw", "nats", "asyncio"):
        logging.getLogger(name).addHandler(logging.NullHandler())


async def _work(
    nats: NatsConfig,
    sync_interval: str | None,
    work: Callable[[ControlPlane], Awaitable[T]],
    seconds_max: float | None,
) -> T:
    from fastgw.control.keys import Keys
    from fastgw.control.schemas import Schemas
    from fastgw.control.stations import Stations
    from fastgw.control.store import Store
    from fastgw.control.users import Users
    from fastgw.nats.connection import open_control

    try:
        async with asyncio.timeout(seconds_max):
            async with contextlib.AsyncExitStack() as stack:
                client = await open_control(nats, name="fastgw-cli")
                stack.push_async_callback(client.close)
                store = await Store.open(client, nats.replicas)
                stack.push_async_callback(store.close)
                users = Users(store)
                stack.callback(users.close)
                keys = Keys(store)
                schemas = Schemas(store)
                stack.callback(schemas.close)
                stations = Stations(store, client.jetstream(), nats, schemas, sync_interval)
                for mirrored in (users, keys, schemas, stations):
                    await mirrored.start()
                return await work(ControlPlane(users, keys, stations, schemas, client, store))
    except TimeoutError as error:
        raise Failed(f"the broker did not answer within {seconds_max:g} s") from error


@contextlib.contextmanager
def _broker(config: Config, *, starts_empty: bool) -> Iterator[NatsConfig]:
    """Give the table that reaches the broker; run the embedded one meanwhile if none runs."""
    if not config.embedded:
        yield config.nats
        return
    from fastgw.nats.embedded import EmbeddedBroker, running_broker

    running = running_broker(config.data)
    if running is not None:
        yield running.apply(config.nats)
        return
    if not starts_empty and not os.path.isdir(config.data):
        raise Failed(
            f"there is no data folder {config.data} yet; name another with --data,"
            " or a broker with --nats"
        )
    broker = EmbeddedBroker.start(config.data, config.nats)
    try:
        yield broker.address.apply(config.nats)
    finally:
        broker.stop()
