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
from typing import TYPE_CHECKING, Any, Final

import jwt
import msgspec

from fastgw.control.secrets import Secrets, SigningKey, Use
from fastgw.errors import ClientFault

if TYPE_CHECKING:
    from typing import Self

    from fastgw.config_types import AuthConfig
    from fastgw.control.store import Store
    from fastgw.control.users import UserRecord

MINUTES_MAX: Final = (2**63 - 1) // 60_000
"""LIMIT: an expiry in milliseconds that a client reads into 64 bits; clients ask for decades."""

TOKEN_CHARS_MAX: Final = 4096
LEEWAY_S: Final = 0
CLOCK_SKEW_S_MAX: Final = 60
"""LIMIT: how far the clock of the gateway that issued a token may be ahead of ours."""

_LETTER: Final[dict[Use, str]] = {"access": "a", "refresh": "r"}
_OPTIONS: Final[Any] = {
    "require": ["sub", "acc", "ep", "exp", "iat", "jti", "use"],
    "verify_aud": False,
    # WHY: checked below, with room for clocks that differ.
    "verify_iat": False,
}
# WHY the last three: text that is no UTF-8, numbers and nesting beyond what the parser takes.
_DAMAGED: Final = (
    jwt.InvalidTokenError,
    msgspec.ValidationError,
    ValueError,
    OverflowError,
    RecursionError,
)


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
    iat: int
    use: str


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
            kid = jwt.get_unverified_header(token).get("kid")
            keys = self.secrets.find(use, kid)
            payload = msgspec.convert(_decode(token, keys), _Payload)
        except jwt.ExpiredSignatureError as error:
            raise TokenError("the token has expired") from error
        except _DAMAGED as error:
            raise TokenError(f"the token is not valid ({type(error).__name__})") from error
        # WHY not the secret alone: both secrets may be configured to the same value.
        if payload.use != _LETTER[use]:
            raise TokenError(f"the token is no {use} token")
        if payload.iat > time.time() + CLOCK_SKEW_S_MAX:
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
        return jwt.encode(payload, key.private, key.algorithm, headers={"kid": key.kid})


def _decode(token: str, keys: tuple[SigningKey, ...]) -> Any:
    """Return the payload of a token that one of `keys` signed."""
    for key in keys:
        try:
            # DANGER: pinned, so that a token cannot choose how it is checked ("none", RS256).
            return jwt.decode(token, key.public, [key.algorithm], _OPTIONS, leeway=LEEWAY_S)
        except jwt.InvalidSignatureError:
            continue
    raise TokenError("the token is signed by no secret in force")


def _grant(asked: int | None, default: int, cap: int | None) -> int:
    minutes = default if asked is None else asked
    if not 1 <= minutes <= MINUTES_MAX:
        raise ClientFault(
            "bad-request", f"an expiry of {minutes} minutes is not 1 to {MINUTES_MAX} minutes"
        )
    return minutes if cap is None else min(minutes, cap)
