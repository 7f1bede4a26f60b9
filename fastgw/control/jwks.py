"""Key sets of outside issuers: read from a file or a URL, kept, renewed, and pinned.

What enters: a JSON Web Key Set (RFC 7517), from a file or over HTTPS.
What leaves: for the `kid` and `alg` of a token, the public keys that may verify it.
Called by `issuers` alone; all reading and parsing happens in a thread of its own.
A set must never decide more than its keys say: symmetric, private and short keys are ignored, and
each key holds for algorithms that fit it and are configured. An issuer that cannot be reached costs
one bounded fetch at a time, and the keys known before stay.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import random
import ssl
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import jwt

from fastgw.config_types import is_loopback
from fastgw.control.jws import KID_CHARS_MAX
from fastgw.errors import clip

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from http.client import HTTPMessage
    from typing import IO

    from fastgw.config_types import IssuerConfig

log = logging.getLogger("fastgw.control")

ANSWER_BYTES_MAX: Final = 1024 * 1024
"""LIMIT: the largest sets that are published hold some tens of keys of about 2 KiB."""

KEYS_COUNT_MAX: Final = 256
REDIRECTS_COUNT_MAX: Final = 3

RSA_BITS_MIN: Final = 2048
RSA_BITS_MAX: Final = 8192
"""LIMIT: SOURCE: RFC 7518 §3.3 for the least; a check with more than 8192 takes over a ms."""

FORCED_S: Final = 10.0
"""LIMIT: tokens that name unknown keys cost one fetch in this time, however many they are."""

RETRY_S: Final = 30.0
FILE_POLL_S: Final = 1.0

_BY_CURVE: Final = {"P-256": ("ES256",), "P-384": ("ES384",), "Ed25519": ("EdDSA",)}
_BY_RSA: Final = ("RS256", "RS384", "RS512", "PS256")
_MEMBERS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


class KeySetError(ValueError):
    """A key set that cannot be read; the text says why, without repeating it."""


class Key(NamedTuple):
    """One public key for one algorithm."""

    kid: str | None
    algorithm: str
    # The members that make the key: two keys are the same when these are.
    members: tuple[str, ...]
    jwk: jwt.PyJWK

    def verify(self, signed: bytes, signature: bytes) -> bool:
        """Tell whether `signature` over `signed` was made with this key's private half."""
        return self.jwk.Algorithm.verify(signed, self.jwk.key, signature)


class KeySet:
    """The usable keys of a set, and why the others are not."""

    def __init__(self, keys: Sequence[Key], ignored: Sequence[str]) -> None:
        self.ignored: Final = tuple(ignored)
        self._keys: Final[dict[str | None, list[Key]]] = {}
        for key in keys:
            self._keys.setdefault(key.kid, []).append(key)

    def __len__(self) -> int:
        return len({(kid, key.members) for kid, keys in self._keys.items() for key in keys})

    def has(self, kid: str | None) -> bool:
        """Tell whether a key of this name is here; a token without a name may mean any."""
        return bool(self._keys) if kid is None else kid in self._keys

    def find(self, kid: str | None, algorithm: str) -> list[Key]:
        """Return the keys that a token of this `kid` and `alg` may be signed with.

        A token that names no key may only mean the one key that fits its algorithm.
        """
        if kid is not None:
            return [key for key in self._keys.get(kid, ()) if key.algorithm == algorithm]
        fitting = [key for keys in self._keys.values() for key in keys]
        fitting = [key for key in fitting if key.algorithm == algorithm]
        return fitting if len(fitting) == 1 else []

    def lacks_any_of(self, other: KeySet) -> bool:
        """Tell whether a key of `other` counts no longer."""
        return not other._identities() <= self._identities()

    def _identities(self) -> set[tuple[object, ...]]:
        return {tuple(key[:3]) for keys in self._keys.values() for key in keys}


def parse_key_set(data: bytes, algorithms: Sequence[str]) -> KeySet:
    """Read a JSON Web Key Set; keys that cannot be used are passed over, with a reason.

    Raises:
        KeySetError: it is no key set, or has more than `KEYS_COUNT_MAX` keys.
    """
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise KeySetError("it is not JSON") from error
    entries = whole.get("keys") if isinstance(whole, dict) else None
    if not isinstance(entries, list):
        raise KeySetError('it has no list "keys"')
    if len(entries) > KEYS_COUNT_MAX:
        raise KeySetError(f"a set of {len(entries)} keys exceeds {KEYS_COUNT_MAX}")
    keys: list[Key] = []
    ignored: list[str] = []
    for entry in entries:
        try:
            keys += _read_key(entry, algorithms)
        except KeySetError as error:
            kid = entry.get("kid") if isinstance(entry, dict) else None
            ignored.append(f"{clip(kid)}: {clip(error)}")
    return KeySet(keys, ignored)


def _read_key(entry: object, algorithms: Sequence[str]) -> list[Key]:
    if not isinstance(entry, dict):
        raise KeySetError("no object")
    kid = entry.get("kid")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= KID_CHARS_MAX):
        raise KeySetError(f"its kid is no text of at most {KID_CHARS_MAX} characters")
    kty = entry.get("kty")
    names = _MEMBERS.get(kty) if isinstance(kty, str) else None
    if names is None:
        raise KeySetError(f"the key type {clip(kty)}")
    if "d" in entry:
        # WHY: whoever reads the set could sign with it.
        raise KeySetError("a private key")
    if entry.get("use", "sig") != "sig":
        raise KeySetError("not for signatures")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise KeySetError("not for verifying")
    members = [entry.get(name) for name in names]
    texts = tuple(member for member in members if isinstance(member, str))
    if len(texts) != len(names):
        raise KeySetError(f"a member of {', '.join(names)} is missing")
    fitting = _BY_RSA if kty == "RSA" else _BY_CURVE.get(texts[0], ())
    # DANGER: a key that names its algorithm verifies no other, whatever a token says.
    wanted = [entry["alg"]] if "alg" in entry else algorithms
    usable = [name for name in fitting if name in wanted and name in algorithms]
    if not usable:
        raise KeySetError("no configured algorithm fits it")
    # DANGER: only the public members go on, so that nothing else of the entry can matter.
    public = {"kty": kty, **dict(zip(names, texts, strict=True))}
    return [_make_key(kid, name, texts, public) for name in usable]


def _make_key(kid: str | None, algorithm: str, texts: tuple[str, ...], public: Any) -> Key:
    try:
        jwk = jwt.PyJWK(public, algorithm)
    except (jwt.PyJWTError, TypeError, ValueError) as error:
        raise KeySetError("its numbers make no key") from error
    if public["kty"] == "RSA" and not RSA_BITS_MIN <= jwk.key.key_size <= RSA_BITS_MAX:
        raise KeySetError(f"{jwk.key.key_size} bits are not {RSA_BITS_MIN} to {RSA_BITS_MAX}")
    return Key(kid, algorithm, texts, jwk)


_Stamp = tuple[int, int, int] | None
# A set and its file's state, why there is none, or None for "as before".
_Outcome = tuple[KeySet, _Stamp] | str | None


class KeySource:
    """The key set of one issuer, as of the last time that it could be read.

    Args:
        config: the issuer.
        clock: monotonic seconds; tests pass their own.
    """

    def __init__(
        self, config: IssuerConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config: Final = config
        self._clock: Final = clock
        self.keys = KeySet((), ())
        self.is_loaded = False
        self._is_failing: bool | None = None
        self._stamp: _Stamp = None
        self._forced_at = -FORCED_S
        self._flight: asyncio.Task[None] | None = None
        self._follower: asyncio.Task[None] | None = None
        self._reading: threading.Event | None = None
        self._on_removal: list[Callable[[], None]] = []

    def on_removal(self, callback: Callable[[], None]) -> None:
        """Call `callback()` after a key that counted counts no longer."""
        self._on_removal.append(callback)

    async def start(self) -> None:
        """Read the set once, within the configured time, and follow its changes.

        An issuer that is away is logged and tried again: it must not keep a gateway from starting.
        """
        await self.refresh()
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following."""
        for task in (self._follower, self._flight):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def may_force(self) -> bool:
        """Tell whether an unknown key may lead to a refresh, or join the one under way."""
        return self._is_refreshing or self._clock() - self._forced_at >= FORCED_S

    async def force(self) -> None:
        """Refresh because a token names an unknown key; see `may_force`."""
        if not self._is_refreshing:
            self._forced_at = self._clock()
        await self.refresh()

    async def refresh(self) -> None:
        """Read the set now; all who ask meanwhile share one reading. Never raises for a failure."""
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._renew())
        # WHY not await it: one who goes away must not end it for the others, nor `close` for them.
        await asyncio.wait({self._flight})

    @property
    def _is_refreshing(self) -> bool:
        return self._flight is not None and not self._flight.done()

    async def _follow(self) -> None:
        while True:
            if self._config.jwks_file is not None:
                wait_s = FILE_POLL_S
            else:
                # WHY random: the workers and replicas should not all ask in the same moment.
                wait_s = self._config.refresh_s * random.uniform(0.9, 1.0)
                if self._is_failing:
                    wait_s = min(wait_s, RETRY_S)
            await asyncio.sleep(wait_s)
            await self.refresh()

    async def _renew(self) -> None:
        outcome: _Outcome
        if self._reading is not None and not self._reading.is_set():
            # LIMIT: one thread per issuer; a fetch that outlived its time blocks the next ones.
            outcome = "the fetch before still hangs"
        else:
            timeout_s = self._config.timeout_ms / 1000
            try:
                outcome = await asyncio.wait_for(self._start_thread(), timeout_s)
            except TimeoutError:
                outcome = f"no whole answer within {self._config.timeout_ms} ms"
        if isinstance(outcome, str):
            self._note_failure(outcome)
        elif outcome is not None:
            keys, self._stamp = outcome
            self._note_keys(keys)

    def _start_thread(self) -> asyncio.Future[_Outcome]:
        """Read in a thread that nobody has to wait for, not even the end of the process."""
        loop = asyncio.get_running_loop()
        self._reading = has_ended = threading.Event()
        future: asyncio.Future[_Outcome] = loop.create_future()

        def settle(outcome: _Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        def run() -> None:
            outcome: _Outcome = "a defect of the gateway"
            try:
                outcome = self._load()
            except (OSError, http.client.HTTPException, ValueError) as error:
                outcome = clip(f"{type(error).__name__}: {error}", 120)
            finally:
                has_ended.set()
                # WHY: the loop may have been closed while the thread hung.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(settle, outcome)

        name = f"fastgw-jwks-{self._config.name}"
        threading.Thread(target=run, name=name, daemon=True).start()
        return future

    def _load(self) -> tuple[KeySet, _Stamp] | None:
        """Read and parse the set, in the thread; None when the file has not changed."""
        config = self._config
        if config.jwks_file is None:
            data = fetch(config.jwks_url or "", config.timeout_ms / 1000)
            return parse_key_set(data, config.algorithms), None
        with open(config.jwks_file, "rb") as file:
            status = os.fstat(file.fileno())
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp and not self._is_failing:
                return None
            data = file.read(ANSWER_BYTES_MAX + 1)
        return parse_key_set(_bounded(data), config.algorithms), stamp

    def _note_failure(self, reason: str) -> None:
        if not self._is_failing:
            log.warning(
                "the keys of the issuer %s cannot be read: %s; %d known keys stay",
                self._config.name,
                reason,
                len(self.keys),
            )
        self._is_failing = True

    def _note_keys(self, keys: KeySet) -> None:
        before, self.keys = self.keys, keys
        self.is_loaded = True
        has_removed = keys.lacks_any_of(before)
        if self._is_failing is not False or has_removed or before.lacks_any_of(keys):
            log.log(
                logging.INFO if len(keys) else logging.WARNING,
                "the issuer %s has %d usable keys; ignored: %s",
                self._config.name,
                len(keys),
                clip("; ".join(keys.ignored) or "none", 400),
            )
        self._is_failing = False
        if has_removed:
            for callback in self._on_removal:
                callback()


def check_url(url: str) -> None:
    """Check that keys may be fetched from `url`: HTTPS, or HTTP that stays on this machine.

    Raises:
        KeySetError: they may not.
    """
    parts = urlsplit(url)
    is_local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if not parts.hostname or not (parts.scheme == "https" or is_local):
        raise KeySetError("keys come from https:// only, or http:// on this machine")
    if "@" in parts.netloc:
        # WHY: key sets are public, and the network's error texts would show a password.
        raise KeySetError("the URL of a key set has no user and no password")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, never to another scheme."""

    max_redirections = REDIRECTS_COUNT_MAX

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            check_url(newurl)
            if urlsplit(newurl).scheme != urlsplit(req.full_url).scheme:
                raise KeySetError("a redirect to another scheme")
        except KeySetError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, timeout_s: float) -> bytes:
    """Fetch a key set; blocks, so it belongs into a thread.

    Args:
        url: where the set is.
        timeout_s: for each wait on the network, and for the whole body.

    Raises:
        KeySetError: a URL, status or size that cannot be.
        OSError, http.client.HTTPException: the network's and the server's failures.
    """
    check_url(url)
    # WHY not `urlopen`: it would also open file:, ftp: and data: when it is told to.
    opener = urllib.request.OpenerDirector()
    proxies = {k: v for k, v in urllib.request.getproxies().items() if k == "https"}
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    headers = {"User-Agent": "fastgw", "Accept": "application/json", "Accept-Encoding": "identity"}
    deadline = time.monotonic() + timeout_s
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (checked above)
    try:
        answer = opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        raise KeySetError(f"the answer's status is {error.code}") from error
    if answer is None:
        raise KeySetError("nobody opens this URL")
    with answer:
        if answer.status != 200:
            raise KeySetError(f"the answer's status is {answer.status}")
        data = b""
        while len(data) <= ANSWER_BYTES_MAX and (piece := answer.read1(65536)):
            data += piece
            if time.monotonic() > deadline:
                raise KeySetError("the answer came too slowly")
        if len(data) <= ANSWER_BYTES_MAX and answer.length:
            raise KeySetError(f"the answer ended {answer.length} bytes early")
    return _bounded(data)


def _bounded(data: bytes) -> bytes:
    if len(data) > ANSWER_BYTES_MAX:
        raise KeySetError(f"the key set exceeds {ANSWER_BYTES_MAX} bytes")
    return data
