"""Secrets and tokens without a broker: a gateway whose records a test delivers itself."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Final

import jwt

from fastgw.config_types import AuthConfig
from fastgw.control.secrets import SECRET_BYTES, Secrets, SecretSet, SigningSecret, Use
from fastgw.control.store import Store
from fastgw.control.tokens import Tokens
from fastgw.control.users import UserRecord

ACCESS, REFRESH = b"a" * 32, b"r" * 32
USER = UserRecord(name="ada", password_hash="scrypt$secret", permissions=["produce"], epoch=7)
ALGORITHMS: Final = tuple(SECRET_BYTES)


def tokens(access: bytes = ACCESS, refresh: bytes = REFRESH, **fields: Any) -> Tokens:
    """Tokens of configured secrets, without a store."""
    secrets = {"jwt_secret": access.decode(), "refresh_jwt_secret": refresh.decode()}
    config = AuthConfig(**(secrets | fields))
    return Tokens(Secrets(None, config), config)


def claims(**fields: Any) -> dict[str, Any]:
    whole = {"sub": "ada", "acc": 1, "ep": 7, "exp": int(time.time()) + 60, "iat": 1}
    return {**whole, "jti": "j", "use": "a", **fields}


def signed(
    payload: dict[str, Any], key: Any = ACCESS, algorithm: str = "HS256", **header: Any
) -> str:
    return jwt.encode(payload, key, algorithm=algorithm, headers=header or None)


def handmade(header: Any, payload: bytes = b"{}", signature: bytes = b"x" * 32) -> str:
    """Put together what no library would: any header, any bytes."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    parts = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (head, payload))
    return ".".join([*parts, base64.urlsafe_b64encode(signature).decode().rstrip("=")])


def header_of(token: str) -> dict[str, Any]:
    return dict(jwt.get_unverified_header(token))


class Stored:
    """Tokens over stored secrets, whose records a test delivers itself, with a clock of its own."""

    def __init__(self, config: AuthConfig | None = None) -> None:
        self.now = time.time()
        store = Store.__new__(Store)
        self.secrets = Secrets(store, config or AuthConfig(), clock=lambda: self.now)
        self.tokens = Tokens(self.secrets, AuthConfig())

    def deliver(self, *secrets: SigningSecret, use: Use = "access") -> None:
        self.secrets._on_change(use, SecretSet(list(secrets)))

    def issue(self) -> str:
        if not self.secrets.find("refresh", "other"):
            self.deliver(secret("other", use="refresh"), use="refresh")
        return self.tokens.issue(USER, 1).jwt


def secret(
    kid: str,
    algorithm: str = "HS256",
    signs_from: float = 0.0,
    raw: bytes | None = None,
    use: Use = "access",
) -> SigningSecret:
    raw = kid.encode().ljust(SECRET_BYTES.get(algorithm, 32), b".") if raw is None else raw
    return SigningSecret(
        kid=kid,
        use=use,
        algorithm=algorithm,
        secret=base64.b64encode(raw).decode(),
        created_at=0.0,
        signs_from=signs_from,
    )
