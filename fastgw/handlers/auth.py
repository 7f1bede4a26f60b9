"""Who asks: passwords, tokens, keys and certificates in, token pairs and principals out.

What enters: the two `/auth/` requests, and any request whose credential the core has not cached.
What leaves: their JSON answers, byte for byte as deployed Memphis clients read them, and
`Principal` objects for the core's cache: of a user, of an API key, or of an outside issuer's token.
Called by `gateway` (routes) and by the core on a cache miss (`identify`).
It must never check a password on the event loop, and never show a password, token or secret.
"""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import msgspec

from fastgw._core import Principal
from fastgw.control.issuers import OutsideClaims
from fastgw.control.tokens import TokenError, TokenPair
from fastgw.errors import ClientFault, Fault
from fastgw.handlers import Request, encode_json, fail_with_message, parse_body
from fastgw.handlers.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from fastgw.config import Config
    from fastgw.control.issuers import Issuers
    from fastgw.control.keys import Keys
    from fastgw.control.tokens import Tokens
    from fastgw.control.users import UserRecord, Users

EXPIRY_MINUTES_MAX: Final = 100_000_000_000
"""LIMIT: 190,000 years; in milliseconds still an exact integer in JavaScript (2**53)."""

QUERY_FIELDS_MAX: Final = 100
"""LIMIT: as many query fields as a head may have header fields; more are not looked through."""

KEY_PREFIX: Final = "fgw_"

_BITS: Final = {"produce": 1, "consume": 2, "admin": 4}
_UNAUTHORIZED: Final = "Unauthorized"


class AuthenticateBody(msgspec.Struct, frozen=True):
    """Body of `POST /auth/authenticate`; null means missing, as Go clients send both."""

    username: str | None = None
    password: str | None = None
    account_id: int | str | None = None
    token_expiry_in_minutes: int | None = None
    refresh_token_expiry_in_minutes: int | None = None


class RefreshBody(msgspec.Struct, frozen=True):
    """Body of `POST /auth/refreshToken`."""

    jwt_refresh_token: str | None = None
    token_expiry_in_minutes: int | None = None
    refresh_token_expiry_in_minutes: int | None = None


_authenticate_decoder: Final = msgspec.json.Decoder(AuthenticateBody)
_refresh_decoder: Final = msgspec.json.Decoder(RefreshBody)


class Auth:
    """The `/auth/` routes, and the way from a credential to a principal."""

    def __init__(
        self, config: Config, users: Users, keys: Keys, tokens: Tokens, issuers: Issuers
    ) -> None:
        self._config = config.auth
        self._users = users
        self._keys = keys
        self._tokens = tokens
        self._issuers = issuers
        self._throttle = Throttle()

    async def authenticate(self, request: Request) -> None:
        """Answer `POST /auth/authenticate`: a user's password against a pair of tokens."""
        try:
            body = parse_body(_authenticate_decoder, request.body)
            if not body.username:
                _respond_required(request, "Username")
                return
            name, account_id = self._parse_account(body, request.query)
            minutes, refresh_minutes = self._parse_expiries(body)
            record = await self._check_password(name, body.password or "", request.client)
            if record is None or account_id != self._config.account_id:
                raise ClientFault("unauthorized", _UNAUTHORIZED)
            pair = self._issue(record, minutes, refresh_minutes)
        except Fault as fault:
            fail_with_message(request, fault)
            return
        _respond_pair(request, pair)

    async def refresh(self, request: Request) -> None:
        """Answer `POST /auth/refreshToken`: a refresh token against a new pair.

        The old pair stays valid: a sender that loses this answer must be able to ask again.
        """
        try:
            body = parse_body(_refresh_decoder, request.body)
            if not body.jwt_refresh_token:
                _respond_required(request, "JwtRefreshToken")
                return
            minutes, refresh_minutes = self._parse_expiries(body)
            found = self._find_user(body.jwt_refresh_token, "refresh")
            if found is None:
                raise ClientFault("unauthorized", _UNAUTHORIZED)
            pair = self._issue(found[0], minutes, refresh_minutes)
        except Fault as fault:
            fail_with_message(request, fault)
            return
        _respond_pair(request, pair)

    def identify(self, request: Request) -> Principal | Awaitable[Principal | None] | None:
        """Find out who sends `request`, by the first credential that it carries.

        Returns None without a valid credential. A token or key is looked at at once; a password is
        checked off the event loop, and an outside token may have to wait for its issuer's keys, so
        the answer is an awaitable then.
        """
        if self._config.mode == "none":
            account_id = self._config.account_id
            return Principal("anonymous", account_id, 7, ("*",), 0, math.inf)
        # DANGER: the answer is cached by these bytes; nothing else of the request may decide it.
        kind, sent = request.credential_sent or ("none", b"")
        if kind == "certificate":
            return self._identify_certificate(sent.decode())
        text = sent.decode("latin-1").strip()
        if kind == "authorization":
            scheme, _, rest = text.partition(" ")
            text = rest.strip()
            if scheme.lower() == "basic":
                return self._identify_basic(text, request.client)
        if not text or " " in text:
            return None
        return self._identify_key(text) if kind == "key" else self._identify_text(text)

    def _identify_text(self, text: str) -> Principal | Awaitable[Principal | None] | None:
        """Identify by one word: an API key, a token of ours, or an outside issuer's."""
        if text.startswith(KEY_PREFIX):
            return self._identify_key(text)
        if not self._issuers.claims_issuer(text):
            found = self._find_user(text, "access")
            return None if found is None else self._principal(found[0], found[1])
        try:
            outside = self._issuers.verify(text)
        except TokenError:
            return None
        if isinstance(outside, OutsideClaims):
            return self._outside_principal(outside)
        return self._identify_later(outside)

    async def _identify_later(self, outside: Awaitable[OutsideClaims]) -> Principal | None:
        try:
            return self._outside_principal(await outside)
        except TokenError:
            return None

    def _identify_key(self, text: str) -> Principal | None:
        record = self._keys.find_by_text(text)
        if record is None:
            return None
        return Principal(
            f"key:{record.name}",
            self._config.account_id,
            _sum_bits(record.permissions),
            tuple(record.stations),
            0,
            math.inf if record.expires_at is None else record.expires_at,
            origins=tuple(record.origins) or None,
            key=record.name,
        )

    def _identify_certificate(self, name: str | None) -> Principal | None:
        """Identify by the name in a client certificate, which the listener has verified."""
        record = self._users.find(name) if name else None
        if record is None or record.disabled:
            return None
        return self._principal(record, math.inf)

    async def _identify_basic(self, credential: str, client: str) -> Principal | None:
        try:
            text = base64.b64decode(credential, validate=True).decode("utf-8")
        except ValueError:
            # WHY: not base64, not ASCII and not UTF-8 are three subclasses of this one.
            return None
        name, colon, password = text.partition(":")
        if not colon:
            return None
        record = await self._check_password(name, password, client)
        return None if record is None else self._principal(record, math.inf)

    async def _check_password(self, name: str, password: str, client: str) -> UserRecord | None:
        await self._throttle.wait(name, client)
        record = await self._users.check(name, password)
        self._throttle.note(name, client, is_good=record is not None)
        return record

    def _find_user(self, token: str, use: str) -> tuple[UserRecord, float] | None:
        """Verify a token and find its user as the user is now, with the token's end."""
        try:
            claims = (
                self._tokens.verify(token, use="refresh")
                if use == "refresh"
                else self._tokens.verify(token, use="access")
            )
        except TokenError:
            return None
        record = self._users.find(claims.sub)
        if record is None or record.disabled or record.epoch != claims.epoch:
            return None
        if claims.account_id != self._config.account_id:
            return None
        return record, float(claims.exp)

    def _principal(self, record: UserRecord, expires_at: float) -> Principal:
        account_id, bits = self._config.account_id, _sum_bits(record.permissions)
        stations = tuple(record.stations)
        return Principal(record.name, account_id, bits, stations, record.epoch, expires_at)

    def _outside_principal(self, claims: OutsideClaims) -> Principal | None:
        """Make a principal of what an issuer says, or of the user that it names."""
        if claims.maps == "user":
            record = self._users.find(claims.user)
            if record is None or record.disabled:
                return None
            return self._principal(record, claims.exp)
        # WHY the prefix: no user of ours has ':' in its name, so none can be mistaken for this one.
        name = f"{claims.issuer_name}:{claims.user}"
        bits = _sum_bits(claims.permissions)
        return Principal(name, self._config.account_id, bits, claims.stations, 0, claims.exp)

    def _issue(self, record: UserRecord, minutes: int, refresh_minutes: int) -> TokenPair:
        return self._tokens.issue(record, self._config.account_id, minutes, refresh_minutes)

    def _parse_expiries(self, body: AuthenticateBody | RefreshBody) -> tuple[int, int]:
        """Read both expiries in minutes: given or by default, never above the configured cap."""
        config = self._config
        minutes = _parse_expiry(
            "token_expiry_in_minutes",
            body.token_expiry_in_minutes or config.token_expiry_minutes,
            config.token_expiry_minutes_max,
        )
        refresh_minutes = _parse_expiry(
            "refresh_token_expiry_in_minutes",
            body.refresh_token_expiry_in_minutes or config.refresh_token_expiry_minutes,
            config.refresh_token_expiry_minutes_max,
        )
        return minutes, refresh_minutes

    def _parse_account(self, body: AuthenticateBody, query: bytes) -> tuple[str, int]:
        """Read the user's name and account from wherever the client put the account."""
        name = body.username or ""
        head, dollar, tail = name.rpartition("$")
        is_tagged = bool(dollar) and bool(head) and _is_digits(tail)
        if is_tagged:
            name = head
        if body.account_id not in (None, 0, ""):
            return name, _parse_account_id("account_id", body.account_id)
        asked = find_query(query, "accountId")
        if asked:
            return name, _parse_account_id("accountId", asked)
        return name, int(tail) if is_tagged else self._config.account_id


def _sum_bits(permissions: Iterable[str]) -> int:
    bits = 0
    for word in permissions:
        bits |= _BITS[word]
    return bits


def find_query(query: bytes, *names: str) -> str | None:
    """Find the first of `names` that the raw query has, percent-decoded."""
    if not query:
        return None
    try:
        text = query.decode("latin-1")
        fields = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX))
    except ValueError:
        return None
    return next((fields[name] for name in names if name in fields), None)


def _parse_account_id(field: str, value: int | str | None) -> int:
    if isinstance(value, str):
        if not _is_digits(value):
            raise ClientFault("bad-json", f"{field}: expected integer, got another string")
        value = int(value)
    if value is None or not 0 < value < 2**63:
        raise ClientFault("bad-json", f"{field}: value out of range")
    return value


def _is_digits(text: str) -> bool:
    """Tell whether `text` is a decimal number that int() may read: 19 digits hold 63 bits."""
    return text.isascii() and text.isdigit() and len(text) <= 19


def _parse_expiry(field: str, minutes: int, cap: int | None) -> int:
    if minutes < 1:
        raise ClientFault("bad-json", f"{field}: must be at least 1")
    if cap is not None:
        return min(minutes, cap)
    if minutes > EXPIRY_MINUTES_MAX:
        raise ClientFault("bad-json", f"{field}: exceeds {EXPIRY_MINUTES_MAX} minutes")
    return minutes


def _respond_required(request: Request, field: str) -> None:
    """Answer a missing field in the reference's shape; it names fields as Go structs do."""
    body = encode_json({"message": [{"field": field, "reason": "required"}]})
    request.respond(400, body, ((b"Error-Code", b"bad-request"),))


def _respond_pair(request: Request, pair: TokenPair) -> None:
    """Answer exactly four fields: a strict client stops at a fifth."""
    body = {
        "expires_in": pair.expires_in_ms,
        "jwt": pair.jwt,
        "jwt_refresh_token": pair.refresh_jwt,
        "refresh_token_expires_in": pair.refresh_expires_in_ms,
    }
    request.respond(200, encode_json(body), ((b"Cache-Control", b"no-store"),))
