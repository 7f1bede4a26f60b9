"""Tokens without a broker: claims, expiries, the two uses, kids, algorithms, and forgeries."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from fastgw.control.secrets import LEGACY_KID
from fastgw.control.tokens import (
    CLOCK_SKEW_S_MAX,
    MINUTES_MAX,
    TOKEN_CHARS_MAX,
    Claims,
    TokenError,
)
from fastgw.errors import ClientFault
from tests.unit.signing_fakes import (
    ACCESS,
    ALGORITHMS,
    USER,
    Stored,
    claims,
    handmade,
    header_of,
    secret,
    signed,
    tokens,
)

# --- issue ----------------------------------------------------------------------------------------


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


# --- verify ---------------------------------------------------------------------------------------


def test_verify_token_of_the_other_use_refused_even_with_equal_secrets() -> None:
    same = tokens(ACCESS, ACCESS)
    pair = same.issue(USER, 1)
    for use, token in (("refresh", pair.jwt), ("access", pair.refresh_jwt)):
        with pytest.raises(TokenError) as raised:
            same.verify(token, "refresh" if use == "refresh" else "access")
        assert raised.value.kind.status == 401
    # Tokens of before kids are held apart by their own word alone.
    with pytest.raises(TokenError, match="no refresh token"):
        same.verify(signed(claims()), "refresh")
    with pytest.raises(TokenError, match="no access token"):
        same.verify(signed(claims(use="r")))
    with pytest.raises(TokenError):
        tokens().verify(tokens().issue(USER, 1).refresh_jwt)


def test_verify_expired_token_refused() -> None:
    with pytest.raises(TokenError, match="expired"):
        tokens().verify(signed(claims(exp=int(time.time()) - 1)))


def test_verify_token_issued_by_a_clock_ahead_of_ours() -> None:
    now = int(time.time())
    assert tokens().verify(signed(claims(iat=now + CLOCK_SKEW_S_MAX - 5))).sub == "ada"
    with pytest.raises(TokenError, match="issued in the future"):
        tokens().verify(signed(claims(iat=now + CLOCK_SKEW_S_MAX + 5)))


def test_verify_token_of_a_memphis_gateway_that_counts_later_refused() -> None:
    now = int(time.time())
    assert tokens().verify(signed(claims(nbf=now - 1))).sub == "ada"
    with pytest.raises(TokenError, match="not valid yet"):
        tokens().verify(signed(claims(nbf=now + 60)))


@pytest.mark.parametrize("missing", ["sub", "acc", "ep", "exp", "iat", "jti", "use"])
def test_verify_token_without_a_claim_refused(missing: str) -> None:
    payload = claims()
    del payload[missing]
    with pytest.raises(TokenError, match="not valid"):
        tokens().verify(signed(payload))


@pytest.mark.parametrize(
    "wrong",
    [{"acc": "1"}, {"ep": None}, {"use": 1}, {"exp": "soon"}, {"iat": 2**40}, {"iat": "then"}],
)
def test_verify_token_with_a_wrong_claim_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TokenError, match="not valid"):
        tokens().verify(signed(claims(**wrong)))


def test_verify_token_at_the_limit_and_beyond_it() -> None:
    whole = signed(claims(x=""))
    at_limit = next(
        token
        for size in range(TOKEN_CHARS_MAX)
        if len(token := signed(claims(x="y" * (TOKEN_CHARS_MAX - len(whole) - size)))) <= 4096
    )
    assert TOKEN_CHARS_MAX - 2 <= len(at_limit) <= TOKEN_CHARS_MAX
    assert tokens().verify(at_limit).sub == "ada"
    with pytest.raises(TokenError, match="a token of 4097 characters exceeds 4096"):
        tokens().verify("x" * (TOKEN_CHARS_MAX + 1))


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
        "\udcff" + good,
        good + "x" * 5000,
    ]
    for token in forged:
        with pytest.raises(TokenError) as raised:
            tokens().verify(token)
        assert good not in raised.value.text


# --- kids -----------------------------------------------------------------------------------------

DEFECTIVE_KIDS: Final = {
    "unknown": "0123456789abcdef",
    "empty": "",
    "null": None,
    "number": 5,
    "list": ["k"],
    "object": {"k": 1},
    "true": True,
    "long": "k" * 2000,
    "a megabyte": "k" * 2**20,
    "path": "../../../../dev/null",
    "file": "/etc/passwd",
    "url": "https://attacker.example/keys.json",
    "sql": "x' UNION SELECT 'key'; --",
    "nul": "k\x00",
    "other case": "K1",
    "space": "k1 ",
    "other use": "other",
    "surrogate": "\udcff",
}


@pytest.mark.parametrize("kid", DEFECTIVE_KIDS.values(), ids=DEFECTIVE_KIDS.keys())
def test_verify_kid_that_finds_nothing_refused(kid: object) -> None:
    stored = Stored()
    stored.deliver(secret("k1"))
    good = stored.issue()
    assert stored.tokens.verify(good).sub == "ada"
    _, body, signature = good.split(".")
    forged = base64.urlsafe_b64encode(json.dumps({**header_of(good), "kid": kid}).encode()).decode()
    with pytest.raises(TokenError) as raised:
        stored.tokens.verify(f"{forged.rstrip('=')}.{body}.{signature}")
    assert raised.value.kind.status == 401
    assert len(raised.value.text) < 120
    if kid:
        assert str(kid) not in raised.value.text


def test_verify_token_without_a_kid_needs_a_secret_of_before_kids() -> None:
    stored = Stored()
    stored.deliver(secret("k1", raw=ACCESS))
    with pytest.raises(TokenError, match="signed by no secret in force"):
        stored.tokens.verify(signed(claims()))
    stored.deliver(secret(LEGACY_KID["access"], raw=ACCESS), secret("k1"))
    assert stored.tokens.verify(signed(claims())).sub == "ada"
    with pytest.raises(TokenError, match="signed by no secret in force"):
        stored.tokens.verify(handmade({"alg": "HS256"}))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_verify_every_algorithm_signs_and_verifies(algorithm: str) -> None:
    stored = Stored()
    stored.deliver(secret("k1", algorithm))
    token = stored.issue()
    assert header_of(token) == {"alg": algorithm, "typ": "JWT", "kid": "k1"}
    assert stored.tokens.verify(token).sub == "ada"
    broken = token[:-8] + ("AAAAAAAA" if token[-8:] != "AAAAAAAA" else "BBBBBBBB")
    with pytest.raises(TokenError):
        stored.tokens.verify(broken)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("claimed", [*ALGORITHMS, "none", "None", "RS256", "ES256", "", None, []])
def test_verify_algorithm_is_the_key_s_never_the_token_s(algorithm: str, claimed: object) -> None:
    stored = Stored()
    stored.deliver(secret("k1", algorithm))
    good = stored.issue()
    _, body, signature = good.split(".")
    head = base64.urlsafe_b64encode(
        json.dumps({"alg": claimed, "typ": "JWT", "kid": "k1"}).encode()
    ).decode()
    head = head.rstrip("=")
    if claimed == algorithm:
        return
    for end in (signature, ""):
        with pytest.raises(TokenError):
            stored.tokens.verify(f"{head}.{body}.{end}")


def test_verify_hmac_by_the_right_bytes_with_another_hash_refused() -> None:
    stored = Stored()
    raw = b"s" * 64
    stored.deliver(secret("k1", "HS256", raw=raw))
    assert stored.tokens.verify(signed(claims(), raw, "HS256", kid="k1")).sub == "ada"
    for algorithm in ("HS384", "HS512"):
        with pytest.raises(TokenError):
            stored.tokens.verify(signed(claims(), raw, algorithm, kid="k1"))


def test_verify_public_key_used_as_a_secret_refused() -> None:
    stored = Stored()
    stored.deliver(secret("k1", "EdDSA"))
    (key,) = stored.secrets.find("access", "k1")
    assert isinstance(key.public, Ed25519PublicKey)
    raw = key.public.public_bytes_raw()
    pem = key.public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    body = json.dumps(claims()).encode()
    for public in (raw, pem, pem.strip(), base64.b64encode(raw)):
        for algorithm, digest in (("HS256", "sha256"), ("HS512", "sha512")):
            head = {"alg": algorithm, "kid": "k1"}
            unsigned = handmade(head, body).rpartition(".")[0]
            mac = hmac.digest(public, unsigned.encode(), digest)
            with pytest.raises(TokenError):
                stored.tokens.verify(handmade(head, body, mac))
    embedded = {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(raw).decode()}
    for extra in ({"jwk": embedded}, {"jku": "http://127.0.0.1:1/"}, {"x5c": ["AA=="]}):
        with pytest.raises(TokenError):
            stored.tokens.verify(handmade({"alg": "EdDSA", "kid": "k1", **extra}, body, b"x" * 64))


HEADERS: Final = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["alg", "kid", "crit", "b64", "typ", "x"]), inner, max_size=5
            )
        ),
        max_leaves=12,
    ),
    st.fixed_dictionaries(
        {"alg": st.sampled_from([*ALGORITHMS, "none"]), "kid": st.sampled_from(["k1", "ed", "x"])}
    ),
)


@given(header=HEADERS, payload=st.binary(max_size=100), signature=st.binary(max_size=80))
def test_verify_whatever_arrives_refused_as_a_token(
    header: object, payload: bytes, signature: bytes
) -> None:
    stored = Stored()
    stored.deliver(secret("k1"), secret("ed", "EdDSA"), secret(LEGACY_KID["access"]))
    with pytest.raises(TokenError):
        stored.tokens.verify(handmade(header, payload, signature))


@given(st.text(max_size=300))
def test_verify_any_text_refused_as_a_token(text: str) -> None:
    with pytest.raises(TokenError):
        tokens().verify(text)


@pytest.mark.parametrize(
    "head", [b"[" * 3000, b'{"alg":"HS256","x":' + b"[" * 2900, b'{"alg":' + b"1" * 2900 + b"}"]
)
def test_verify_header_nested_deep_refused(head: bytes) -> None:
    with pytest.raises(TokenError, match="not valid"):
        tokens().verify(handmade(head))
