"""Tokens: the JWT pair that authenticate and refresh hand out, and what a token says.

What enters: a user who proved who it is; later, the text of a token.
What leaves: a `TokenPair`, or the `Claims` of a token that is ours, whole, unexpired and meant for
this use. Called by the handlers, on a miss of the token cache only.
A token must never hold a password or a broker secret, nor choose how it is checked: its `kid` finds
the key, and the key names the only algorithm. Whether its user still exists and has the same epoch
is the caller's check, because only that is fresh at each use.
"""

from __future__ import annotations

import time
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw.control.jws import (
    ParsedToken,
    TokenError,
    build_unsigned,
    encode_part,
    parse_token,
)
from fastgw.control.secrets import Secrets, SigningKey, Use
from fastgw.errors import ClientFault

if TYPE_CHECKING:
    from typing import Self

    from fastgw.config_types import AuthConfig
    from fastgw.control.store import Store
    from fastgw.control.users import UserRecord

__all__ = ["Claims", "TokenError", "TokenPair", "Tokens"]

MINUTES_MAX: Final = (2**63 - 1) // 60_000
"""LIMIT: an expiry in milliseconds that a client reads into 64 bits; clients ask for decades."""

TOKEN_CHARS_MAX: Final = 4096
CLOCK_SKEW_S_MAX: Final = 60
"""LIMIT: how far the clock of the gateway that issued a token may be ahead of ours."""

_LETTER: Final[dict[Use, str]] = {"access": "a", "refresh": "r"}


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
    iat: int
    jti: str
    use: str
    # Ours have none; a Memphis gateway with the same configured secret may make such tokens.
    nbf: float = 0.0


class Tokens:
    """Makes and reads tokens; made by `open`.

    Args:
        secrets: all secrets of both uses, started.
        config: life times.
    """

    def __init__(self, secrets: Secrets, config: AuthConfig) -> None:
        self.secrets: Final = secrets
        self._config = config

    @classmethod
    async def open(cls, store: Store, config: AuthConfig) -> Self:
        """Take the secrets from the configuration, else from the store, where they are made once.

        Raises:
            UpstreamFault: the broker is away.
            InternalError: a secret cannot be used.
        """
        secrets = Secrets(store, config)
        await secrets.start()
        return cls(secrets, config)

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
            # WHY so strictly: one text per token, so that what is told apart by text is told apart.
            parsed = parse_token(token)
        except TokenError as error:
            raise TokenError("the token is not valid in its form") from error
        _check_signature(parsed, self.secrets.find(use, parsed.header.get("kid")))
        try:
            payload = msgspec.convert(parsed.payload, _Payload)
        except msgspec.ValidationError as error:
            raise TokenError("the token is not valid: a claim is missing or wrong") from error
        now = time.time()
        if payload.exp <= now:
            raise TokenError("the token has expired")
        if payload.nbf > now:
            raise TokenError("the token is not valid yet")
        # WHY not the secret alone: both secrets may be configured to the same value.
        if payload.use != _LETTER[use]:
            raise TokenError(f"the token is no {use} token")
        if payload.iat > now + CLOCK_SKEW_S_MAX:
            raise TokenError("the token is not valid (issued in the future)")
        return Claims(payload.sub, payload.acc, payload.ep, payload.exp)

    def _sign(self, user: UserRecord, account_id: int, minutes: int, use: Use) -> str:
        now = int(time.time())
        payload = {
            "sub": user.name,
            "acc": account_id,
            "ep": user.epoch,
            "exp": now + minutes * 60,
            "iat": now,
            "jti": token_urlsafe(12),
            "use": _LETTER[use],
        }
        key = self.secrets.find_signer(use)
        header = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
        unsigned = build_unsigned(header, payload)
        return f"{unsigned}.{encode_part(key.sign(unsigned.encode()))}"


def _check_signature(parsed: ParsedToken, keys: tuple[SigningKey, ...]) -> None:
    """Check that one of `keys` signed the token.

    DANGER: the key names the algorithm. A token that claims another is refused, so that it cannot
    choose how it is checked ("none", RS256).
    """
    for key in keys:
        if parsed.header["alg"] != key.algorithm:
            raise TokenError("the token's algorithm is not its key's")
        if key.is_signed(parsed.signed, parsed.signature):
            return
    raise TokenError("the token is signed by no secret in force")


def _grant(asked: int | None, default: int, cap: int | None) -> int:
    minutes = default if asked is None else asked
    if not 1 <= minutes <= MINUTES_MAX:
        raise ClientFault(
            "bad-request", f"an expiry of {minutes} minutes is not 1 to {MINUTES_MAX} minutes"
        )
    return minutes if cap is None else min(minutes, cap)
