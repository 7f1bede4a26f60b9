"""A gateway that known secrets went into by every way, and everything that it answered.

What enters: an empty folder. What leaves: a `World`: a running gateway with a broker of its own,
TLS, a configuration file and debug logs, which went through every kind of error with real
credentials in its requests; with all its secrets by name, and its answers.
Called by `test_secrets_nowhere`. It keeps no answer that must show a secret once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
from contextlib import contextmanager
from dataclasses import dataclass, field
from socket import create_connection
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from tests.integration.brokers import CHANGE_S_MAX
from tests.integration.certificates import Authority
from tests.integration.leaks import find_leaks
from tests.wire.gateway import ADMIN, Broker, Gateway, free_port, wait_until, with_broker
from tests.wire.raw_http import Reader, Response, build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nats.aio.client import Client

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
        login = {"username": name, "password": password}
        found: list[Response] = []

        def is_known() -> bool:
            found[:] = [self.gateway.authenticate(login)]
            return found[0].status == 200

        # WHY not once: either worker may answer, and hears of a new user when its time comes.
        wait_until(is_known, CHANGE_S_MAX, name)
        told = found[0].json()
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


@contextmanager
def driven(folder: Path) -> Iterator[World]:
    """Run a gateway that went through everything below; its log is searched as it stops."""
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
