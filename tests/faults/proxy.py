"""A TCP proxy that cuts, blackholes, delays and slows what goes through it, and a balancer.

What enters: where to listen and where to connect to. What leaves: the same bytes, later or never.
Runs on the event loop of the suite, between a gateway and its broker, between brokers, or between
producers and gateways. It must never change a byte.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

CHUNK_BYTES: Final = 65_536
CONNECT_S_MAX: Final = 2.0


class Proxy:
    """Connects each client to one of the targets.

    Args:
        targets: tried in turn, beginning with another one each time; a refusal leads to the next.
        port: where to listen; 0 has the system choose.
    """

    def __init__(self, targets: Sequence[tuple[str, int]], port: int = 0) -> None:
        self.targets = list(targets)
        self.port = port
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.failed_count = 0
        """Clients for whom no target answered."""
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._is_cut = False
        self._turn = 0
        self._server: asyncio.Server | None = None
        self._links: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect to."""
        return "127.0.0.1", self.port

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_listening()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CONNECT_S_MAX)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._on_client, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        await self._stop_listening()
        self._reset_all()

    async def mend(self) -> None:
        """Take connections again, on the same port."""
        if self._server is None:
            await self._listen()

    def blackhole(self) -> None:
        """Keep every connection, old and new, and let nothing through."""
        self._is_open.clear()

    def unblock(self) -> None:
        """Let through what has waited, and what comes."""
        self._is_open.set()

    def forget(self) -> None:
        """Take new connections, while those of now stay silent for ever."""
        for task in self._tasks:
            task.cancel()
        self._is_open.set()

    def _reset_all(self) -> None:
        for link in list(self._links):
            for writer in link:
                _reset(writer)
        self._links.clear()

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = await self._dial()
        if target is None:
            self.failed_count += 1
            _reset(writer)
            return
        link = (writer, target[1])
        self._links.add(link)
        both = (
            asyncio.create_task(self._pump(reader, target[1])),
            asyncio.create_task(self._pump(target[0], writer)),
        )
        self._tasks.update(both)
        for task in both:
            task.add_done_callback(self._tasks.discard)
        done, _ = await asyncio.wait(both)
        if not any(task.cancelled() for task in done):
            self._links.discard(link)
            for end in link:
                end.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        self._turn += 1
        first = self._turn % len(self.targets)
        for target in self.targets[first:] + self.targets[:first]:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_S_MAX):
                    return await asyncio.open_connection(*target)
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes one way until the end; the other way may go on."""
        loop = asyncio.get_running_loop()
        free_at = loop.time()
        with suppress(OSError, RuntimeError):
            while data := await reader.read(CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.bytes_per_s is not None:
                    free_at = max(free_at, loop.time()) + len(data) / self.bytes_per_s
                    await asyncio.sleep(max(0.0, free_at - loop.time()))
                await self._is_open.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a cut cable's far end would see it in the end."""
    with suppress(OSError):
        sock = writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()
