"""Credentials over the wire: tokens issued, refreshed, and refused; every form of section 3."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from tests.wire.gateway import ADMIN, PASSWORD

if TYPE_CHECKING:
    from tests.wire.gateway import Gateway
    from tests.wire.raw_http import Response

FIELDS = ["expires_in", "jwt", "jwt_refresh_token", "refresh_token_expires_in"]
UNAUTHORIZED = b'{"message":"Unauthorized"}'
GOOD: dict[str, object] = {"username": ADMIN, "password": PASSWORD}


def refresh(gateway: Gateway, body: dict[str, object]) -> Response:
    return gateway.ask("/auth/refreshToken", json.dumps(body).encode())


def produce(gateway: Gateway, station: str, query: str = "", **headers: str) -> Response:
    return gateway.ask(f"/stations/{station}/produce/single{query}", b"x", headers=headers)


def claims_of(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


def test_authenticate_good_answers_exactly_four_fields(gateway: Gateway) -> None:
    response = gateway.authenticate(GOOD)
    assert response.status == 200
    assert response.header("content-type") == "application/json"
    answer = response.json()
    assert list(answer) == FIELDS
    assert response.body == json.dumps(answer, separators=(",", ":")).encode()
    assert answer["expires_in"] == 15 * 60_000
    assert answer["refresh_token_expires_in"] == 300 * 60_000


def test_authenticate_token_carries_no_password(gateway: Gateway) -> None:
    answer = gateway.authenticate(GOOD).json()
    for name, use in (("jwt", "a"), ("jwt_refresh_token", "r")):
        claims = claims_of(answer[name])
        assert claims["sub"] == ADMIN
        assert claims["acc"] == 1
        assert claims["use"] == use
        assert {"exp", "iat", "jti"} <= set(claims)
        assert PASSWORD not in json.dumps(claims)
    assert abs(claims_of(answer["jwt"])["exp"] - time.time() - 900) < 30


@pytest.mark.parametrize("minutes", [1, 60, 525600, 10000092, 525600000])
def test_authenticate_expiries_are_durations_in_ms(gateway: Gateway, minutes: int) -> None:
    asked = GOOD | {
        "token_expiry_in_minutes": minutes,
        "refresh_token_expiry_in_minutes": minutes + 1,
    }
    answer = gateway.authenticate(asked).json()
    assert answer["expires_in"] == minutes * 60_000
    assert answer["refresh_token_expires_in"] == (minutes + 1) * 60_000
    assert produce(gateway, "auth", Authorization=f"Bearer {answer['jwt']}").status == 200


@pytest.mark.parametrize("account", [1, "1", None, 0, ""])
def test_authenticate_account_id_number_or_digits(gateway: Gateway, account: object) -> None:
    assert gateway.authenticate(GOOD | {"account_id": account}).status == 200


def test_authenticate_account_in_query_or_username(gateway: Gateway) -> None:
    body = json.dumps(GOOD).encode()
    assert gateway.ask("/auth/authenticate?accountId=1", body).status == 200
    assert gateway.ask("/auth/authenticate?accountId=2", body).status == 401
    assert gateway.ask("/auth/authenticate?accountId=x", body).status == 400
    assert gateway.authenticate(GOOD | {"username": f"{ADMIN}$1"}).status == 200
    assert gateway.authenticate(GOOD | {"username": f"{ADMIN}$2"}).status == 401
    assert gateway.authenticate(GOOD | {"account_id": 2}).status == 401


@pytest.mark.parametrize(
    "body",
    [
        {"username": ADMIN, "password": "wrong"},
        {"username": ADMIN, "password": ""},
        {"username": ADMIN},
        {"username": "nobody", "password": PASSWORD},
        {"username": "no\r\nbody *>.$", "password": PASSWORD},
        {"username": "ü" * 5000, "password": "p" * 5000},
    ],
)
def test_authenticate_wrong_is_401(gateway: Gateway, body: dict[str, object]) -> None:
    response = gateway.authenticate(body)
    assert (response.status, response.body) == (401, UNAUTHORIZED)
    assert response.header("error-code") == "unauthorized"
    assert response.header("www-authenticate")


@pytest.mark.parametrize("body", [b"{}", b'{"username":""}', b'{"username":null,"password":"p"}'])
def test_authenticate_without_username_names_the_field(gateway: Gateway, body: bytes) -> None:
    response = gateway.ask("/auth/authenticate", body)
    assert response.status == 400
    assert response.body == b'{"message":[{"field":"Username","reason":"required"}]}'


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", 5),
        ("password", ["x"]),
        ("account_id", True),
        ("account_id", 1.5),
        ("account_id", "one"),
        ("account_id", -1),
        ("token_expiry_in_minutes", "15"),
        ("token_expiry_in_minutes", -1),
        ("token_expiry_in_minutes", 10**30),
        ("refresh_token_expiry_in_minutes", {}),
        ("refresh_token_expiry_in_minutes", 1.5),
    ],
)
def test_authenticate_wrong_type_names_the_field(
    gateway: Gateway, field: str, value: object
) -> None:
    response = gateway.authenticate(GOOD | {field: value})
    assert response.status == 400
    assert list(response.json()) == ["message"]
    assert field in response.json()["message"]
    assert PASSWORD not in response.body.decode()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"username":"\xff"}', b"[" * 60_000,
     b'{"x":' * 12_000, b'{"username":"root"} x'],
)  # fmt: skip
def test_authenticate_malformed_body_is_400(gateway: Gateway, body: bytes) -> None:
    response = gateway.ask("/auth/authenticate", body)
    assert response.status == 400
    assert isinstance(response.json()["message"], str)


def test_refresh_gives_a_new_pair_and_keeps_the_old(gateway: Gateway) -> None:
    first = gateway.authenticate(GOOD).json()
    asked: dict[str, object] = {
        "jwt_refresh_token": first["jwt_refresh_token"],
        "token_expiry_in_minutes": 60,
        "refresh_token_expiry_in_minutes": 1440,
    }
    second = refresh(gateway, asked)
    assert second.status == 200
    assert list(second.json()) == FIELDS
    assert second.json()["expires_in"] == 3_600_000
    assert second.json()["refresh_token_expires_in"] == 86_400_000
    assert second.json()["jwt"] != first["jwt"]
    for token in (first["jwt"], second.json()["jwt"]):
        assert produce(gateway, "auth", Authorization=f"Bearer {token}").status == 200
    assert refresh(gateway, asked).status == 200


@pytest.mark.parametrize("path", ["/auth/refreshtoken", "/AUTH/REFRESHTOKEN", "/auth/refreshToken"])
def test_refresh_path_is_compared_without_case(gateway: Gateway, path: str) -> None:
    token = gateway.authenticate(GOOD).json()["jwt_refresh_token"]
    body = json.dumps({"jwt_refresh_token": token}).encode()
    assert gateway.ask(path, body).status == 200


def test_refresh_refuses_what_is_no_refresh_token(gateway: Gateway) -> None:
    access = gateway.token()
    for token in (access, "x", "a.b.c", "é", access + "x"):
        response = refresh(gateway, {"jwt_refresh_token": token})
        assert (response.status, response.body) == (401, UNAUTHORIZED)
    response = refresh(gateway, {})
    assert response.body == b'{"message":[{"field":"JwtRefreshToken","reason":"required"}]}'
    assert refresh(gateway, {"jwt_refresh_token": 7}).status == 400


@pytest.mark.parametrize(
    "form",
    ["Bearer {}", "bearer {}", "Bearer: {}", "JWT {}", "Token  {}", "X {}"],
)
def test_credentials_any_scheme_word_is_accepted(gateway: Gateway, form: str) -> None:
    headers = {"Authorization": form.format(gateway.token())}
    assert produce(gateway, "auth", **headers).status == 200
    assert produce(gateway, "auth", **headers).status == 200


def test_credentials_basic_is_user_and_password(gateway: Gateway) -> None:
    def basic(text: str) -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}

    assert produce(gateway, "auth", **basic(f"{ADMIN}:{PASSWORD}")).status == 200
    assert produce(gateway, "auth", **basic(f"{ADMIN}:{PASSWORD}")).status == 200
    for wrong in (f"{ADMIN}:no", f"{ADMIN}:", "x", ":", f"nobody:{PASSWORD}"):
        response = produce(gateway, "auth", **basic(wrong))
        assert (response.status, response.body) == (401, UNAUTHORIZED)
    assert produce(gateway, "auth", Authorization="Basic !!!!").status == 401
    assert produce(gateway, "auth", Authorization="Basic").status == 401


@pytest.mark.parametrize("name", ["authorization", "access_token"])
def test_credentials_in_the_query(gateway: Gateway, name: str) -> None:
    token = gateway.token()
    assert produce(gateway, "auth", f"?{name}={token}").status == 200
    assert produce(gateway, "auth", f"?a=b&{name}={token}&c=d").status == 200
    assert produce(gateway, "auth", f"?{name}={token}x").status == 401
    assert produce(gateway, "auth", f"?{name}=").status == 401


def test_credentials_the_header_wins_over_the_query(gateway: Gateway) -> None:
    token = gateway.token()
    query = f"?authorization={token}"
    assert produce(gateway, "auth", query, Authorization="Bearer nonsense").status == 401
    assert produce(gateway, "auth", "?authorization=x", **gateway.auth()).status == 200


def wrong_tokens(token: str) -> dict[str, str]:
    """Tokens that are nearly right, each by one defect."""
    head, payload, signature = token.split(".")
    claims = claims_of(token)

    def b64(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return {
        "alg none": f"{b64({'alg': 'none', 'typ': 'JWT'})}.{payload}.",
        "alg none with signature": f"{b64({'alg': 'none'})}.{payload}.{signature}",
        "alg None": f"{b64({'alg': 'None'})}.{payload}.{signature}",
        "alg HS512": f"{b64({'alg': 'HS512', 'typ': 'JWT'})}.{payload}.{signature}",
        "claims changed": f"{head}.{b64(claims | {'sub': 'other'})}.{signature}",
        "expiry changed": f"{head}.{b64(claims | {'exp': claims['exp'] + 1})}.{signature}",
        "signature cut": f"{head}.{payload}.{signature[:-4]}",
        "no signature": f"{head}.{payload}.",
        "other secret": jwt.encode(claims, "another-secret-of-32-bytes-or-more", "HS256"),
        "empty secret": jwt.encode(claims, "k" * 32, "HS256"),
        "two parts": f"{head}.{payload}",
        "four parts": f"{token}.{signature}",
        "nothing": ".",
        "not base64": "%%%.%%%.%%%",
        "long": "a" * 6000,
    }


def test_credentials_wrong_tokens_are_401(gateway: Gateway, station: str) -> None:
    for defect, token in wrong_tokens(gateway.token()).items():
        response = produce(gateway, station, Authorization=f"Bearer {token}")
        assert (response.status, response.body) == (401, UNAUTHORIZED), defect
        assert response.header("www-authenticate"), defect
        assert response.header("access-control-allow-origin") == "*", defect
    assert gateway.stored(station) == []


def test_credentials_refresh_token_is_refused_elsewhere(gateway: Gateway) -> None:
    token = gateway.authenticate(GOOD).json()["jwt_refresh_token"]
    assert produce(gateway, "auth", Authorization=f"Bearer {token}").status == 401
    assert produce(gateway, "auth", f"?authorization={token}").status == 401


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer a b", "{}", ":"])
def test_credentials_malformed_header_is_401(gateway: Gateway, value: str) -> None:
    response = produce(gateway, "auth", Authorization=value.format(gateway.token()))
    assert (response.status, response.body) == (401, UNAUTHORIZED)


def test_credentials_none_is_401(gateway: Gateway) -> None:
    response = produce(gateway, "auth")
    assert (response.status, response.body) == (401, UNAUTHORIZED)
    assert response.header("error-code") == "unauthorized"
