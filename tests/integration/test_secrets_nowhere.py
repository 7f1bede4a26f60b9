"""Known secrets go in by every way; none of them stands in anything that anyone can read.

A real gateway with a broker of its own, TLS, a configuration file and debug logs is driven through
every kind of error with real credentials in its requests (`secrets_world`). Then everything that
came out is searched for the secrets, in every form in which text carries text (`leaks`), which is
tested with planted ones.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus

import jwt
import pytest

from tests.integration.leaks import PIECE_CHARS, find_leaks, open_files
from tests.integration.secrets_world import PLANNED, World, driven
from tests.wire.gateway import (
    ADMIN,
    Gateway,
    free_port,
    nats_server_path,
    run_fastgw,
    wait_until,
    with_broker,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nats.aio.client import Client

pytestmark = [
    pytest.mark.skipif(nats_server_path() is None, reason="nats-server is not installed"),
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc"),
]

# --- the search -----------------------------------------------------------------------------------


FORMS: Final[dict[str, Callable[[str], bytes]]] = {
    "as it is": lambda s: s.encode(),
    "its begin": lambda s: s.encode()[:PIECE_CHARS],
    "its end": lambda s: s.encode()[-PIECE_CHARS:],
    "percent": lambda s: quote(s, safe="").encode(),
    "percent, lower": lambda s: quote(s, safe="").lower().encode(),
    "form": lambda s: quote_plus(s).encode(),
    "JSON": lambda s: json.dumps(s).encode(),
    "repr": lambda s: repr(s.encode()).encode(),
    "hex": lambda s: s.encode().hex().encode(),
    "base64": lambda s: base64.b64encode(s.encode()),
    "base64 of a pair": lambda s: base64.b64encode(f"u:{s}".encode()),
    "base64 behind ten": lambda s: base64.b64encode(b"0123456789" + s.encode() + b"end"),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(f"user:{s}".encode()).rstrip(b"="),
}


@pytest.mark.parametrize("form", FORMS)
def test_planted_leak_is_found(form: str) -> None:
    for name, secret in PLANNED.items():
        planted = b"2026-11-23 warning a line " + FORMS[form](secret) + b" of the log\n"
        assert name in find_leaks(planted, PLANNED), (form, name)
    assert find_leaks("2026-11-23 info user root from 127.0.0.1 logged in", PLANNED) == []


def test_planted_file_that_others_may_read_is_found(tmp_path: Path) -> None:
    inner = tmp_path / "data" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        folder.chmod(0o755)
    file = inner / "file.json"
    file.write_text(PLANNED["jwt secret"])
    for mode, is_open in ((0o600, False), (0o640, True), (0o604, True)):
        file.chmod(mode)
        assert bool(open_files(inner.parent, PLANNED)) == is_open
    inner.chmod(0o700)
    assert open_files(inner.parent, PLANNED) == []


# --- where they must not stand --------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with driven(tmp_path_factory.mktemp("secrets")) as made:
        yield made


def test_log_of_every_process_holds_no_secret(world: World) -> None:
    text = world.gateway.log_text()
    assert "broker" in text.lower(), "it did tell what happened"
    for line in text.splitlines():
        assert find_leaks(line, world.secrets) == [], line
    assert find_leaks(text, world.secrets) == []
    assert "Traceback" not in text


def test_answers_hold_no_secret(world: World) -> None:
    assert len(world.answers) > 500
    statuses = {response.status for _, response in world.answers}
    assert {200, 400, 401, 403, 404, 405, 413, 414, 415, 417, 431, 501, 503, 505} <= statuses
    for what, response in world.answers:
        data = response.body + repr(response.headers).encode()
        assert find_leaks(data, world.secrets) == [], (what, response)


PAGES: Final = (
    "/", "/openapi.json", "/docs", "/healthz", "/readyz", "/users", "/users/ann", "/keys",
    "/keys/consumer", "/secrets", "/stations", "/stations?state=true", "/stations/hooks",
    "/schemas", "/schemas/shape", "/metrics", "/monitoring/status",
)  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_page_shows_no_secret(world: World, page: str) -> None:
    response = world.admin("GET", page)
    assert response.status in (200, 404)
    data = response.body + repr(response.headers).encode()
    assert find_leaks(data, world.secrets) == []


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = [
        child
        for task in os.listdir(f"/proc/{pid}/task")
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    ]
    return [pid, *(one for child in children for one in family(int(child)))]


def test_process_list_holds_no_secret(world: World) -> None:
    assert world.gateway.process is not None
    pids = family(world.gateway.process.pid)
    assert len(pids) >= 3, "the supervisor and two workers"
    for pid in pids:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"fastgw" in command
        assert find_leaks(command, world.secrets) == []
        assert find_leaks(Path(f"/proc/{pid}/comm").read_bytes(), world.secrets) == []
    if which("ps"):
        listed = subprocess.run(["ps", "-ww", "-ef"], capture_output=True, check=True).stdout
        mine = [line for line in listed.splitlines() if line.split()[1] in map(b"%d".__mod__, pids)]
        assert len(mine) == len(pids)
        assert find_leaks(b"\n".join(mine), world.secrets) == []


def test_children_for_schemas_are_not_given_the_secrets(world: World) -> None:
    """Compilers read what strangers wrote; there is nothing for them to find."""
    assert world.gateway.process is not None
    sdl = "type Query { a: Int }"
    assert world.admin("PUT", "/schemas/graph", {"type": "graphql", "text": sdl}).status == 201
    assert world.admin("PUT", "/stations/graphs", {"schema": "graph"}).status == 201
    pid = world.gateway.process.pid

    def compilers() -> list[int]:
        world.admin("POST", "/stations/graphs/produce/single", "not GraphQL")
        return [one for one in family(pid) if is_compiler(one)]

    for one in wait_until(compilers, 10, "the process that judges GraphQL"):
        assert find_leaks(Path(f"/proc/{one}/environ").read_bytes(), world.secrets) == []


def is_compiler(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"graphql_worker" in command or b"protoc_child" in command


def test_announcement_and_open_files_hold_no_secret(world: World) -> None:
    announced = world.gateway.data / "gateway.json"
    assert find_leaks(announced.read_bytes(), world.secrets) == []
    assert open_files(world.gateway.data, world.secrets) == []
    assert world.config.stat().st_mode & 0o077 == 0


def test_tokens_carry_no_secret(world: World) -> None:
    tokens = {n for n in world.secrets if n.endswith("token")}
    secrets = {name: text for name, text in world.secrets.items() if name not in tokens}
    assert len(world.tokens) == 4
    for token in world.tokens:
        for part in (jwt.get_unverified_header(token), claims_of(token)):
            assert find_leaks(json.dumps(part), secrets) == []
            assert not {"password", "password_hash", "secret", "hash"} & set(part)


def claims_of(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


COMMANDS: Final = (
    "config show", "config show --json", "config check", "user list", "user list --json",
    "key list", "key list --json", "secret list", "secret list --json", "station list",
    "station list --json", "station info hooks", "station info hooks --json", "schema list",
    "schema list --json", "schema show shape", "station dead-letters letters",
    "station dead-letters letters --json --payload",
)  # fmt: skip
REFUSED_COMMANDS: Final = ("user add ann --generate", "key add consumer", "secret rotate")


@pytest.mark.parametrize("words", COMMANDS + REFUSED_COMMANDS)
def test_command_shows_no_secret(world: World, words: str) -> None:
    where = ("--config", str(world.config), "--data", str(world.gateway.data))
    env = {"FASTGW_ADMIN_USER": ADMIN, "FASTGW_ADMIN_PASSWORD": PLANNED["admin password"]}
    done = run_fastgw(*words.split(), *where, env=env)
    assert done.returncode == (1 if words in REFUSED_COMMANDS else 0), done.stderr
    assert done.stdout or done.stderr
    assert "Traceback" not in done.stderr
    assert find_leaks(done.stdout + done.stderr, world.secrets) == []


def test_command_with_a_broker_url_shows_no_password(world: World, tmp_path: Path) -> None:
    password = quote(PLANNED["broker password"], safe="")
    for port, words in (
        (world.broker.port, "config show"),
        (world.broker.port, "config show --json"),
        (world.broker.port, "config check"),
        (free_port(), "user list"),
    ):
        env = {"FASTGW_NATS_URL": f"nats://gateway:{password}@127.0.0.1:{port}"}
        done = run_fastgw(*words.split(), "--data", str(tmp_path / "none"), env=env)
        assert done.returncode == (1 if words == "user list" else 0), done.stderr
        assert done.stdout or done.stderr
        assert find_leaks(done.stdout + done.stderr, world.secrets) == [], words


def test_stored_messages_hold_no_credential(world: World) -> None:
    """What a request carried to come in stays behind; the messages are for others to read."""

    async def read(client: Client) -> list[bytes]:
        found = []
        for name in ("kept", "letters", "hooks"):
            info = await client.jetstream().stream_info(name)
            assert info.state.messages > 0, name
            for seq in range(1, info.state.last_seq + 1):
                answer = await client.request(
                    f"$JS.API.STREAM.MSG.GET.{name}", json.dumps({"seq": seq}).encode(), timeout=5
                )
                message = json.loads(answer.data)["message"]
                found.append(message["subject"].encode())
                found.append(base64.b64decode(message.get("hdrs", "")))
                found.append(base64.b64decode(message.get("data", "")))
        return found

    plain = f"nats://127.0.0.1:{world.broker.port}"
    for data in with_broker(plain, world.broker.user, world.broker.password, read):
        # A signature is not a credential: it proves this one message, for who reads it later.
        kept = {n: s for n, s in world.secrets.items() if n != "webhook signature"}
        assert find_leaks(data, kept) == []


# --- with the embedded broker, and secrets of its own ---------------------------------------------


def test_embedded_broker_and_made_secrets_leak_nothing(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "data", ("--log-level", "debug"))
    try:
        gateway.start()
        assert gateway.process is not None
        gateway.produce("kept", b"x")
        broker = gateway.broker()
        secrets = {
            name: text for name, text in broker.items()
            if any(word in name for word in ("password", "token", "seed", "secret"))
        }  # fmt: skip
        assert secrets, broker.keys()
        secrets["admin token"] = gateway.token()

        async def read(client: Client) -> dict[str, bytes]:
            store = await client.jetstream().key_value("fastgw")
            keys = [key for key in await store.keys() if key.startswith(("secrets.", "signing."))]
            return {key: (await store.get(key)).value or b"" for key in keys}

        made = with_broker(broker["url"], broker.get("user"), broker.get("password"), read)
        for key, value in made.items():
            for number, text in enumerate(re.findall(rb'"secret":"([^"]+)"', value)):
                secrets[f"{key} {number}"] = text.decode()
                secrets[f"{key} {number} in hex"] = base64.b64decode(text).hex()
        assert len(secrets) >= 6, made.keys()
        response = gateway.ask("/secrets", None, method="GET", headers=gateway.auth())
        assert response.status == 200
        assert find_leaks(response.body, secrets) == []
        for pid in family(gateway.process.pid):
            assert find_leaks(Path(f"/proc/{pid}/cmdline").read_bytes(), secrets) == []
            environ = Path(f"/proc/{pid}/environ")
            if b"nats-server" in Path(f"/proc/{pid}/cmdline").read_bytes() and os.access(
                environ, os.R_OK
            ):
                assert find_leaks(environ.read_bytes(), secrets) == []
        assert find_leaks((gateway.data / "gateway.json").read_bytes(), secrets) == []
        assert open_files(gateway.data, secrets) == []
        for words in (("secret", "list", "--json"), ("config", "show", "--json")):
            done = run_fastgw(*words, "--data", str(gateway.data))
            assert done.returncode == 0, done.stderr
            assert find_leaks(done.stdout + done.stderr, secrets) == []
    finally:
        gateway.stop()
    assert find_leaks(gateway.log_text(), secrets) == []
