"""Hostile tokens, each by a name: all are refused, wherever a token may be given.

The real `Tokens`, `Issuers` and `Auth.identify`; only users and the place of secrets are fakes.
The honest tokens at the end are accepted, so that the table can fail.
"""

from __future__ import annotations

import base64
import json
import time
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization import NoEncryption as Open

from fastgw._core import Principal
from fastgw.config_types import AuthConfig, Config, IssuerConfig
from fastgw.control.issuers import Issuers
from fastgw.control.secrets import SigningKey, SigningSecret
from fastgw.control.tokens import Tokens
from fastgw.handlers.auth import Auth
from tests.unit.handler_fakes import FakeKeys, FakeRequest, FakeUsers, make_user
from tests.unit.token_forge import (
    AUDIENCE,
    ISSUER,
    LIFE_S,
    ec_key,
    ed_key,
    encode,
    forge,
    hmac_signer,
    make_jwk,
    outside_claims,
    own_claims,
    rsa_key,
    signer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SECRET: Final = b"access-secret-of-thirty-two-byte"
REFRESH: Final = b"refresh-secret-of-thirty-two-byt"
OCT: Final = b"a-symmetric-key-in-the-key-set!!"
NOW: Final = int(time.time())
FUTURE: Final = NOW + LIFE_S

OWN: Final = {"alg": "HS256", "kid": "h1"}
OUT: Final = {"alg": "RS256", "kid": "rsa"}
by_own: Final = hmac_signer(SECRET)
by_out: Final = signer(rsa_key("issuer"), "RS256")
by_thief: Final = signer(rsa_key("thief"), "RS256")


def _seed(key: Any) -> bytes:
    seed: bytes = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, Open())
    return seed


class FakeSecrets:
    """An HMAC secret and an Ed25519 key for each use, found by kid."""

    def __init__(self) -> None:
        self._keys = {
            ("access", "h1"): _signing("h1", "HS256", SECRET),
            ("access", "e1"): _signing("e1", "EdDSA", _seed(ed_key("own"))),
            ("refresh", "r1"): _signing("r1", "HS256", REFRESH),
        }

    def find(self, use: str, kid: str | None) -> tuple[SigningKey, ...]:
        found = self._keys.get((use, kid or ""))
        return () if found is None else (found,)

    def find_signer(self, use: str) -> SigningKey:
        return self._keys[use, "h1" if use == "access" else "r1"]


def _signing(kid: str, algorithm: str, raw: bytes) -> SigningKey:
    secret = SigningSecret(
        kid=kid, use="access", algorithm=algorithm, secret="", created_at=0.0, signs_from=0.0
    )
    return SigningKey(secret, raw)


class Rig:
    """A gateway's identity checks, with one issuer whose claims decide and one that names users."""

    def __init__(self, path: Path) -> None:
        path.write_text(json.dumps({"keys": KEY_SET}))
        common: Any = {"audience": [AUDIENCE], "jwks_file": str(path), "algorithms": ALGORITHMS}
        permissions: Any = {"write": ["produce"]}
        self.issuers = Issuers(
            [
                IssuerConfig(name="login", issuer=ISSUER, permissions=permissions, **common),
                IssuerConfig(name="staff", issuer="urn:staff", maps="user", **common),
            ]
        )
        config = Config(auth=AuthConfig())
        secrets: Any = FakeSecrets()
        self.tokens = Tokens(secrets, config.auth)
        self.users = FakeUsers()
        self.users.records["dan"] = make_user("dan", disabled=True)
        users: Any = self.users
        keys: Any = FakeKeys()
        self.auth = Auth(config, users, keys, self.tokens, self.issuers)

    async def identify(self, request: FakeRequest) -> Principal | None:
        found = self.auth.identify(request)
        return await found if isawaitable(found) else found

    async def bearer(self, token: str) -> Principal | None:
        fields = {b"authorization": f"Bearer {token}".encode("latin-1", "replace")}
        return await self.identify(FakeRequest(fields=fields))

    async def query(self, token: str) -> Principal | None:
        return await self.identify(FakeRequest(query=f"access_token={quote(token)}".encode()))

    async def refresh(self, token: str) -> int:
        request = FakeRequest(json.dumps({"jwt_refresh_token": token}).encode())
        await self.auth.refresh(request)
        status: int = request.answer[0]
        return status


ALGORITHMS: Any = ["RS256", "RS512", "ES256", "ES384", "EdDSA"]
KEY_SET: Final = [
    make_jwk(rsa_key("issuer"), "RS256", "rsa"),
    make_jwk(ec_key("issuer"), "ES256", "ec"),
    make_jwk(ec_key("issuer", "P-384"), "ES384", "ec384"),
    make_jwk(ed_key("issuer"), "EdDSA", "ed"),
    make_jwk(rsa_key("short", 1024), "RS256", "short"),
    make_jwk(rsa_key("enc"), "RS256", "enc", use="enc"),
    make_jwk(rsa_key("public"), "RS256", "public", d="AQAB"),
    {"kty": "oct", "kid": "oct", "alg": "HS256", "k": encode(OCT)},
]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "keys.json")
    await rig.issuers.start()
    yield rig
    await rig.issuers.close()


def own(
    sign: Callable[[bytes], bytes] = by_own, header: dict[str, Any] | None = None, **claims: Any
) -> str:
    return forge(OWN | (header or {}), own_claims(**claims), sign)


def out(
    sign: Callable[[bytes], bytes] = by_out, header: dict[str, Any] | None = None, **claims: Any
) -> str:
    return forge(OUT | (header or {}), outside_claims(**claims), sign)


def nothing(data: bytes) -> bytes:
    return b""


def public(key: Any, encoding: Encoding, form: PublicFormat) -> bytes:
    found: bytes = key.public_key().public_bytes(encoding, form)
    return found


def tail(token: str) -> str:
    """Set a bit behind the last byte of the signature, which a sloppy decoder does not see."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + letters[letters.index(token[-1]) + 1]


def part(token: str, at: int, change: Callable[[str], str]) -> str:
    parts = token.split(".")
    parts[at] = change(parts[at])
    return ".".join(parts)


def renamed(**claims: Any) -> Callable[[str], str]:
    return lambda text: encode(json.loads(base64.urlsafe_b64decode(text + "==")) | claims)


def raw_pair(raw: bytes) -> str:
    """Build an honest header, and a payload of these bytes, with `{}` standing for all claims."""
    return forge(OWN, raw.replace(b"{}", json.dumps(own_claims()).encode()), by_own)


def raw_out(raw: str) -> str:
    """Build an outside token whose payload ends with `raw`, well signed."""
    return forge(OUT, (json.dumps(outside_claims())[:-1] + raw + "}").encode(), by_out)


def der(data: bytes) -> bytes:
    signature = signer(ec_key("issuer"), "ES256")(data)
    numbers = (int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    return encode_dss_signature(*numbers)


SPKI, PKCS1 = PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1
RSA, OWN_ED, OUT_ED = rsa_key("issuer"), ed_key("own"), ed_key("issuer")
THIEF: Final = make_jwk(rsa_key("thief"), "RS256", "rsa")
ORDER_P256: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
LONG: Final = "k" * 100_000

ATTACKS: Final[dict[str, str]] = {
    # --- no algorithm
    **{
        f"alg {alg!r}, {name}": make(sign, {"alg": alg})
        for alg in ("none", "None", "NONE", "nOnE", " none", "none ", "", "null", "hs256", "rs256")
        for name, make, sign in (
            ("no signature", own, nothing),
            ("own, signed", own, by_own),
            ("outside, no signature", out, nothing),
            ("outside, signed", out, by_out),
        )
    },
    "alg missing": forge({"kid": "h1"}, own_claims(), by_own),
    "alg null": own(header={"alg": None}),
    "alg a list": own(header={"alg": ["HS256"]}),
    "alg a number": own(header={"alg": 0}),
    "alg true": out(header={"alg": True}),
    "empty signature": own(nothing),
    "empty signature, outside": out(nothing),
    "empty signature, EdDSA": own(nothing, {"alg": "EdDSA", "kid": "e1"}),
    "no third part": own().rpartition(".")[0],
    "signature of zeros": own(lambda _: bytes(32)),
    "signature of zeros, outside": out(lambda _: bytes(256)),
    # --- the wrong algorithm for the key
    "HS512 by the right secret": own(hmac_signer(SECRET, "sha512"), {"alg": "HS512"}),
    "HS384 by the right secret": own(hmac_signer(SECRET, "sha384"), {"alg": "HS384"}),
    "HS256 said, HS512 done": own(hmac_signer(SECRET, "sha512")),
    "HS256 by the Ed public key, raw": own(
        hmac_signer(public(OWN_ED, Encoding.Raw, PublicFormat.Raw)), {"kid": "e1"}
    ),
    "HS256 by the Ed public key, PEM": own(
        hmac_signer(public(OWN_ED, Encoding.PEM, SPKI)), {"kid": "e1"}
    ),
    "HS256 by the Ed public key, DER": own(
        hmac_signer(public(OWN_ED, Encoding.DER, SPKI)), {"kid": "e1"}
    ),
    "HS256 by an empty key": own(hmac_signer(b"")),
    "HS256 by the kid": own(hmac_signer(b"h1")),
    "the HMAC secret under the Ed kid": own(header={"kid": "e1"}),
    "the Ed key under the HMAC kid": own(signer(OWN_ED, "EdDSA"), {"alg": "EdDSA"}),
    "RS256 on our kid": own(by_thief, {"alg": "RS256"}),
    "HS256 by the RSA public key, PEM": out(
        hmac_signer(public(RSA, Encoding.PEM, SPKI)), {"alg": "HS256"}
    ),
    "HS256 by the RSA public key, PEM without the last line end": out(
        hmac_signer(public(RSA, Encoding.PEM, SPKI).strip()), {"alg": "HS256"}
    ),
    "HS256 by the RSA public key, PKCS1": out(
        hmac_signer(public(RSA, Encoding.PEM, PKCS1)), {"alg": "HS256"}
    ),
    "HS256 by the RSA public key, DER": out(
        hmac_signer(public(RSA, Encoding.DER, SPKI)), {"alg": "HS256"}
    ),
    "HS256 by the RSA public key, as a JWK": out(
        hmac_signer(json.dumps(KEY_SET[0]).encode()), {"alg": "HS256"}
    ),
    "HS256 by the outside Ed public key": out(
        hmac_signer(public(OUT_ED, Encoding.PEM, SPKI)), {"alg": "HS256", "kid": "ed"}
    ),
    "HS256 by the symmetric key of the set": out(hmac_signer(OCT), {"alg": "HS256", "kid": "oct"}),
    "RS512 said, RS256 done": out(header={"alg": "RS512"}),
    "EdDSA said, RS256 done": out(header={"alg": "EdDSA"}),
    "RS512 where the key says RS256": out(signer(RSA, "RS512"), {"alg": "RS512"}),
    "PS256 where the key says RS256": out(signer(RSA, "PS256"), {"alg": "PS256"}),
    "ES256 on a P-384 key": out(
        signer(ec_key("issuer"), "ES256"), {"alg": "ES256", "kid": "ec384"}
    ),
    "ES256 of two zeros": out(lambda _: bytes(64), {"alg": "ES256", "kid": "ec"}),
    "ES256 of two orders": out(
        lambda _: ORDER_P256.to_bytes(32) * 2, {"alg": "ES256", "kid": "ec"}
    ),
    "ES256 in DER": out(der, {"alg": "ES256", "kid": "ec"}),
    # --- the wrong key
    "an RSA key of 1024 bits": out(signer(rsa_key("short", 1024), "RS256"), {"kid": "short"}),
    "a key for encryption": out(signer(rsa_key("enc"), "RS256"), {"kid": "enc"}),
    "a published private key": out(signer(rsa_key("public"), "RS256"), {"kid": "public"}),
    "another RSA key": out(by_thief),
    "the kid of another key": out(header={"kid": "ec"}),
    "an unknown kid": out(header={"kid": "rsb"}),
    "no kid, another key": forge({"alg": "RS256"}, outside_claims(), by_thief),
    "our secret for an outside token": forge(OWN, outside_claims(), by_own),
    "our secret and claims, and an outside iss": own(iss=ISSUER, aud=AUDIENCE),
    "an outside key for our claims": forge(OUT, own_claims(), by_out),
    "an outside key, our claims, and an iss": forge(
        OUT, own_claims(iss="fastgw", aud=AUDIENCE), by_out
    ),
    "the refresh secret for an access token": own(hmac_signer(REFRESH)),
    "the refresh kid for an access token": own(hmac_signer(REFRESH), {"kid": "r1"}),
    # --- kid as a way in
    **{
        f"kid {str(kid)[:30]!r}": make(sign, {"kid": kid})
        for kid in (
            "../../../../dev/null",
            "/dev/null",
            "' UNION SELECT 'x",
            "x' OR '1'='1",
            "https://evil.example/key.pem",
            "file:///etc/passwd",
            "h1\x00",
            "H1",
            " h1",
            "h1/../h1",
            "*",
            "",
            "null",
            None,
            0,
            True,
            ["h1"],
            ["rsa"],
            {"h1": 1},
            LONG[:257],
            LONG,
        )
        for make, sign in ((own, hmac_signer(b"")), (out, by_thief))
    },
    **{
        f"kid {kid!r}, honest key": make(header={"kid": kid})
        for make in (own, out)
        for kid in (None, ["rsa"], 0)
    },
    # --- keys that the token brings along
    "jwk": out(by_thief, {"jwk": THIEF}),
    "jwk and no kid": forge({"alg": "RS256", "jwk": THIEF}, outside_claims(), by_thief),
    "jwk on our token": own(by_thief, {"alg": "RS256", "jwk": THIEF}),
    "jwk, symmetric": own(hmac_signer(b"x" * 32), {"jwk": {"kty": "oct", "k": encode(b"x" * 32)}}),
    "jku": out(by_thief, {"jku": "https://evil.example/jwks.json"}),
    "jku of ours": out(by_thief, {"jku": ISSUER + "?next=https://evil.example"}),
    "jku and an unknown kid": out(by_thief, {"jku": "http://127.0.0.1/", "kid": "thief"}),
    "x5u": out(by_thief, {"x5u": "https://evil.example/cert.pem"}),
    "x5c": out(by_thief, {"x5c": [base64.b64encode(b"a certificate").decode()]}),
    "x5t of another": out(by_thief, {"x5t": "AAAA", "x5t#S256": "AAAA"}),
    # --- headers that change the rules
    "crit exp": own(header={"crit": ["exp"], "exp": NOW}),
    "crit unknown": out(header={"crit": ["x"], "x": 1}),
    "crit empty": own(header={"crit": []}),
    "crit null": out(header={"crit": None}),
    "b64 false": own(header={"b64": False}),
    "b64 false and crit": out(header={"b64": False, "crit": ["b64"]}),
    "b64 false, payload as it is": (
        f"{encode(OWN | {'b64': False, 'crit': ['b64']})}.{json.dumps(own_claims())}.AAAA"
    ),
    "b64 true": own(header={"b64": True}),
    "nested: cty JWT": own(header={"cty": "JWT"}),
    "nested: a token as payload": forge(OWN | {"cty": "JWT"}, own().encode(), by_own),
    "nested: a token as payload, untold": forge(OWN, own().encode(), by_own),
    "zip": out(header={"zip": "DEF"}),
    "enc": out(header={"enc": "A128GCM"}),
    "typ of a logout token": out(header={"typ": "logout+jwt"}),
    "typ of a proof": out(header={"typ": "dpop+jwt"}),
    "typ JWE": own(header={"typ": "JWE"}),
    "typ empty": own(header={"typ": ""}),
    "typ null": own(header={"typ": None}),
    "typ a list": out(header={"typ": ["JWT"]}),
    "typ with a parameter": out(header={"typ": "JWT;x=1"}),
    # --- times
    "expired": own(exp=NOW - 1),
    "expired, outside": out(exp=NOW - 61),
    "no end": own(exp=None),
    "no end, outside": out(exp=None),
    "not yet valid": own(nbf=FUTURE),
    "not yet valid, outside": out(nbf=FUTURE),
    "issued in the future": own(iat=FUTURE),
    "issued in the future, outside": out(iat=FUTURE),
    **{
        f"exp {str(exp)[:20]!r}": make(exp=exp)
        for exp in (0, -1, -(10**12), str(FUTURE), [FUTURE], {"at": 1}, "never", "")
        for make in (own, out)
    },
    "exp true": out(exp=True),
    **{
        f"{name} as {text[:20]}": forge(header, claims.encode(), sign)
        for name in ("exp", "nbf", "iat")
        for text in (
            "null",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e400",
            "1" + "0" * 400,
            "1" + "0" * 5000,
            "0x7fffffff",
        )
        for header, body, sign in ((OWN, own_claims(), by_own), (OUT, outside_claims(), by_out))
        for claims in (json.dumps(body | {name: "?"}).replace('"?"', text),)
    },
    "exp 2**53 and one": out(exp=2**53 + 1),
    "nbf a text": out(nbf="0"),
    "iat a list": out(iat=[0]),
    # --- who it is from, and for whom
    "iss missing": out(iss=None),
    "iss of another": out(iss="https://evil.example/"),
    "iss without the last character": out(iss=ISSUER[:-1]),
    "iss with another case": out(iss=ISSUER.upper()),
    "iss with a space": out(iss=ISSUER + " "),
    "iss a list": out(iss=[ISSUER]),
    "iss an object": out(iss={ISSUER: 1}),
    "aud missing": out(aud=None),
    "aud of another": out(aud="other"),
    "aud longer": out(aud=AUDIENCE + "2"),
    "aud shorter": out(aud=AUDIENCE[:-1]),
    "aud with another case": out(aud=AUDIENCE.upper()),
    "aud empty": out(aud=[]),
    "aud in a text of two": out(aud=f"other {AUDIENCE}"),
    "aud an object": out(aud={AUDIENCE: 1}),
    "aud a list with a number": out(aud=[AUDIENCE, 1]),
    "aud a list in a list": out(aud=[[AUDIENCE]]),
    "sub missing": out(sub=None),
    "sub empty": out(sub=""),
    "sub a number": out(sub=5),
    "sub with a line end": out(sub="zoe\r\nadmin"),
    "sub half a surrogate pair": out(sub="\ud800"),
    "sub very long": out(sub="z" * 257),
    "a user of another account": own(acc=2),
    "an account as text": own(acc="1"),
    "an account missing": own(acc=None),
    "a user of another epoch": own(ep=8),
    "an epoch of before": own(ep=6),
    "a user who is gone": own(sub="gone"),
    "a user who is disabled": own(sub="dan"),
    "a user in another case": own(sub="Ann"),
    "a mapped user who is gone": out(iss="urn:staff", sub="gone"),
    "a mapped user who is disabled": out(iss="urn:staff", sub="dan"),
    "the use missing": own(use=None),
    "the use refresh by the access secret": own(use="r"),
    "the use of both": own(use="ar"),
    # --- tampered with
    "another user in the payload": part(own(), 1, renamed(sub="bob")),
    "another end in the payload": part(own(), 1, renamed(exp=NOW + 10**6)),
    "another scope in the payload": part(out(), 1, renamed(scope="write admin")),
    "another header": part(own(), 0, renamed(x=1)),
    "another alg in the header": part(out(), 0, renamed(alg="RS512")),
    "signature of another token": f"{own().rpartition('.')[0]}.{own(jti='k').rpartition('.')[2]}",
    "signature cut short": own()[:-2],
    "signature with more behind": own() + "AAAA",
    # --- another text for an honest token
    "spare bits set": tail(own()),
    "spare bits set, outside": tail(out()),
    "padding": own() + "=",
    "padding inside": part(own(), 1, lambda text: text + "=" * (-len(text) % 4 or 4)),
    "the other base64": part(own(jti="???>>>~~~"), 1, lambda text: text + "+/"),
    "a space inside": part(own(), 1, lambda text: text[:5] + " " + text[5:]),
    "a tab in the signature": part(own(), 2, lambda text: text[:5] + "\t" + text[5:]),
    "a line end inside": part(out(), 1, lambda text: text[:64] + "\r\n" + text[64:]),
    "a NUL behind": own() + "\x00",
    "a letter of another alphabet": own().replace("e", "\u0435", 1),
    "full-width dots": own().replace(".", "\uff0e"),
    "a byte order mark": "\ufeff" + own(),
    "a dot before": "." + own(),
    "a dot behind": own() + ".",
    "five parts": own() + ".AAAA.AAAA",
    "two dots": own().replace(".", "..", 1),
    "the token twice": own() + own(),
    "only dots": "..",
    "JSON form": json.dumps({"payload": own().split(".")[1], "signature": own().split(".")[2]}),
    # --- JSON that readers read differently
    "sub twice": raw_pair(b'{"sub":"bob",' + json.dumps(own_claims()).encode()[1:]),
    "exp twice, outside": raw_out(f',"exp":{FUTURE + 1}'),
    "scope twice, outside": raw_out(',"scope":"write"'),
    "alg twice": forge(b'{"alg":"none","kid":"h1","alg":"HS256"}', own_claims(), by_own),
    "NaN in another claim": raw_out(',"x":NaN'),
    "Infinity deep inside": raw_out(',"x":[-Infinity]'),
    "a name twice deep inside": raw_out(',"x":{"a":1,"a":2}'),
    "payload a list": raw_pair(b"[{}]"),
    "payload a text": raw_pair(b'"x"'),
    "payload null": raw_pair(b"null"),
    "payload no JSON": raw_pair(b"x"),
    "payload with more behind": raw_pair(b"{} {}"),
    "payload with a comma too many": raw_out(","),
    "payload in UTF-16": forge(OWN, json.dumps(own_claims()).encode("utf-16"), by_own),
    "payload no UTF-8": raw_pair(b'{"\xff":1}'),
    "payload behind a byte order mark": raw_pair(b"\xef\xbb\xbf{}"),
    "header a list": forge([OWN], own_claims(), by_own),
    "header no JSON": forge(b"x", own_claims(), by_own),
    "deeply nested payload": raw_pair(b"[" * 1400 + b"]" * 1400),
    "deeply nested claim, outside": raw_out(',"x":' + "[" * 2500 + "]" * 2500),
    "deeply nested header": forge(b'{"x":' * 900 + b"1" + b"}" * 900, own_claims(), by_own),
    # --- size
    "a token of 1 MB": own(x="x" * 1_000_000),
    "a token of 1 MB, outside": out(x="x" * 1_000_000),
    "a signature of 1 MB": own(lambda _: bytes(1_000_000)),
    "1 MB of dots": "." * 1_000_000,
    "nothing but a word": "x",
}


def test_attacks_are_many() -> None:
    assert len(ATTACKS) >= 200


@pytest.mark.parametrize("token", ATTACKS.values(), ids=ATTACKS.keys())
async def test_identify_hostile_token_refused(rig: Rig, token: str) -> None:
    assert await rig.bearer(token) is None
    assert await rig.query(token) is None
    assert await rig.refresh(token) == 401


async def test_identify_every_changed_character_refused(rig: Rig) -> None:
    ed = own(signer(OWN_ED, "EdDSA"), {"alg": "EdDSA", "kid": "e1"})
    for token in (own(), ed, out()):
        assert await rig.bearer(token) is not None
        for at, letter in enumerate(token):
            for other in {"A", "B", "Q", "_"} - {letter}:
                changed = f"{token[:at]}{other}{token[at + 1 :]}"
                assert await rig.bearer(changed) is None, at
            assert await rig.bearer(token[:at] + token[at + 1 :]) is None, at


async def test_identify_token_of_the_other_use_refused(rig: Rig) -> None:
    pair = rig.tokens.issue(rig.users.records["ann"], 1, 10, 10)
    assert await rig.bearer(pair.refresh_jwt) is None
    assert await rig.query(pair.refresh_jwt) is None
    assert await rig.refresh(pair.jwt) == 401
    assert await rig.bearer(pair.jwt) is not None
    assert await rig.refresh(pair.refresh_jwt) == 200
    assert await rig.refresh(out()) == 401
    assert await rig.refresh(tail(pair.refresh_jwt)) == 401


async def test_identify_user_who_changed_since_refused(rig: Rig) -> None:
    pair, mapped = rig.tokens.issue(rig.users.records["ann"], 1, 10, 10), staff("ann")
    changes = [make_user("ann", epoch=8), make_user("ann", disabled=True), None]
    for change in changes:
        assert await rig.bearer(pair.jwt) is not None
        assert await rig.bearer(mapped) is not None
        rig.users.records["ann"] = change or make_user("nobody")
        if change is None:
            del rig.users.records["ann"]
        assert await rig.bearer(pair.jwt) is None
        assert await rig.refresh(pair.refresh_jwt) == 401
        # A user whose passwords changed is the same user to the issuer that names him.
        is_same = change is not None and not change.disabled
        assert (await rig.bearer(mapped) is not None) is is_same
        rig.users.records["ann"] = make_user("ann")


def staff(user: str) -> str:
    return out(iss="urn:staff", sub=user)


HONEST: Final[dict[str, tuple[str, str]]] = {
    "ours, HS256": (own(), "ann"),
    "ours, EdDSA": (own(signer(OWN_ED, "EdDSA"), {"alg": "EdDSA", "kid": "e1"}), "ann"),
    "ours, with a type": (own(header={"typ": "JWT"}), "ann"),
    "RS256": (out(), "login:zoe"),
    "ES256": (out(signer(ec_key("issuer"), "ES256"), {"alg": "ES256", "kid": "ec"}), "login:zoe"),
    "ES384": (
        out(signer(ec_key("issuer", "P-384"), "ES384"), {"alg": "ES384", "kid": "ec384"}),
        "login:zoe",
    ),
    "EdDSA": (out(signer(OUT_ED, "EdDSA"), {"alg": "EdDSA", "kid": "ed"}), "login:zoe"),
    "no kid, one fitting key": (forge({"alg": "RS256"}, outside_claims(), by_out), "login:zoe"),
    "typ at+jwt": (out(header={"typ": "AT+JWT"}), "login:zoe"),
    "key hints are not looked at": (out(header={"x5t": "AAAA", "jku": "x"}), "login:zoe"),
    "aud among others": (out(aud=["other", AUDIENCE]), "login:zoe"),
    "exp with a fraction": (out(exp=FUTURE + 0.5), "login:zoe"),
    "a name of any language": (out(sub="Zo\u00eb \u5f20"), "login:Zo\u00eb \u5f20"),
    "a user of ours": (staff("ann"), "ann"),
    "a payload of other bytes": (raw_pair(b" {} "), "ann"),
    "a claim within another": (raw_out(',"x":[{"a":1},{"a":2}]'), "login:zoe"),
    "a time of before": (own(nbf=0), "ann"),
}


@pytest.mark.parametrize(("token", "user"), HONEST.values(), ids=HONEST.keys())
async def test_identify_honest_token_accepted(rig: Rig, token: str, user: str) -> None:
    for found in (await rig.bearer(token), await rig.query(token)):
        assert found is not None
        assert found.user == user and found.may(1, "any")


def test_attacks_are_made_as_they_say() -> None:
    """The forge is true: the library itself takes its honest tokens."""
    assert jwt.decode(own(), SECRET, ["HS256"])["sub"] == "ann"
    assert jwt.decode(out(), RSA.public_key(), ["RS256"], audience=AUDIENCE)["sub"] == "zoe"
