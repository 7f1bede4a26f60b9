"""The ready configuration of deploy/: a whole gateway runs with it; each user has its limits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import nats
import pytest

from tests.integration.brokers import eventually
from tests.wire.gateway import (
    ADMIN,
    PASSWORD,
    ROOT,
    Gateway,
    free_port,
    nats_server_path,
    run_fastgw,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(nats_server_path() is None, reason="nats-server is not installed")

CONFIG: Final = ROOT / "deploy" / "nats-server.conf"
SECRETS: Final = {"FASTGW_NATS_PASSWORD": "pControl1", "FASTGW_NATS_DATA_PASSWORD": "pData2"}
ANSWER_S: Final = 5.0
SCHEMA: Final = '{"type":"object","required":["a"]}'


@dataclass
class Guarded:
    """A nats-server that runs the file of deploy/ as it is, and a gateway with its two users."""

    url: str
    log: Path
    gateway: Gateway

    def env(self) -> dict[str, str]:
        return dict(self.gateway.env)

    def violations(self) -> list[str]:
        text = self.log.read_text()
        return [line for line in text.splitlines() if "Violation" in line]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    path, port, log = nats_server_path(), free_port(), folder / "log"
    assert path is not None
    command = [path, "-c", str(CONFIG), "-p", str(port), "-sd", str(folder / "store")]
    broker = subprocess.Popen([*command, "-l", str(log)], env=os.environ | SECRETS)
    env = {
        "FASTGW_NATS_URL": f"nats://127.0.0.1:{port}",
        "FASTGW_NATS_USER": "fastgw",
        "FASTGW_NATS_DATA_USER": "fastgw-data",
        "FASTGW_STATIONS_AUTO_CREATE": "true",
        **SECRETS,
    }
    gateway = Gateway(folder / "gateway", env=env)
    try:
        wait_until(lambda: log.exists() and "Server is ready" in log.read_text(), 20, "the broker")
        gateway.start()
        yield Guarded(env["FASTGW_NATS_URL"], log, gateway)
        assert gateway.stop() == 0, gateway.log_text()
        assert "Traceback" not in gateway.log_text()
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.stop(signal.SIGKILL)
        broker.kill()
        broker.wait()


def ask(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    raw = b"" if body is None else json.dumps(body).encode()
    response = gateway.ask(path, raw, headers=gateway.auth(), method=method)
    return response.status, response.json()


def cli(guarded: Guarded, *arguments: str, stdin: str = "") -> str:
    done = run_fastgw(*arguments, env=guarded.env(), stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_gateway_does_all_its_work_with_the_two_users(guarded: Guarded) -> None:
    gateway = guarded.gateway
    # Stations: made on the first message, by an administrator, changed, shown, deleted.
    gateway.produce("first", b"1", {"Nats-Msg-Id": "a"})
    assert ask(gateway, "PUT", "/stations/dls")[0] == 201
    body = {"max_messages": 1000, "dead_letter": "dls"}
    assert ask(gateway, "PUT", "/stations/orders", body)[0] == 201
    assert ask(gateway, "PUT", "/stations/orders", {"max_messages": 2000})[0] == 200
    assert ask(gateway, "GET", "/stations/orders")[1]["max_messages"] == 2000
    # Produce: one, a batch, below the subject.
    gateway.produce("orders", b'{"a":1}')
    batch = gateway.ask(
        "/stations/orders/produce/batch",
        b'[{"a":2},{"a":3}]',
        headers=gateway.auth(Content_Type="application/json"),
    )
    assert batch.status == 200, batch
    deep = gateway.ask(
        "/stations/orders/produce/single?subject=eu.north", b"4", headers=gateway.auth()
    )
    assert deep.status == 200, deep
    # Consume and acknowledge: the second look finds nothing.
    told = gateway.consume("orders", batch_size=10)
    assert len(told) == 4
    again = gateway.ask(
        "/stations/orders/consume/batch",
        b'{"consumer_name":"tests","batch_max_wait_time_ms":300}',
        headers=gateway.auth(),
    )
    assert again.status == 200 and again.json() == [], again
    # Schemas, with a message that becomes a dead letter and goes back.
    assert ask(gateway, "PUT", "/schemas/s", {"type": "json", "text": SCHEMA})[0] == 201
    assert ask(gateway, "PUT", "/stations/orders/schema", {"name": "s"})[0] == 200
    produce = partial(gateway.ask, "/stations/orders/produce/single", headers=gateway.auth())
    wait_until(lambda: produce(b'{"b":1}').status == 400, 5, "the schema in force")
    dead_letters = ("station", "dead-letters", "orders")
    wait_until(
        lambda: '\\"b\\"' in cli(guarded, *dead_letters, "--json", "--payload"),
        5,
        "the dead letter",
    )
    assert ask(gateway, "DELETE", "/stations/orders/schema")[0] == 200
    cli(guarded, *dead_letters, "--resend")
    # Users by the command line, and the list of everything.
    cli(guarded, "user", "add", "ann", "--password-stdin", stdin="a-Password-of-ann-1")
    login = {"username": "ann", "password": "a-Password-of-ann-1"}
    wait_until(lambda: gateway.authenticate(login).status == 200, 5, "the new user")
    cli(guarded, "user", "rm", "ann")
    assert "orders" in cli(guarded, "station", "list")
    assert ask(gateway, "DELETE", "/stations/first")[0] == 200
    assert gateway.authenticate({"username": ADMIN, "password": PASSWORD}).status == 200
    assert guarded.violations() == []


class Login:
    """One of the two users on a connection of its own, byte by byte: every refusal is seen."""

    def __init__(self, guarded: Guarded, plane: str) -> None:
        host, _, port = guarded.url.removeprefix("nats://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=ANSWER_S)
        self._file = self._socket.makefile("rb")
        assert self._file.readline().startswith(b"INFO ")
        password = "FASTGW_NATS_PASSWORD" if plane == "control" else "FASTGW_NATS_DATA_PASSWORD"
        user = "fastgw" if plane == "control" else "fastgw-data"
        told = {"user": user, "pass": SECRETS[password], "verbose": False, "pedantic": False}
        assert self.send(b"CONNECT %s\r\n" % json.dumps(told).encode()) == []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, line: bytes) -> list[bytes]:
        """Send one operation; return what the broker says before it answers the next PING."""
        self._socket.sendall(line + b"PING\r\n")
        lines: list[bytes] = []
        while (one := self._file.readline().rstrip()) != b"PONG":
            assert one or lines, "the broker closed the connection"
            lines.append(one)
        return lines

    def is_refused(self, subject: str, how: str) -> bool:
        """Publish or subscribe, and tell whether the broker refused it."""
        name = subject.encode()
        line = b"SUB %s 1\r\nUNSUB 1\r\n" % name
        said = self.send(b"PUB %s 2\r\n{}\r\n" % name if how == "publish" else line)
        refusals = [one for one in said if one.startswith(b"-ERR 'Permissions Violation for")]
        assert len(refusals) == len(said) <= 1, said
        return bool(refusals)


DATA_DENIED = [
    "$JS.API.STREAM.DELETE.orders",
    "$JS.API.STREAM.DELETE.KV_fastgw",
    "$JS.API.STREAM.PURGE.orders",
    "$JS.API.STREAM.CREATE.mine",
    "$JS.API.STREAM.UPDATE.orders",
    "$JS.API.STREAM.INFO.orders",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.MSG.GET.KV_fastgw",
    "$JS.API.STREAM.MSG.GET.orders",
    "$JS.API.STREAM.MSG.DELETE.orders",
    "$JS.API.STREAM.SNAPSHOT.KV_fastgw",
    "$JS.API.STREAM.RESTORE.mine",
    "$JS.API.STREAM.PEER.REMOVE.orders",
    "$JS.API.STREAM.LEADER.STEPDOWN.orders",
    "$JS.API.DIRECT.GET.KV_fastgw",
    "$JS.API.DIRECT.GET.KV_fastgw.$KV.fastgw.users.root",
    "$JS.API.CONSUMER.CREATE.KV_fastgw",
    "$JS.API.CONSUMER.CREATE.KV_fastgw.c.$KV.fastgw.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.orders.c",
    "$JS.API.CONSUMER.DELETE.orders.tests",
    "$JS.API.CONSUMER.INFO.orders.tests",
    "$JS.API.CONSUMER.NAMES.orders",
    "$JS.API.CONSUMER.LIST.orders",
    "$JS.API.CONSUMER.PAUSE.orders.tests",
    "$JS.API.CONSUMER.RESET.orders.tests",
    "$JS.API.CONSUMER.UNPIN.orders.tests",
    "$JS.API.CONSUMER.LEADER.STEPDOWN.orders.tests",
    "$JS.API.CONSUMER.PEER.REMOVE.orders.tests",
    "$JS.API.CONSUMER.MSG.NEXT.KV_fastgw.c",
    "$JS.API.INFO",
    "$JS.API.META.LEADER.STEPDOWN",
    "$JS.API.SERVER.REMOVE",
    "$JS.API.ACCOUNT.PURGE.$G",
    "$JS.ACK.KV_fastgw.c.1.1.1.1.0",
    "$JS.EVENT.ADVISORY.x",
    "$JS.FC.orders.c.1",
    "$KV.fastgw.users.root",
    "$KV.other.x",
    "$O.store.C.x",
    "$SYS.REQ.SERVER.PING",
    "$MQTT.sub.x",
    "$SRV.PING",
    "_INBOX.abc",
    "_INBOX.abc.def",
    "_INBOX_fastgw.abc.def",
]
CONTROL_DENIED = [
    "$SYS.REQ.SERVER.PING",
    "$JS.API.STREAM.DELETE.KV_fastgw",
    "$JS.API.STREAM.UPDATE.KV_fastgw",
    "$JS.API.STREAM.MSG.DELETE.KV_fastgw",
    "$JS.API.STREAM.PURGE.orders",
    "$JS.API.STREAM.SNAPSHOT.orders",
    "$JS.API.CONSUMER.MSG.NEXT.orders.tests",
    "$JS.API.CONSUMER.DELETE.orders.tests",
    "$JS.API.META.LEADER.STEPDOWN",
    "$JS.API.ACCOUNT.PURGE.$G",
    "$JS.ACK.orders.tests.1.1.1.1.0",
    "_INBOX.abc.def",
]
SUBSCRIBE_DENIED = [
    ">",
    "*",
    "orders",
    "orders.>",
    "$KV.fastgw.>",
    "$JS.API.>",
    "$JS.ACK.>",
    "$JS.EVENT.ADVISORY.>",
    "$SYS.>",
]


@pytest.mark.parametrize(
    ("plane", "publish", "subscribe"),
    [
        ("data", DATA_DENIED, [*SUBSCRIBE_DENIED, "_INBOX.>", "_INBOX.*", "_INBOX_fastgw.>"]),
        ("control", CONTROL_DENIED, SUBSCRIBE_DENIED),
    ],
)
def test_user_is_refused_what_it_does_not_need(
    guarded: Guarded, plane: str, publish: list[str], subscribe: list[str]
) -> None:
    with Login(guarded, plane) as login:
        for subject in publish:
            assert login.is_refused(subject, "publish"), subject
        for subject in subscribe:
            assert login.is_refused(subject, "subscribe"), subject
        # The connection survives all of it, and what the plane needs still goes.
        assert not login.is_refused("nowhere.x", "publish")
        inbox = "_INBOX.a.*" if plane == "data" else "_INBOX_fastgw.a.*"
        assert not login.is_refused(inbox, "subscribe")
        order = "CONSUMER.MSG.NEXT.orders.c" if plane == "data" else "STREAM.NAMES"
        assert not login.is_refused(f"$JS.API.{order}", "publish")


def test_data_user_deletes_no_stream_and_reads_no_key(guarded: Guarded) -> None:
    guarded.gateway.produce("kept", b"1")
    get = b'{"last_by_subj":"$KV.fastgw.users.root"}'
    orders = {
        "STREAM.DELETE.kept": b"",
        "STREAM.PURGE.kept": b"",
        "STREAM.INFO.KV_fastgw": b"",
        "STREAM.MSG.GET.KV_fastgw": get,
        "DIRECT.GET.KV_fastgw": get,
    }
    with Login(guarded, "data") as login:
        assert login.send(b"SUB _INBOX.me.* 1\r\n") == []
        for what, body in orders.items():
            subject = f"$JS.API.{what}".encode()
            said = login.send(b"PUB %s _INBOX.me.1 %d\r\n%s\r\n" % (subject, len(body), body))
            assert len(said) == 1 and said[0].startswith(b"-ERR 'Permissions"), (what, said)
    second = guarded.gateway.produce("kept", b"2")
    assert second.header("nats-sequence") == "2"


async def test_data_user_hears_nothing_of_the_control_plane(guarded: Guarded) -> None:
    """What the control plane reads holds password hashes; it comes to inboxes of its own."""
    heard: list[str] = []

    async def note(message: Any) -> None:
        heard.append(message.subject)

    password = SECRETS["FASTGW_NATS_DATA_PASSWORD"]
    client = await nats.connect(guarded.url, user="fastgw-data", password=password)
    try:
        for subject in ("_INBOX.*.*", "_INBOX.*.c.*"):
            await client.subscribe(subject, cb=note)
        await client.flush()
        add = ("user", "add", "eve", "--password-stdin")
        await asyncio.to_thread(cli, guarded, *add, stdin="a-Password-of-eve-1")
        await asyncio.to_thread(cli, guarded, "user", "rm", "eve")
        assert heard == []
        # The answer to a produce shows that the ear was open.
        await asyncio.to_thread(guarded.gateway.produce, "kept", b'{"a":9}')
        await eventually(lambda: bool(heard), ANSWER_S)
    finally:
        await client.close()
