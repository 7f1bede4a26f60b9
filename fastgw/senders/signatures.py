"""Signatures of webhook senders: whether a request comes from who knows the station's secret.

What enters: a `VerifierConfig` as an administrator gave it; then, per request, the headers that the
verifier asked for, the body as received, and the time.
What leaves: nothing when the signature is right, else a `ClientFault` of the kind "unauthorized".
Called by `station_config` (checks) and, through the station table, by the core for produce requests
that carry no other credential. It must never tell which of several secrets matched, by its answer
or by its time, and never put a secret or an expected signature in a text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, get_args

import msgspec

from fastgw.errors import ClientFault, clip

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SECRETS_MAX: Final = 8
"""LIMIT: a rotation needs two; each one costs an HMAC over the whole body per request."""

SECRET_CHARS_MAX: Final = 512
"""LIMIT: longer than any sender makes; HMAC hashes what exceeds its block anyway."""

PUBLIC_KEYS_MAX: Final = 4
ASYMMETRIC_SIGNATURES_MAX: Final = 2
"""LIMIT: a check of ed25519 hashes the body once more, so a request pays for at most 8 of them."""

SIGNATURES_MAX: Final = 16
"""LIMIT: signatures that one header may list; senders list one per secret in force."""

HEADER_BYTES_MAX: Final = 4096
HEADER_NAME_CHARS_MAX: Final = 128
PREFIX_CHARS_MAX: Final = 64
TOLERANCE_S_DEFAULT: Final = 300
"""SOURCE: Stripe's libraries and those of Standard Webhooks, five minutes."""

TOLERANCE_S_MAX: Final = 86_400
"""LIMIT: a captured request can be sent again for that long; a day is for senders that retry."""

WEBHOOK_KEY_BYTES_MIN: Final = 24
WEBHOOK_KEY_BYTES_MAX: Final = 64
"""SOURCE: Standard Webhooks, "Symmetric keys": 24 to 64 bytes."""

ED25519_KEY_BYTES: Final = 32
SYMMETRIC_PREFIX: Final = "whsec_"
PUBLIC_PREFIX: Final = "whpk_"

Preset = Literal["standard-webhooks", "svix", "github", "fivetran", "stripe", "shopify", "hmac"]
Encoding = Literal["hex", "base64"]
Algorithm = Literal["sha256", "sha512"]
Signed = Literal["body", "ts.body", "id.ts.body"]

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PREFIX: Final = re.compile(r"[\x21-\x7e]*")
_SECONDS: Final = re.compile(rb"[0-9]{1,12}")
_CREDENTIALS: Final = frozenset({"authorization", "cookie", "x-api-key"})


class VerifierConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How requests to one station are signed; stored as JSON in the station's record.

    Only the preset "hmac" reads the fields from `header` to `id_header`; the others know them.

    Args:
        preset: whose signatures they are.
        secrets: 1 to `SECRETS_MAX`; any one may have signed, so that a secret can be rotated.
        header: the header with the signature.
        prefix: what stands before the signature in its header.
        encoding: of the signature.
        algorithm: the hash of the HMAC.
        signed: what is signed: the body alone, or joined by dots with timestamp and id before it.
        timestamp_header: the header with the seconds since 1970, when they are signed.
        id_header: the header with the message's id, when it is signed.
        tolerance_s: how far, either way, the timestamp may be from our clock; 1 to a day.
    """

    preset: Preset
    secrets: list[str]
    header: str | None = None
    prefix: str = ""
    encoding: Encoding = "hex"
    algorithm: Algorithm = "sha256"
    signed: Signed = "body"
    timestamp_header: str | None = None
    id_header: str | None = None
    tolerance_s: int = TOLERANCE_S_DEFAULT

    def __repr__(self) -> str:
        """Show a verifier without its secrets."""
        return f"VerifierConfig(preset={self.preset!r}, secrets=<{len(self.secrets)} hidden>)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show it so to rich, too."""
        return [("preset", self.preset), ("secrets", f"<{len(self.secrets)} hidden>")]


class Verifier(Protocol):
    """What the core asks of a station's verifier."""

    header_names: frozenset[bytes]
    """The headers that `verify` reads, in lower case."""

    def verify(self, headers: Mapping[bytes, bytes], body: bytes, now: float) -> None:
        """Check one request.

        Args:
            headers: by their names in lower case; the values of a repeated one joined by ", ",
                which is refused.
            body: as received, before any content coding is undone.
            now: seconds since 1970.

        Raises:
            ClientFault: "unauthorized", with a text that tells what is missing or wrong.
        """


def check_verifier(config: VerifierConfig) -> None:
    """Check a verifier before it is stored.

    Raises:
        ClientFault: "bad-request", naming the field; the text holds no secret.
    """
    for field, words in (
        ("preset", Preset),
        ("encoding", Encoding),
        ("algorithm", Algorithm),
        ("signed", Signed),
    ):
        value = getattr(config, field)
        if value not in get_args(words):
            raise _wrong(field, f"is one of {', '.join(get_args(words))}; got {clip(value)}")
    if not 1 <= config.tolerance_s <= TOLERANCE_S_MAX:
        raise _wrong("tolerance_s", f"of {config.tolerance_s} is outside 1 to {TOLERANCE_S_MAX}")
    _check_secrets(config)
    if config.preset == "hmac":
        _check_own_scheme(config)
        return
    for field in ("header", "prefix", "encoding", "algorithm", "signed"):
        if getattr(config, field) != _DEFAULTS[field]:
            raise _wrong(field, f"goes with the preset hmac; {config.preset} knows its own")
    for field in ("timestamp_header", "id_header"):
        if getattr(config, field) is not None:
            raise _wrong(field, f"goes with the preset hmac; {config.preset} knows its own")


def make_verifier(config: VerifierConfig) -> Verifier:
    """Return what judges the requests to a station.

    Raises:
        ClientFault: "bad-request", as `check_verifier`.
    """
    check_verifier(config)
    if config.preset in ("standard-webhooks", "svix"):
        return _WebhookVerifier(config)
    if config.preset == "stripe":
        return _StripeVerifier(config)
    return _HmacVerifier(_PRESETS.get(config.preset, config), config)


def show_verifier(config: VerifierConfig) -> dict[str, Any]:
    """Return what an administrator may read back: everything but the secrets, which are counted."""
    shown: dict[str, Any] = msgspec.to_builtins(config)
    return shown | {"secrets": len(config.secrets)}


class _HmacVerifier:
    """One signature in one header, over the body or what is joined before it.

    Args:
        scheme: where the signature is and what it covers.
        config: its secrets and its tolerance count.
    """

    def __init__(self, scheme: VerifierConfig, config: VerifierConfig) -> None:
        assert scheme.header is not None
        self._header = scheme.header.lower().encode()
        self._prefix = scheme.prefix.encode()
        self._decode = _decode_hex if scheme.encoding == "hex" else _decode_base64
        self._keys = _Keys([secret.encode() for secret in config.secrets], scheme.algorithm)
        self._time = _header_name(scheme.timestamp_header)
        self._id = _header_name(scheme.id_header)
        self._with_id = scheme.signed == "id.ts.body"
        self._with_time = scheme.signed != "body"
        self._tolerance_s = config.tolerance_s
        names = (self._header, self._time, self._id)
        self.header_names = frozenset(name for name in names if name)

    def verify(self, headers: Mapping[bytes, bytes], body: bytes, now: float) -> None:
        """Check the signature; see `Verifier`."""
        text = _read(headers, self._header)
        if not text.startswith(self._prefix):
            raise _refused(f"the header {_show(self._header)} does not begin with its prefix")
        signature = self._decode(text[len(self._prefix) :])
        head = b""
        if self._with_id:
            head = _read(headers, self._id) + b"."
        if self._with_time:
            seconds = _read(headers, self._time)
            _check_time(seconds, now, self._tolerance_s)
            head += seconds + b"."
        if not self._keys.any_signed((signature,), head, body):
            raise _refused(f"the signature in {_show(self._header)} does not match")


class _StripeVerifier:
    """Stripe: `t=<seconds>,v1=<hex>[,v1=<hex>…]` over `t.body`; other schemes are skipped.

    SOURCE: Stripe, "Resolve webhook signature verification errors" and "Verify manually".
    """

    _HEADER: Final = b"stripe-signature"

    def __init__(self, config: VerifierConfig) -> None:
        self._keys = _Keys([secret.encode() for secret in config.secrets], "sha256")
        self._tolerance_s = config.tolerance_s
        self.header_names = frozenset({self._HEADER})

    def verify(self, headers: Mapping[bytes, bytes], body: bytes, now: float) -> None:
        """Check the signatures; see `Verifier`."""
        times: list[bytes] = []
        signatures: list[bytes] = []
        for part in _read(headers, self._HEADER).split(b","):
            key, _, value = part.partition(b"=")
            if key == b"t":
                times.append(value)
            elif key == b"v1":
                signatures.append(_decode_hex(value))
        if len(times) != 1 or not 1 <= len(signatures) <= SIGNATURES_MAX:
            raise _refused(
                "the header stripe-signature has one t= and "
                f"1 to {SIGNATURES_MAX} v1=; got {len(times)} and {len(signatures)}"
            )
        _check_time(times[0], now, self._tolerance_s)
        if not self._keys.any_signed(signatures, times[0] + b".", body):
            raise _refused("no v1 signature in stripe-signature matches")


class _WebhookVerifier:
    """Standard Webhooks and Svix: a list of `v1,<base64>` (HMAC) and `v1a,<base64>` (ed25519).

    SOURCE: standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
    """

    _OPEN: Final = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
    _SVIX: Final = (b"svix-id", b"svix-timestamp", b"svix-signature")

    def __init__(self, config: VerifierConfig) -> None:
        shared = [_webhook_key(text) for text in config.secrets if not _is_public(text)]
        self._keys = _Keys(shared, "sha256")
        public = [_webhook_public_key(text) for text in config.secrets if _is_public(text)]
        self._public = [_load_public(raw) for raw in public]
        own_first = (self._OPEN, self._SVIX)
        self._names = own_first if config.preset == "standard-webhooks" else own_first[::-1]
        self._tolerance_s = config.tolerance_s
        self.header_names = frozenset({*self._OPEN, *self._SVIX})

    def verify(self, headers: Mapping[bytes, bytes], body: bytes, now: float) -> None:
        """Check the signatures; see `Verifier`."""
        # The first set that is there whole counts; the two are never mixed.
        first, second = self._names
        whole = all(name in headers for name in second)
        names = second if whole and not all(name in headers for name in first) else first
        identity, seconds, listed = (_read(headers, name) for name in names)
        _check_time(seconds, now, self._tolerance_s)
        shared, public = _split_signatures(listed)
        head = identity + b"." + seconds + b"."
        is_right = self._keys.any_signed(shared, head, body)
        if public and self._public:
            is_right |= self._any_public(public, head + body)
        if not is_right:
            raise _refused(f"no signature in {_show(names[2])} matches")

    def _any_public(self, signatures: Sequence[bytes], message: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        is_right = False
        for key in self._public:
            for signature in signatures:
                try:
                    key.verify(signature, message)
                except InvalidSignature:
                    continue
                is_right = True
        return is_right


def _load_public(raw: bytes) -> Ed25519PublicKey:
    # WHY here: the library is 30 ms of a start and 6 MB, and few stations have such a key.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(raw)


class _Keys:
    """The secrets of one station, each keyed once; a request copies the keyed state."""

    def __init__(self, keys: Sequence[bytes], algorithm: Algorithm) -> None:
        digest = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}[algorithm]
        self._keyed = [hmac.new(key, digestmod=digest) for key in keys]

    def any_signed(self, signatures: Sequence[bytes], head: bytes, body: bytes) -> bool:
        """Tell whether any signature is that of any secret, in a time that does not tell which."""
        is_right = False
        if not signatures:
            return is_right
        for keyed in self._keyed:
            state = keyed.copy()
            state.update(head)
            state.update(body)
            digest = state.digest()
            for signature in signatures:
                is_right |= hmac.compare_digest(digest, signature)
        return is_right


def _split_signatures(listed: bytes) -> tuple[list[bytes], list[bytes]]:
    """Split a list of signatures into those by secret and those by key; skip unknown versions."""
    tokens = listed.split(b" ")
    if len(tokens) > SIGNATURES_MAX:
        raise _refused(f"{len(tokens)} signatures exceed {SIGNATURES_MAX}")
    found: dict[bytes, list[bytes]] = {b"v1": [], b"v1a": []}
    for token in tokens:
        version, _, text = token.partition(b",")
        if version in found:
            found[version].append(_decode_base64(text))
    if len(found[b"v1a"]) > ASYMMETRIC_SIGNATURES_MAX:
        raise _refused(f"{len(found[b'v1a'])} v1a signatures exceed {ASYMMETRIC_SIGNATURES_MAX}")
    return found[b"v1"], found[b"v1a"]


def _read(headers: Mapping[bytes, bytes], name: bytes) -> bytes:
    """Return the value of a header that must be there, once, and within bounds."""
    value = headers.get(name, b"")
    if not value:
        raise _refused(f"the header {_show(name)} is missing")
    if b", " in value or b",\t" in value:
        # A repeated header arrives like this; whichever we took, the sender may mean the other.
        raise _refused(f"the header {_show(name)} came more than once")
    if len(value) > HEADER_BYTES_MAX:
        raise _refused(f"the header {_show(name)} of {len(value)} bytes exceeds {HEADER_BYTES_MAX}")
    return value


def _check_time(seconds: bytes, now: float, tolerance_s: int) -> None:
    if not _SECONDS.fullmatch(seconds):
        raise _refused(f"the timestamp {clip(seconds)} is no number of seconds since 1970")
    if abs(now - int(seconds)) > tolerance_s:
        raise _refused(
            f"the timestamp {clip(seconds)} is {abs(now - int(seconds)):.0f} s "
            f"from the gateway's clock; {tolerance_s} s are allowed"
        )


def _decode_hex(text: bytes) -> bytes:
    """Return the bytes of a signature in hex of any case; none, which match nothing, if it is not.

    WHY no refusal: where a header lists several signatures, a broken one must not hide a right one.
    """
    try:
        return binascii.unhexlify(text)
    except binascii.Error:
        return b""


def _decode_base64(text: bytes) -> bytes:
    """Return the bytes of a signature in base64; none, as `_decode_hex`, if it is not."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return b""


def _is_public(text: str) -> bool:
    return text.startswith(PUBLIC_PREFIX)


def _webhook_key(text: str) -> bytes:
    """Return the bytes of a secret, which Svix' users also write without its prefix."""
    raw = _secret_bytes(text.removeprefix(SYMMETRIC_PREFIX))
    if not WEBHOOK_KEY_BYTES_MIN <= len(raw) <= WEBHOOK_KEY_BYTES_MAX:
        raise _wrong(
            "secrets",
            f"hold a secret of {len(raw)} bytes; Standard Webhooks has "
            f"{WEBHOOK_KEY_BYTES_MIN} to {WEBHOOK_KEY_BYTES_MAX}",
        )
    return raw


def _webhook_public_key(text: str) -> bytes:
    raw = _secret_bytes(text.removeprefix(PUBLIC_PREFIX))
    if len(raw) != ED25519_KEY_BYTES:
        raise _wrong(
            "secrets",
            f"hold a public key of {len(raw)} bytes; ed25519 has {ED25519_KEY_BYTES}",
        )
    return raw


def _secret_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        # WHY from None: the cause would carry the secret.
        raise _wrong("secrets", "are whsec_ or whpk_ with base64 behind it") from None


def _check_secrets(config: VerifierConfig) -> None:
    if not 1 <= len(config.secrets) <= SECRETS_MAX:
        raise _wrong("secrets", f"are 1 to {SECRETS_MAX}; got {len(config.secrets)}")
    for text in config.secrets:
        if not 1 <= len(text) <= SECRET_CHARS_MAX or not text.isprintable():
            raise _wrong(
                "secrets", f"have 1 to {SECRET_CHARS_MAX} printable characters; one has {len(text)}"
            )
    if config.preset not in ("standard-webhooks", "svix"):
        return
    public = [text for text in config.secrets if _is_public(text)]
    if len(public) > PUBLIC_KEYS_MAX:
        raise _wrong("secrets", f"hold at most {PUBLIC_KEYS_MAX} whpk_ keys; got {len(public)}")
    for text in config.secrets:
        if _is_public(text):
            _webhook_public_key(text)
        else:
            _webhook_key(text)


def _check_own_scheme(config: VerifierConfig) -> None:
    needs = {
        "header": True,
        "timestamp_header": config.signed != "body",
        "id_header": config.signed == "id.ts.body",
    }
    names: list[str] = []
    for field, is_needed in needs.items():
        name: str | None = getattr(config, field)
        if name is None:
            if is_needed:
                raise _wrong(field, f"is required with the preset hmac and {config.signed}")
            continue
        if not is_needed:
            raise _wrong(field, f"is not read when {config.signed} is signed")
        if len(name) > HEADER_NAME_CHARS_MAX or not _TOKEN.fullmatch(name):
            raise _wrong(field, f"of {clip(name)} is no header name")
        if name.lower() in _CREDENTIALS:
            raise _wrong(field, f"of {clip(name)} is read as a credential of its own")
        names.append(name.lower())
    if len(set(names)) != len(names):
        raise _wrong("header", "and the headers of timestamp and id differ from each other")
    if len(config.prefix) > PREFIX_CHARS_MAX or not _PREFIX.fullmatch(config.prefix):
        raise _wrong("prefix", f"has at most {PREFIX_CHARS_MAX} characters of ASCII, no spaces")


def _header_name(name: str | None) -> bytes:
    return (name or "").lower().encode()


def _show(name: bytes) -> str:
    return clip(name)


def _wrong(field: str, text: str) -> ClientFault:
    return ClientFault("bad-request", f"verifier: {field} {text}")


def _refused(text: str) -> ClientFault:
    return ClientFault("unauthorized", text)


_DEFAULTS: Final[dict[str, Any]] = {
    "header": None,
    "prefix": "",
    "encoding": "hex",
    "algorithm": "sha256",
    "signed": "body",
}
_PRESETS: Final = {
    # SOURCE: GitHub, "Validating webhook deliveries".
    "github": VerifierConfig(
        preset="hmac", secrets=[], header="X-Hub-Signature-256", prefix="sha256="
    ),
    # SOURCE: Fivetran, "Webhooks"; its hex is seen in upper case.
    "fivetran": VerifierConfig(preset="hmac", secrets=[], header="X-Fivetran-Signature-256"),
    # SOURCE: Shopify, "Deliver webhooks through HTTPS".
    "shopify": VerifierConfig(
        preset="hmac", secrets=[], header="X-Shopify-Hmac-Sha256", encoding="base64"
    ),
}
