"""Signing secrets: what signs our own tokens, and what still verifies them.

What enters: the configured secrets, or the records under "signing." in the store, one per use, and
an administrator's wish to rotate or to remove. What leaves: `SigningKey`s, each with the one
algorithm that it may be used with, found by the `kid` of a token.
Called by `Tokens`, the handlers and the command line. All secrets of a use are one record, so that
compare-and-set keeps gateways that start, rotate or remove at once from disagreeing.
A secret must never reach a log, an answer or an error text. An algorithm belongs to its secret: a
token must never choose it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from secrets import token_bytes, token_hex
from typing import TYPE_CHECKING, Final, Literal, NoReturn, get_args

import msgspec

from fastgw.control.mirror import Exists, Mirror
from fastgw.errors import ClientFault, InternalError, clip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

    from fastgw.config_types import AuthConfig
    from fastgw.control.store import Store

log = logging.getLogger("fastgw.control")

Use = Literal["access", "refresh"]
USES: Final[tuple[Use, ...]] = get_args(Use)
PREFIX: Final = "signing."

CONFIGURED_ALGORITHM: Final = "HS256"
# SOURCE: RFC 7518 §3.2, a key is at least as long as the hash; RFC 8032 §5.1.5, a seed of 32 bytes.
SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64, "EdDSA": 32}

_DIGESTS: Final = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}

SECRETS_MAX: Final = 16
"""LIMIT: secrets of one use; a rotation a month for a year, and some to spare."""

SIGNS_AFTER_S: Final = 5.0
"""LIMIT: a change is in every gateway within a second; clocks may differ by the rest."""

CREATE_TRIES_MAX: Final = 3
"""LIMIT: a record that is there when we create it and gone when we look is a defect by then."""

LEGACY_KID: Final[dict[Use, str]] = {"access": "legacy-access", "refresh": "legacy-refresh"}
LEGACY_KEY: Final[dict[Use, str]] = {"access": "secrets.jwt", "refresh": "secrets.refresh"}
"""Where a secret was kept before it had a kid; its tokens carry none."""

CONFIG_KEY: Final[dict[Use, str]] = {
    "access": "auth.jwt_secret",
    "refresh": "auth.refresh_jwt_secret",
}


class SigningSecret(msgspec.Struct, frozen=True, kw_only=True):
    """One secret.

    `secret` is base64: the key of an HMAC, or the seed of an Ed25519 key; empty in what `list` and
    `rotate` hand out. `signs_from` is a unix time; None never signs, it only verifies.
    `algorithm` is no Literal, so that one of a later version cannot make the others unreadable.
    """

    kid: str
    use: Use
    algorithm: str
    secret: str
    created_at: float
    signs_from: float | None

    def __repr__(self) -> str:
        """Hide the secret."""
        return f"SigningSecret(kid={self.kid!r}, use={self.use!r}, algorithm={self.algorithm!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Give rich the same fields, which it would otherwise read past `repr`."""
        return [("kid", self.kid), ("use", self.use), ("algorithm", self.algorithm)]


class SecretSet(msgspec.Struct, frozen=True):
    """All secrets of one use, oldest first, as stored."""

    secrets: list[SigningSecret]

    def __repr__(self) -> str:
        """Hide the secrets."""
        return f"SecretSet({len(self.secrets)} secrets)"


class SigningKey:
    """A secret made ready: what signs, what verifies, and the only algorithm for both."""

    __slots__ = ("algorithm", "kid", "private", "public")

    def __init__(self, secret: SigningSecret, raw: bytes) -> None:
        self.kid: Final = secret.kid
        self.algorithm: Final = secret.algorithm
        self.private: bytes | Ed25519PrivateKey = raw
        self.public: bytes | Ed25519PublicKey = raw
        if self.algorithm == "EdDSA":
            # WHY here: the library is 30 ms of a start and 6 MB, and HMAC needs none of it.
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

            self.private = Ed25519PrivateKey.from_private_bytes(raw)
            self.public = self.private.public_key()

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data`."""
        if isinstance(self.private, bytes):
            return hmac.digest(self.private, data, _DIGESTS[self.algorithm])
        return self.private.sign(data)

    def is_signed(self, data: bytes, signature: bytes) -> bool:
        """Tell whether `signature` over `data` was made with this key."""
        if isinstance(self.public, bytes):
            right = hmac.digest(self.public, data, _DIGESTS[self.algorithm])
            return hmac.compare_digest(right, signature)
        from cryptography.exceptions import InvalidSignature

        try:
            self.public.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class _Ring:
    """The keys of one use, by kid; those that a token without a kid may be signed with apart."""

    def __init__(self, secrets: Iterable[SigningSecret], *, is_configured: bool) -> None:
        self.is_configured: Final = is_configured
        self.secrets: Final[dict[str, SigningSecret]] = {}
        self.keys: Final[dict[str, tuple[SigningKey, ...]]] = {}
        self.unnamed: tuple[SigningKey, ...] = ()
        for secret in secrets:
            key = _ready(secret, is_configured=is_configured)
            if key is None or secret.kid in self.keys:
                continue
            self.secrets[secret.kid] = secret
            self.keys[secret.kid] = (key,)
            # DANGER: all of these are HS256, so that a token without a kid has no choice either.
            if is_configured or secret.kid == LEGACY_KID[secret.use]:
                self.unnamed += (key,)

    def find_signer(self, now: float) -> SigningKey | None:
        """Find the newest key that may sign; where none may yet, the first that will."""
        signers = [
            (secret.signs_from, at, kid)
            for at, (kid, secret) in enumerate(self.secrets.items())
            if secret.signs_from is not None
        ]
        if not signers:
            return None
        due = [signer for signer in signers if signer[0] <= now]
        # WHY not only those due: a clock that is behind must not keep a gateway from signing.
        return self.keys[(max(due) if due else min(signers))[2]][0]


class Secrets:
    """The secrets of both uses.

    Args:
        store: the key-value store; None where both uses are configured, and nothing is read.
        config: the table with the configured secrets, and the algorithm of those made here.
        clock: unix time in seconds.
    """

    def __init__(
        self, store: Store | None, config: AuthConfig, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._rings: dict[Use, _Ring] = {use: _configured_ring(use, config) for use in USES}
        self._stored_uses = [use for use in USES if not self._rings[use].is_configured]
        self._listeners: list[Callable[[], None]] = []
        self._removal_listeners: list[Callable[[], None]] = []
        self._mirror: Mirror[SecretSet] | None = None
        if self._stored_uses:
            if store is None:
                raise InternalError("without a store both signing secrets must be configured")
            self._mirror = Mirror(store, PREFIX, SecretSet)
            self._mirror.on_change(self._on_change)

    async def start(self) -> None:
        """Make the secrets that are missing, read the others, and follow their changes.

        Raises:
            UpstreamFault: the broker is away, or a record is damaged.
            InternalError: a secret of before kids is too short, or none can be used.
        """
        if self._mirror is None:
            return
        mirror = self._mirror
        await asyncio.gather(*(self._ensure(use) for use in self._stored_uses))
        await mirror.start()
        # WHY: what another gateway stored a moment ago may not have been delivered here yet.
        await asyncio.gather(
            *(mirror.modify(use, lambda record: record) for use in self._stored_uses)
        )
        for use in self._stored_uses:
            algorithm = self.find_signer(use).algorithm
            if algorithm != self._config.algorithm:
                log.info(
                    "%s tokens are signed with %s; %s comes with the next rotation",
                    use,
                    algorithm,
                    self._config.algorithm,
                )

    @property
    def records(self) -> dict[str, SigningSecret]:
        """Every secret in force by kid, its text left out."""
        return {secret.kid: secret for secret in self.list()}

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback()` after secrets were added or removed, here or elsewhere."""
        self._listeners.append(callback)

    def on_removal(self, callback: Callable[[], None]) -> None:
        """Call `callback()` after a secret ended, so that what it verified can be forgotten."""
        self._removal_listeners.append(callback)

    def find(self, use: Use, kid: str | None) -> tuple[SigningKey, ...]:
        """Return the keys that may have signed a token for `use` with this kid, at most one.

        For a token without a kid (None): the one of before kids, or all configured ones.
        """
        ring = self._rings[use]
        return ring.unnamed if kid is None else ring.keys.get(kid, ())

    def find_signer(self, use: Use) -> SigningKey:
        """Return the key that signs now.

        Raises:
            InternalError: somebody removed all of them from the store.
        """
        key = self._rings[use].find_signer(self._clock())
        if key is None:
            raise InternalError(f"no secret for {use} tokens is in force")
        return key

    async def rotate(
        self, use: str | None = None, algorithm: str | None = None
    ) -> Sequence[SigningSecret]:
        """Make a new secret, which signs after `SIGNS_AFTER_S`; those before it go on verifying.

        Args:
            use: "access" or "refresh"; both by default.
            algorithm: of the new secret; the configured one by default.

        Raises:
            ClientFault: a use or algorithm that is none; "conflict": a configured secret, which
                only its configuration can rotate, or as many secrets as may be.
        """
        uses = _parse_uses(use)
        algorithm = self._config.algorithm if algorithm is None else algorithm
        if algorithm not in SECRET_BYTES:
            known = ", ".join(SECRET_BYTES)
            raise ClientFault("bad-request", f"algorithms are {known}; got {clip(algorithm)}")
        for one in uses:
            if self._rings[one].is_configured:
                _refuse_configured(one)
            # WHY here and again below: both are rotated, or none, unless another one comes between.
            _check_room(one, len(self._rings[one].secrets))
        return [_without_secret(await self._add(one, algorithm)) for one in uses]

    async def remove(self, kid: str) -> None:
        """End a secret, and with it every token that it signed.

        Raises:
            ClientFault: "not-found"; "conflict": the last of its use, or a configured one.
        """
        for use in USES:
            if self._rings[use].is_configured and kid in self._rings[use].keys:
                _refuse_configured(use)
        for use in self._stored_uses:
            if await self._take_out(use, kid):
                log.info("removed the signing secret %s of %s tokens", clip(kid), use)
                return
        raise ClientFault("not-found", f"there is no signing secret {clip(kid)}")

    def list(self) -> Sequence[SigningSecret]:
        """Return every secret in force, access before refresh, oldest first, the texts left out."""
        rings = [self._rings[use] for use in USES]
        return [_without_secret(secret) for ring in rings for secret in ring.secrets.values()]

    # --- the store --------------------------------------------------------------------------------

    async def _ensure(self, use: Use) -> None:
        """Have a first secret stored; of several gateways that start at once, one makes it."""
        assert self._mirror is not None
        for _ in range(CREATE_TRIES_MAX):
            if await self._mirror.read(use) is not None:
                return
            first = await self._read_legacy(use)
            if first is None:
                first = self._make(use, self._config.algorithm, signs_after_s=0)
            try:
                await self._mirror.create(use, SecretSet([first]))
            except Exists:
                continue
            log.info("made the signing secret %s of %s tokens", first.kid, use)
            return
        raise InternalError(f"the stored record {PREFIX}{use} comes and goes")

    async def _read_legacy(self, use: Use) -> SigningSecret | None:
        """Return the secret of before kids, when the store has one."""
        assert self._store is not None
        found = await self._store.get(LEGACY_KEY[use])
        if found is None:
            return None
        size = SECRET_BYTES[CONFIGURED_ALGORITHM]
        if len(found[0]) < size:
            raise InternalError(
                f"the stored secret {LEGACY_KEY[use]} is missing or shorter than {size}"
            )
        return SigningSecret(
            kid=LEGACY_KID[use],
            use=use,
            algorithm=CONFIGURED_ALGORITHM,
            secret=base64.b64encode(found[0]).decode("ascii"),
            created_at=0.0,
            signs_from=0.0,
        )

    def _make(self, use: Use, algorithm: str, *, signs_after_s: float) -> SigningSecret:
        now = self._clock()
        return SigningSecret(
            kid=token_hex(8),
            use=use,
            algorithm=algorithm,
            secret=base64.b64encode(token_bytes(SECRET_BYTES[algorithm])).decode("ascii"),
            created_at=now,
            signs_from=now + signs_after_s,
        )

    async def _add(self, use: Use, algorithm: str) -> SigningSecret:
        assert self._mirror is not None
        made = self._make(use, algorithm, signs_after_s=SIGNS_AFTER_S)

        def change(record: SecretSet) -> SecretSet:
            _check_room(use, len(record.secrets))
            return SecretSet([*record.secrets, made])

        if await self._mirror.modify(use, change) is None:
            raise InternalError(f"the stored record {PREFIX}{use} is gone; a restart makes another")
        log.info("rotated: the signing secret %s of %s tokens, %s", made.kid, use, algorithm)
        return made

    async def _take_out(self, use: Use, kid: str) -> bool:
        assert self._mirror is not None
        assert self._store is not None
        found = False

        def change(record: SecretSet) -> SecretSet:
            nonlocal found
            rest = [secret for secret in record.secrets if secret.kid != kid]
            found = len(rest) < len(record.secrets)
            # WHY not the count: a secret that cannot be used keeps nobody logged in.
            if found and not _Ring(rest, is_configured=False).keys:
                raise ClientFault(
                    "conflict", f"{clip(kid)} is the last secret of {use} tokens; rotate first"
                )
            return SecretSet(rest)

        await self._mirror.modify(use, change)
        # DANGER: after the record, which alone counts; left behind, it would serve older gateways.
        if found and kid == LEGACY_KID[use] and await self._store.get(LEGACY_KEY[use]) is not None:
            await self._store.delete(LEGACY_KEY[use])
        return found

    def _on_change(self, name: str, record: SecretSet | None) -> None:
        use = next((use for use in self._stored_uses if use == name), None)
        if use is None:
            return
        before = self._rings[use]
        ring = _Ring(record.secrets if record is not None else (), is_configured=False)
        self._rings[use] = ring
        if not ring.keys:
            log.error("no signing secret of %s tokens is left: all of them end", use)
        for listener in self._listeners:
            listener()
        if any(ring.secrets.get(kid) != secret for kid, secret in before.secrets.items()):
            for listener in self._removal_listeners:
                listener()


def _configured_ring(use: Use, config: AuthConfig) -> _Ring:
    """Return the ring of a configured use; of another one an empty ring, to be filled."""
    signing, old = (
        (config.jwt_secret, config.jwt_secrets_old)
        if use == "access"
        else (config.refresh_jwt_secret, config.refresh_jwt_secrets_old)
    )
    if signing is None:
        if old:
            log.warning("%ss_old counts only together with %s", CONFIG_KEY[use], CONFIG_KEY[use])
        return _Ring((), is_configured=False)
    secrets = [_from_config(use, signing, 0.0), *(_from_config(use, text, None) for text in old)]
    return _Ring(secrets, is_configured=True)


def _from_config(use: Use, text: str, signs_from: float | None) -> SigningSecret:
    raw = text.encode()
    return SigningSecret(
        kid=hashlib.sha256(f"fastgw-kid {use} ".encode() + raw).hexdigest()[:16],
        use=use,
        algorithm=CONFIGURED_ALGORITHM,
        secret=base64.b64encode(raw).decode("ascii"),
        created_at=0.0,
        signs_from=signs_from,
    )


def _ready(secret: SigningSecret, *, is_configured: bool) -> SigningKey | None:
    """Make a secret ready, or log why it cannot be used.

    Raises:
        InternalError: a configured secret cannot be used.
    """
    try:
        if secret.algorithm not in SECRET_BYTES:
            raise ValueError(f"its algorithm {clip(secret.algorithm)} is unknown")
        raw = base64.b64decode(secret.secret, validate=True)
        if not is_configured and len(raw) < SECRET_BYTES[secret.algorithm]:
            raise ValueError(f"{len(raw)} bytes are too few for {secret.algorithm}")
        key = SigningKey(secret, raw)
        _check_not_public(key)
    except ValueError as error:
        if is_configured:
            raise InternalError(f"{CONFIG_KEY[secret.use]} cannot sign: {error}") from error
        log.error("the signing secret %s does not count: %s", clip(secret.kid), error)
        return None
    return key


def _check_not_public(key: SigningKey) -> None:
    """Refuse what is public by its nature, as a certificate, to be the key of an HMAC.

    Raises:
        ValueError: it is, or it is empty.
    """
    raw = key.private
    if not isinstance(raw, bytes):
        return
    # WHY: of what the library refuses, each has one of these marks (a PEM, a key for SSH, DER's
    # sequence, a JSON object); a secret that has none need not have it loaded, with all it brings.
    is_text = b"BEGIN" in raw or raw.startswith((b"ssh-", b"ecdsa-"))
    if raw and not is_text and raw[:1] != b"0" and not (b"{" in raw and b'"' in raw):
        return
    import jwt

    try:
        jwt.get_algorithm_by_name(key.algorithm).prepare_key(raw)
    except jwt.InvalidKeyError as error:
        raise ValueError(str(error)) from error


def _parse_uses(use: str | None) -> tuple[Use, ...]:
    uses = tuple(one for one in USES if use in (None, one))
    if not uses:
        raise ClientFault("bad-request", f"uses are {', '.join(USES)}; got {clip(use)}")
    return uses


def _check_room(use: Use, secrets_count: int) -> None:
    if secrets_count >= SECRETS_MAX:
        raise ClientFault(
            "conflict",
            f"{secrets_count} secrets of {use} tokens are as many as may be; remove one first",
        )


def _refuse_configured(use: Use) -> NoReturn:
    key = CONFIG_KEY[use]
    raise ClientFault(
        "conflict",
        f"the secret of {use} tokens is configured as {key}: change it there,"
        f" and keep the one before it in {key}s_old",
    )


def _without_secret(secret: SigningSecret) -> SigningSecret:
    return msgspec.structs.replace(secret, secret="")
