"""Reads a whole stream from the broker itself, for the audit.

What enters: the broker's URL and the stream's name. What leaves: every message as `Found`.
A consumer without acks pushes everything; its own numbering shows whether the reading was whole,
so that a loss in the reader can never be taken for a loss in the stream.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import nats

from tests.faults.audit import Found

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

ASK_S_MAX: Final = 5.0
SILENCE_S_MAX: Final = 15.0
"""LIMIT: a reader that gets nothing for so long has failed."""

TRIES_MAX: Final = 40
TRY_PAUSE_S: Final = 0.25
"""LIMIT: 10 s for a broker or a cluster that has just come back to answer."""


CONSUMER: Final = {
    "deliver_policy": "all",
    "ack_policy": "none",
    "replay_policy": "instant",
    "mem_storage": True,
    "num_replicas": 1,
    "inactive_threshold": 60_000_000_000,
    # WHY: the broker drops a client for whom more than 64 MiB wait.
    "flow_control": True,
    "idle_heartbeat": 1_000_000_000,
}


class ReadError(RuntimeError):
    """The stream could not be read as a whole."""


async def connect(url: str, **options: Any) -> Client:
    """Connect to one broker that may be coming back just now; `options` are the library's."""
    for _ in range(TRIES_MAX):
        try:
            return await nats.connect(
                url,
                connect_timeout=2,
                allow_reconnect=False,
                error_cb=_is_told_otherwise,
                **options,
            )
        except (OSError, nats.errors.Error, TimeoutError):
            await asyncio.sleep(TRY_PAUSE_S)
    raise ReadError("no connection to the broker")


async def _is_told_otherwise(error: Exception) -> None:
    """What fails is raised, too; the library's own line would say it again."""


async def ask(client: Client, what: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask JetStream's JSON interface; an answer with an error is an answer."""
    reply = await client.request(f"$JS.API.{what}", json.dumps(body).encode(), timeout=ASK_S_MAX)
    answer = json.loads(reply.data)
    if not isinstance(answer, dict):
        raise ReadError(f"{what}: no object")
    return answer


async def stream_state(client: Client, stream: str) -> dict[str, Any]:
    """Ask for a stream's state until there is an answer; {} when there is no such stream."""
    for _ in range(TRIES_MAX):
        try:
            answer = await ask(client, f"STREAM.INFO.{stream}", {})
        except (nats.errors.Error, TimeoutError):
            answer = {"error": {"code": 503}}
        if "state" in answer:
            state: dict[str, Any] = answer["state"]
            return state
        if answer.get("error", {}).get("code") == 404:
            return {}
        await asyncio.sleep(TRY_PAUSE_S)
    raise ReadError(f"the stream {stream} has no leader")


async def read_stream(url: str, stream: str, **options: Any) -> list[Found]:
    """Read every message, oldest first; `options` say how to log in.

    Raises:
        ReadError: the broker is away, or what came is not everything.
    """
    client = await connect(url, **options)
    try:
        state = await stream_state(client, stream)
        if not state.get("messages"):
            return []
        return await _read(client, stream, int(state["messages"]))
    finally:
        await client.close()


async def _answer_flow(client: Client, message: Msg) -> None:
    """Tell the broker that everything before was taken. SOURCE: ADR-15 flow control, stalls."""
    subject = message.reply or (message.headers or {}).get("Nats-Consumer-Stalled")
    if subject:
        await client.publish(subject, b"")


async def _consume(client: Client, stream: str) -> asyncio.Queue[Msg]:
    """Have the broker push everything into a queue; asked again while a cluster finds itself."""
    told = "no answer"
    for _ in range(TRIES_MAX):
        # WHY: a consumer whose making was not confirmed may push, too, and must push elsewhere.
        inbox = client.new_inbox()
        queue: asyncio.Queue[Msg] = asyncio.Queue()
        taken = await client.subscribe(
            inbox, cb=queue.put, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        body = {"stream_name": stream, "config": CONSUMER | {"deliver_subject": inbox}}
        try:
            made = await ask(client, f"CONSUMER.CREATE.{stream}", body)
        except (nats.errors.Error, TimeoutError):
            made = {"error": "no answer"}
        if "error" not in made:
            return queue
        told = str(made["error"])
        await taken.unsubscribe()
        await asyncio.sleep(TRY_PAUSE_S)
    raise ReadError(f"no consumer: {told}")


async def _read(client: Client, stream: str, count: int) -> list[Found]:
    queue = await _consume(client, stream)
    found: list[Found] = []
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SILENCE_S_MAX
    while len(found) < count:
        try:
            async with asyncio.timeout_at(deadline):
                message = await queue.get()
        except TimeoutError:
            raise ReadError(f"{len(found)} of {count} messages came") from None
        if (message.headers or {}).get("Status") == "100":
            await _answer_flow(client, message)
            continue
        deadline = loop.time() + SILENCE_S_MAX
        # SOURCE: $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<ns>.<left>
        words = message.reply.split(".")
        if int(words[-3]) != len(found) + 1:
            raise ReadError(f"message {len(found) + 1} of the reading is missing")
        name = (message.headers or {}).get("Nats-Msg-Id")
        key = message.data.decode("utf-8", "replace").strip('"').partition(" ")[0]
        found.append(Found(int(words[-4]), key, name))
    return found
