"""Users, API keys and signing secrets over HTTP on a real gateway, and how soon a change holds."""

from __future__ import annotations

import hashlib
import hmac
import json
import shlex
import time
from typing import TYPE_CHECKING, Any

import pytest

from fastgw import _core
from fastgw.config_types import AuthConfig
from fastgw.control.secrets import Secrets
from fastgw.control.store import Store
from fastgw.handlers.admin_access import AdminAccess
from fastgw.handlers.routes import Routes
from tests.integration.brokers import Broker, broker, control
from tests.unit.handler_fakes import FakeRequest
from tests.wire.gateway import ADMIN, CHANGE_S_MAX, Gateway, run_fastgw, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.wire.raw_http import Response

__all__ = ["broker"]

SECRET = "the-password-of-a-user-1"
HOOK_SECRET = "a-secret-of-the-sender-1"
# The promise is a second; a busy machine gets five, and without the watch it would be for ever.

ROTATION_S_MAX = 15.0
"""LIMIT: a new secret signs five seconds after it was made."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("access") / "data") as running:
        yield running
    for hidden in (SECRET, HOOK_SECRET, "fgw_"):
        assert hidden not in running.log_text()


def ask(
    gateway: Gateway, method: str, path: str, body: Any = None, token: str | None = None
) -> Response:
    raw = b"" if body is None else json.dumps(body).encode()
    headers = gateway.auth() if token is None else {"Authorization": f"Bearer {token}"}
    return gateway.ask(path, raw, headers=headers, method=method)


def answer(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    response = ask(gateway, method, path, body)
    return response.status, response.json()


def produce(gateway: Gateway, token: str, station: str, **headers: str) -> int:
    told = {"Authorization": f"Bearer {token}"} | headers
    return gateway.ask(f"/stations/{station}/produce/single", b"x", headers=told).status


def logs_in(gateway: Gateway, name: str) -> None:
    """Wait until a new user is known to the gateway."""
    login = {"username": name, "password": SECRET}
    wait_until(lambda: gateway.authenticate(login).status == 200, CHANGE_S_MAX, name)


def holds_soon(condition: Callable[[], bool], what: str) -> None:
    """Wait for a change to hold; fail when it takes longer than promised."""
    started = time.monotonic()
    wait_until(condition, CHANGE_S_MAX, what)
    assert time.monotonic() - started < CHANGE_S_MAX


# --- users ----------------------------------------------------------------------------------------


def test_user_is_made_changed_and_removed(gateway: Gateway) -> None:
    path = "/users/ada@example.org"
    body = {"password": SECRET, "permissions": ["produce"], "stations": ["ada.*"]}
    status, made = answer(gateway, "PUT", path, body)
    assert status == 201, made
    assert sorted(made) == ["created_at", "disabled", "name", "permissions", "stations"]
    assert answer(gateway, "GET", path) == (200, made)
    assert made in answer(gateway, "GET", "/users")[1]
    token = gateway.token("ada@example.org", SECRET)
    assert produce(gateway, token, "ada.x") == 200
    assert produce(gateway, token, "other") == 403
    status, changed = answer(gateway, "PUT", path, {"stations": ["other"]})
    assert (status, changed["permissions"], changed["stations"]) == (200, ["produce"], ["other"])
    holds_soon(lambda: produce(gateway, token, "ada.x") == 401, "401 for the old token")
    login = {"username": "ada@example.org", "password": SECRET}
    token = gateway.authenticate(login).json()["jwt"]
    assert produce(gateway, token, "other") == 200
    assert answer(gateway, "PUT", path, {"disabled": True})[1]["disabled"] is True
    holds_soon(lambda: produce(gateway, token, "other") == 401, "401 for a disabled user")
    assert gateway.authenticate(login).status == 401
    removed = answer(gateway, "DELETE", path)
    assert removed == (200, {"name": "ada@example.org", "removed": True})
    assert answer(gateway, "GET", path)[0] == answer(gateway, "DELETE", path)[0] == 404


def test_user_whose_name_is_escaped_in_the_path(gateway: Gateway) -> None:
    status, made = answer(gateway, "PUT", "/users/a%20b%C3%A9", {"password": SECRET})
    assert (status, made["name"], made["permissions"]) == (201, "a bé", ["produce", "consume"])
    assert answer(gateway, "DELETE", "/users/a%20b%C3%A9")[0] == 200
    status, refused = answer(gateway, "PUT", "/users/a:b", {"password": SECRET})
    assert (status, refused["success"]) == (400, False)
    assert refused["error"].startswith("the user name a:b has")


def test_access_is_for_administrators_of_all_stations(gateway: Gateway) -> None:
    people = {
        "plain": {"permissions": ["produce", "consume"]},
        "scoped": {"permissions": ["admin"], "stations": ["a.*"]},
    }
    for name, fields in people.items():
        assert ask(gateway, "PUT", f"/users/{name}", {"password": SECRET} | fields).status == 201
        logs_in(gateway, name)
    for method, path in (
        ("GET", "/users"),
        ("PUT", "/users/plain"),
        ("DELETE", "/users/root"),
        ("GET", "/keys"),
        ("PUT", "/keys/mine"),
        ("GET", "/secrets"),
        ("POST", "/secrets/rotate"),
    ):
        for name in people:
            refused = ask(gateway, method, path, token=gateway.token(name, SECRET))
            assert refused.status == 403
            assert refused.header("error-code") == "forbidden"
        assert gateway.ask(path, b"", method=method).status == 401
    assert ask(gateway, "POST", "/users").header("allow") is not None
    assert ask(gateway, "POST", "/users").status == 405
    assert answer(gateway, "GET", "/keys") == (200, [])


def test_last_administrator_is_not_locked_out(gateway: Gateway) -> None:
    for method, body in (
        ("DELETE", None),
        ("PUT", {"disabled": True}),
        ("PUT", {"permissions": ["produce"]}),
        ("PUT", {"stations": ["a"]}),
    ):
        status, refused = answer(gateway, method, f"/users/{ADMIN}", body)
        assert status == 409
        assert refused["error"].startswith(f"{ADMIN} is the last user that may administer all")
    done = run_fastgw("user", "rm", ADMIN, "--data", str(gateway.data))
    assert (done.returncode, "is the last user" in done.stderr) == (1, True)
    assert answer(gateway, "GET", "/users")[0] == 200, "the token still counts"


# --- keys -----------------------------------------------------------------------------------------


def test_key_is_told_once_used_and_revoked(gateway: Gateway) -> None:
    body = {"stations": ["shop.*"], "expires_at": time.time() + 3600}
    made = ask(gateway, "PUT", "/keys/web", body)
    assert made.status == 201
    assert made.header("cache-control") == "no-store"
    text = made.json()["key"]
    assert text.startswith("fgw_")
    again = ask(gateway, "PUT", "/keys/web")
    assert again.status == 200
    assert "key" not in again.json()
    assert answer(gateway, "GET", "/keys/web") == (200, again.json())
    assert text not in str(answer(gateway, "GET", "/keys"))
    assert produce(gateway, text, "shop.eu") == 200
    assert produce(gateway, text, "other") == 403
    assert (
        gateway.ask("/stations/shop.eu/produce/single", b"x", headers={"X-API-Key": text}).status
        == 200
    )
    status, refused = answer(gateway, "PUT", "/keys/web", {"stations": ["*"]})
    assert (status, refused["error"].startswith("stations: the key web is there")) == (409, True)
    assert answer(gateway, "PUT", "/keys/web", {"disabled": True})[1]["disabled"] is True
    holds_soon(lambda: produce(gateway, text, "shop.eu") == 401, "401 for a disabled key")
    assert answer(gateway, "PUT", "/keys/web", {"disabled": False})[0] == 200
    holds_soon(lambda: produce(gateway, text, "shop.eu") == 200, "the key again")
    assert answer(gateway, "DELETE", "/keys/web") == (200, {"name": "web", "removed": True})
    holds_soon(lambda: produce(gateway, text, "shop.eu") == 401, "401 for a removed key")
    assert answer(gateway, "DELETE", "/keys/web")[0] == 404


def test_key_made_on_the_command_line_counts_here(gateway: Gateway) -> None:
    words = ("key", "add", "cli", "--origin", "https://shop.example", "--json")
    done = run_fastgw(*words, "--data", str(gateway.data))
    assert done.returncode == 0, done.stderr
    text = json.loads(done.stdout)["key"]
    page = {"Origin": "https://shop.example"}
    wait_until(lambda: produce(gateway, text, "st", **page) == 200, CHANGE_S_MAX, "the key")
    assert produce(gateway, text, "st", Origin="https://other.example") in (401, 403)
    scope = ("--station", "shop.*", "--data", str(gateway.data))
    shown = run_fastgw("key", "add", "try", *scope).stdout.splitlines()
    line = shlex.split(shown[-1].removeprefix("Try it: "))
    assert line[:2] == ["curl", f"{gateway.url}/stations/shop.hello/produce/single"]
    said = line[3].removeprefix("Authorization: Bearer ")
    wait_until(lambda: produce(gateway, said, "shop.hello") == 200, CHANGE_S_MAX, "the line")
    for name in ("cli", "try"):
        assert run_fastgw("key", "rm", name, "--data", str(gateway.data)).returncode == 0
    holds_soon(lambda: produce(gateway, text, "st", **page) == 401, "401 for a removed key")


def test_key_with_admin_administers_and_without_does_not(gateway: Gateway) -> None:
    chief = ask(gateway, "PUT", "/keys/chief", {"permissions": ["admin"]}).json()["key"]
    small = ask(gateway, "PUT", "/keys/small").json()["key"]
    assert ask(gateway, "GET", "/users", token=chief).status == 200
    assert ask(gateway, "GET", "/users", token=small).status == 403
    assert ask(gateway, "DELETE", "/keys/small", token=chief).status == 200
    assert ask(gateway, "DELETE", "/keys/chief", token=chief).status == 200


# --- secrets --------------------------------------------------------------------------------------


def secrets(gateway: Gateway, use: str) -> list[dict[str, Any]]:
    status, listed = answer(gateway, "GET", "/secrets")
    assert status == 200
    return [one for one in listed if one["use"] == use]


def test_secret_is_rotated_without_logging_anyone_out(gateway: Gateway) -> None:
    old = gateway.token()
    (before,) = secrets(gateway, "access")
    made = ask(gateway, "POST", "/secrets/rotate", {"use": "access", "algorithm": "HS512"})
    assert made.status == 201
    (new,) = made.json()
    assert sorted(new) == ["algorithm", "configured", "created_at", "kid", "state", "use"]
    assert (new["algorithm"], new["state"], new["configured"]) == ("HS512", "waiting", False)
    assert [one["state"] for one in secrets(gateway, "access")] == ["signing", "waiting"]
    wait_until(
        lambda: [one["state"] for one in secrets(gateway, "access")] == ["verifying", "signing"],
        ROTATION_S_MAX,
        "the new secret signs",
    )
    assert produce(gateway, old, "st") == 200, "the token of before still counts"
    gateway._tokens.clear()
    assert produce(gateway, gateway.token(), "st") == 200
    removed = answer(gateway, "DELETE", f"/secrets/{before['kid']}")
    assert removed == (200, {"kid": before["kid"], "removed": True})
    holds_soon(lambda: produce(gateway, old, "st") == 401, "401 for the removed secret's token")
    assert produce(gateway, gateway.token(), "st") == 200
    status, refused = answer(gateway, "DELETE", f"/secrets/{new['kid']}")
    assert status == 409
    assert "the last secret of access tokens" in refused["error"]
    assert answer(gateway, "DELETE", "/secrets/none")[0] == 404
    assert answer(gateway, "POST", "/secrets/rotate", {"algorithm": "none"})[0] == 400


async def test_secret_routes_show_what_becomes_of_a_secret(broker: Broker) -> None:
    """The same in this process, with a clock of its own."""
    now = [time.time()]
    async with control(broker.config()) as client:
        store = await Store.open(client, 1)
        secrets = Secrets(store, AuthConfig(), clock=lambda: now[0])
        await secrets.start()
        none: Any = None
        routes = Routes(AdminAccess(none, none, secrets).routes())

        async def send(method: str, path: str) -> tuple[int, Any]:
            boss = _core.Principal("boss", 1, _core.ADMIN)
            request = FakeRequest(method=method, path=path, principal=boss)
            await routes.match(path)[method](request)
            return request.answer[:2]

        status, made = await send("POST", "/secrets/rotate")
        assert (status, [one["use"] for one in made]) == (201, ["access", "refresh"])
        assert [one["state"] for one in made] == ["waiting", "waiting"]
        now[0] += 60
        _, listed = await send("GET", "/secrets")
        assert [one["state"] for one in listed] == ["verifying", "signing"] * 2
        kid = listed[0]["kid"]
        assert await send("DELETE", f"/secrets/{kid}") == (200, {"kid": kid, "removed": True})
        assert len((await send("GET", "/secrets"))[1]) == 3
        await store.close()


# --- webhooks -------------------------------------------------------------------------------------


def test_webhook_of_a_station_is_set_used_and_never_shown(gateway: Gateway) -> None:
    verifier = {"preset": "github", "secrets": [HOOK_SECRET, "the-next-one"]}
    status, made = answer(gateway, "PUT", "/stations/hooks", {"verifier": verifier})
    assert (status, made["verifier"]) == (201, {"preset": "github", "secrets": 2})
    for path in ("/stations/hooks", "/stations", "/stations?state=true"):
        status, shown = answer(gateway, "GET", path)
        one = shown if isinstance(shown, dict) else next(s for s in shown if s["name"] == "hooks")
        assert (status, one["verifier"]) == (200, made["verifier"])
        assert HOOK_SECRET not in str(shown)
    digest = hmac.new(HOOK_SECRET.encode(), b"x", hashlib.sha256).hexdigest()

    def send(signature: str) -> int:
        headers = {"X-Hub-Signature-256": f"sha256={signature}"}
        return gateway.ask("/stations/hooks/produce/single", b"x", headers=headers).status

    holds_soon(lambda: send(digest) == 200, "the signature")
    assert send("0" * 64) == 401
    assert gateway.ask("/stations/hooks/produce/single", b"x").status == 401
    status, changed = answer(gateway, "PUT", "/stations/hooks", {"verifier": None})
    assert (status, changed["verifier"]) == (200, None)
    holds_soon(lambda: send(digest) == 401, "401 without a verifier")
    status, refused = answer(
        gateway, "PUT", "/stations/hooks", {"verifier": {"preset": "hmac", "secrets": ["x"]}}
    )
    assert status == 400
    assert refused["error"].startswith("verifier: header is required")
