"""A watch on a part of a key-value bucket that outlives every disconnect.

What enters: deliveries of an ordered push consumer. What leaves: each key once, then each change.
Called by `Store`. WHY not nats-py's own watch: its consumer dies with the broker and is not made
again; here a reconnect, a gap in the sequence or missing heartbeats make a new consumer, which
reads everything, and only what differs from the last known state is delivered, deletions included.
It must never deliver an older state after a newer one, and never stop trying.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastgw.errors import Fault
from fastgw.nats.library import js_errors, nats_errors
from fastgw.nats.quiet import QuietLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from fastgw.nats.client import ControlClient

log = logging.getLogger("fastgw.control")

HEARTBEAT_S: Final = 0.5
SILENCE_S_MAX: Final = 1.6
"""LIMIT: three heartbeats missing means that the consumer is gone, though the connection stands."""

RETRY_S: Final = 0.25
REQUEST_TIMEOUT_S: Final = 5.0
READ_S_MAX: Final = 30.0
"""LIMIT: for reading the whole part once; 20,000 keys take 0.2 s."""

INACTIVE_S: Final = 30
_NS: Final = 1_000_000_000
_STATUS_HEARTBEAT: Final = "100"


class _Reader:
    """One consumer's life: it reads everything, then the changes, until it is found broken."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.name = f"fastgw-{secrets.token_hex(8)}"
        self.read: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.broken = asyncio.Event()
        self.heard_at = asyncio.get_running_loop().time()
        self.seen: set[str] = set()
        self.delivered = 0
        self.subscription: Subscription | None = None

    async def start(self) -> None:
        nc, watch = self.watch.nc, self.watch
        inbox = nc.new_inbox()
        self.subscription = await nc.subscribe(inbox, cb=self.take)
        config = {
            "name": self.name,
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "filter_subject": f"{watch.subjects}{watch.prefix}>",
            "idle_heartbeat": round(HEARTBEAT_S * _NS),
            "inactive_threshold": INACTIVE_S * _NS,
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
        }
        subject = f"$JS.API.CONSUMER.CREATE.{watch.stream}.{self.name}.{config['filter_subject']}"
        body = msgspec.json.encode({"stream_name": watch.stream, "config": config})
        reply = await nc.request(subject, body, timeout=REQUEST_TIMEOUT_S)
        answer: dict[str, Any] = msgspec.json.decode(reply.data)
        if "error" in answer:
            js_errors.APIError.from_error(answer["error"])
        # WHY both: the first message may be delivered before this answer, the count is from before.
        if answer.get("num_pending", 0) == 0 and self.delivered == 0:
            self.finish()

    async def take(self, message: Msg) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        headers = message.headers or {}
        if headers.get("Status") == _STATUS_HEARTBEAT:
            # The heartbeat names the last delivery: a gap shows although nothing new arrives.
            if int(headers.get("Nats-Last-Consumer", self.delivered)) != self.delivered:
                self.broken.set()
            return
        metadata = message.metadata
        if metadata.sequence.consumer != self.delivered + 1:
            self.broken.set()
        if self.broken.is_set():
            return
        self.delivered += 1
        key = message.subject.removeprefix(self.watch.subjects)
        removed = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
        self.seen.add(key)
        self.watch.apply(key, None if removed else message.data, metadata.sequence.stream)
        if metadata.num_pending == 0:
            self.finish()

    def finish(self) -> None:
        """Note that everything was read once: keys that were not among it are gone."""
        if not self.read.done():
            self.watch.forget_all_but(self.seen)
            self.seen = set()
            self.read.set_result(None)

    async def end(self) -> None:
        """Unsubscribe; the consumer goes by itself when nobody listens any more."""
        self.broken.set()
        if self.subscription is not None and not self.watch.nc.is_closed:
            try:
                await self.subscription.unsubscribe()
            except (nats_errors.Error, OSError) as error:
                log.debug("unsubscribing a watch: %s", error)


class Watch:
    """One watched prefix.

    Args:
        nc: the control-plane connection.
        stream: the bucket's stream.
        subjects: what precedes a key in its subject, as in "$KV.fastgw.".
        prefix: the watched part, ending with '.', or "".
        on_change: called with key, value (None when removed) and revision.
    """

    def __init__(
        self,
        nc: ControlClient,
        stream: str,
        subjects: str,
        prefix: str,
        on_change: Callable[[str, bytes | None, int], None],
    ) -> None:
        self.nc: Final = nc
        self.stream: Final = stream
        self.subjects: Final = subjects
        self.prefix: Final = prefix
        self._on_change = on_change
        self._known: dict[str, int] = {}
        self._quiet = QuietLog(log)
        self._reader: _Reader | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read everything once, then keep watching.

        Raises:
            nats_errors.Error, TimeoutError: the first reading failed; nothing runs then.
        """
        self.nc.on_reconnect.append(self._on_reconnect)
        try:
            await self._read_anew()
        except BaseException:
            await self.stop()
            raise
        self._task = asyncio.create_task(self._keep(), name=f"fastgw-watch-{self.prefix}")

    async def stop(self) -> None:
        """End the watch; no call follows."""
        if self._on_reconnect in self.nc.on_reconnect:
            self.nc.on_reconnect.remove(self._on_reconnect)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.end()

    def apply(self, key: str, value: bytes | None, revision: int) -> None:
        """Deliver one key's state unless it is known already."""
        known = self._known.get(key)
        if known == revision or (known is None and value is None):
            return
        if value is None:
            del self._known[key]
        else:
            self._known[key] = revision
        self._on_change(key, value, revision)

    def forget_all_but(self, seen: set[str]) -> None:
        """Deliver the removal of every known key that is not in `seen`."""
        for key in [key for key in self._known if key not in seen]:
            self.apply(key, None, 0)

    def _on_reconnect(self) -> None:
        if self._reader is not None:
            self._reader.broken.set()

    async def _keep(self) -> None:
        while True:
            reader = self._reader
            if reader is not None and not await self._is_broken(reader):
                continue
            try:
                await self._read_anew()
                self._quiet.reset()
            except (nats_errors.Error, Fault, OSError, ValueError) as error:
                text = str(error) or type(error).__name__
                self._quiet.warning(f"watching {self.prefix}* is interrupted: {text}")
                await asyncio.sleep(RETRY_S)
            except Exception:
                log.exception("defect in a watch of the key-value bucket; reading it again")
                await asyncio.sleep(RETRY_S)

    async def _is_broken(self, reader: _Reader) -> bool:
        """Wait for one heartbeat's time; tell whether the reader must be replaced."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await reader.broken.wait()
        except TimeoutError:
            silence_s = asyncio.get_running_loop().time() - reader.heard_at
            return silence_s > SILENCE_S_MAX
        return True

    async def _read_anew(self) -> None:
        old, self._reader = self._reader, None
        if old is not None:
            await old.end()
        reader = _Reader(self)
        try:
            await reader.start()
            async with asyncio.timeout(READ_S_MAX):
                await _first(reader.read, reader.broken)
        except BaseException:
            await reader.end()
            raise
        self._reader = reader


async def _first(read: asyncio.Future[None], broken: asyncio.Event) -> None:
    """Wait until everything was read; raise when the reader broke before."""
    waiter = asyncio.ensure_future(broken.wait())
    waits: set[asyncio.Future[Any]] = {read, waiter}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
    if not read.done():
        raise nats_errors.Error("the consumer broke while it read")
