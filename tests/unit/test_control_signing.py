"""Signing secrets without a broker: who signs, what a record may say, and configured secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from fastgw.config_types import AuthConfig
from fastgw.control.secrets import SIGNS_AFTER_S, Secrets, SecretSet, SigningSecret
from fastgw.control.tokens import TokenError, Tokens
from fastgw.errors import ClientFault, InternalError
from tests.unit.signing_fakes import USER, Stored, claims, header_of, secret, signed, tokens

if TYPE_CHECKING:
    from collections.abc import Callable


# --- who signs ------------------------------------------------------------------------------------


def test_issue_new_secret_signs_only_when_every_gateway_knows_it() -> None:
    stored = Stored()
    start = stored.now
    stored.deliver(secret("k1", signs_from=start - 100))
    before = stored.issue()
    stored.deliver(
        secret("k1", signs_from=start - 100), secret("k2", signs_from=start + SIGNS_AFTER_S)
    )
    stored.now = start + SIGNS_AFTER_S - 0.1
    assert header_of(stored.issue())["kid"] == "k1"
    stored.now = start + SIGNS_AFTER_S
    after = stored.issue()
    assert header_of(after)["kid"] == "k2"
    assert stored.tokens.verify(before).sub == stored.tokens.verify(after).sub == "ada"
    stored.deliver(secret("k2", signs_from=start + SIGNS_AFTER_S))
    assert stored.tokens.verify(after).sub == "ada"
    with pytest.raises(TokenError, match="signed by no secret in force"):
        stored.tokens.verify(before)


def test_issue_clock_behind_signs_with_the_first_that_will() -> None:
    stored = Stored()
    stored.deliver(
        secret("k2", signs_from=stored.now + 200), secret("k1", signs_from=stored.now + 100)
    )
    assert header_of(stored.issue())["kid"] == "k1"


def test_issue_without_any_secret_is_our_failure() -> None:
    stored = Stored()
    with pytest.raises(InternalError, match="no secret for access tokens is in force"):
        stored.tokens.issue(USER, 1)


# --- records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (secret("bad", raw=b"x" * 31), "31 bytes are too few for HS256"),
        (secret("bad", "HS512", raw=b"x" * 63), "63 bytes are too few for HS512"),
        (secret("bad", "EdDSA", raw=b"x" * 33), "An Ed25519 private key is 32 bytes long"),
        (secret("bad", "ES256"), "its algorithm ES256 is unknown"),
        (secret("bad", "none"), "its algorithm none is unknown"),
        (msgspec.structs.replace(secret("bad"), secret="*" * 44), "does not count"),
    ],
)
def test_record_that_cannot_be_used_is_left_out_and_told(
    broken: SigningSecret, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    stored = Stored()
    stored.deliver(secret("k1"), broken)
    assert list(stored.secrets.records) == ["k1"]
    assert stored.secrets.find("access", "bad") == ()
    assert "the signing secret bad does not count" in caplog.text
    assert reason in caplog.text
    assert header_of(stored.issue())["kid"] == "k1"


def test_change_tells_listeners_and_removals_apart() -> None:
    stored = Stored()
    calls: list[str] = []
    stored.secrets.on_change(lambda: calls.append("change"))
    stored.secrets.on_removal(lambda: calls.append("removal"))
    stored.deliver(secret("k1"))
    stored.deliver(secret("k1"), secret("k2"))
    assert calls == ["change", "change"]
    stored.deliver(secret("k2"))
    stored.deliver(secret("k2", raw=b"z" * 32))
    assert calls == ["change", "change", *["change", "removal"] * 2]
    stored.secrets._on_change("access", None)
    stored.secrets._on_change("somebody", SecretSet([]))
    assert calls[6:] == ["change", "removal"]


def test_secrets_are_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    stored = Stored()
    one = secret("k1")
    stored.deliver(one)
    shown: list[Callable[[], str]] = [
        lambda: repr(one),
        lambda: str(one.__rich_repr__()),
        lambda: repr(SecretSet([one])),
        lambda: repr(stored.secrets.find("access", "k1")),
        lambda: msgspec.json.encode(stored.secrets.list()).decode(),
        lambda: msgspec.json.encode(stored.secrets.records).decode(),
        lambda: caplog.text,
    ]
    for show in shown:
        assert one.secret not in show()
    assert [each.kid for each in stored.secrets.list()] == ["k1"]


# --- configured secrets ---------------------------------------------------------------------------


def test_configured_secret_rotates_through_the_list_of_old_ones() -> None:
    first, second, third = ("1" * 32, "2" * 32, "3" * 32)

    def opened(*secrets: str) -> Tokens:
        config = AuthConfig(
            jwt_secret=secrets[0], jwt_secrets_old=list(secrets[1:]), refresh_jwt_secret="r" * 32
        )
        return Tokens(Secrets(None, config), config)

    before = opened(first).issue(USER, 1).jwt
    assert header_of(before)["kid"] == header_of(opened(first).issue(USER, 1).jwt)["kid"]
    without_kid = signed(claims(), first.encode())
    for token in (before, without_kid):
        assert opened(second, first).verify(token).sub == "ada"
        assert opened(third, second, first).verify(token).sub == "ada"
        with pytest.raises(TokenError, match="signed by no secret in force"):
            opened(third, second).verify(token)
    after = opened(second, first).issue(USER, 1).jwt
    assert header_of(after)["kid"] != header_of(before)["kid"]
    assert opened(second).verify(after).sub == "ada"
    listed = opened(second, first, second).secrets.list()
    assert [(one.use, one.signs_from) for one in listed] == [
        ("access", 0.0),
        ("access", None),
        ("refresh", 0.0),
    ]
    assert len({one.kid for one in listed}) == 3


@pytest.mark.parametrize("use", [None, "access", "refresh"])
async def test_configured_secret_rotate_and_remove_name_the_configuration(use: str | None) -> None:
    secrets = tokens().secrets
    await secrets.start()
    key = "auth.refresh_jwt_secret" if use == "refresh" else "auth.jwt_secret"
    with pytest.raises(ClientFault, match=f"configured as {key}: .* in {key}s_old") as raised:
        await secrets.rotate(use)
    assert raised.value.kind.status == 409
    kid = next(one.kid for one in secrets.list() if one.use == (use or "access"))
    with pytest.raises(ClientFault, match=f"configured as {key}"):
        await secrets.remove(kid)
    with pytest.raises(ClientFault, match="there is no signing secret nothing"):
        await secrets.remove("nothing")


async def test_rotate_unknown_use_or_algorithm_told() -> None:
    secrets = tokens().secrets
    with pytest.raises(ClientFault, match="uses are access, refresh; got both"):
        await secrets.rotate("both")
    with pytest.raises(ClientFault, match="uses are access, refresh; got "):
        await secrets.rotate("")
    for algorithm in ("none", "RS256", ""):
        with pytest.raises(ClientFault, match="algorithms are HS256, HS384, HS512, EdDSA; got"):
            await secrets.rotate(None, algorithm)


def test_configured_secret_that_is_public_by_its_nature_refused() -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----"
    with pytest.raises(InternalError, match=r"auth.jwt_secret cannot sign"):
        Secrets(None, AuthConfig(jwt_secret=pem, refresh_jwt_secret="r" * 32))


PUBLIC: Final = Ed25519PrivateKey.from_private_bytes(b"s" * 32).public_key()
PUBLIC_TEXTS: Final = {
    "pem": PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    "der": PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "ssh": PUBLIC.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    "ecdsa": b"ecdsa-sha2-nistp256 " + b"A" * 32,
    "jwk": b'{"kty":"OKP","crv":"Ed25519","x":"AAAA"}',
    "jwk of 16 bits": '{"kty":"OKP","crv":"Ed25519","x":"AAAA"}'.encode("utf-16"),
}


@pytest.mark.parametrize("raw", PUBLIC_TEXTS.values(), ids=PUBLIC_TEXTS.keys())
def test_stored_secret_that_is_public_by_its_nature_does_not_count(raw: bytes) -> None:
    stored = Stored()
    stored.deliver(secret("k1", raw=raw))
    assert stored.secrets.find("access", "k1") == ()


PIECES: Final = st.sampled_from([*PUBLIC_TEXTS.values(), b"0", b"{", b'"', b"BEGIN", b" ", b"\n"])


@given(st.lists(PIECES | st.binary(max_size=40), min_size=1, max_size=4).map(b"".join))
def test_secrets_that_count_are_those_that_pyjwt_takes(raw: bytes) -> None:
    raw = raw.ljust(32, b"s")
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(raw)
        is_taken = True
    except jwt.InvalidKeyError:
        is_taken = False
    stored = Stored()
    stored.deliver(secret("k1", raw=raw))
    assert bool(stored.secrets.find("access", "k1")) == is_taken


def test_configured_old_secrets_alone_count_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    stored = Stored(AuthConfig(jwt_secrets_old=["o" * 32]))
    assert "auth.jwt_secrets_old counts only together with auth.jwt_secret" in caplog.text
    with pytest.raises(TokenError):
        stored.tokens.verify(signed(claims(), b"o" * 32))


def test_secrets_without_a_store_must_be_configured() -> None:
    with pytest.raises(InternalError, match="both signing secrets must be configured"):
        Secrets(None, AuthConfig(jwt_secret="a" * 32))


def test_configured_secrets_that_are_equal_still_have_kids_of_their_own() -> None:
    records = Secrets(None, AuthConfig(jwt_secret="e" * 32, refresh_jwt_secret="e" * 32)).records
    assert sorted(one.use for one in records.values()) == ["access", "refresh"]
