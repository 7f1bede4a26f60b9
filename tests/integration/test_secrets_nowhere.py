"""Known secrets go in by every way; none of them stands in anything that anyone can read.

A real gateway with a broker of its own, TLS, a configuration file and debug logs is driven through
every kind of error with real credentials in its requests. Then everything that came out is searched
for the secrets, in every form in which text carries text. `find_leaks` is tested with planted ones.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import os
import re
import ssl
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from socket import create_connection
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus, urlsplit

import jwt
import pytest

from tests.integration.certificates import Authority
from tests.wire.gateway import (
    ADMIN,
    Broker,
    Gateway,
    free_port,
    nats_server_path,
    run_fastgw,
    wait_until,
    with_broker,
)
from tests.wire.raw_http import Reader, Response, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nats.aio.client import Client

pytestmark = [
    pytest.mark.skipif(nats_server_path() is None, reason="nats-server is not installed"),
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc"),
]

PLANNED: Final = {
    "admin password": "adm1n/P+ss wörd?&=of-root",
    "jwt secret": "jwt/secret+of the?configuration-0123456789",
    "refresh secret": "refresh/secret+of?the configuration-0123456789",
    "old jwt secret": "old-jwt/secret+of?the-configuration-0123456789",
    "broker password": "broker-pass/of+the-gateway",
    "webhook secret": "webhook/secret+of?the-sender",
    "user password": "user/password+of?ann & co.",
    "other password": "other/password+never?stored",
    "wrong password": "wrong/password+from?a typing error",
    "wrong key": "fgw_wrongwrongwrongwrongwrongwrongwrongwrongwro",
    "wrong token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ3cm9uZy10b2tlbiJ9.d3Jvbmctc2lnbmF0dXJl",
}
SINGLE: Final = "/stations/kept/produce/single"
PIECE_CHARS: Final = 24
"""LIMIT: of a long secret this much in a row is a leak; a clipped text may hold only its begin."""


# --- the search -----------------------------------------------------------------------------------


@functools.cache
def forms_of(secret: str) -> frozenset[bytes]:
    """Every form in which a text may hold `secret`, or enough of a long one."""
    raw = secret.encode()
    pieces = {raw}
    if len(raw) > PIECE_CHARS:
        pieces |= {raw[:PIECE_CHARS], raw[-PIECE_CHARS:]}
    found = set(pieces)
    for piece in pieces:
        text = piece.decode("utf-8", "ignore")
        for written in (quote(text, safe=""), quote(text), quote_plus(text)):
            found |= {written.encode(), written.lower().encode()}
        found.add(json.dumps(text)[1:-1].encode())
        found.add(repr(text)[1:-1].encode())
        found.add(repr(piece)[2:-1].encode())
        found |= {piece.hex().encode(), piece.hex().upper().encode()}
        for shift in range(3):
            # What stands before shares its characters; so does what stands behind.
            coded = base64.b64encode(b"\0" * shift + piece)
            body = coded[(0, 2, 3)[shift] :].rstrip(b"=")
            body = body[: len(body) - (1 if (shift + len(piece)) % 3 else 0)]
            found |= {body, body.replace(b"+", b"-").replace(b"/", b"_")}
    return frozenset(one for one in found if len(one) >= 8)


def find_leaks(text: bytes | str, secrets: dict[str, str]) -> list[str]:
    """Name the secrets that stand in a text, in whatever form."""
    data = text.encode() if isinstance(text, str) else text
    return sorted(
        name for name, secret in secrets.items() if any(form in data for form in forms_of(secret))
    )


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


def open_files(root: Path, secrets: dict[str, str]) -> list[tuple[str, list[str]]]:
    """Files below `root` that hold secrets and that group or others can reach and read."""
    found = []
    for path in root.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        folders = [folder for folder in path.parents if folder == root or root in folder.parents]
        for read, enter in ((stat.S_IRGRP, stat.S_IXGRP), (stat.S_IROTH, stat.S_IXOTH)):
            is_reached = all(folder.stat().st_mode & enter for folder in folders)
            if is_reached and path.stat().st_mode & read:
                leaks = find_leaks(path.read_bytes(), secrets)
                if leaks:
                    found.append((str(path), leaks))
    return found


# --- the gateway ----------------------------------------------------------------------------------


@dataclass
class World:
    """A gateway, everything secret about it, and everything that it answered."""

    gateway: Gateway
    broker: Broker
    config: Path
    authority: Authority
    secrets: dict[str, str] = field(default_factory=lambda: dict(PLANNED))
    tokens: list[str] = field(default_factory=list)
    answers: list[tuple[str, Response]] = field(default_factory=list)

    def send(self, what: str, data: bytes) -> list[Response]:
        """Send a request and keep its answers for the search."""
        responses = self.gateway.exchange(data)
        self.answers += [(what, response) for response in responses]
        return responses

    def ask(self, method: str, target: str, body: bytes = b"", **fields: str) -> Response:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        data = build(target, body, method=method, headers=headers)
        (response,) = self.send(f"{method} {target}", data)
        return response

    def admin(self, method: str, target: str, body: object = None) -> Response:
        """Ask as the administrator; the answer is kept."""
        data = b"" if body is None else json.dumps(body).encode()
        return self.ask(method, target, data, Authorization=f"Bearer {self.tokens[0]}")

    def log_in(self, name: str, password: str, word: str) -> str:
        """Log in; the answer shows its tokens, this once, so it is not kept."""
        told = self.gateway.authenticate({"username": name, "password": password}).json()
        self.secrets[f"{word} token"] = told["jwt"]
        self.secrets[f"{word} refresh token"] = told["jwt_refresh_token"]
        self.tokens += [told["jwt"], told["jwt_refresh_token"]]
        return str(told["jwt"])


def write_config(folder: Path, broker: Broker, authority: Authority) -> Path:
    issued = authority.issue("server", "localhost", is_server=True)
    words = {name: json.dumps(PLANNED[name]) for name in PLANNED}
    path = folder / "fastgw.toml"
    path.touch(mode=0o600)
    path.write_text(
        f"""
        [auth]
        jwt_secret = {words["jwt secret"]}
        refresh_jwt_secret = {words["refresh secret"]}
        jwt_secrets_old = [{words["old jwt secret"]}]
        [nats]
        url = ["nats://127.0.0.1:{broker.port}"]
        user = "{broker.user}"
        password = {words["broker password"]}
        reconnect_wait_ms_max = 100
        [stations]
        auto_create = true
        [limits]
        body_bytes_max = 20000
        head_timeout_ms = 500
        [log]
        level = "debug"
        [[listeners]]
        listen = "127.0.0.1:{free_port()}"
        [listeners.tls]
        cert_file = "{issued.cert_file}"
        key_file = "{issued.key_file}"
        """,
        "utf-8",
    )
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A gateway that went through everything below."""
    folder = tmp_path_factory.mktemp("secrets")
    broker = Broker(folder / "broker", password=PLANNED["broker password"]).start()
    authority = Authority(folder / "authority")
    config = write_config(folder, broker, authority)
    env = {"FASTGW_ADMIN_PASSWORD": PLANNED["admin password"]}
    gateway = Gateway(folder / "data", ("--config", str(config), "--workers", "2"), env)
    made = World(gateway, broker, config, authority)
    made.secrets["TLS key"] = "".join(
        (folder / "authority" / "server.key").read_text().splitlines()[1:-1]
    )
    try:
        gateway.start()
        make_secrets(made)
        drive_refusals(made)
        drive_broken_bodies(made)
        drive_broken_heads(made)
        drive_tls(made)
        drive_broker_away(made)
        read_store(made)
        yield made
        assert gateway.stop() == 0, gateway.log_text()
        assert find_leaks(gateway.log_text(), made.secrets) == [], "as it stopped"
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.stop()
        broker.kill()


def make_secrets(world: World) -> None:
    """Make users, keys and webhooks; what must show a secret once is not kept."""
    token = world.log_in(ADMIN, PLANNED["admin password"], "admin")
    body = {"password": PLANNED["user password"], "permissions": ["produce"], "stations": ["kept"]}
    assert world.admin("PUT", "/users/ann", body).status == 201
    login = {"username": "ann", "password": PLANNED["user password"]}
    wait_until(lambda: world.gateway.authenticate(login).status == 200, 5, "ann")
    world.log_in("ann", PLANNED["user password"], "user")
    for name in ("consumer", "gone"):
        data = build(
            f"/keys/{name}",
            b'{"permissions":["consume"]}',
            method="PUT",
            headers={"Authorization": f"Bearer {token}"},
        )
        (response,) = world.gateway.exchange(data)
        world.secrets[f"key {name}"] = response.json()["key"]
    assert world.admin("DELETE", "/keys/gone").status == 200
    verifier = {"preset": "github", "secrets": [PLANNED["webhook secret"]]}
    assert world.admin("PUT", "/stations/hooks", {"verifier": verifier}).status == 201
    digest = hmac.new(PLANNED["webhook secret"].encode(), b"x", hashlib.sha256).hexdigest()
    world.secrets["webhook signature"] = digest
    assert world.admin("PUT", "/stations/letters", {}).status == 201
    text = '{"type":"object"}'
    assert world.admin("PUT", "/schemas/shape", {"type": "json", "text": text}).status == 201
    shaped = {"schema": "shape", "dead_letter": "letters"}
    assert world.admin("PUT", "/stations/shaped", shaped).status == 201


def carriers(world: World) -> Iterator[tuple[dict[str, str], str]]:
    """Every way in which a request carries every credential: header fields, and a query."""
    names = [n for n in world.secrets if "token" in n or n.startswith("key") or n == "wrong key"]
    for name in names:
        text = world.secrets[name]
        yield {"Authorization": f"Bearer {text}"}, ""
        yield {"Authorization": f"Bearer: {text}"}, ""
        yield {"X-API-Key": text}, ""
        yield {}, f"?authorization={quote(text, safe='')}"
        yield {}, f"?access_token={quote(text, safe='')}"
        yield {"Cookie": f"session={text}"}, ""
    for user, name in (
        (ADMIN, "admin password"),
        ("ann", "user password"),
        (ADMIN, "wrong password"),
    ):
        pair = base64.b64encode(f"{user}:{world.secrets[name]}".encode()).decode()
        yield {"Authorization": f"Basic {pair}"}, ""
        yield {"Proxy-Authorization": f"Basic {pair}"}, ""
        # Not base64, though meant as such.
        yield {"Authorization": "Basic " + quote(f"{user}:{world.secrets[name]}", safe="")}, ""


def drive_refusals(world: World) -> None:
    """401, 403, 404, 405, 413, 415, 417 and 200 with every credential in every place."""
    statuses: set[int] = set()
    for fields, query in carriers(world):
        for method, path, more, body in (
            ("POST", SINGLE, {}, b"x"),
            ("POST", "/stations/-/produce/single", {}, b"x"),
            ("POST", "/stations/kept/consume/batch", {}, b'{"consumer_name":5}'),
            ("GET", "/users/ann", {}, b""),
            ("GET", "/nothing", {}, b""),
            ("PUT", SINGLE, {}, b"x"),
            ("POST", SINGLE, {}, b"x" * 20_001),
            ("POST", SINGLE, {"Content-Encoding": "br"}, b"x"),
            ("POST", SINGLE, {"Expect": "that"}, b"x"),
        ):
            data = build(path + query, body, method=method, headers={**fields, **more})
            statuses |= {response.status for response in world.send(path, data)}
    assert {200, 400, 401, 403, 404, 405, 413, 415, 417} <= statuses, statuses
    world.ask("POST", "/stations/shaped/produce/single?access_token=" + world.tokens[0], b"[]")
    signature = f"sha256={world.secrets['webhook signature']}"
    for body, status in ((b"x", 200), (b"y", 401)):
        fields = {"X_Hub_Signature_256": signature}
        got = world.ask("POST", "/stations/hooks/produce/single", body, **fields).status
        assert got == status
    for secret in ("wrong password", "admin password"):
        body = json.dumps({"username": "ann", "password": PLANNED[secret]}).encode()
        assert world.ask("POST", "/auth/authenticate", body).status == 401
    for token in (world.tokens[0], world.secrets["wrong token"]):
        body = json.dumps({"jwt_refresh_token": token}).encode()
        assert world.ask("POST", "/auth/refreshToken", body).status == 401
    again = world.admin("PUT", "/keys/consumer", {"permissions": ["consume"]})
    assert again.status == 200


def drive_broken_bodies(world: World) -> None:
    """Bodies that nobody can read, or whose fields are of a wrong type, with secrets inside."""
    password = json.dumps(PLANNED["other password"])
    bad = json.dumps(PLANNED["webhook secret"])
    refresh = json.dumps(world.tokens[1])
    bodies = {
        "/auth/authenticate": [
            f'{{"username":"root","password":{password}',
            f'{{"username":"root","password":[{password}]}}',
            f'{{"username":["root"],"password":{password}}}',
            f'{{"username":{password},"password":5}}',
            f'{{"username":"root","password":{password},"account_id":{password}}}',
            f'{{"username":"root","password":{password},"token_expiry_in_minutes":{password}}}',
            f'[{{"username":"root","password":{password}}}]',
            f"username=root&password={quote(PLANNED['other password'])}",
        ],
        "/auth/refreshToken": [
            f'{{"jwt_refresh_token":{refresh}',
            f'{{"jwt_refresh_token":[{refresh}]}}',
            f'{{"jwt_refresh_token":{refresh},"token_expiry_in_minutes":{refresh}}}',
        ],
        "/users/bob": [
            f'{{"password":{password}',
            f'{{"password":[{password}]}}',
            f'{{"password":{password},"permissions":["all"]}}',
            f'{{"password":{password},"stations":[""]}}',
            f'{{"password":{password},"passwort":1}}',
            f'{{"password":{json.dumps(PLANNED["other password"] * 100)}}}',
        ],
        "/stations/bad": [
            f'{{"verifier":{bad}}}',
            f'{{"verifier":{{"preset":"github","secrets":{bad}}}}}',
            f'{{"verifier":{{"preset":"github","secrets":[{bad}],"header":5}}}}',
            f'{{"verifier":{{"preset":"none","secrets":[{bad}]}}}}',
            f'{{"verifier":{{"preset":"hmac","secrets":[{bad}]}}}}',
            f'{{"verifier":{{"preset":"standard-webhooks","secrets":[{bad}]}}}}',
            f'{{"verifier":{{"preset":"github","secrets":[{bad}]}},"nothing":1}}',
            f'{{"verifier":{{"preset":"github","secrets":[{bad}]}}',
        ],
        "/keys/bad": [f'{{"key":{json.dumps(world.secrets["key consumer"])}}}'],
    }  # fmt: skip
    for target, texts in bodies.items():
        method = "POST" if target.startswith("/auth") else "PUT"
        for text in texts:
            fields = {"Authorization": f"Bearer {world.tokens[0]}"}
            response = world.ask(method, target, text.encode(), **fields)
            assert response.status in (400, 401), (target, text, response)
    rotate = world.admin("POST", "/secrets/rotate", {})
    assert rotate.status == 409, "configured secrets are not rotated here"


def drive_broken_heads(world: World) -> None:
    """Requests that are no HTTP, with credentials in all the wrong places."""
    token, key = world.tokens[0], world.secrets["key consumer"]
    for head in (
        f"Authorization: Bearer {token}\r\n\r\n",
        f"GET /?authorization={token} HTTP/2.0\r\nHost: a\r\n\r\n",
        f"GET /?access_token={token} \r\nHost: a\r\n\r\n",
        f"{key} / HTTP/1.1\r\nHost: a\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a/b\r\nX-API-Key: {key}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nX-API-Key : {key}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\n{key} x: {key}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\x01\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {key}\r\n\r\n",
        f"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nX-API-Key: {key}\r\n\r\n",
        f"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{key}\r\n",
        f"GET /{'a' * 9000}?authorization={token} HTTP/1.1\r\nHost: a\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token * 100}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}",
    ):
        for response in world.send("a broken head", head.encode("latin-1")):
            assert response.status >= 400, response


def drive_tls(world: World) -> None:
    """Requests over TLS, good ones and those that are no TLS."""
    told = json.loads((world.gateway.data / "gateway.json").read_bytes())
    parts = urlsplit(told["listeners"][1])
    assert parts.hostname and parts.port
    data = build("/nothing", b"", headers={"Authorization": f"Bearer {world.tokens[0]}"})
    address = (parts.hostname, parts.port)
    with create_connection(address, timeout=10) as plain:
        plain.sendall(data)
        plain.recv(100)
    context: ssl.SSLContext = world.authority.client()
    with (
        create_connection(address, timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        wrapped.sendall(data)
        reader, response = Reader(), None
        while response is None:
            reader.data += wrapped.recv(65_536)
            response = reader.next()
    assert response.status == 404
    world.answers.append(("over TLS", response))


def drive_broker_away(world: World) -> None:
    """The broker is killed and comes back, with requests all the while."""
    world.broker.kill()

    def answers(status: int) -> bool:
        found = {world.admin("POST", f"{SINGLE}?access_token={world.tokens[0]}", 1).status}
        found.add(world.admin("PUT", "/users/late", {"password": PLANNED["user password"]}).status)
        return status in found

    wait_until(lambda: answers(503), 15, "the broker is away")
    body = json.dumps({"username": "ann", "password": PLANNED["user password"]}).encode()
    assert len(world.gateway.exchange(build("/auth/authenticate", body))) == 1
    world.broker.start()
    wait_until(world.gateway.is_ready, 20, "the broker is back")
    wait_until(lambda: answers(200), 20, "service resumes")


def read_store(world: World) -> None:
    """Learn the hashes that the store holds: they are secrets of their own."""

    async def read(client: Client) -> list[bytes]:
        store = await client.jetstream().key_value("fastgw")
        values = [(await store.get(key)).value for key in await store.keys()]
        return [value for value in values if value]

    plain = f"nats://127.0.0.1:{world.broker.port}"
    values = with_broker(plain, world.broker.user, world.broker.password, read)
    hashes = 0
    for value in values:
        record = json.loads(value) if value.startswith(b"{") else {}
        for word in ("password_hash", "hash"):
            if isinstance(text := record.get(word), str):
                hashes += 1
                name = f"{word} of {record['name']}"
                world.secrets[name] = text.rpartition("$")[2]
        # Passwords and keys are never stored themselves.
        stored = {n: s for n, s in world.secrets.items() if "password" in n and "hash" not in n}
        stored |= {n: s for n, s in world.secrets.items() if n.startswith("key ")}
        assert find_leaks(value, stored) == []
    assert hashes >= 4, "root, ann, bob or late, and a key"


# --- where they must not stand --------------------------------------------------------------------


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
    "user add ann --generate", "key list", "key list --json", "key add consumer", "secret list",
    "secret list --json", "secret rotate", "station list", "station list --json",
    "station show hooks", "station show hooks --json", "schema list --json",
    "dead-letters list letters", "dead-letters show letters",
)  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS)
def test_command_shows_no_secret(world: World, words: str) -> None:
    where = ("--config", str(world.config), "--data", str(world.gateway.data))
    env = {"FASTGW_ADMIN_PASSWORD": PLANNED["admin password"]}
    done = run_fastgw(*words.split(), *where, env=env)
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
