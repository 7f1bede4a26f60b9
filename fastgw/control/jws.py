"""The text of a token: read so strictly that each has one text only, and put together.

What enters: the text that a request carries, or the claims of a token to be made. What leaves: a
`ParsedToken`, of which nothing is proved yet, or the text to be signed. Called by `tokens` for our
own tokens and by `issuers` for those of others.
It must never look at a signature or a time: who knows the keys does.
SOURCE: RFC 7515 §7.1, the compact serialization; RFC 8725.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Final, NamedTuple

from fastgw.errors import ClientFault

TOKEN_CHARS_MAX: Final = 8192
"""LIMIT: outside tokens list groups and roles; half of the default head of a request."""

KID_CHARS_MAX: Final = 256

# SOURCE: RFC 7515 §4.1.11, RFC 7797 §7, RFC 7519 §5.2: these change what the signature is over,
# or what the payload is; none is served, so none may be there.
_REFUSED_HEADERS: Final = frozenset({"crit", "b64", "cty", "zip", "enc"})
# SOURCE: RFC 8725 §3.11: tokens for another purpose say so here ("logout+jwt", "dpop+jwt").
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt", "application/jwt"})
_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)


class TokenError(ClientFault):
    """A token that does not count; the text says why, without repeating it."""

    def __init__(self, text: str) -> None:
        super().__init__("unauthorized", text)


class ParsedToken(NamedTuple):
    """A token whose form is right; nothing that it says is proved yet."""

    header: dict[str, Any]
    payload: dict[str, Any]
    signed: bytes
    signature: bytes


def parse_token(text: str, chars_max: int = TOKEN_CHARS_MAX) -> ParsedToken:
    """Read a token's form, so strictly that each token has exactly one text.

    Raises:
        TokenError: not three canonical parts, a header that changes the rules, JSON with a name
            twice, or longer than `chars_max`.
    """
    if len(text) > chars_max:
        raise TokenError(f"a token of {len(text)} characters exceeds {chars_max}")
    found = _FORM.fullmatch(text)
    if found is None:
        raise TokenError("the token has not three parts of base64url")
    header = _parse_object(_decode(found[1]))
    kid = header.get("kid", "")
    if not isinstance(kid, str) or len(kid) > KID_CHARS_MAX:
        raise TokenError(f"the token's kid is no text of at most {KID_CHARS_MAX} characters")
    if not isinstance(header.get("alg"), str):
        raise TokenError("the token names no algorithm")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise TokenError("the token is of another type")
    if _REFUSED_HEADERS & header.keys():
        raise TokenError("the token's header asks for what is not served")
    signed = text[: found.end(2)].encode()
    return ParsedToken(header, _parse_object(_decode(found[2])), signed, _decode(found[3]))


def build_unsigned(header: dict[str, str], payload: dict[str, Any]) -> str:
    """Return the two parts of a token that its signature is over."""
    return ".".join(
        encode_part(json.dumps(part, separators=(",", ":")).encode()) for part in (header, payload)
    )


def encode_part(data: bytes) -> str:
    """Encode in base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(part: str) -> bytes:
    """Decode base64url without padding; the bits behind the last byte must be zero."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError as error:
        raise TokenError("a part of the token is not base64url") from error
    if encode_part(data) != part:
        raise TokenError("a part of the token is not canonical base64url")
    return data


def _parse_object(data: bytes) -> dict[str, Any]:
    try:
        whole = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise TokenError("a part of the token is not JSON") from error
    if not isinstance(whole, dict):
        raise TokenError("a part of the token is no JSON object")
    return whole


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; a name twice could be read as one thing here and another elsewhere."""
    whole = dict(pairs)
    if len(whole) != len(pairs):
        raise ValueError("a name twice")
    return whole


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
