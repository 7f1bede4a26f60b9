"""Hostile names, subjects, headers and bodies: what they become on the wire to the broker.

A recording proxy stands between a real gateway and a real nats-server. Whatever HTTP brings, every
subject on that wire is one that the gateway may use, no connection is lost, and streams and keys
that are not the gateway's stay as they are.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_from_bytes

import pytest

from tests.wire.gateway import Broker, Gateway, nats_server_path, with_broker
from tests.wire.raw_http import Wire, build

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nats.aio.client import Client

pytestmark = pytest.mark.skipif(nats_server_path() is None, reason="nats-server is not installed")

MAX_PAYLOAD: Final = 1 << 20
SUBJECT_BYTES_MAX: Final = 512

# --- the tap ----------------------------------------------------------------------------------


@dataclass
class Tapped:
    """One connection to the broker: the operations that went over it, and what went wrong."""

    operations: list[tuple[bytes, list[bytes]]] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)
    is_open: bool = True
    _sent: bytes = b""
    _skip: int = 0
    _told: bytes = b""

    def feed_sent(self, data: bytes) -> None:
        """Read what the gateway sends: PUB and HPUB with their payloads left out."""
        self._sent += data
        while True:
            if self._skip:
                taken = min(self._skip, len(self._sent))
                self._sent, self._skip = self._sent[taken:], self._skip - taken
                if self._skip:
                    return
            line, end, rest = self._sent.partition(b"\r\n")
            if not end:
                return
            self._sent = rest
            word, *parts = line.split(b" ")
            self.operations.append((word, parts))
            if word in (b"PUB", b"HPUB"):
                self._skip = int(parts[-1]) + 2

    def feed_told(self, data: bytes) -> None:
        """Keep the lines by which the broker says that something is wrong."""
        self._told = self._told[-5:] + data
        if b"-ERR" in self._told:
            self.errors.append(self._told[:200])


class Tap:
    """A proxy before a broker, in a thread of its own."""

    def __init__(self, port: int) -> None:
        self.connections: list[Tapped] = []
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def close(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tapped = Tapped()
        self.connections.append(tapped)
        back, forth = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(
                self._pump(reader, forth, tapped.feed_sent),
                self._pump(back, writer, tapped.feed_told),
            )
        except OSError:
            pass
        finally:
            tapped.is_open = False
            writer.close()
            forth.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Any
    ) -> None:
        while data := await reader.read(1 << 16):
            note(data)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@dataclass
class Scene:
    gateway: Gateway
    broker: Broker
    tap: Tap

    def ask_broker(self, work: Any) -> Any:
        return with_broker(self.broker.url, self.broker.user, self.broker.password, work)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("injection")
    broker = Broker(folder / "broker").start()
    tap = Tap(broker.port)
    url = f"nats://{broker.user}:{broker.password}@127.0.0.1:{tap.port}"
    env = {"FASTGW_STATIONS_AUTO_CREATE": "true"}
    gateway = Gateway(folder / "gateway", flags=("--nats", url), env=env)
    try:
        gateway.start()
        scene = Scene(gateway, broker, tap)
        scene.ask_broker(make_victims)
        gateway.produce("known", b"first")
        yield scene
        check_wire(scene)
        assert gateway.stop() == 0, gateway.log_text()
        assert "Traceback" not in gateway.log_text(), gateway.log_text()
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.stop(signal.SIGKILL)
        tap.close()
        broker.kill()


async def make_victims(client: Client) -> None:
    """Make what is not the gateway's: a stream that allows roll-ups, and a bucket."""
    js = client.jetstream()
    await js.add_stream(name="VICTIM", subjects=["victim", "victim.>"], allow_rollup_hdrs=True)
    for _ in range(3):
        await js.publish("victim", b"mine")
    bucket = await js.create_key_value(bucket="other")
    await bucket.put("key", b"mine")


# --- what may stand on the wire ---------------------------------------------------------------

_STREAM: Final = rb"[A-Za-z0-9][A-Za-z0-9_#-]*"
_DURABLE: Final = rb"[A-Za-z0-9][A-Za-z0-9_#-]*"
_INBOX: Final = rb"_INBOX(?:_fastgw)?(?:\.[A-Za-z0-9_]+){1,3}"
_KEY: Final = rb"(?:stations|users|keys|signing|secrets|schemas|schema-texts)(?:\.[A-Za-z0-9_=-]+)+"
PUBLISHED: Final = [
    re.compile(pattern)
    for pattern in (
        rb"\$JS\.API\.CONSUMER\.(?:INFO|CREATE|MSG\.NEXT)\.%b\.%b" % (_STREAM, _DURABLE),
        rb"\$JS\.API\.CONSUMER\.CREATE\.KV_fastgw\.[A-Za-z0-9_-]+\.\$KV\.fastgw\.[a-z.]*>",
        rb"\$JS\.API\.STREAM\.(?:INFO|CREATE|MSG\.GET)\.(?:KV_fastgw|%b)" % _STREAM,
        # An administrator may ask for any stream: one token, which the broker knows or does not.
        rb"\$JS\.API\.STREAM\.INFO\.[^\x00-\x20.*>/\\\x7f]{1,255}",
        rb"\$JS\.API\.STREAM\.NAMES",
        rb"\$JS\.ACK\.%b\.%b(?:\.[0-9]+){5}" % (_STREAM, _DURABLE),
        rb"\$KV\.fastgw\." + _KEY,
    )
]
MESSAGE: Final = re.compile(
    rb"[A-Za-z0-9_-][\x21-\x29\x2b-\x2d\x2f-\x3d\x3f-\x7e]*"
    rb"(?:\.[\x21-\x29\x2b-\x2d\x2f-\x3d\x3f-\x7e]+)*"
)
INBOX: Final = re.compile(_INBOX)
SUBSCRIBED: Final = re.compile(rb"_INBOX(?:_fastgw)?(?:\.[A-Za-z0-9_]+){1,3}(?:\.\*)?")


def stations(scene: Scene) -> set[bytes]:
    found = scene.gateway.ask("/stations", headers=scene.gateway.auth(), method="GET").json()
    return {one["name"].encode() for one in found}


def is_of_station(subject: bytes, names: set[bytes]) -> bool:
    tokens = subject.split(b".")
    heads = {b".".join(tokens[: n + 1]) for n in range(len(tokens))}
    return bool(heads & names)


def check_wire(scene: Scene) -> None:
    """Every operation so far was one that the gateway may send, and nothing was lost by it."""
    names = stations(scene)
    for tapped in scene.tap.connections:
        assert tapped.is_open
        assert tapped.errors == []
        for word, parts in [*tapped.operations]:
            assert word in (b"CONNECT", b"PING", b"PONG", b"PUB", b"HPUB", b"SUB", b"UNSUB"), word
            if word == b"SUB":
                assert len(parts) == 2 or parts[1:-1] == [b""], parts
                assert SUBSCRIBED.fullmatch(parts[0]), parts
            elif word in (b"PUB", b"HPUB"):
                check_published(word, parts, names)


def check_published(word: bytes, parts: list[bytes], names: set[bytes]) -> None:
    counts = 1 if word == b"PUB" else 2
    subject, *reply = parts[:-counts]
    assert all(count.isdigit() for count in parts[-counts:]), parts
    assert int(parts[-1]) <= MAX_PAYLOAD, parts
    # nats-py writes an empty reply as nothing between two spaces.
    assert len(reply) <= 1 and (reply in ([], [b""]) or INBOX.fullmatch(reply[0])), parts
    if any(pattern.fullmatch(subject) for pattern in PUBLISHED):
        return
    assert len(subject) <= SUBJECT_BYTES_MAX, subject
    assert MESSAGE.fullmatch(subject) and is_of_station(subject, names), subject


def check_victims(scene: Scene, streams: set[str]) -> None:
    """The foreign stream and bucket are as they were, and no stream came without a station."""

    async def look(client: Client) -> tuple[int, bytes | None, set[str]]:
        js = client.jetstream()
        info = await js.stream_info("VICTIM")
        entry = await (await js.key_value("other")).get("key")
        names = {one.config.name or "" for one in await js.streams_info()}
        return info.state.messages, entry.value, names

    messages, value, names = scene.ask_broker(look)
    assert (messages, value) == (3, b"mine")
    assert names == {"VICTIM", "KV_other", "KV_fastgw"} | streams


@pytest.fixture(autouse=True)
def unharmed(scene: Scene) -> Iterator[None]:
    """After each test: the same connections, a clean wire, and everything foreign untouched."""
    before = [*scene.tap.connections]
    yield
    assert scene.tap.connections == before
    assert scene.gateway.is_ready()
    check_wire(scene)
    check_victims(scene, {name.decode().replace(".", "#") for name in stations(scene)})
    scene.gateway.produce("known", b"still here")


# --- the table --------------------------------------------------------------------------------

RAW: Final = [
    b"$JS.API.STREAM.DELETE.VICTIM",
    b"$JS.API.STREAM.PURGE.VICTIM",
    b"$KV.other.key",
    b"$KV.fastgw.users.root",
    b"$SYS.REQ.SERVER.PING",
    b"$",
    b"_INBOX.x",
    b"_INBOX",
    b"*",
    b">",
    b"known.*",
    b"known.>",
    b"a*b",
    b"a>b",
    b".",
    b"..",
    b"a..b",
    b".a",
    b"a.",
    b"../victim",
    b"a/b",
    b"a\\b",
    b"victim b",
    b"known _INBOX.reply 0",
    b"a\tb",
    b"a\x00b",
    b"\x00",
    b"a\rb",
    b"a\nb",
    b"a\r\nb",
    b"a\r\nPUB victim 4\r\nevil\r\n",
    b"a 0\r\n\r\nPUB $JS.API.STREAM.DELETE.VICTIM 0\r\n\r\n",
    b"a\x0bb",
    b"a\x0cb",
    b"a\x1fb",
    b"a\x7fb",
    b"a\x85b",
    b"a\xa0b",
    "a\u2028b".encode(),
    "a\u00a0b".encode(),
    "ünïcode".encode(),
    "\uff0e\uff0e".encode(),
    b"a\xc0\xafb",
    b"a\xc0\x8d\xc0\x8ab",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xff\xfe",
    b"%0d%0a",
    b"%u000d%u000a",
    *(b"x" * size for size in (128, 129, 255, 256, 506, 507, 4200)),
    b"a." * 2000 + b"a",
    b"",
]


def spellings(raw: bytes) -> set[str]:
    """Return the ways to write `raw` into a target: escaped as needed, wholly, twice, and plain."""
    ways = {quote_from_bytes(raw, safe=""), "".join(f"%{byte:02X}" for byte in raw)}
    ways.add("".join(f"%{byte:02x}" for byte in raw))
    ways.add(quote_from_bytes(quote_from_bytes(raw, safe="").encode(), safe=""))
    if not set(raw) & {*b"\r\n "} and raw:
        ways.add(raw.decode("latin-1"))
    if len(raw) > 1000:
        ways = {quote_from_bytes(raw, safe="")}
    return ways


TARGETS: Final = [(raw, way) for raw in RAW for way in sorted(spellings(raw))]
IDS: Final = ["Nats-Msg-Id", "Idempotency-Key", "msg-id", "webhook-id", "ce-id"]


class Asker:
    """Sends requests one behind the other; no answer may blame the gateway or the broker."""

    def __init__(self, scene: Scene) -> None:
        self.gateway = scene.gateway
        self.auth = scene.gateway.auth()
        self.statuses: list[int] = []

    def ask(self, target: str, body: bytes = b"{}", *, method: str = "POST", **fields: str) -> int:
        headers = self.auth | {name.replace("_", "-"): value for name, value in fields.items()}
        return self.send(build(target, body, method=method, headers=headers))

    def send(self, data: bytes) -> int:
        with Wire(self.gateway.address) as wire:
            wire.send(data)
            response = wire.expect()
        assert response.status < 500 or response.status in (501, 505), (data[:300], response)
        self.statuses.append(response.status)
        return response.status


def test_names_of_stations_in_paths(scene: Scene) -> None:
    asker = Asker(scene)
    for raw, way in TARGETS:
        for path in ("produce/single", "produce/batch", "consume/batch"):
            asker.ask(
                f"/stations/{way}/{path}", b'{"consumer_name":"c","batch_max_wait_time_ms":1}'
            )
        asker.ask(f"/stations/{way}", b"{}", method="PUT")
        asker.ask(f"/stations/{way}", b"", method="GET")
        asker.ask(f"/stations/{way}", b'{"stream":"VICTIM","subject":"victim.>"}', method="PUT")
        asker.ask(f"/stations/{way}/schema", b'{"name":"x"}', method="PUT")
        # The one name that is good makes a station, which the check of the wire must still know.
        if raw != b"x" * 128:
            asker.ask(f"/stations/{way}", b"", method="DELETE")
    assert set(asker.statuses) >= {400, 404}
    # A path of a name that is no name never makes a station: what came is plain.
    assert all(re.fullmatch(rb"[A-Za-z0-9][A-Za-z0-9_.-]*", name) for name in stations(scene))


def test_subjects_in_query_and_header(scene: Scene) -> None:
    asker = Asker(scene)
    target = "/stations/known/produce/single"
    for raw, way in TARGETS:
        for key in ("subject", "Subject", "subject=a&subject"):
            asker.ask(f"{target}?{key}={way}")
        asker.ask(f"/stations/known/produce/batch?subject={way}", b"[1]")
        if raw and len(raw) < 4000:
            asker.send(build(target, b"x", headers=[*asker.auth.items(), ("Fastgw-Subject", way)]))
            line = b"Fastgw-Subject: " + raw + b"\r\nContent-Length: 1\r\n\r\nx"
            head = build(target, None, headers=asker.auth).removesuffix(b"\r\n")
            asker.send(head + line)
    assert set(asker.statuses) >= {200, 400}


def test_headers_of_every_kind(scene: Scene) -> None:
    asker = Asker(scene)
    target = "/stations/known/produce/single"
    head = build(target, None, headers=asker.auth).removesuffix(b"\r\n")
    brokers = (
        b"Rollup Expected-Stream Schedule Schedule-Target Trace-Dest Marker-Reason Batch-Id "
        b"Batch-Sequence Batch-Commit TTL"
    )
    names = [b"Nats-" + word for word in brokers.split()]
    names += b"nats-rollup NATS-ROLLUP KV-Operation Status NATS/1.0 X:Y X\0Y X\xff :".split(b" ")
    names += [b"Nats-Rollup\r", b"Nats-Rollup ", b" Nats-Rollup", b"NATS/1.0 503", b"X Y", b""]
    names += [b"X\r\nNats-Rollup", b"X" * 5000]
    ends = (b"\r\n", b"\n", b"\r", b"\r\n ", b"%0d%0a")
    values = [b"a" + end + b"Nats-Rollup: all" for end in ends]
    values += [b"all", b"sub", b"a\r\n\r\nPUB victim 4\r\nevil", b"a\0b", b"a\x7fb", b"a\x0bb"]
    values += [b"\xc0\x8a", b"\xff\xfe", b"", b" ", b"x" * 5000]
    for name in names:
        for value in values:
            for at in (name, b"X-" + name):
                asker.send(head + at + b": " + value + b"\r\nContent-Length: 1\r\n\r\nx")
    assert set(asker.statuses) >= {200, 400}
    found = scene.ask_broker(read_known)
    for block in found:
        lower = block.lower()
        for word in (b"nats-rollup:", b"nats-schedule", b"nats-batch", b"authorization"):
            assert b"\r\n" + word not in lower, block[:300]


async def read_known(client: Client) -> list[bytes]:
    """Return the header blocks of every message of the station."""
    blocks = []
    info = await client.jetstream().stream_info("known")
    for seq in range(info.state.first_seq, info.state.last_seq + 1):
        reply = await client.request("$JS.API.STREAM.MSG.GET.known", b'{"seq":%d}' % seq, timeout=5)
        blocks.append(base64.b64decode(json.loads(reply.data)["message"].get("hdrs", "")))
    return blocks


def test_message_ids(scene: Scene) -> None:
    asker = Asker(scene)
    head = build("/stations/known/produce/single", None, headers=asker.auth).removesuffix(b"\r\n")
    for name in IDS:
        for raw in RAW:
            asker.send(head + name.encode() + b": " + raw + b"\r\nContent-Length: 1\r\n\r\nx")
            if set(raw) & {*b"\r\n"}:
                continue
            escaped = quote_from_bytes(raw, safe="").encode()[:4000]
            asker.send(head + name.encode() + b": " + escaped + b"\r\nContent-Length: 1\r\n\r\nx")
    assert 200 in asker.statuses


def test_names_of_consumers(scene: Scene) -> None:
    asker = Asker(scene)
    target = "/stations/known/consume/batch"
    for raw in RAW:
        text = raw.decode("latin-1")
        for key in ("consumer_name", "consumer_group"):
            body = {"consumer_name": "c", key: text, "batch_max_wait_time_ms": 1, "batch_size": 1}
            asker.ask(target, json.dumps(body).encode())
            asker.ask(target, json.dumps(body, ensure_ascii=False).encode())
    for name in (
        rb"\u000d\u000aPUB victim 0",
        rb"\u0000",
        rb"\ud800",
        rb"\u002e",
        rb"\u002a\u003e",
    ):
        asker.ask(target, b'{"consumer_name":"%b","batch_max_wait_time_ms":1}' % name)
    assert 400 in asker.statuses


def test_bodies_about_the_brokers_bound(scene: Scene) -> None:
    asker = Asker(scene)
    for size in (MAX_PAYLOAD - 2000, MAX_PAYLOAD - 1, MAX_PAYLOAD, MAX_PAYLOAD + 1):
        body = b"x" * size
        asker.ask("/stations/known/produce/single", body)
        asker.ask("/stations/known/produce/single", body, X_Long="h" * 8000)
        asker.ask("/stations/known/produce/batch", b'["' + body[2:] + b'"]')
        asker.ask("/stations/known/produce/batch", b'[1,"' + body[2:] + b'",2]', X_Long="h" * 8000)
    assert set(asker.statuses) >= {200, 413}


def test_routes_of_everything_else(scene: Scene) -> None:
    asker = Asker(scene)
    for _, way in TARGETS:
        asker.ask(f"/schemas/{way}", b'{"type":"json","text":"{}"}', method="PUT")
        asker.ask(f"/schemas/{way}", b"", method="DELETE")
        asker.ask(f"/keys/{way}", b'{"permissions":["produce"]}', method="PUT")
        for kind in ("users", "keys", "secrets"):
            asker.ask(f"/{kind}/{way}", b"", method="GET")
            asker.ask(f"/{kind}/{way}", b"", method="DELETE")
        asker.ask(f"/{way}", b"", method="GET")
        asker.ask(f"/stations/known/produce/{way}")
    for raw in RAW:
        text = raw.decode("latin-1")
        if len(raw) < 200:
            asker.send(
                build(
                    "/auth/refreshToken",
                    json.dumps({"jwt_refresh_token": text}).encode(),
                    headers={"Content-Type": "application/json"},
                )
            )
        body = {"stream": text, "subject": text, "dead_letter": text, "schema": text}
        asker.ask("/stations/mine", json.dumps(body).encode(), method="PUT")
        for key in ("stream", "dead_letter", "schema_name"):
            asker.ask("/stations/mine", json.dumps({key: text}).encode(), method="PUT")
