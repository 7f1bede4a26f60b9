"""Clients beside the producers of the soak: they consume, log in, scrape, come, go and break off.

What enters: a running scene. What leaves: how often each came, and answers that were not expected.
Called by `soak`. Every visitor makes a connection for each visit, and rests between two.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tests.faults.producers import ANSWER_S_MAX, Reply, read_reply
from tests.wire.gateway import ADMIN, PASSWORD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHECKED: Final = "checked"
SCHEMA: Final = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
CONSUME_COUNT: Final = 200
FAULTS_MAX: Final = 20
"""LIMIT: so many texts of unexpected answers are kept; the rest is counted."""


async def ask(
    address: tuple[str, int], method: str, target: str, body: bytes, headers: dict[str, str]
) -> Reply:
    """Send one request on a connection of its own.

    Raises:
        OSError, TimeoutError, IncompleteReadError, ValueError: there was no answer.
    """
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {address[0]}:{address[1]}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    async with asyncio.timeout(ANSWER_S_MAX):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            return await read_reply(reader)
        finally:
            writer.close()


class Visitors:
    """Everyone who is not a producer.

    Args:
        address: where the gateway is.
        station: which one is consumed from.
        token: an access token that outlives the visits.
    """

    def __init__(self, address: tuple[str, int], station: str, token: str) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.faults_count = 0
        self.consumed_count = 0
        self._address = address
        self._station = station
        self._auth = {"Authorization": f"Bearer {token}"}
        self._number = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        """Make the station that has a schema."""
        schema = json.dumps({"type": "json", "text": json.dumps(SCHEMA)}).encode()
        for target, body in (
            (f"/schemas/{CHECKED}", schema),
            (f"/stations/{CHECKED}", b"{}"),
            (f"/stations/{CHECKED}/schema", json.dumps({"name": CHECKED}).encode()),
        ):
            reply = await ask(self._address, "PUT", target, body, self._auth)
            if reply.status not in (200, 201):
                raise RuntimeError(f"PUT {target} was answered {reply.status} {reply.body!r}")

    def start(self) -> None:
        """Let everyone come, each at his own pace."""
        for visit, rest_s in (
            (self._consume, 0.5),
            (self._produce_checked, 0.25),
            (self._log_in, 10.0),
            (self._scrape, 5.0),
            (self._look, 1.0),
            (self._break_off, 2.0),
        ):
            self._tasks.append(asyncio.create_task(self._come(visit, rest_s)))

    async def stop(self) -> None:
        """End every visit."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _come(self, visit: Callable[[], Awaitable[None]], rest_s: float) -> None:
        name = visit.__name__.strip("_")
        while True:
            try:
                await visit()
                self.counts[name] += 1
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                self._fault(f"{name}: {error!r}")
            await asyncio.sleep(rest_s)

    def _fault(self, text: str) -> None:
        self.faults_count += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(text)

    async def _expect(self, status: int, method: str, target: str, body: Any = None) -> Reply:
        data = b"" if body is None else json.dumps(body).encode()
        headers = self._auth | {"Content-Type": "application/json"}
        reply = await ask(self._address, method, target, data, headers)
        if reply.status != status:
            self._fault(f"{method} {target}: {reply.status} {reply.word}, not {status}")
        return reply

    async def _consume(self) -> None:
        body = {"consumer_name": "soak", "consumer_group": "soak", "batch_size": CONSUME_COUNT}
        body["batch_max_wait_time_ms"] = 1000
        reply = await self._expect(200, "POST", f"/stations/{self._station}/consume/batch", body)
        self.consumed_count += len(json.loads(reply.body))

    async def _produce_checked(self) -> None:
        self._number += 1
        is_good = bool(self._number % 4)
        body = {"n": self._number if is_good else "no number"}
        target = f"/stations/{CHECKED}/produce/single"
        await self._expect(200 if is_good else 400, "POST", target, body)

    async def _log_in(self) -> None:
        login = {"username": ADMIN, "password": PASSWORD}
        reply = await self._expect(200, "POST", "/auth/authenticate", login)
        pair = json.loads(reply.body)
        refresh = {"jwt_refresh_token": pair["jwt_refresh_token"]}
        await self._expect(200, "POST", "/auth/refreshToken", refresh)
        fresh = {"Authorization": f"Bearer {pair['jwt']}"}
        await ask(self._address, "GET", "/stations", b"", fresh)
        await self._expect(401, "POST", "/auth/authenticate", login | {"password": "wrong-1"})

    async def _scrape(self) -> None:
        await self._expect(200, "GET", "/metrics")

    async def _look(self) -> None:
        await self._expect(200, "GET", "/readyz")

    async def _break_off(self) -> None:
        """Leave in the middle of a body, with or without a goodbye."""
        async with asyncio.timeout(ANSWER_S_MAX):
            _, writer = await asyncio.open_connection(*self._address)
            head = f"POST /stations/{CHECKED}/produce/single HTTP/1.1\r\nHost: a\r\n"
            head += f"Authorization: {self._auth['Authorization']}\r\nContent-Length: 9000\r\n\r\n"
            writer.write(head.encode() + b"x" * 5000)
            with suppress(OSError):
                await writer.drain()
            if self.counts["break_off"] % 2:
                writer.transport.abort()
            else:
                writer.close()
