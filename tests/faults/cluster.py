"""Three nats-servers with a proxy on every way between them and on every way to them.

What enters: a folder. What leaves: a running `Cluster` whose members can be killed, frozen, cut off
and sent into lame duck. Called by `cluster_faults`. Ports are fixed when it is made, so that a
member that comes back is the same one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import nats

from tests.faults.proxy import Proxy
from tests.faults.stream import ReadError, ask, connect
from tests.wire.gateway import free_port, nats_server_path

SIZE: Final = 3
READY_S_MAX: Final = 60.0
LOOK_S: Final = 0.05
CLUSTER_NAME: Final = "FAULTS"
NOWHERE: Final = "127.0.0.1:1"
"""What members gossip as their address, so that nobody goes around a proxy."""


@dataclass
class Member:
    """One nats-server of the cluster."""

    number: int
    folder: Path
    client_port: int = field(default_factory=free_port)
    route_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Its name, which JetStream tells as the leader's."""
        return f"member-{self.number}"

    @property
    def url(self) -> str:
        """Its own address, around the proxies."""
        return f"nats://127.0.0.1:{self.client_port}"

    def start(self, routes: list[int]) -> None:
        """Start with routes to the other members."""
        path = nats_server_path()
        assert path is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        config = {
            "server_name": self.name,
            "listen": f"127.0.0.1:{self.client_port}",
            "log_file": str(self.folder / "log"),
            "jetstream": {"store_dir": str(self.folder)},
            "cluster": {
                "name": CLUSTER_NAME,
                "listen": f"127.0.0.1:{self.route_port}",
                "advertise": NOWHERE,
                "no_advertise": True,
                "routes": [f"nats-route://127.0.0.1:{port}" for port in routes],
            },
        }
        file = self.folder / "conf"
        file.write_text(json.dumps(config))
        self.process = subprocess.Popen(
            [path, "-c", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def signal(self, what: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(what)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def freeze(self) -> None:
        """Stop it until SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)


class Cluster:
    """Three members; `url` is what the gateway is given, through proxies."""

    def __init__(self, folder: Path) -> None:
        self.members = [Member(number, folder / f"member-{number}") for number in range(SIZE)]
        self.doors = [Proxy([("127.0.0.1", one.client_port)]) for one in self.members]
        self.routes = {
            (a.number, b.number): Proxy([("127.0.0.1", b.route_port)])
            for a in self.members
            for b in self.members
            if a is not b
        }
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for proxy in (*self.doors, *self.routes.values()):
            await self._stack.enter_async_context(proxy)
        try:
            for member in self.members:
                self.start(member)
            await self.wait_ready()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """Every member through its door."""
        return ",".join(f"nats://127.0.0.1:{door.port}" for door in self.doors)

    def start(self, member: Member) -> None:
        """Start a member, for the first time or again."""
        others = [one.number for one in self.members if one is not member]
        member.start([self.routes[member.number, other].port for other in others])

    async def wait_ready(self, stream: str | None = None) -> None:
        """Wait until JetStream answers at every member, and a stream has all its copies."""
        deadline = time.monotonic() + READY_S_MAX
        for member in self.members:
            while not await self._is_ready(member, stream):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{member.name} is not ready")
                await asyncio.sleep(LOOK_S)

    async def _is_ready(self, member: Member, stream: str | None) -> bool:
        try:
            client = await connect(member.url)
        except ReadError:
            return False
        try:
            if stream is None:
                return "error" not in await ask(client, "INFO", {})
            info = (await ask(client, f"STREAM.INFO.{stream}", {})).get("cluster", {})
            copies = [one for one in info.get("replicas") or [] if one.get("current")]
            return bool(info.get("leader")) and len(copies) == SIZE - 1
        except (nats.errors.Error, TimeoutError):
            return False
        finally:
            await client.close()

    async def leader(self, stream: str, among: list[Member] | None = None) -> Member:
        """Find the stream's leader as one of `among` sees it."""
        for _ in range(int(READY_S_MAX / LOOK_S)):
            for member in among or self.members:
                client = await connect(member.url)
                try:
                    told: dict[str, Any] = await ask(client, f"STREAM.INFO.{stream}", {})
                except (nats.errors.Error, TimeoutError):
                    continue
                finally:
                    await client.close()
                name = told.get("cluster", {}).get("leader")
                for one in self.members:
                    if one.name == name:
                        return one
            await asyncio.sleep(LOOK_S)
        raise TimeoutError("no leader")

    async def make_leader(self, stream: str, member: Member) -> None:
        """Have a member lead the stream."""
        body = {"placement": {"preferred": member.name}}
        for _ in range(int(READY_S_MAX / LOOK_S)):
            leader = await self.leader(stream)
            if leader is member:
                return
            client = await connect(leader.url)
            try:
                await ask(client, f"STREAM.LEADER.STEPDOWN.{stream}", body)
            except (nats.errors.Error, TimeoutError):
                pass
            finally:
                await client.close()
            await asyncio.sleep(LOOK_S)
        raise TimeoutError(f"{member.name} does not lead")

    async def cut_off(self, member: Member, *, clients_too: bool) -> None:
        """Cut a member's routes, and the ways of clients to it."""
        for ways, proxy in self.routes.items():
            if member.number in ways:
                await proxy.cut()
        if clients_too:
            await self.doors[member.number].cut()

    async def mend(self) -> None:
        """Mend every way."""
        for proxy in (*self.doors, *self.routes.values()):
            await proxy.mend()


async def watch_election(member: Member, stream: str, old: str) -> float | None:
    """Ask one member over and over; return when it named another leader, in seconds."""
    started = time.monotonic()
    client = await connect(member.url)
    try:
        while time.monotonic() - started < READY_S_MAX:
            try:
                reply = await client.request(f"$JS.API.STREAM.INFO.{stream}", b"{}", timeout=0.3)
                name = json.loads(reply.data).get("cluster", {}).get("leader")
            except (nats.errors.Error, TimeoutError):
                name = None
            if name not in (None, "", old):
                return time.monotonic() - started
            await asyncio.sleep(0.01)
    finally:
        await client.close()
    return None
