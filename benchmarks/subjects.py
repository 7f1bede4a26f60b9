"""The subjects of a run: how each is started, how it says that it is ready, which token it takes.

What enters: a `Bench` (broker, core, folder). What leaves: a `Running` server on 127.0.0.1 that
has answered one request of a workload with 200. The floor and the peers get the same token.
It must never start anything on another address than 127.0.0.1.
"""

from __future__ import annotations

import http.client
import json
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.broker import Broker
from benchmarks.floor import build_floor
from benchmarks.needs import find_missing
from benchmarks.peers.compiled import PEERS, build_peer, describe_routes
from benchmarks.processes import Child, Failed, find_free_port, run_bounded
from benchmarks.workloads import SCHEMA, Request, Workload

READY_TIMEOUT_S: Final = 20.0
ANSWER_TIMEOUT_S: Final = 10.0
COMMAND_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.05
TOKEN_LIFE_S: Final = 24 * 3600
PLAIN_STATION: Final = "plain"
TYPED_STATION: Final = "typed"
ADMIN: Final = "bench"
FLOOR: Final = "floor"
GATEWAY: Final = "fastgw"


@dataclass(frozen=True, slots=True)
class Bench:
    """What every subject of a run shares."""

    broker: Broker
    core: int
    folder: Path
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """Signs the token of the floor and the peers."""
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    """Of the gateway's admin, who is made at its first start on this broker."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server under test: its process, its port, the token that it takes."""

    child: Child
    port: int
    token: str


@dataclass(frozen=True, slots=True)
class Setup:
    """How a gateway under test differs from one worker with its defaults.

    Args:
        env: variables added to its environment.
        workers: how many worker processes.
        cores: where it may run, if not on the server's core alone.
        token: used instead of logging in, which takes memory for a moment.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    cores: tuple[int, ...] = ()
    token: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """One row of the table.

    Args:
        name: what `--subjects` takes.
        label: what the table shows.
        needs: distributions that must be installed.
        start: starts it for one workload; it need not be ready yet when this returns.
    """

    name: str
    label: str
    needs: tuple[str, ...]
    start: Callable[[Bench, Workload], Running]


def start_ready(subject: Subject, bench: Bench, workload: Workload) -> Running:
    """Start a subject and wait until it has stored one request of the workload.

    Raises:
        Failed: it ended, or did not answer 200 in time; the text holds the end of its log.
    """
    running = subject.start(bench, workload)
    try:
        wait_for_answer(running, workload.build_request(running.token))
    except BaseException:
        running.child.stop()
        raise
    return running


def wait_for_answer(running: Running, request: Request) -> None:
    """Send the request until it is answered with 200; anything else than "not up yet" raises."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        running.child.check_alive()
        try:
            status, body = send(running.port, request)
        except (ConnectionError, TimeoutError):
            time.sleep(POLL_S)
            continue
        if status != 200 or b'"success":true' not in body.replace(b" ", b""):
            raise Failed(f"it answered {status} {body[:120]!r}: {running.child.read_log()}")
        return
    raise Failed(f"no answer within {READY_TIMEOUT_S:.0f} s: {running.child.read_log()}")


def send(port: int, request: Request, method: str = "POST") -> tuple[int, bytes]:
    """Send one request on a connection of its own; return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request(method, request.path, request.body, request.headers)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise Failed(f"its answer is not HTTP: {error!r}") from error
    finally:
        connection.close()


def _sign_token(bench: Bench) -> str:
    """Sign a token with the claims that the gateway's own have, so that its size is the same."""
    import jwt  # WHY: here, so that a missing package is reported by `needs`, not by an import.

    now = int(time.time())
    claims = {"sub": "bench", "acc": 1, "ep": 1, "exp": now + TOKEN_LIFE_S, "iat": now}
    return jwt.encode({**claims, "jti": secrets.token_hex(14), "use": "a"}, bench.secret, "HS256")


def _start_floor(bench: Bench, workload: Workload) -> Running:
    broker, port = bench.broker, find_free_port()
    argv = [str(build_floor()), str(port), str(broker.port), broker.user, broker.password]
    child = Child([*argv, workload.station], bench.core, bench.folder / "floor.log", {})
    # WHY: the floor looks at no credential; it gets as many bytes as the gateway does.
    key = "fgw_" + secrets.token_urlsafe(32)
    return Running(child, port, key if workload.has_key else _sign_token(bench))


def _peer_environment(bench: Bench) -> dict[str, str]:
    return {"BENCH_NATS_URL": bench.broker.url, "BENCH_JWT_SECRET": bench.secret}


def _start_peer(name: str, bench: Bench, argv: list[str], port: int) -> Running:
    log = bench.folder / f"{name}.log"
    argv = [sys.executable, "-m", *argv]
    child = Child(argv, bench.core, log, _peer_environment(bench))
    return Running(child, port, _sign_token(bench))


UVICORN_OPTIONS: Final = shlex.split(
    "--loop uvloop --http httptools --ws none --lifespan on --log-level warning "
    "--no-access-log --no-server-header --no-date-header --no-proxy-headers"
)
GRANIAN_OPTIONS: Final = shlex.split(
    "--interface asgi --http 1 --no-ws --workers 1 --loop uvloop --runtime-mode st "
    "--log-level warning --no-access-log"
)


def _start_uvicorn(name: str, app: str) -> Callable[[Bench, Workload], Running]:
    def start(bench: Bench, _: Workload) -> Running:
        port = find_free_port()
        argv = ["uvicorn", app, "--host", "127.0.0.1", "--port", str(port), *UVICORN_OPTIONS]
        return _start_peer(name, bench, argv, port)

    return start


def _start_granian(bench: Bench, _: Workload) -> Running:
    port = find_free_port()
    argv = ["granian", *GRANIAN_OPTIONS, "--host", "127.0.0.1", "--port", str(port)]
    return _start_peer("asgi-granian", bench, [*argv, "benchmarks.peers.asgi_app:app"], port)


def _start_compiled(name: str) -> Callable[[Bench, Workload], Running]:
    def start(bench: Bench, _: Workload) -> Running:
        peer, port = PEERS[name], find_free_port()
        env = {**_peer_environment(bench), "BENCH_ROUTES": describe_routes(), **peer.run_env}
        argv = [str(build_peer(peer)), str(port)]
        child = Child(argv, bench.core, bench.folder / f"{name}.log", env)
        return Running(child, port, _sign_token(bench))

    return start


def _start_aiohttp(bench: Bench, _: Workload) -> Running:
    port = find_free_port()
    return _start_peer("aiohttp", bench, ["benchmarks.peers.aiohttp_app", str(port)], port)


def start_gateway(bench: Bench, workload: Workload, setup: Setup | None = None) -> Running:
    """Start the gateway as a user would, and wait until it is ready.

    Args:
        bench: broker, core and folder.
        workload: names the station, and says whether a schema and an API key are wanted.
        setup: what differs from one worker with its defaults.

    Raises:
        Failed: a command failed, it ended, or it was not ready in time.
    """
    setup = setup or Setup()
    port = find_free_port()
    env = {
        "FASTGW_ADMIN_USER": ADMIN,
        "FASTGW_ADMIN_PASSWORD": bench.password,
        "FASTGW_STATIONS_AUTO_CREATE": "true",
        **setup.env,
    }
    gateway = [sys.executable, "-m", "fastgw"]
    if workload.station == PLAIN_STATION:
        _add_plain_station(gateway, bench)
    if workload.has_schema:
        _add_typed_station(gateway, bench)
    argv = [*gateway, "serve", "--listen", f"127.0.0.1:{port}", "--nats", bench.broker.url]
    argv += ["--data", str(bench.folder / "fastgw-data"), "--workers", str(setup.workers)]
    child = Child(argv, setup.cores or bench.core, bench.folder / "fastgw.log", env)
    try:
        wait_until_ready(child, port)
        login = {"username": ADMIN, "password": bench.password}
        token = setup.token or authenticate(port, login)
        if workload.has_key:
            token = _make_key(port, token)
    except BaseException:
        child.stop()
        raise
    return Running(child, port, token)


def _add_plain_station(gateway: list[str], bench: Bench) -> None:
    _add([*gateway, "station", "add", PLAIN_STATION, "--headers", "none"], bench)


def _add_typed_station(gateway: list[str], bench: Bench) -> None:
    path = bench.folder / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    _add([*gateway, "schema", "add", "event", str(path), "--type", "json"], bench)
    _add([*gateway, "station", "add", TYPED_STATION, "--schema", "event"], bench)


def _add(argv: list[str], bench: Bench) -> None:
    try:
        run_bounded([*argv, "--nats", bench.broker.url], bench.core, COMMAND_TIMEOUT_S, {})
    except Failed as error:
        # An earlier workload of this run may have made it, on the same broker.
        if "exists already" not in str(error):
            raise Failed(f"`{' '.join(argv[2:5])}` failed: {error}") from error


def wait_until_ready(child: Child, port: int) -> None:
    """Wait until `/readyz` answers 200; raise `Failed` when it does not in time."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        child.check_alive()
        try:
            if send(port, Request("/readyz", {}, b""), "GET")[0] == 200:
                return
        except (ConnectionError, TimeoutError):
            pass
        time.sleep(POLL_S)
    raise Failed(f"/readyz was not 200 within {READY_TIMEOUT_S:.0f} s: {child.read_log()}")


def authenticate(port: int, credentials: Mapping[str, str]) -> str:
    """Log in and return the access token; it lives as long as any run."""
    # WHY: the run may last longer than the default life of a token.
    body = json.dumps({**credentials, "token_expiry_in_minutes": TOKEN_LIFE_S // 60}).encode()
    headers = {"Content-Type": "application/json"}
    status, answer = send(port, Request("/auth/authenticate", headers, body))
    if status != 200:
        raise Failed(f"/auth/authenticate answered {status} {answer[:120]!r}")
    return str(json.loads(answer)["jwt"])


def _make_key(port: int, token: str) -> str:
    """Make an API key with the admin's token; its name is new each time."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    asked = Request(f"/keys/bench-{secrets.token_hex(4)}", headers, b"{}")
    status, answer = send(port, asked, "PUT")
    if status != 201:
        raise Failed(f"PUT {asked.path} answered {status} {answer[:120]!r}")
    return str(json.loads(answer)["key"])


_NATS_PY: Final = ("nats-py", "PyJWT", "msgspec")
SUBJECTS: Final = {
    subject.name: subject
    for subject in (
        Subject(FLOOR, "C floor", (), _start_floor),
        Subject(GATEWAY, "fastgw", ("fastgw",), start_gateway),
        Subject(
            "asgi-uvicorn",
            "raw ASGI on uvicorn + nats-py",
            (*_NATS_PY, "uvicorn", "uvloop", "httptools"),
            _start_uvicorn("asgi-uvicorn", "benchmarks.peers.asgi_app:app"),
        ),
        Subject(
            "asgi-granian",
            "raw ASGI on granian + nats-py",
            (*_NATS_PY, "granian", "uvloop"),
            _start_granian,
        ),
        Subject("aiohttp", "aiohttp + nats-py", (*_NATS_PY, "aiohttp", "uvloop"), _start_aiohttp),
        Subject(
            "fastapi",
            "FastAPI on uvicorn + nats-py",
            (*_NATS_PY, "fastapi", "uvicorn", "uvloop", "httptools"),
            _start_uvicorn("fastapi", "benchmarks.peers.fastapi_app:app"),
        ),
        Subject("go", "Go: fasthttp + nats.go", ("go",), _start_compiled("go")),
        Subject("rust", "Rust: hyper + async-nats", ("cargo",), _start_compiled("rust")),
    )
}


def find_left_out() -> dict[str, str]:
    """Find the compiled peers whose toolchain is not here, each with the sentence that says so.

    A run that names no subjects goes on without them; one that names them ends.
    """
    missing = {peer.name: find_missing((), SUBJECTS[peer.name].needs) for peer in PEERS.values()}
    return {name: lines[0] for name, lines in missing.items() if lines}
