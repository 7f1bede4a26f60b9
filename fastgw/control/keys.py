"""API keys: opaque texts for senders that cannot log in, kept as hashes and found by them.

What enters: commands of an administrator, and the text of a key from a request. What leaves:
`KeyRecord`s, mirrored into this process within a second of any change anywhere.
Called by the handlers and the command line. The text is returned once, when the key is made; it
must never be stored or logged. WHY a plain hash, unlike a password's: 32 random bytes cannot be
guessed, and a request must not wait for a slow one.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw.control.mirror import Exists, Mirror
from fastgw.control.users import (
    NAME_CHARS_MAX,
    Permission,
    check_globs,
    check_permissions,
)
from fastgw.errors import ClientFault, clip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastgw.control.store import Store

log = logging.getLogger("fastgw.control")

PREFIX: Final = "fgw_"
KEY_BYTES: Final = 32
KEY_CHARS: Final = len(PREFIX) + (KEY_BYTES * 4 + 2) // 3

ORIGINS_MAX: Final = 64
"""LIMIT: origins of one key; each request of a browser is compared with them."""

ORIGIN_CHARS_MAX: Final = 300
"""LIMIT: a host name has at most 253 characters; a scheme and a port come with it."""

EXPIRES_AT_MAX: Final = 253_402_300_799
"""LIMIT: the end of the year 9999, the last second that a date in an answer can show."""

# SOURCE: RFC 6454 §6.2, how a browser writes an origin.
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"
    r"(:(?P<port>[1-9][0-9]{0,4}))?"
)
_PORT_LEFT_OUT: Final = {"http": "80", "https": "443"}


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One key as stored.

    `hash` is the SHA-256 of the whole text in hex; `stations` are globs over station names;
    `origins` are the web pages that may use it, none for no web page; `expires_at` is a unix time.
    """

    name: str
    hash: str
    permissions: list[Permission]
    stations: list[str] = msgspec.field(default_factory=lambda: ["*"])
    origins: list[str] = msgspec.field(default_factory=list)
    expires_at: float | None = None
    disabled: bool = False
    created_at: float = 0.0

    def __repr__(self) -> str:
        """Hide the hash."""
        return f"KeyRecord(name={self.name!r}, permissions={self.permissions!r})"


class Keys:
    """All API keys.

    Args:
        store: the key-value store.
        clock: unix time in seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._mirror = Mirror(store, "keys.", KeyRecord)
        self._clock = clock
        self._by_hash: dict[str, KeyRecord] = {}
        self._hashes: dict[str, str] = {}
        self._mirror.on_change(self._on_change)

    async def start(self) -> None:
        """Read all keys and follow their changes."""
        await self._mirror.start()

    @property
    def records(self) -> dict[str, KeyRecord]:
        """Every key by name, as of the last change seen; not to be changed by the caller."""
        return self._mirror.records

    def find(self, name: str) -> KeyRecord | None:
        """Return the key of this name, usable or not, from the mirror."""
        return self._mirror.records.get(name)

    def find_by_text(self, text: str) -> KeyRecord | None:
        """Return the key whose text this is; None when unknown, disabled or expired.

        Costs one hash and one look into a dict. WHY no comparison in constant time: what is looked
        up is the hash, of which its owner alone can choose the bytes.
        """
        if len(text) != KEY_CHARS or not text.startswith(PREFIX):
            return None
        record = self._by_hash.get(_hash(text))
        if record is None or record.disabled:
            return None
        if record.expires_at is not None and record.expires_at <= self._clock():
            return None
        return record

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call `callback(name)` after a key was added, changed or removed, here or elsewhere."""
        self._mirror.on_change(lambda name, _: callback(name))

    async def add(
        self,
        name: str,
        permissions: Iterable[str],
        stations: Iterable[str] = ("*",),
        origins: Iterable[str] = (),
        expires_at: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """Store a new key and return it with its text, which nobody can read again.

        Args:
            name: 1 to 128 characters; requests with the key are shown as "key:" and this.
            permissions: among "produce", "consume" and "admin".
            stations: globs over station names.
            origins: web pages that may use the key; it may only produce then.
            expires_at: unix time in seconds, None for never.

        Raises:
            ClientFault: a value that cannot be, or a name in use.
        """
        _check_name(name)
        now = self._clock()
        allowed, pages = check_permissions(permissions), _check_origins(origins)
        if pages and allowed != ["produce"]:
            raise ClientFault(
                "bad-request",
                "a key with origins may only produce, since everyone who sees the page can read it;"
                f" got {', '.join(allowed)}",
            )
        if expires_at is not None and not now < expires_at <= EXPIRES_AT_MAX:
            raise ClientFault(
                "bad-request",
                f"expires_at of {clip(expires_at)} is not a unix time from now to {EXPIRES_AT_MAX}",
            )
        text = PREFIX + token_urlsafe(KEY_BYTES)
        record = KeyRecord(
            name=name,
            hash=_hash(text),
            permissions=allowed,
            stations=check_globs(stations),
            origins=pages,
            expires_at=expires_at,
            created_at=now,
        )
        try:
            await self._mirror.create(name, record)
        except Exists:
            raise ClientFault("bad-request", f"the key {clip(name)} exists already") from None
        return record, text

    async def set_disabled(self, name: str, disabled: bool) -> KeyRecord:
        """Shut a key out, or let it in again.

        Raises:
            ClientFault: no such key.
        """

        def change(record: KeyRecord) -> KeyRecord:
            return msgspec.structs.replace(record, disabled=disabled)

        record = await self._mirror.modify(name, change)
        if record is None:
            raise ClientFault("not-found", f"there is no key {clip(name)}")
        return record

    async def remove(self, name: str) -> None:
        """Remove a key; its text is refused from then on.

        Raises:
            ClientFault: no such key.
        """
        if not await self._mirror.remove(name):
            raise ClientFault("not-found", f"there is no key {clip(name)}")

    def _on_change(self, name: str, record: KeyRecord | None) -> None:
        before = self._hashes.pop(name, None)
        if before is not None:
            del self._by_hash[before]
        if record is None:
            return
        # DANGER: who asks is told by the record's name, and forgotten by the name of its place.
        if record.name != name or record.hash in self._by_hash:
            log.error("the key %s does not count: its record is a copy of another's", clip(name))
            return
        self._hashes[name] = record.hash
        self._by_hash[record.hash] = record


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise ClientFault(
            "bad-request",
            f"a key name of {len(name)} characters is not 1 to {NAME_CHARS_MAX} characters long",
        )
    # WHY no ':': "key:" and a name without it cannot be mistaken for another kind of sender.
    if name != name.strip() or not name.isprintable() or ":" in name:
        raise ClientFault(
            "bad-request", f"the key name {clip(name)} has ':', control characters or outer spaces"
        )


def _check_origins(origins: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(origins))
    if len(found) > ORIGINS_MAX:
        raise ClientFault("bad-request", f"{len(found)} origins exceed {ORIGINS_MAX}")
    for origin in found:
        match = _ORIGIN.fullmatch(origin) if len(origin) <= ORIGIN_CHARS_MAX else None
        if match is None or int(match["port"] or 1) > 65535:
            raise ClientFault(
                "bad-request",
                f"the origin {clip(origin)} is not scheme://host or scheme://host:port, in lower"
                " case and without path or wildcard",
            )
        if match["port"] == _PORT_LEFT_OUT.get(match["scheme"], "none"):
            raise ClientFault(
                "bad-request",
                f"the origin {clip(origin)} names the port that browsers leave out",
            )
    return found
