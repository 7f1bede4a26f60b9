"""Tokens without a broker: claims, expiries, the two uses, and forgeries."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest

from fastgw.config_types import AuthConfig
from fastgw.control.tokens import MINUTES_MAX, Claims, TokenError, Tokens
from fastgw.control.users import UserRecord
from fastgw.errors import ClientFault

ACCESS, REFRESH = b"a" * 32, b"r" * 32
USER = UserRecord(name="ada", password_hash="scrypt$secret", permissions=["produce"], epoch=7)


def tokens(**fields: Any) -> Tokens:
    return Tokens(ACCESS, REFRESH, AuthConfig(**fields))


def claims(**fields: Any) -> dict[str, Any]:
    whole = {"sub": "ada", "acc": 1, "ep": 7, "exp": int(time.time()) + 60, "iat": 1}
    return {**whole, "jti": "j", "use": "a", **fields}


def signed(payload: dict[str, Any], key: bytes = ACCESS, algorithm: str = "HS256") -> str:
    return jwt.encode(payload, key, algorithm=algorithm)


def test_issue_defaults_and_claims() -> None:
    before = int(time.time())
    pair = tokens().issue(USER, 3)
    assert (pair.expires_in_ms, pair.refresh_expires_in_ms) == (900_000, 18_000_000)
    payload = jwt.decode(pair.jwt, ACCESS, algorithms=["HS256"])
    assert set(payload) == {"sub", "acc", "ep", "exp", "iat", "jti", "use"}
    assert before + 900 <= payload["exp"] <= time.time() + 900
    assert tokens().verify(pair.jwt) == Claims("ada", 3, 7, payload["exp"])
    assert tokens().verify(pair.refresh_jwt, "refresh").sub == "ada"
    assert pair.jwt not in repr(pair)
    raw = base64.urlsafe_b64decode(pair.jwt.split(".")[1] + "==")
    assert b"secret" not in raw
    assert tokens().issue(USER, 3).jwt != pair.jwt


def test_issue_expiry_of_a_thousand_years_is_legal() -> None:
    pair = tokens().issue(USER, 1, 525_600_000, MINUTES_MAX)
    assert pair.expires_in_ms == 31_536_000_000_000
    assert pair.refresh_expires_in_ms < 2**63
    assert tokens().verify(pair.jwt).exp > time.time() + 31_000_000_000
    assert tokens().verify(pair.refresh_jwt, "refresh").sub == "ada"


def test_issue_cap_shortens_silently() -> None:
    capped = tokens(token_expiry_minutes_max=5, refresh_token_expiry_minutes_max=6)
    pair = capped.issue(USER, 1, 100, 100)
    assert (pair.expires_in_ms, pair.refresh_expires_in_ms) == (300_000, 360_000)
    assert capped.issue(USER, 1, 2).expires_in_ms == 120_000


@pytest.mark.parametrize("minutes", [0, -1, MINUTES_MAX + 1])
def test_issue_minutes_out_of_range_told(minutes: int) -> None:
    with pytest.raises(ClientFault, match=f"an expiry of {minutes} minutes is not 1 to"):
        tokens().issue(USER, 1, minutes)
    with pytest.raises(ClientFault, match=f"an expiry of {minutes} minutes is not 1 to"):
        tokens().issue(USER, 1, 1, minutes)


def test_verify_token_of_the_other_use_refused_even_with_equal_secrets() -> None:
    same = Tokens(ACCESS, ACCESS, AuthConfig())
    pair = same.issue(USER, 1)
    with pytest.raises(TokenError, match="no refresh token") as raised:
        same.verify(pair.jwt, "refresh")
    assert raised.value.kind.status == 401
    with pytest.raises(TokenError, match="no access token"):
        same.verify(pair.refresh_jwt)
    with pytest.raises(TokenError):
        tokens().verify(tokens().issue(USER, 1).refresh_jwt)


def test_verify_expired_token_refused() -> None:
    with pytest.raises(TokenError, match="expired"):
        tokens().verify(signed(claims(exp=int(time.time()) - 1)))


@pytest.mark.parametrize("missing", ["sub", "acc", "ep", "exp", "iat", "jti", "use"])
def test_verify_token_without_a_claim_refused(missing: str) -> None:
    payload = claims()
    del payload[missing]
    with pytest.raises(TokenError, match="not valid"):
        tokens().verify(signed(payload))


@pytest.mark.parametrize(
    "wrong", [{"acc": "1"}, {"ep": None}, {"use": 1}, {"exp": "soon"}, {"iat": 2**40}]
)
def test_verify_token_with_a_wrong_claim_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TokenError, match="not valid"):
        tokens().verify(signed(claims(**wrong)))


def test_verify_forged_tokens_refused() -> None:
    good = signed(claims())
    assert tokens().verify(good).sub == "ada"
    head, body, signature = good.split(".")
    admin = base64.urlsafe_b64encode(json.dumps(claims(sub="root")).encode()).decode().rstrip("=")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    forged = [
        "",
        "x",
        f"{head}.{admin}.{signature}",
        f"{none}.{body}.",
        f"{none}.{body}.{signature}",
        signed(claims(), b"o" * 32),
        signed(claims(), ACCESS + b"x" * 32, "HS512"),
        good[:-2],
        "é" + good,
        good + "x" * 5000,
    ]
    for token in forged:
        with pytest.raises(TokenError) as raised:
            tokens().verify(token)
        assert good not in raised.value.text
