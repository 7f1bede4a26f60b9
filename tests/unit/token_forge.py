"""Keys of an outside issuer, and tokens with any header, payload and signature.

What enters: names of keys, headers and payloads, also such that no library would write.
What leaves: key sets and token texts. Called by the tests of tokens and issuers.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

if TYPE_CHECKING:
    from collections.abc import Callable

    Sign = Callable[[bytes], bytes]

ISSUER, AUDIENCE = "https://login.example.com/", "fastgw"
LIFE_S = 86_400
"""Tokens that are made when a test file is read must last until its tests have run."""


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(name: str, curve: str = "P-256") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1() if curve == "P-256" else ec.SECP384R1())


@cache
def ed_key(name: str) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def make_jwk(key: Any, algorithm: str, kid: str | None, **fields: Any) -> dict[str, Any]:
    """Build the public half as a JWK; a field of None leaves one out."""
    algorithms: Any = jwt.get_algorithm_by_name(algorithm)
    whole = algorithms.to_jwk(key.public_key(), as_dict=True)
    whole |= {"kid": kid, "alg": algorithm, "use": "sig", "key_ops": ["verify"], **fields}
    return {name: value for name, value in whole.items() if value is not None}


def signer(key: Any, algorithm: str) -> Sign:
    algorithms: Any = jwt.get_algorithm_by_name(algorithm)
    return lambda data: bytes(algorithms.sign(data, key))


def hmac_signer(key: bytes, digest: str = "sha256") -> Sign:
    return lambda data: hmac.new(key, data, getattr(hashlib, digest)).digest()


def encode(data: Any) -> str:
    """Encode an object as JSON, or bytes as they are, in base64url without padding."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def forge(header: Any, payload: Any, sign: Sign) -> str:
    signed = f"{encode(header)}.{encode(payload)}"
    return f"{signed}.{encode(sign(signed.encode()))}"


def own_claims(**fields: Any) -> dict[str, Any]:
    """Build what a token of ours says; a field of None leaves one out."""
    now = int(time.time())
    whole = {
        "sub": "ann",
        "acc": 1,
        "ep": 7,
        "exp": now + LIFE_S,
        "iat": now,
        "jti": "j",
        "use": "a",
    }
    return {name: value for name, value in (whole | fields).items() if value is not None}


def outside_claims(**fields: Any) -> dict[str, Any]:
    """Build what an outside token says; a field of None leaves one out."""
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "zoe", "exp": now + LIFE_S, "iat": now}
    whole |= {"scope": "openid write"}
    return {name: value for name, value in (whole | fields).items() if value is not None}
