"""Users, keys and secrets over HTTP: who may, what the bodies mean, and what no answer holds.

The control plane is a fake here; the real one behind the same routes is tested with a gateway.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from fastgw._core import ADMIN, CONSUME, PRODUCE, Principal
from fastgw.config_types import AuthConfig
from fastgw.control.secrets import Secrets
from fastgw.control.station_config import policy_fields
from fastgw.control.users import UserRecord
from fastgw.errors import ClientFault
from fastgw.handlers.admin_access import AdminAccess
from fastgw.handlers.admin_access_body import UserBody
from fastgw.handlers.admin_body import VerifierBody, parse_station
from fastgw.handlers.routes import QUERY_FIELDS_MAX, Routes, read_query
from fastgw.senders.signatures import VerifierConfig
from tests.unit.handler_fakes import FakeRequest

if TYPE_CHECKING:
    from collections.abc import Callable

HASH = "scrypt$of-the-tests"
KEY_HASH = "ab" * 32
SECRETS = [f"configured-secret-of-the-tests-{number}" for number in range(3)]
BOSS = Principal("boss", 1, ADMIN)


def user(name: str, **fields: Any) -> UserRecord:
    plain: dict[str, Any] = {"password_hash": HASH, "permissions": ["produce"], "created_at": 7.5}
    return UserRecord(name=name, **plain | fields)


def key(name: str, **fields: Any) -> Any:
    plain: dict[str, Any] = {
        "hash": KEY_HASH,
        "permissions": ["produce"],
        "stations": ["*"],
        "origins": [],
        "expires_at": None,
        "disabled": False,
        "created_at": 7.5,
    }
    return SimpleNamespace(name=name, **plain | fields)


@dataclass
class Plane:
    """Stands for users, keys and secrets; it remembers what it was asked."""

    records: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    make: Callable[..., Any] = user

    def find(self, name: str) -> Any:
        return self.records.get(name)

    async def change(self, name: str, **fields: Any) -> Any:
        self.calls.append(("change", name, fields))
        return self.records[name]

    async def set_disabled(self, name: str, disabled: bool) -> None:
        self.calls.append(("set_disabled", name, disabled))
        self.records[name].disabled = disabled

    async def remove(self, name: str) -> None:
        self.calls.append(("remove", name))


class Users(Plane):
    async def add(self, name: str, password: str, permissions: Any, **fields: Any) -> Any:
        self.calls.append(("add", name, password, permissions, fields))
        return user(name)


class Keys(Plane):
    async def add(self, name: str, permissions: Any, **fields: Any) -> Any:
        self.calls.append(("add", name, permissions, fields))
        return key(name), "fgw_text"


@dataclass
class Door:
    """The routes, as the gateway asks them."""

    users: Users = field(default_factory=Users)
    keys: Keys = field(default_factory=Keys)
    principal: Principal | None = BOSS

    def __post_init__(self) -> None:
        one, other, old = SECRETS
        auth = AuthConfig(jwt_secret=one, refresh_jwt_secret=other, jwt_secrets_old=[old])
        planes: Any = (self.users, self.keys, Secrets(None, auth))
        self.routes = Routes(AdminAccess(*planes).routes())

    def ask(self, method: str, path: str, body: Any = b"") -> tuple[int, Any, dict[bytes, bytes]]:
        request = FakeRequest(
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
            method=method,
            path=path,
            principal=self.principal,
        )
        try:
            asyncio.run(_finish(self.routes.match(path)[method](request)))
        except ClientFault as fault:
            return fault.kind.status, fault.text, {}
        for hidden in (HASH, KEY_HASH, *SECRETS):
            assert hidden not in str(request.answer)
        return request.answer


async def _finish(work: Any) -> None:
    await work


ALL = [
    ("GET", "/users"),
    ("GET", "/users/ada"),
    ("PUT", "/users/ada"),
    ("DELETE", "/users/ada"),
    ("GET", "/keys"),
    ("GET", "/keys/web"),
    ("PUT", "/keys/web"),
    ("DELETE", "/keys/web"),
    ("GET", "/secrets"),
    ("POST", "/secrets/rotate"),
    ("DELETE", "/secrets/k1"),
]


@pytest.mark.parametrize(("method", "path"), ALL)
def test_access_only_for_an_administrator_of_all_stations(method: str, path: str) -> None:
    for principal, status in (
        (None, 401),
        (Principal("ada", 1, PRODUCE | CONSUME), 403),
        (Principal("ada", 1, ADMIN, ("a.*", "b")), 403),
        (Principal("ada", 1, PRODUCE | CONSUME, ("*",)), 403),
    ):
        door = Door(principal=principal)
        got, text, _ = door.ask(method, path, b"{ no JSON")
        assert (got, text) == (
            status,
            "no valid credential" if status == 401 else "ada may not administer all stations",
        )
        assert door.users.calls == door.keys.calls == []


def test_access_routes_by_path_and_method() -> None:
    routes = Door().routes
    found: dict[str, set[str]] = {}
    for method, path in ALL:
        found.setdefault(path, set()).add(method)
    for path, methods in found.items():
        assert methods <= set(routes.match(path))
    for path in ("/users/", "/users/a/b", "/keys//", "/secrets/k/x", "/secret", "/"):
        assert routes.match(path) == {}


def test_query_with_too_many_fields_refused() -> None:
    good = b"&".join(b"a=%d" % number for number in range(QUERY_FIELDS_MAX))
    assert read_query(FakeRequest(query=good)) == {"a": str(QUERY_FIELDS_MAX - 1)}
    with pytest.raises(ClientFault, match="more than 50 fields"):
        read_query(FakeRequest(query=good + b"&a=1"))


# --- users ----------------------------------------------------------------------------------------


def test_users_listed_and_shown_without_hash() -> None:
    door = Door(Users({"bob": user("bob"), "ada": user("ada", disabled=True, stations=["a.*"])}))
    status, listed, _ = door.ask("GET", "/users")
    assert (status, [one["name"] for one in listed]) == (200, ["ada", "bob"])
    assert door.ask("GET", "/users/ada")[1] == {
        "name": "ada",
        "permissions": ["produce"],
        "stations": ["a.*"],
        "disabled": True,
        "created_at": 7.5,
    }
    assert door.ask("GET", "/users/eve")[:2] == (404, "there is no user eve")


def test_user_put_new_takes_a_password_and_defaults() -> None:
    door = Door()
    assert door.ask("PUT", "/users/ada", {"password": "x"})[0] == 201
    everything = {"password": "y", "permissions": ["admin"], "stations": ["a"], "disabled": True}
    assert door.ask("PUT", "/users/bob", {"name": "bob"} | everything)[0] == 201
    assert door.users.calls == [
        ("add", "ada", "x", ("produce", "consume"), {}),
        ("add", "bob", "y", ["admin"], {"stations": ["a"], "disabled": True}),
    ]
    status, text, _ = door.ask("PUT", "/users/eve", {"permissions": ["admin"]})
    assert (status, text) == (400, "password: a new user's password is required")


def test_user_put_known_changes_what_is_named_at_once() -> None:
    door = Door(Users({"ada": user("ada")}))
    assert door.ask("PUT", "/users/ada")[0] == 200
    assert door.ask("PUT", "/users/ada", {"disabled": False, "stations": []})[0] == 200
    assert door.users.calls == [
        ("change", "ada", {}),
        ("change", "ada", {"disabled": False, "stations": []}),
    ]


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/users/ada", {"pasword": "hidden"}, "pasword: there is no such field"),
        ("/users/ada", {"password": 5}, "password: expected string, got integer"),
        ("/users/ada", {"password": None}, "password: expected string, got null"),
        ("/users/ada", {"permissions": "admin"}, "permissions: expected array, got string"),
        ("/users/ada", {"name": "bob"}, "the body names bob where the path names ada"),
        ("/users/ada", {"password_hash": HASH}, "password_hash: there is no such field"),
        ("/users/ada", {"epoch": 1}, "epoch: there is no such field"),
        ("/users/ada", [1], "Request body: expected object, got array"),
        ("/users/ada", b"{", "Request body is not a valid JSON object"),
        ("/keys/web", {"hash": "x"}, "hash: there is no such field"),
        ("/keys/web", {"key": "fgw_x"}, "key: there is no such field"),
        ("/keys/web", {"disabled": "no"}, "disabled: expected boolean, got string"),
        ("/keys/web", {"disabled": True}, "disabled: a new key is enabled; disable it later"),
        ("/keys/web", {"name": "other"}, "the body names other where the path names web"),
        ("/keys/web", {"expires_at": "soon"}, "expires_at: expected fractional number"),
    ],
)
def test_body_that_cannot_be_is_refused_by_the_field(path: str, body: Any, text: str) -> None:
    door = Door()
    status, told, _ = door.ask("PUT", path, body)
    assert status == 400
    assert text in told
    assert "hidden" not in told
    assert door.users.calls == door.keys.calls == []


def test_user_body_hides_its_password() -> None:
    assert "secret-word" not in repr(UserBody(name="ada", password="secret-word"))


def test_user_and_key_deleted() -> None:
    door = Door()
    assert door.ask("DELETE", "/users/ada")[:2] == (200, {"name": "ada", "removed": True})
    assert door.ask("DELETE", "/keys/web")[:2] == (200, {"name": "web", "removed": True})
    assert (door.users.calls, door.keys.calls) == ([("remove", "ada")], [("remove", "web")])


# --- keys -----------------------------------------------------------------------------------------


def test_key_put_new_shows_its_text_once_and_is_not_cached() -> None:
    door = Door()
    status, made, headers = door.ask("PUT", "/keys/web")
    assert (status, made["key"], made["permissions"]) == (201, "fgw_text", ["produce"])
    assert headers == {b"Cache-Control": b"no-store"}
    later = time.time() + 60
    body = {
        "permissions": ["consume"],
        "stations": ["a.*"],
        "origins": [],
        "expires_at": later,
        "disabled": False,
    }
    assert door.ask("PUT", "/keys/two", body)[0] == 201
    del body["disabled"], body["permissions"]
    assert door.keys.calls == [
        ("add", "web", ("produce",), {}),
        ("add", "two", ["consume"], body),
    ]


def test_key_known_changes_disabled_only_and_shows_no_text() -> None:
    door = Door(keys=Keys({"web": key("web", stations=["a", "b"])}))
    status, shown, headers = door.ask("PUT", "/keys/web", {"disabled": True})
    assert (status, shown["disabled"], "key" in shown, headers) == (200, True, False, {})
    same = {"stations": ["b", "a"], "permissions": ["produce"], "expires_at": None}
    assert door.ask("PUT", "/keys/web", same)[0] == 200
    assert door.keys.calls == [("set_disabled", "web", True)]
    for body in (
        {"stations": ["*"]},
        {"permissions": ["admin"], "disabled": False},
        {"origins": ["https://a.example"]},
        {"expires_at": 5},
    ):
        status, text, _ = door.ask("PUT", "/keys/web", body)
        assert status == 409
        assert text.startswith(f"{next(iter(body))}: the key web is there, and only disabled")
    assert len(door.keys.calls) == 1


def test_keys_listed_and_shown_without_hash() -> None:
    keys = {"web": key("web"), "old": key("old", expires_at=5.0)}
    door = Door(keys=Keys(keys))
    status, listed, headers = door.ask("GET", "/keys")
    assert (status, [one["name"] for one in listed], headers) == (200, ["old", "web"], {})
    assert [one["expired"] for one in listed] == [True, False]
    assert door.ask("GET", "/keys/web")[1] == {
        "name": "web",
        "permissions": ["produce"],
        "stations": ["*"],
        "origins": [],
        "expires_at": None,
        "expired": False,
        "disabled": False,
        "created_at": 7.5,
    }
    assert door.ask("GET", "/keys/none")[:2] == (404, "there is no key none")


# --- secrets --------------------------------------------------------------------------------------


def test_secrets_listed_without_them() -> None:
    status, listed, _ = Door().ask("GET", "/secrets")
    assert status == 200
    assert [(one["use"], one["state"]) for one in listed] == [
        ("access", "signing"),
        ("access", "verifying"),
        ("refresh", "signing"),
    ]
    assert len({one.pop("kid") for one in listed}) == 3
    assert listed[0] == {
        "use": "access",
        "algorithm": "HS256",
        "created_at": None,
        "state": "signing",
        "configured": True,
    }


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 409, "the secret of access tokens is configured as auth.jwt_secret"),
        ({"use": "refresh"}, 409, "configured as auth.refresh_jwt_secret"),
        ({"use": "x"}, 400, "uses are access, refresh; got x"),
        ({"algorithm": "none"}, 400, "algorithms are HS256, HS384, HS512, EdDSA; got none"),
        ({"secret": "x"}, 400, "secret: there is no such field"),
        ({"use": 1}, 400, "use: expected string, got integer"),
    ],
)
def test_secret_rotation_that_cannot_be_refused(body: Any, status: int, text: str) -> None:
    got, told, _ = Door().ask("POST", "/secrets/rotate", body)
    assert got == status
    assert text in told


def test_secret_that_is_configured_or_unknown_is_not_removed() -> None:
    door = Door()
    for one in door.ask("GET", "/secrets")[1]:
        assert door.ask("DELETE", f"/secrets/{one['kid']}")[0] == 409
    assert door.ask("DELETE", "/secrets/k1")[:2] == (404, "there is no signing secret k1")


# --- a station's verifier -------------------------------------------------------------------------


def test_verifier_of_a_station_is_taken_left_or_taken_away() -> None:
    body = b'{"verifier":{"preset":"stripe","secrets":["hidden"],"tolerance_s":9}}'
    _, settings = parse_station(body, "st")
    verifier = VerifierConfig(preset="stripe", secrets=["hidden"], tolerance_s=9)
    assert type(settings["verifier"]) is VerifierConfig
    assert settings == {"verifier": verifier}
    assert parse_station(b'{"verifier":null}', "st")[1] == {"verifier": None}
    assert parse_station(b"{}", "st")[1] == {}


def test_verifier_body_has_the_fields_of_the_record_and_hides_its_secrets() -> None:
    assert VerifierBody.__struct_fields__ == VerifierConfig.__struct_fields__
    assert "hidden" not in repr(VerifierBody(preset="stripe", secrets=["hidden"]))


@pytest.mark.parametrize(
    ("verifier", "text"),
    [
        ({"preset": "stripe", "secrets": ["hidden"], "frob": 1}, "frob: there is no such field"),
        ({"preset": "nobody", "secrets": ["hidden"]}, "preset is one of standard-webhooks, svix"),
        ({"secrets": ["hidden"]}, "preset is one of standard-webhooks, svix"),
        (
            {"preset": "hmac", "secrets": ["hidden"], "header": "X", "signed": "all"},
            "signed is one of body, ts.body, id.ts.body; got all",
        ),
        ({"preset": "stripe", "secrets": "hidden"}, "verifier.secrets: expected array, got string"),
        ({"preset": "stripe", "secrets": 2}, "verifier.secrets: expected array, got integer"),
        ({"preset": "stripe"}, "secrets are 1 to 8; got 0"),
        ({"preset": "stripe", "secrets": ["hidden"], "tolerance_s": 1.5}, "verifier.tolerance_s"),
        ("stripe", "verifier: expected object, got string"),
    ],
)
def test_verifier_that_cannot_be_is_refused_by_the_field(verifier: Any, text: str) -> None:
    body = json.dumps({"verifier": verifier}).encode()
    with pytest.raises(ClientFault) as raised:
        policy_fields(parse_station(body, "st")[1])
    assert raised.value.kind.status == 400
    assert text in raised.value.text
    assert "hidden" not in raised.value.text
