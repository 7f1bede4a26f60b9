"""Signatures of webhook senders: published vectors, forgeries, and every bound."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import msgspec
import pytest
import rich.pretty
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fastgw.control.station_config import StationRecord, policy_fields
from fastgw.errors import ClientFault
from fastgw.senders.signatures import (
    ASYMMETRIC_SIGNATURES_MAX,
    HEADER_BYTES_MAX,
    PUBLIC_KEYS_MAX,
    SECRET_CHARS_MAX,
    SECRETS_MAX,
    SIGNATURES_MAX,
    TOLERANCE_S_MAX,
    VerifierConfig,
    check_verifier,
    make_verifier,
    show_verifier,
)

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WHPK = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
ID, TIME, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
STRIPE = "88a022085c6bdb887b02cb26ff76dd681234d9675c0f22844059f55552a8883a"
GITHUB = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

Headers = dict[bytes, bytes]


def config(preset: Any, *secrets: str, **fields: Any) -> VerifierConfig:
    return VerifierConfig(preset=preset, secrets=[*secrets], **fields)


def webhook(signature: str, prefix: str = "webhook", **fields: str) -> Headers:
    values = {"id": ID, "timestamp": str(TIME), "signature": signature} | fields
    return {f"{prefix}-{name}".encode(): value.encode() for name, value in values.items()}


# Each row: where it comes from, the verifier, the headers, the body, and the time it is sent at.
VECTORS: dict[str, tuple[VerifierConfig, Headers, bytes, int]] = {
    # SOURCE: GitHub, "Validating webhook deliveries", testing the webhook payload validation.
    "github": (
        config("github", "It's a Secret to Everybody"),
        {b"x-hub-signature-256": GITHUB.encode()},
        b"Hello, World!",
        0,
    ),
    # SOURCE: svix-webhooks, go/webhook_test.go and the tests of the Standard Webhooks libraries;
    # also what standardwebhooks 1.1.0 and svix 2.9.1 of PyPI sign.
    "standard-v1": (config("standard-webhooks", WHSEC), webhook(V1), BODY, TIME),
    "svix-v1": (config("svix", WHSEC), webhook(V1, "svix"), BODY, TIME),
    # SOURCE: svix-webhooks, server/svix-server, test_asymmetric_key_signing; the key pair is that
    # of its README.
    "standard-v1a": (config("standard-webhooks", WHPK), webhook(V1A), BODY, TIME),
    # SOURCE: js standardwebhooks and js svix, run with this secret; they agree.
    "standard-js": (
        config("svix", "whsec_" + base64.b64encode(b"0123456789abcdef" * 2).decode()),
        webhook(
            "v1,rkwp5YuvdrMkcu0ZhuMsXoTg44mHAr1Q0+FFgFpXsjY=", id="msg_1", timestamp="1700000000"
        ),
        b'{"a":1}',
        1700000000,
    ),
    # SOURCE: stripe 16.1.0 of PyPI, WebhookSignature, run with this secret; the time is that of
    # the example in Stripe's documentation.
    "stripe": (
        config("stripe", "whsec_test_secret"),
        {b"stripe-signature": f"t=1492774577,v0=6ffbb59b,v1={STRIPE}".encode()},
        b'{"id":"evt_test_webhook","object":"event"}',
        1492774577,
    ),
    # SOURCE: no vector is published; openssl dgst -sha256 -hmac hush -binary | base64.
    "shopify": (
        config("shopify", "hush"),
        {b"x-shopify-hmac-sha256": b"qBvrsZF7RfB1iS6BX6IHqJTp5L911P7intnPeTPsH0I="},
        b'{"id":820982911946154508}',
        0,
    ),
    # SOURCE: no vector is published; openssl dgst -sha256 -hmac fivetran-secret, in upper case as
    # Fivetran was seen to send it.
    "fivetran": (
        config("fivetran", "fivetran-secret"),
        {
            b"x-fivetran-signature-256": (
                b"26A0D8DBDCAE1AE7F0D11B4AB7165A7460449E80017D3980BD0CD853E41EA2CE"
            )
        },
        b'{"event":"sync_end"}',
        0,
    ),
    "hmac-id": (
        config(
            "hmac",
            "secret",
            header="X-Signature",
            prefix="v1:",
            encoding="base64",
            algorithm="sha512",
            signed="id.ts.body",
            timestamp_header="X-Time",
            id_header="X-Id",
        ),
        {
            b"x-signature": b"v1:"
            + base64.b64encode(hmac.digest(b"secret", b"7.1000.{}", hashlib.sha512)),
            b"x-time": b"1000",
            b"x-id": b"7",
        },
        b"{}",
        1000,
    ),
}
TIMED = [name for name, row in VECTORS.items() if row[3]]


def refusal(setting: VerifierConfig, headers: Headers, body: bytes, now: float) -> str:
    with pytest.raises(ClientFault) as caught:
        make_verifier(setting).verify(headers, body, now)
    assert caught.value.kind.word == "unauthorized"
    for secret in setting.secrets:
        assert secret not in caught.value.text
    return caught.value.text


@pytest.mark.parametrize("name", VECTORS)
def test_verify_published_vector_is_taken(name: str) -> None:
    setting, headers, body, now = VECTORS[name]
    verifier = make_verifier(setting)
    verifier.verify(headers, body, now)
    assert set(headers) <= verifier.header_names
    assert all(one == one.lower() for one in verifier.header_names)


@pytest.mark.parametrize("name", VECTORS)
def test_verify_any_change_is_refused(name: str) -> None:
    setting, headers, body, now = VECTORS[name]
    refusal(setting, headers, body + b" ", now)
    refusal(setting, headers, b"", now)
    for header, value in headers.items():
        assert "missing" in refusal(setting, {**headers, header: b""}, body, now)
        left = {key: one for key, one in headers.items() if key != header}
        assert "missing" in refusal(setting, left, body, now)
        twice = {**headers, header: value + b", " + value}
        assert "more than once" in refusal(setting, twice, body, now)
        long = {**headers, header: value + b"0" * HEADER_BYTES_MAX}
        assert "exceeds" in refusal(setting, long, body, now)
        refusal(setting, {**headers, header: value + b"\xff"}, body, now)
        refusal(setting, {**headers, header: b"\xff" + value}, body, now)
        refusal(setting, {**headers, header: value[:-2]}, body, now)


@pytest.mark.parametrize("name", VECTORS)
def test_verify_other_secret_is_refused(name: str) -> None:
    setting, headers, body, now = VECTORS[name]
    others = {"standard-webhooks": "whsec_" + "A" * 32, "svix": "B" * 32}
    other = others.get(setting.preset, "another secret")
    text = refusal(msgspec.structs.replace(setting, secrets=[other]), headers, body, now)
    assert "match" in text
    # With the right one anywhere in the list it is taken.
    for secrets in ([other, *setting.secrets], [*setting.secrets, other]):
        make_verifier(msgspec.structs.replace(setting, secrets=secrets)).verify(headers, body, now)


@pytest.mark.parametrize("name", TIMED)
def test_verify_time_window_both_ways(name: str) -> None:
    setting, headers, body, now = VECTORS[name]
    verifier = make_verifier(setting)
    for shift in (-300, 300):
        verifier.verify(headers, body, now + shift)
        text = refusal(setting, headers, body, now + shift + shift / 300)
        assert "301 s from the gateway's clock; 300 s are allowed" in text
    wide = make_verifier(msgspec.structs.replace(setting, tolerance_s=TOLERANCE_S_MAX))
    wide.verify(headers, body, now + TOLERANCE_S_MAX)


@pytest.mark.parametrize(
    "seconds", ["", "1e9", "-1614265330", " 1614265330", "0x1", "\u0661", "9" * 13]
)
def test_verify_time_that_is_no_number_is_refused(seconds: str) -> None:
    setting, _, body, now = VECTORS["standard-v1"]
    refusal(setting, webhook(V1, timestamp=seconds), body, now)
    stripe, _, body, now = VECTORS["stripe"]
    headers = {b"stripe-signature": f"t={seconds},v1={STRIPE}".encode()}
    refusal(stripe, headers, body, now)


def test_standard_list_unknown_versions_and_broken_ones_are_skipped() -> None:
    setting, _, body, now = VECTORS["standard-v1"]
    verifier = make_verifier(setting)
    for listed in (
        f"v2,AAAA {V1}",
        f"{V1} v1a,AAAA",
        f"v1,AAAA {V1}",
        f"v1,%% v9 {V1}",
        f"{V1A} {V1}",
    ):
        verifier.verify(webhook(listed), body, now)
    for listed in (V1.replace("v1,", "v2,"), V1[3:], V1A, "v1,", "v1", ",", V1.replace(",", "=")):
        assert "no signature" in refusal(setting, webhook(listed), body, now)


def test_standard_secrets_of_both_kinds_stand_together() -> None:
    setting = config("standard-webhooks", WHSEC, WHPK)
    verifier = make_verifier(setting)
    for listed in (V1, V1A, f"{V1} {V1A}", f"v1,AAAA {V1A}"):
        verifier.verify(webhook(listed), BODY, TIME)


def test_standard_signature_of_low_order_key_is_refused() -> None:
    # A public key of all zeros makes some libraries take any signature.
    setting = config("standard-webhooks", "whpk_" + base64.b64encode(bytes(32)).decode())
    forged = "v1a," + base64.b64encode(bytes(64)).decode()
    refusal(setting, webhook(forged), BODY, TIME)


def test_standard_lists_are_bounded() -> None:
    setting = config("standard-webhooks", WHSEC, WHPK)
    make_verifier(setting).verify(
        webhook(" ".join([V1, *["v2,x"] * (SIGNATURES_MAX - 1)])), BODY, TIME
    )
    text = refusal(setting, webhook(" ".join([V1] * (SIGNATURES_MAX + 1))), BODY, TIME)
    assert f"{SIGNATURES_MAX + 1} signatures exceed {SIGNATURES_MAX}" in text
    listed = " ".join([V1A] * (ASYMMETRIC_SIGNATURES_MAX + 1))
    assert "v1a signatures exceed" in refusal(setting, webhook(listed), BODY, TIME)


def test_standard_sets_of_names_are_not_mixed() -> None:
    setting, _, body, now = VECTORS["standard-v1"]
    verifier = make_verifier(setting)
    verifier.verify(webhook(V1, "svix"), body, now)
    mixed = webhook(V1) | webhook(V1, "svix")
    del mixed[b"webhook-id"], mixed[b"svix-timestamp"]
    assert "webhook-id is missing" in refusal(setting, mixed, body, now)
    # Each preset believes its own set when both are there.
    both = webhook(V1) | webhook("v1,AAAA", "svix")
    verifier.verify(both, body, now)
    refusal(config("svix", WHSEC), both, body, now)


def test_stripe_several_v1_and_no_second_time() -> None:
    setting, _, body, now = VECTORS["stripe"]
    verifier = make_verifier(setting)
    for text in (
        f"t={now},v1=00,v1={STRIPE}",
        f"v1={STRIPE},t={now}",
        f"t={now},v1=zz,v1={STRIPE.upper()},x",
    ):
        verifier.verify({b"stripe-signature": text.encode()}, body, now)
    for text in (
        f"t={now},t={now},v1={STRIPE}",
        f"v1={STRIPE}",
        f"t={now},v0={STRIPE}",
        f"t={now},v1={STRIPE}" + ",v1=00" * SIGNATURES_MAX,
    ):
        assert "has one t=" in refusal(setting, {b"stripe-signature": text.encode()}, body, now)


def test_github_needs_its_prefix_and_takes_no_space_in_hex() -> None:
    setting, _, body, _ = VECTORS["github"]
    bare = GITHUB.removeprefix("sha256=").encode()
    for value in (bare, b"sha1=" + bare, b"sha256=" + bare[:32] + b" " + bare[32:], b"sha256="):
        refusal(setting, {b"x-hub-signature-256": value}, body, 0)
    make_verifier(setting).verify({b"x-hub-signature-256": b"sha256=" + bare.upper()}, body, 0)


def test_verify_all_secrets_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    setting, headers, body, now = VECTORS["github"]
    counted = 0
    whole = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        nonlocal counted
        counted += 1
        return whole(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    secrets = [*setting.secrets, *(f"other{n}" for n in range(SECRETS_MAX - 1))]
    make_verifier(msgspec.structs.replace(setting, secrets=secrets)).verify(headers, body, now)
    assert counted == SECRETS_MAX


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"preset": "gitlab"}, "preset"),
        ({"secrets": []}, "secrets"),
        ({"secrets": [""]}, "secrets"),
        ({"secrets": ["x"] * (SECRETS_MAX + 1)}, "secrets"),
        ({"secrets": ["x" * (SECRET_CHARS_MAX + 1)]}, "secrets"),
        ({"secrets": ["line\nbreak"]}, "secrets"),
        ({"header": None}, "header"),
        ({"header": "X Signature"}, "header"),
        ({"header": "X" * 129}, "header"),
        ({"header": "Authorization"}, "header"),
        ({"header": "x-api-key"}, "header"),
        ({"prefix": "a b"}, "prefix"),
        ({"prefix": "p" * 65}, "prefix"),
        ({"encoding": "hex32"}, "encoding"),
        ({"algorithm": "sha1"}, "algorithm"),
        ({"signed": "everything"}, "signed"),
        ({"signed": "ts.body"}, "timestamp_header"),
        ({"signed": "id.ts.body", "timestamp_header": "X-T"}, "id_header"),
        ({"signed": "ts.body", "timestamp_header": "x-signature"}, "header"),
        ({"timestamp_header": "X-T"}, "timestamp_header"),
        ({"id_header": "X-I"}, "id_header"),
        ({"tolerance_s": 0}, "tolerance_s"),
        ({"tolerance_s": TOLERANCE_S_MAX + 1}, "tolerance_s"),
        ({"preset": "github"}, "header"),
        ({"preset": "github", "header": None, "prefix": "x"}, "prefix"),
        ({"preset": "stripe", "header": None, "signed": "ts.body"}, "signed"),
        ({"preset": "stripe", "header": None, "id_header": "X-I"}, "id_header"),
        ({"preset": "svix", "header": None, "secrets": ["whsec_" + "A" * 28]}, "secrets"),
        ({"preset": "svix", "header": None, "secrets": ["whsec_" + "A" * 88]}, "secrets"),
        ({"preset": "svix", "header": None, "secrets": ["whsec_!" + "A" * 32]}, "secrets"),
        ({"preset": "svix", "header": None, "secrets": ["whpk_" + "A" * 32]}, "secrets"),
        ({"preset": "svix", "header": None, "secrets": [WHPK] * (PUBLIC_KEYS_MAX + 1)}, "secrets"),
    ],
)
def test_check_wrong_field_is_named_without_secrets(fields: dict[str, Any], field: str) -> None:
    whole: dict[str, Any] = {"preset": "hmac", "secrets": ["hidden-value"], "header": "X-Signature"}
    setting = VerifierConfig(**(whole | fields))
    for act in (check_verifier, make_verifier):
        with pytest.raises(ClientFault) as caught:
            act(setting)
        assert caught.value.kind.word == "bad-request"
        assert caught.value.text.startswith(f"verifier: {field} ")
        for secret in setting.secrets:
            assert len(secret) < 5 or secret not in caught.value.text
        assert caught.value.__cause__ is None


def test_config_hides_its_secrets_and_comes_back_from_json() -> None:
    setting = config("github", "hidden-value")
    record = StationRecord(name="s", stream="s", subject="s", verifier=setting)
    for text in (repr(setting), str(record), rich.pretty.pretty_repr([record, setting])):
        assert "hidden-value" not in text
        assert "github" in text
    assert show_verifier(setting) == {"preset": "github", "secrets": 1}
    stored = msgspec.json.encode(record)
    assert msgspec.json.decode(stored, type=StationRecord) == record
    old = b'{"name":"s","stream":"s","subject":"s"}'
    assert msgspec.json.decode(old, type=StationRecord).verifier is None


def test_station_settings_check_the_verifier() -> None:
    setting = config("github", "x")
    assert policy_fields({"verifier": setting}) == {"verifier": setting}
    assert policy_fields({"verifier": None}) == {"verifier": None}
    with pytest.raises(ClientFault, match="secrets"):
        policy_fields({"verifier": config("github")})


def test_verify_key_of_our_own_over_a_large_body() -> None:
    key = Ed25519PrivateKey.generate()
    body = bytes(1 << 20)
    signed = key.sign(f"{ID}.{TIME}.".encode() + body)
    public = "whpk_" + base64.b64encode(key.public_key().public_bytes_raw()).decode()
    listed = "v1a," + base64.b64encode(signed).decode()
    make_verifier(config("svix", public)).verify(webhook(listed), body, TIME)
