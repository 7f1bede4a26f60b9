"""Outside tokens by key sets from files: which keys count, what claims mean, when it is read."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import pytest

from fastgw.config_types import IssuerConfig
from fastgw.control import issuers as issuers_module
from fastgw.control import jwks
from fastgw.control.issuers import Issuers, OutsideClaims, find_claim, parse_token
from fastgw.control.jwks import ANSWER_BYTES_MAX, KEYS_COUNT_MAX, KeySetError, parse_key_set
from fastgw.control.tokens import TokenError
from fastgw.errors import Fault, UpstreamFault
from tests.unit.token_forge import (
    AUDIENCE,
    ISSUER,
    ec_key,
    ed_key,
    encode,
    forge,
    make_jwk,
    outside_claims,
    rsa_key,
    signer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

ALL: Any = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """One issuer with a key set in a file."""

    def __init__(self, path: Path, **fields: Any) -> None:
        self.path = path
        self.clock = Clock()
        whole: dict[str, Any] = {
            "name": "login",
            "issuer": ISSUER,
            "audience": [AUDIENCE],
            "jwks_file": str(path),
            "algorithms": ALL,
            "permissions": {"write": ["produce"], "read": ["consume"], "all": ["admin", "produce"]},
            **fields,
        }
        self.issuers = Issuers([IssuerConfig(**whole)], clock=self.clock)

    def publish(self, *keys: Any) -> None:
        # WHY a rename: nobody may read half a file.
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"keys": keys}))
        os.replace(fresh, self.path)

    async def verify(self, token: str) -> OutsideClaims:
        assert self.issuers.claims_issuer(token)
        found = self.issuers.verify(token)
        return await found if isawaitable(found) else found

    async def claims(self, **fields: Any) -> OutsideClaims:
        """Verify an honest token with these claims."""
        return await self.verify(token_of(outside_claims(**fields)))


ED = make_jwk(ed_key("ed"), "EdDSA", "ed")


def token_of(claims: dict[str, Any], key: str = "ed", **header: Any) -> str:
    whole = {"alg": "EdDSA", "kid": key, **header}
    return forge({k: v for k, v in whole.items() if v is not None}, claims, eddsa(key))


def eddsa(key: str) -> Callable[[bytes], bytes]:
    return signer(ed_key(key), "EdDSA")


@asynccontextmanager
async def running(path: Path, *keys: Any, **fields: Any) -> AsyncIterator[Rig]:
    rig = Rig(path / "keys.json", **fields)
    rig.publish(*(keys or (ED,)))
    await rig.issuers.start()
    try:
        yield rig
    finally:
        await rig.issuers.close()


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# --- which keys count ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", rsa_key("a")),
        ("RS384", rsa_key("a")),
        ("RS512", rsa_key("a")),
        ("PS256", rsa_key("a")),
        ("ES256", ec_key("a")),
        ("ES384", ec_key("a", "P-384")),
        ("EdDSA", ed_key("a")),
    ],
)
async def test_verify_each_algorithm(tmp_path: Path, algorithm: str, key: Any) -> None:
    named, open_one = make_jwk(key, algorithm, "named"), make_jwk(key, algorithm, "o", alg=None)
    async with running(tmp_path, named, open_one) as rig:
        for kid in ("named", "o"):
            token = forge({"alg": algorithm, "kid": kid}, outside_claims(), signer(key, algorithm))
            assert (await rig.verify(token)).user == "zoe"


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("no object", "text"),
        ("the key type oct", {"kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "HS256"}),
        ("the key type None", {"kid": "k"}),
        ("the key type", {**ED, "kty": ["OKP"]}),
        ("its kid", {**ED, "kid": 1}),
        ("its kid", {**ED, "kid": "k" * (jwks.KID_CHARS_MAX + 1)}),
        ("a private key", {**ED, "d": "AAAA"}),
        ("not for signatures", {**ED, "use": "enc"}),
        ("not for verifying", {**ED, "key_ops": ["sign"]}),
        ("not for verifying", {**ED, "key_ops": "verify"}),
        ("a member of crv, x is missing", {"kty": "OKP", "crv": "Ed25519"}),
        ("a member of n, e is missing", {"kty": "RSA", "n": 5, "e": "AQAB"}),
        ("no configured algorithm", {**ED, "crv": "X25519"}),
        ("no configured algorithm", {**ED, "alg": "ES256"}),
        ("no configured algorithm", {**ED, "alg": "HS256"}),
        ("no configured algorithm", {**ED, "alg": ["EdDSA"]}),
        ("no configured algorithm", make_jwk(ec_key("a", "P-384"), "ES384", "k", alg="ES256")),
        ("its numbers make no key", {**ED, "x": "AAAA"}),
        ("its numbers make no key", {**ED, "x": "é"}),
        ("its numbers make no key", {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}),
        ("its numbers make no key", {"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
        ("8200 bits are not 2048", {"kty": "RSA", "n": encode(b"\xff" * 1025), "e": "AQAB"}),
        ("1024 bits are not 2048", make_jwk(rsa_key("short", 1024), "RS256", "k")),
    ],
)
def test_parse_key_set_key_that_cannot_count_is_ignored(reason: str, entry: Any) -> None:
    found = parse_key_set(json.dumps({"keys": [entry, ED]}).encode(), ALL)
    assert len(found) == 1 and found.find("ed", "EdDSA")
    (ignored,) = found.ignored
    assert reason in ignored


def test_parse_key_set_algorithm_not_configured_is_ignored() -> None:
    data = json.dumps({"keys": [ED, make_jwk(ec_key("a"), "ES256", "ec", alg=None)]}).encode()
    found = parse_key_set(data, ["ES256"])
    assert [found.has(kid) for kid in ("ed", "ec", None, "x")] == [False, True, True, False]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b"\xff",
        b"[" * 100_000,
        json.dumps({"keys": [ED] * (KEYS_COUNT_MAX + 1)}).encode(),
    ],
)
def test_parse_key_set_what_is_none_is_told(data: bytes) -> None:
    with pytest.raises(KeySetError):
        parse_key_set(data, ALL)


async def test_verify_token_without_kid_means_the_only_fitting_key(tmp_path: Path) -> None:
    nameless = make_jwk(ed_key("ed"), "EdDSA", None)
    token = token_of(outside_claims(), kid=None)
    async with running(tmp_path, nameless, make_jwk(ec_key("a"), "ES256", "ec")) as rig:
        assert (await rig.verify(token)).user == "zoe"
    async with running(tmp_path, ED, make_jwk(ed_key("b"), "EdDSA", "b")) as rig:
        with pytest.raises(TokenError, match="no key of the issuer"):
            await rig.verify(token)


async def test_verify_two_keys_of_one_name_are_told_apart(tmp_path: Path) -> None:
    other = make_jwk(ed_key("b"), "EdDSA", "ed")
    async with running(tmp_path, other, make_jwk(ec_key("a"), "ES256", "ed"), ED) as rig:
        assert (await rig.claims()).user == "zoe"


# --- what the claims mean -----------------------------------------------------------------------


async def test_verify_claims_are_mapped(tmp_path: Path) -> None:
    async with running(tmp_path, leeway_s=60) as rig:
        exp = int(time.time()) + 5
        found = await rig.claims(exp=exp, scope="openid all write")
        assert found == OutsideClaims(
            "login", "zoe", ("admin", "produce"), ("*",), exp + 60, "claims"
        )
        words: list[tuple[Any, tuple[str, ...]]] = [
            (["read", "write"], ("consume", "produce")),
            ("openid", ()),
            ("", ()),
            ([], ()),
            (None, ()),
        ]
        for scope, permissions in words:
            assert (await rig.claims(scope=scope)).permissions == permissions
        for wrong in (5, {"write": 1}, [["write"]], [None], True):
            with pytest.raises(TokenError, match="neither text nor a list"):
                await rig.claims(scope=wrong)


async def test_verify_without_a_mapping_nothing_is_allowed(tmp_path: Path) -> None:
    async with running(tmp_path, permissions={}) as rig:
        assert (await rig.claims(scope="produce consume admin")).permissions == ()


async def test_verify_claims_in_other_places(tmp_path: Path) -> None:
    fields = {
        "user_claim": "email",
        "permissions_claim": "realm_access.roles",
        "stations_claim": "https://example.com/stations",
    }
    async with running(tmp_path, **fields) as rig:
        found = await rig.claims(
            email="zoe@example.com",
            realm_access={"roles": ["write"]},
            **{"https://example.com/stations": "a.* b"},
        )
        assert (found.user, found.permissions) == ("zoe@example.com", ("produce",))
        assert found.stations == ("a.*", "b")
        # A token that lists no stations gets none, whatever the configuration's list says.
        assert (await rig.claims(email="zoe@example.com")).stations == ()
        for wrong in (["a"] * 2 + [str(n) for n in range(300)], "x" * 129, 5):
            with pytest.raises(TokenError):
                await rig.claims(email="z", **{"https://example.com/stations": wrong})
        with pytest.raises(TokenError, match="no user"):
            await rig.claims()


def test_find_claim() -> None:
    payload = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}}, "x": [1]}
    assert [find_claim(payload, name) for name in ("a.b", "a.c.d", "x")] == [1, 3, [1]]
    assert [find_claim(payload, name) for name in ("a.x", "x.0", "a.b.c", "")] == [None] * 4


async def test_verify_user_of_ours(tmp_path: Path) -> None:
    async with running(tmp_path, maps="user", user_claim="nick") as rig:
        found = await rig.claims(nick="ann", scope=5)
        assert found == OutsideClaims("login", "ann", (), (), found.exp, "user")


async def test_verify_times_have_leeway(tmp_path: Path) -> None:
    now = int(time.time())
    async with running(tmp_path, leeway_s=30) as rig:
        await rig.claims(exp=now - 20, nbf=now + 20, iat=now + 20)
        await rig.claims(exp=now + 0.5)
        for late in ({"exp": now - 40}, {"nbf": now + 40}, {"iat": now + 40}):
            with pytest.raises(TokenError, match=r"expired|not valid yet"):
                await rig.claims(**late)


async def test_verify_one_issuer_for_two_audiences(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "keys.json")
    rig.publish(ED)
    common: Any = {"issuer": ISSUER, "jwks_file": str(rig.path)}
    configs = [
        IssuerConfig(name="one", audience=["a", "b"], **common),
        IssuerConfig(name="two", audience=["c"], **common),
    ]
    rig.issuers = Issuers(configs)
    await rig.issuers.start()
    assert (await rig.claims(aud="b")).issuer_name == "one"
    assert (await rig.claims(aud=["x", "c"])).issuer_name == "two"
    with pytest.raises(TokenError, match="another audience"):
        await rig.claims(aud="d")
    await rig.issuers.close()


def test_claims_issuer_only_for_configured_ones() -> None:
    config = IssuerConfig(name="l", issuer=ISSUER, audience=["a"], jwks_file="none")
    issuers = Issuers([config])
    assert issuers.claims_issuer(token_of(outside_claims()))
    for claims in ({"iss": ISSUER + "x"}, {"iss": None}, {"iss": [ISSUER]}, {"iss": ""}):
        assert not issuers.claims_issuer(token_of(outside_claims(**claims)))
    for token in ("", "a.b.c", token_of(outside_claims()) + "="):
        assert not issuers.claims_issuer(token)
    assert not Issuers([]).claims_issuer(token_of(outside_claims()))


def test_parse_token_bounds() -> None:
    claims = outside_claims(x="y" * 9000)
    with pytest.raises(TokenError, match="exceeds 8192"):
        parse_token(token_of(claims))
    with pytest.raises(TokenError, match="kid is no text of at most 256"):
        parse_token(token_of(outside_claims(), kid="k" * 257))
    assert parse_token(token_of(outside_claims(), kid="k" * 256)).header["alg"] == "EdDSA"


# --- when the set is read -----------------------------------------------------------------------


async def test_file_is_read_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jwks, "FILE_POLL_S", 0.01)
    caplog.set_level(logging.INFO, "fastgw.control")
    removals: list[int] = []
    async with running(tmp_path) as rig:
        rig.issuers.on_removal(lambda: removals.append(1))
        (issuer,) = rig.issuers._each()
        source = issuer.source
        first = source.keys
        rig.publish(ED, make_jwk(ed_key("b"), "EdDSA", "b"))
        await wait_until(lambda: source.keys.has("b"))
        assert source.keys is not first and not removals
        token = token_of(outside_claims(), "b")
        assert (await rig.verify(token)).user == "zoe"
        rig.publish(ED)
        await wait_until(lambda: bool(removals))
        rig.clock.now += 1000
        with pytest.raises(TokenError):
            await rig.verify(token)
        # The file is damaged, then gone: the keys stay, and one line tells it.
        caplog.clear()
        rig.path.write_bytes(b"{")
        await wait_until(lambda: "cannot be read" in caplog.text)
        rig.path.unlink()
        for _ in range(5):
            await source.refresh()
        assert (await rig.claims()).user == "zoe"
        assert caplog.text.count("cannot be read") == 1
        rig.publish(ED)
        await wait_until(lambda: "has 1 usable keys" in caplog.text)
        # A set without keys is a set: the issuer has withdrawn them all.
        rig.publish()
        await wait_until(lambda: "has 0 usable keys" in caplog.text)
        with pytest.raises(TokenError):
            await rig.claims()
        assert len(removals) == 2


async def test_file_that_is_too_large_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, {**ED, "x5c": ["x" * ANSWER_BYTES_MAX]}) as rig:
        assert f"exceeds {ANSWER_BYTES_MAX} bytes" in caplog.text
        with pytest.raises(UpstreamFault, match="cannot be read yet"):
            await rig.claims()


async def test_unknown_key_costs_one_reading_in_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FILE_POLL_S", 1e9)
    async with running(tmp_path) as rig:
        (issuer,) = rig.issuers._each()
        source = issuer.source
        readings: list[int] = []
        load = source._load

        def count() -> Any:
            readings.append(1)
            return load()

        monkeypatch.setattr(source, "_load", count)
        unknown = [token_of(outside_claims(), "b", kid=f"k{n}") for n in range(50)]
        waiting = [rig.verify(token) for token in unknown]
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, TokenError)
        assert len(readings) == 1
        for token in unknown:
            with pytest.raises(TokenError, match="names an unknown key"):
                rig.issuers.verify(token)
        rig.clock.now += jwks.FORCED_S - 0.1
        rig.publish(ED, make_jwk(ed_key("b"), "EdDSA", "b"))
        with pytest.raises(TokenError, match="names an unknown key"):
            rig.issuers.verify(token_of(outside_claims(), "b"))
        rig.clock.now += 0.2
        assert (await rig.verify(token_of(outside_claims(), "b"))).user == "zoe"
        assert len(readings) == 2
        # From now on it is known: at once, without a reading.
        assert isinstance(rig.issuers.verify(token_of(outside_claims(), "b")), OutsideClaims)


async def test_unknown_key_of_a_token_that_cannot_count_costs_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        (issuer,) = rig.issuers._each()
        wrong: list[dict[str, Any]] = [{"exp": 1}, {"aud": "x"}, {"sub": None}, {"nbf": 2**40}]
        for claims in wrong:
            with pytest.raises(TokenError):
                rig.issuers.verify(token_of(outside_claims(**claims), kid="unknown"))
        for algorithm in ("none", "HS256", "PS512"):
            with pytest.raises(TokenError, match="algorithm is not this issuer's"):
                rig.issuers.verify(token_of(outside_claims(), kid="unknown", alg=algorithm))
        assert issuer.source._forced_at < 0


async def test_waiting_for_keys_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuers_module, "WAITING_COUNT_MAX", 3)
    async with running(tmp_path) as rig:
        token = token_of(outside_claims(), kid="unknown")
        waiting = [rig.verify(token) for _ in range(5)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    kinds = [outcome.kind.status for outcome in outcomes if isinstance(outcome, Fault)]
    assert kinds == [401, 401, 401, 503, 503]


async def test_start_without_keys_goes_on_and_recovers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path / "keys.json")
    await rig.issuers.start()
    assert "the keys of the issuer login cannot be read: FileNotFoundError" in caplog.text
    for _ in range(2):
        with pytest.raises(UpstreamFault, match="cannot be read yet") as raised:
            await rig.claims()
        assert raised.value.kind.retry_after_s
    rig.publish(ED)
    rig.clock.now += jwks.FORCED_S
    assert (await rig.claims()).user == "zoe"
    await rig.issuers.close()


async def test_reading_that_hangs_is_given_up_and_not_doubled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:

    async with running(tmp_path, timeout_ms=50) as rig:
        (issuer,) = rig.issuers._each()
        source = issuer.source
        calls: list[int] = []
        release = threading.Event()

        def hang() -> None:
            calls.append(1)
            release.wait(10)

        monkeypatch.setattr(source, "_load", hang)
        await source.refresh()
        assert "no whole answer within 50 ms" in caplog.text
        await source.refresh()
        assert len(calls) == 1 and source._is_failing
        assert (await rig.claims()).user == "zoe"
        reading = source._reading
        release.set()
        assert reading is not None
        await wait_until(reading.is_set)
        await source.refresh()
        assert len(calls) == 2


async def test_close_leaves_those_who_wait_with_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    async with running(tmp_path) as rig:
        (issuer,) = rig.issuers._each()
        release = threading.Event()
        monkeypatch.setattr(issuer.source, "_load", lambda: release.wait(10) and None)
        waiting = asyncio.ensure_future(rig.verify(token_of(outside_claims(), kid="unknown")))
        await wait_until(lambda: issuer.source._is_refreshing)
        await rig.issuers.close()
        with pytest.raises(TokenError):
            await waiting
        release.set()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/keys",
        "http://127.0.0.1.example.com/keys",
        "http://10.0.0.1/keys",
        "file:///etc/passwd",
        "ftp://127.0.0.1/keys",
        "data:application/json,{}",
        "https:///keys",
        "//127.0.0.1/keys",
        "",
    ],
)
def test_check_url_refuses_what_others_could_change(url: str) -> None:
    with pytest.raises(KeySetError, match="https:// only"):
        jwks.check_url(url)


def test_check_url_refuses_a_password_without_showing_it() -> None:
    with pytest.raises(KeySetError, match="no user and no password") as raised:
        jwks.check_url("https://ann:hunter2@example.com/jwks")
    assert "hunter2" not in str(raised.value)


def test_check_url_allows_https_and_this_machine() -> None:
    for url in ("https://example.com/k", "http://127.0.0.1:1/k", "http://[::1]/k"):
        jwks.check_url(url)
