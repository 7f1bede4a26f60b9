"""Real processes for the tests: a gateway, and where a test needs one, a broker of its own.

What enters: flags and environment of `fastgw serve`, a data folder.
What leaves: a `Gateway` with its address, tokens, and a view of what the broker stored.
Called by the fixtures of the wire and integration tests. Every wait has a bound, every process
is ended by its own id, and nothing is written outside the folder given.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import nats
import requests

import fastgw as fastgw_package
from tests.wire.raw_http import Mode, Response, Wire, build, exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from nats.aio.client import Client

ADMIN: Final = "root"
PASSWORD: Final = "a-Password-of-the-tests-1"
START_S_MAX: Final = 30.0
STOP_S_MAX: Final = 20.0
CHANGE_S_MAX: Final = 5.0
"""LIMIT: a change holds in every worker within a second; a busy machine gets five."""

ROOT: Final = Path(fastgw_package.__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Stored:
    """One message as the broker holds it."""

    seq: int
    subject: str
    headers: list[tuple[str, str]]
    data: bytes

    def header(self, name: str) -> str | None:
        """Find a header; NATS compares names with their case."""
        return next((value for key, value in self.headers if key == name), None)


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process."""
    found = re.search(r"^ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def wait_until(condition: Callable[[], Any], timeout_s: float = START_S_MAX, what: str = "") -> Any:
    """Poll until `condition` is true; return its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.01)
    return value


def clean_env(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment for `fastgw` that nothing of the caller's shell configures."""
    aliases = ("JWT_", "REFRESH_JWT_", "HTTP_PORT", "MEMPHIS_", "ROOT_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(aliases)
        and (not name.startswith("FASTGW_") or name.startswith("FASTGW_TEST_"))
    }
    kept["PYTHONPATH"] = str(ROOT)
    kept["PYTHONUNBUFFERED"] = "1"
    return kept | (extra or {})


def fastgw(*arguments: str) -> list[str]:
    """Return the command line of `fastgw` in this interpreter."""
    return [sys.executable, "-m", "fastgw", *arguments]


def run_fastgw(
    *arguments: str, env: dict[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a short `fastgw` command to its end."""
    return subprocess.run(
        fastgw(*arguments),
        env=clean_env(env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=START_S_MAX,
        check=False,
    )


@dataclass
class Gateway:
    """A running `fastgw serve`; `start` and `stop` may alternate on the same data."""

    data: Path
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    address: tuple[str, int] = ("", 0)
    logs: list[Path] = field(default_factory=list)
    _tokens: dict[str, str] = field(default_factory=dict)
    _output: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """The address as a URL, without a slash at its end."""
        return f"http://{self.address[0]}:{self.address[1]}"

    def start(self, listen: str = "127.0.0.1:0") -> Gateway:
        """Start and wait until it is ready."""
        self.data.mkdir(parents=True, exist_ok=True)
        announced = self.data / "gateway.json"
        announced.unlink(missing_ok=True)
        log = self.data.parent / f"{self.data.name}-{len(self.logs)}.log"
        self.logs.append(log)
        self._output = log.open("wb")
        settings = {"FASTGW_ADMIN_USER": ADMIN, "FASTGW_ADMIN_PASSWORD": PASSWORD} | self.env
        self.process = subprocess.Popen(
            fastgw("serve", "--listen", listen, "--data", str(self.data), *self.flags),
            env=clean_env(settings),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        told = wait_until(lambda: self._read_announced(announced), what="gateway.json")
        parts = urlsplit(told["address"])
        assert parts.hostname and parts.port
        self.address = (parts.hostname, parts.port)
        wait_until(self.is_ready, what="readyz")
        return self

    def _read_announced(self, path: Path) -> dict[str, Any] | None:
        assert self.process is not None
        assert self.process.poll() is None, f"serve ended at once:\n{self.log_text()}"
        try:
            told = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return told if isinstance(told, dict) else None

    def is_ready(self) -> bool:
        """Ask `/readyz`; who does not answer in time is not ready."""
        with suppress(requests.ConnectionError, requests.Timeout):
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def log_text(self) -> str:
        """Everything that the latest process printed."""
        return self.logs[-1].read_text("utf-8", "replace")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the process and return its exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        try:
            code = self.process.wait(STOP_S_MAX)
        finally:
            self.process.kill()
            self.process.wait()
            if self._output is not None:
                self._output.close()
        self._tokens.clear()
        return code

    def exchange(
        self,
        data: bytes,
        mode: Mode = "whole",
        *,
        split: int | None = None,
        methods: list[str] | None = None,
    ) -> list[Response]:
        """Send raw bytes and return all responses until the server closed."""
        return exchange(self.address, data, mode, split=split, methods=methods)

    def wire(self, methods: list[str] | None = None) -> Wire:
        """Open a raw connection."""
        return Wire(self.address, methods)

    def ask(self, target: str, body: bytes | None = b"", **options: Any) -> Response:
        """Send one request on its own connection and return its one response."""
        responses = self.exchange(
            build(target, body, **options), methods=[options.get("method", "POST")]
        )
        assert len(responses) == 1, responses
        return responses[0]

    def authenticate(self, body: Mapping[str, object]) -> Response:
        """Ask for tokens."""
        headers = {"Content-Type": "application/json"}
        return self.ask("/auth/authenticate", json.dumps(dict(body)).encode(), headers=headers)

    def token(self, user: str = ADMIN, password: str = PASSWORD) -> str:
        """An access token of a user who is there, cached for as long as this process runs."""
        if user not in self._tokens:
            found: list[Response] = []

            def is_known() -> bool:
                found[:] = [self.authenticate({"username": user, "password": password})]
                return found[0].status == 200

            # WHY not once: any worker may answer, and hears of a new user when its time comes.
            wait_until(is_known, CHANGE_S_MAX, f"the login of {user}")
            self._tokens[user] = found[0].json()["jwt"]
        return self._tokens[user]

    def auth(self, **more: str) -> dict[str, str]:
        """Headers of an authorized request; underscores in `more` stand for hyphens."""
        extra = {name.replace("_", "-"): value for name, value in more.items()}
        return {"Authorization": f"Bearer {self.token()}", **extra}

    def produce(self, station: str, body: bytes, headers: dict[str, str] | None = None) -> Response:
        """Produce one message that must be stored."""
        target = f"/stations/{station}/produce/single"
        response = self.ask(target, body, headers=self.auth() | (headers or {}))
        assert response.status == 200, response
        return response

    def consume(self, station: str, **fields: object) -> list[dict[str, Any]]:
        """Consume what must be there."""
        body = {"consumer_name": "tests", "batch_max_wait_time_ms": 2000} | fields
        target = f"/stations/{station}/consume/batch"
        response = self.ask(target, json.dumps(body).encode(), headers=self.auth())
        assert response.status == 200, response
        messages = response.json()
        assert isinstance(messages, list)
        return messages

    def broker(self) -> dict[str, Any]:
        """Where the embedded broker is and how to log in."""
        told = json.loads((self.data / "broker.json").read_bytes())
        assert isinstance(told, dict)
        return told

    def stored(self, station: str) -> list[Stored]:
        """Read back every message of a station, from the broker itself."""
        broker = self.broker()
        return stored(broker["url"], broker.get("user"), broker.get("password"), station)


@contextmanager
def serving(
    data: Path, flags: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> Iterator[Gateway]:
    """Run a gateway for a block; it must end with code 0 and no traceback in its log."""
    running = Gateway(data, flags, env or {})
    try:
        yield running.start()
    finally:
        code = running.stop()
    assert code == 0, running.log_text()
    assert "Traceback" not in running.log_text(), running.log_text()


def with_broker(
    url: str,
    user: str | None,
    password: str | None,
    work: Callable[[Client], Coroutine[Any, Any, Any]],
) -> Any:
    """Run `work` with a broker connection of its own."""

    async def run() -> Any:
        client = await nats.connect(url, user=user, password=password, connect_timeout=5)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def stored(url: str, user: str | None, password: str | None, station: str) -> list[Stored]:
    """Read every message of a station's stream; a station without a stream has none.

    WHY: by the broker's own JSON interface, because nats-py loses repeated headers and their order.
    """

    async def work(client: Client) -> list[Stored]:
        name = station.replace(".", "#")
        state = (await _ask_broker(client, f"STREAM.INFO.{name}", {})).get("state")
        if state is None:
            return []
        found = []
        for seq in range(max(1, state["first_seq"]), state["last_seq"] + 1):
            answer = await _ask_broker(client, f"STREAM.MSG.GET.{name}", {"seq": seq})
            if "message" in answer:
                found.append(_parse_stored(answer["message"]))
        return found

    result = with_broker(url, user, password, work)
    assert isinstance(result, list)
    return result


def ask_broker(gateway: Gateway, what: str, body: dict[str, object]) -> dict[str, Any]:
    """Ask JetStream's JSON interface of the embedded broker."""
    broker = gateway.broker()

    async def work(client: Client) -> dict[str, Any]:
        return await _ask_broker(client, what, body)

    answer = with_broker(broker["url"], broker.get("user"), broker.get("password"), work)
    assert isinstance(answer, dict)
    return answer


async def _ask_broker(client: Client, what: str, body: dict[str, object]) -> dict[str, Any]:
    """Ask JetStream's JSON interface; an error other than "not found" fails the test."""
    reply = await client.request(f"$JS.API.{what}", json.dumps(body).encode(), timeout=5)
    answer = json.loads(reply.data)
    assert isinstance(answer, dict)
    assert answer.get("error", {}).get("code", 404) == 404, answer
    return answer


def _parse_stored(message: dict[str, Any]) -> Stored:
    block = base64.b64decode(message.get("hdrs", "")).decode("latin-1")
    headers = []
    for line in block.split("\r\n")[1:]:
        if line:
            name, _, value = line.partition(":")
            headers.append((name, value.removeprefix(" ")))
    data = base64.b64decode(message.get("data", ""))
    return Stored(message["seq"], message["subject"], headers, data)


def free_port() -> int:
    """Find a port that is free now; used where two processes must agree on one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


def nats_server_path() -> str | None:
    """Find the real broker: beside this interpreter, else on the PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else which("nats-server")


@dataclass
class Broker:
    """A `nats-server` that is not the gateway's child, so that a test may kill or freeze it."""

    store: Path
    port: int = 0
    user: str = "gateway"
    password: str = "broker-password-of-the-tests"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address with its credentials."""
        return f"nats://{self.user}:{self.password}@127.0.0.1:{self.port}"

    def start(self) -> Broker:
        """Start, on the same port each time, and wait until it accepts connections."""
        path = nats_server_path()
        assert path is not None
        self.port = self.port or free_port()
        self.store.mkdir(parents=True, exist_ok=True)
        config = self.store / "broker.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.store}" }}\n'
            f'authorization {{ user: "{self.user}", password: "{self.password}" }}\n'
        )
        self.process = subprocess.Popen(
            [path, "-c", str(config), "-l", str(self.store / "broker.log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.is_listening, what="nats-server")
        return self

    def is_listening(self) -> bool:
        """Whether a connection is accepted."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def signal(self, what: signal.Signals) -> None:
        """Send a signal to the broker's process."""
        assert self.process is not None
        self.process.send_signal(what)

    def freeze(self) -> None:
        """Stop it from answering, until SIGCONT; returns when its last thread stands still."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def kill(self) -> None:
        """End it at once, without a goodbye."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
