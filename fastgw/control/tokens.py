"""Tokens: the JWT pair that authenticate and refresh hand out, and what a token says.

What enters: a user who proved who it is; later, the text of a token.
What leaves: a `TokenPair`, or the `Claims` of a token that is ours, whole, unexpired and meant for
this use. Called by the handlers, on a miss of the token cache only.
A token must never hold a password or a broker secret; whether its user still exists and has the
same epoch is the caller's check, because only that is fresh at each use.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, Final, Literal

import jwt
import msgspec

from fastgw.control.store import Exists
from fastgw.errors import ClientFault, InternalError

if TYPE_CHECKING:
    from typing import Self

    from fastgw.config_types import AuthConfig
    from fastgw.control.store import Store
    from fastgw.control.users import UserRecord

log = logging.getLogger("fastgw.control")

Use = Literal["access", "refresh"]

ALGORITHM: Final = "HS256"
SECRET_BYTES: Final = 32
MINUTES_MAX: Final = (2**63 - 1) // 60_000
"""LIMIT: an expiry in milliseconds that a client reads into 64 bits; clients ask for decades."""

TOKEN_CHARS_MAX: Final = 4096
LEEWAY_S: Final = 0
_LETTER: Final[dict[Use, str]] = {"access": "a", "refresh": "r"}
_REQUIRED: Final = ["sub", "acc", "ep", "exp", "iat", "jti", "use"]


class TokenError(ClientFault):
    """A token that does not count; the text says why, without repeating it."""

    def __init__(self, text: str) -> None:
        super().__init__("unauthorized", text)


class TokenPair(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh pair; both durations in milliseconds, as granted."""

    jwt: str
    expires_in_ms: int
    refresh_jwt: str
    refresh_expires_in_ms: int

    def __repr__(self) -> str:
        """Hide the tokens."""
        return "TokenPair(********)"


class Claims(msgspec.Struct, frozen=True):
    """What a valid token says: the user's name, its account and epoch, and the end in unix time."""

    sub: str
    account_id: int
    epoch: int
    exp: int


class _Payload(msgspec.Struct, frozen=True):
    sub: str
    acc: int
    ep: int
    exp: int
    use: str


class Tokens:
    """Makes and reads tokens; made by `open`."""

    def __init__(self, secret: bytes, refresh_secret: bytes, config: AuthConfig) -> None:
        self._secrets: Final[dict[Use, bytes]] = {"access": secret, "refresh": refresh_secret}
        self._config = config

    @classmethod
    async def open(cls, store: Store, config: AuthConfig) -> Self:
        """Take the secrets from the configuration, else from the store, where they are made once.

        Raises:
            UpstreamFault: the broker is away.
        """
        found: dict[str, bytes] = {}
        for name, configured in (
            ("jwt", config.jwt_secret),
            ("refresh", config.refresh_jwt_secret),
        ):
            if configured is None:
                found[name] = await _stored_secret(store, f"secrets.{name}")
                continue
            found[name] = configured.encode()
            if len(found[name]) < SECRET_BYTES:
                log.warning(
                    "the configured %s secret has %d bytes; %d or more keep tokens safe",
                    name,
                    len(found[name]),
                    SECRET_BYTES,
                )
        return cls(found["jwt"], found["refresh"], config)

    def issue(
        self,
        user: UserRecord,
        account_id: int,
        minutes: int | None = None,
        refresh_minutes: int | None = None,
    ) -> TokenPair:
        """Make a pair for `user`.

        Args:
            user: who proved who it is.
            account_id: the tenant.
            minutes: life of the access token, 1 to `MINUTES_MAX`; the configured one by default.
                A configured cap shortens it.
            refresh_minutes: the same for the refresh token.

        Raises:
            ClientFault: "bad-request", minutes out of range.
        """
        config = self._config
        granted = _grant(minutes, config.token_expiry_minutes, config.token_expiry_minutes_max)
        refresh_granted = _grant(
            refresh_minutes,
            config.refresh_token_expiry_minutes,
            config.refresh_token_expiry_minutes_max,
        )
        return TokenPair(
            jwt=self._sign(user, account_id, granted, "access"),
            expires_in_ms=granted * 60_000,
            refresh_jwt=self._sign(user, account_id, refresh_granted, "refresh"),
            refresh_expires_in_ms=refresh_granted * 60_000,
        )

    def verify(self, token: str, use: Use = "access") -> Claims:
        """Return what `token` says.

        Raises:
            TokenError: not ours, damaged, expired, or made for the other use.
        """
        if len(token) > TOKEN_CHARS_MAX:
            raise TokenError(f"a token of {len(token)} characters exceeds {TOKEN_CHARS_MAX}")
        try:
            raw = jwt.decode(
                token,
                self._secrets[use],
                # DANGER: pinned, so that a token cannot choose how it is checked ("none", RS256).
                algorithms=[ALGORITHM],
                options={"require": _REQUIRED, "verify_aud": False},
                leeway=LEEWAY_S,
            )
            payload = msgspec.convert(raw, _Payload)
        except jwt.ExpiredSignatureError as error:
            raise TokenError("the token has expired") from error
        except (jwt.InvalidTokenError, msgspec.ValidationError, OverflowError) as error:
            raise TokenError(f"the token is not valid ({type(error).__name__})") from error
        # WHY not the secret alone: both secrets may be configured to the same value.
        if payload.use != _LETTER[use]:
            raise TokenError(f"the token is no {use} token")
        return Claims(payload.sub, payload.acc, payload.ep, payload.exp)

    def _sign(self, user: UserRecord, account_id: int, minutes: int, use: Use) -> str:
        now = int(time.time())
        payload = {
            "sub": user.name,
            "acc": account_id,
            "ep": user.epoch,
            "exp": now + minutes * 60,
            "iat": now,
            "jti": secrets.token_urlsafe(12),
            "use": _LETTER[use],
        }
        return jwt.encode(payload, self._secrets[use], algorithm=ALGORITHM)


def _grant(asked: int | None, default: int, cap: int | None) -> int:
    minutes = default if asked is None else asked
    if not 1 <= minutes <= MINUTES_MAX:
        raise ClientFault(
            "bad-request", f"an expiry of {minutes} minutes is not 1 to {MINUTES_MAX} minutes"
        )
    return minutes if cap is None else min(minutes, cap)


async def _stored_secret(store: Store, key: str) -> bytes:
    """Return the secret under `key`; of several gateways that start at once, one makes it."""
    found = await store.get(key)
    if found is None:
        secret = secrets.token_bytes(SECRET_BYTES)
        try:
            await store.create(key, secret)
        except Exists:
            found = await store.get(key)
        else:
            log.info("made the signing secret %s", key)
            return secret
    if found is None or len(found[0]) < SECRET_BYTES:
        raise InternalError(f"the stored secret {key} is missing or shorter than {SECRET_BYTES}")
    return found[0]
