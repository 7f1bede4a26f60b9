"""Outside issuers: tokens that somebody else signed, and what they allow here.

What enters: the text of a token. What leaves: `OutsideClaims` of a token that a configured issuer
signed with a key of its set, for this gateway's audience and for now; else a `TokenError`.
Called by the handlers, on a miss of the token cache only.
A token must never choose how it is checked: it names a key and an algorithm, and both must be what
the issuer's configuration and key set say. Keys that it brings along or points to do not matter.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from fastgw.control.jws import ParsedToken, TokenError, parse_token
from fastgw.control.users import GLOB_CHARS_MAX, STATIONS_MAX
from fastgw.errors import UpstreamFault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fastgw.config_types import IssuerConfig
    from fastgw.control.jwks import Key, KeySource

__all__ = ["Issuers", "OutsideClaims", "Permission", "find_claim", "parse_token"]

NUMBER_MAX: Final = 2**53
"""LIMIT: the times of a token are numbers that every JSON reader reads alike."""

NAME_CHARS_MAX: Final = 256
WAITING_COUNT_MAX: Final = 256
"""LIMIT: requests that wait for one reading of a key set; more are told to come again."""

Permission = Literal["produce", "consume", "admin"]


class OutsideClaims(msgspec.Struct, frozen=True):
    """What a valid outside token says, in this gateway's words.

    `exp` is the end in unix time, the leeway included. With `maps` "user", `user` is the name of a
    user whose record decides; permissions and stations are empty then.
    """

    issuer_name: str
    user: str
    permissions: tuple[Permission, ...]
    stations: tuple[str, ...]
    exp: float
    maps: Literal["claims", "user"]


class Issuers:
    """All configured issuers.

    Args:
        configs: from the configuration; several may share an issuer's name in `iss`, for audiences
            of their own.
        clock: monotonic seconds; tests pass their own.
    """

    def __init__(
        self, configs: Sequence[IssuerConfig], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuers: Final[dict[str, list[_Issuer]]] = {}
        if not configs:
            return
        # WHY here: the library for keys of others is a tenth of a start, and 8 MB.
        from fastgw.control.jwks import KeySource

        for config in configs:
            issuer = _Issuer(config, KeySource(config, clock=clock))
            self._issuers.setdefault(config.issuer, []).append(issuer)

    async def start(self) -> None:
        """Read all key sets once, at the same time, and follow them."""
        await asyncio.gather(*(issuer.source.start() for issuer in self._each()))

    async def close(self) -> None:
        """Stop following the key sets."""
        for issuer in self._each():
            await issuer.source.close()

    def on_removal(self, callback: Callable[[], None]) -> None:
        """Call `callback()` when an issuer withdrew a key: what it verified may be cached."""
        for issuer in self._each():
            issuer.source.on_removal(callback)

    def claims_issuer(self, token: str) -> bool:
        """Tell whether `token` says that an issuer of ours made it; nothing is proved by that."""
        if not self._issuers:
            return False
        try:
            return _text(parse_token(token).payload.get("iss")) in self._issuers
        except TokenError:
            return False

    def verify(self, token: str) -> OutsideClaims | Awaitable[OutsideClaims]:
        """Return what `token` says; an awaitable of it when a key set must be read first.

        Raises:
            TokenError: it does not count here.
            UpstreamFault: from the awaitable only: the issuer's keys could never be read yet, or
                too many requests wait for them.
        """
        parsed = parse_token(token)
        issuer = self._choose(parsed.payload)
        # WHY before the signature: what is refused anyway must not cost a look at the key set.
        claims = issuer.read_claims(parsed)
        kid = parsed.header.get("kid")
        if issuer.source.keys.has(kid):
            issuer.check_signature(parsed)
            return claims
        if issuer.source.is_loaded and not issuer.source.may_force():
            raise TokenError("the token names an unknown key")
        return issuer.verify_later(parsed, claims)

    def _choose(self, payload: dict[str, Any]) -> _Issuer:
        for issuer in self._issuers.get(_text(payload.get("iss")), ()):
            if issuer.is_audience(payload.get("aud")):
                return issuer
        raise TokenError("the token is from another issuer, or for another audience")

    def _each(self) -> list[_Issuer]:
        return [issuer for issuers in self._issuers.values() for issuer in issuers]


class _Issuer:
    def __init__(self, config: IssuerConfig, source: KeySource) -> None:
        self.source: Final = source
        self._config: Final = config
        self._waiting_count = 0

    def is_audience(self, audience: object) -> bool:
        names = [audience] if isinstance(audience, str) else audience
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return False
        return any(name in self._config.audience for name in names)

    def read_claims(self, parsed: ParsedToken) -> OutsideClaims:
        """Check everything but the signature, and map the claims."""
        config, payload = self._config, parsed.payload
        if parsed.header["alg"] not in config.algorithms:
            raise TokenError("the token's algorithm is not this issuer's")
        end = self._check_times(payload)
        user = find_claim(payload, config.user_claim)
        if not isinstance(user, str) or not 1 <= len(user) <= NAME_CHARS_MAX:
            raise TokenError("the token names no user")
        if not user.isprintable() or user != user.strip():
            raise TokenError("the token's user has control characters or outer spaces")
        if config.maps == "user":
            return OutsideClaims(config.name, user, (), (), end, "user")
        permissions: dict[Permission, None] = {}
        for word in _words(find_claim(payload, config.permissions_claim)):
            permissions.update(dict.fromkeys(config.permissions.get(word, ())))
        stations = tuple(config.stations)
        if config.stations_claim is not None:
            # WHY no fallback: a token without the claim must not get every station.
            stations = _globs(find_claim(payload, config.stations_claim))
        return OutsideClaims(config.name, user, tuple(permissions), stations, end, "claims")

    def check_signature(self, parsed: ParsedToken) -> None:
        keys: list[Key] = self.source.keys.find(parsed.header.get("kid"), parsed.header["alg"])
        if not any(key.verify(parsed.signed, parsed.signature) for key in keys):
            raise TokenError("no key of the issuer verifies the token")

    async def verify_later(self, parsed: ParsedToken, claims: OutsideClaims) -> OutsideClaims:
        """Verify after the key set was read again, if it may be."""
        if self._waiting_count >= WAITING_COUNT_MAX:
            raise UpstreamFault("overloaded", "too many requests wait for an issuer's keys")
        self._waiting_count += 1
        try:
            if self.source.may_force():
                await self.source.force()
        finally:
            self._waiting_count -= 1
        if not self.source.is_loaded:
            raise UpstreamFault("overloaded", "the issuer's keys cannot be read yet")
        self.check_signature(parsed)
        return claims

    def _check_times(self, payload: dict[str, Any]) -> float:
        now, leeway_s = time.time(), self._config.leeway_s
        if "exp" not in payload:
            raise TokenError("the token has no end")
        end = _number(payload, "exp") + leeway_s
        if end <= now:
            raise TokenError("the token has expired")
        for name in ("nbf", "iat"):
            if name in payload and _number(payload, name) > now + leeway_s:
                raise TokenError("the token is not valid yet")
        return end


def find_claim(payload: dict[str, Any], name: str) -> object:
    """Find a claim by its name; "realm_access.roles" also reaches into objects, None if nowhere.

    A claim whose whole name it is comes first: names that are URLs have dots.
    """
    if name in payload:
        return payload[name]
    found: object = payload
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _words(claim: object) -> list[str]:
    """Read a claim that is a list of words, or one text of them with spaces between."""
    words = claim.split() if isinstance(claim, str) else [] if claim is None else claim
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise TokenError("a claim is neither text nor a list of texts")
    return words


def _globs(claim: object) -> tuple[str, ...]:
    globs = tuple(dict.fromkeys(_words(claim)))
    if len(globs) > STATIONS_MAX or any(len(glob) > GLOB_CHARS_MAX for glob in globs):
        raise TokenError(f"more than {STATIONS_MAX} stations, or longer than {GLOB_CHARS_MAX}")
    return globs


def _number(payload: dict[str, Any], name: str) -> float:
    value = payload[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(f"the token's {name} is no number")
    if not -NUMBER_MAX <= value <= NUMBER_MAX:
        raise TokenError(f"the token's {name} is out of range")
    return float(value)


def _text(value: object) -> str:
    """Return a text as it is, and anything else as one that names nobody."""
    return value if isinstance(value, str) else ""
