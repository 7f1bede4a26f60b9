"""Users: their records, their passwords, and who they are when a password arrives.

What enters: commands of an administrator, and names with passwords from the authenticate route.
What leaves: `UserRecord`s, mirrored into this process within a second of any change anywhere.
Called by the handlers and the command line. A record holds a hash, never a password; the epoch
rises with each change, which ends the tokens issued before it. The last user that may administer
all stations stays as it is, so that nobody locks everyone out by mistake.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

from fastgw.control.mirror import Exists, Mirror
from fastgw.control.passwords import PasswordChecker, hash_password, verify_password
from fastgw.errors import ClientFault, clip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastgw.control.store import Store

__all__ = ["UserRecord", "Users", "check_user_name", "hash_password", "verify_password"]

Permission = Literal["produce", "consume", "admin"]
PERMISSIONS: Final[tuple[Permission, ...]] = get_args(Permission)

NAME_CHARS_MAX: Final = 128
STATIONS_MAX: Final = 256
"""LIMIT: globs of one user; each is tried in turn when a token is first seen."""

GLOB_CHARS_MAX: Final = 128
_NAME_FORBIDDEN: Final = frozenset(":$")


class UserRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One user as stored.

    `stations` are globs over station names; `epoch` is in every token, and a token of another epoch
    is refused.
    """

    name: str
    password_hash: str
    permissions: list[Permission]
    stations: list[str] = msgspec.field(default_factory=lambda: ["*"])
    epoch: int = 1
    disabled: bool = False
    created_at: float = 0.0

    def __repr__(self) -> str:
        """Hide the hash."""
        return f"UserRecord(name={self.name!r}, permissions={self.permissions!r})"


class Users:
    """All users.

    Args:
        store: the key-value store.
        checker: does the slow password work; one of its own by default.
    """

    def __init__(self, store: Store, checker: PasswordChecker | None = None) -> None:
        self._mirror = Mirror(store, "users.", UserRecord)
        self._checker = checker or PasswordChecker()

    async def start(self) -> None:
        """Read all users and follow their changes."""
        await self._mirror.start()

    def close(self) -> None:
        """End the threads of the password checks."""
        self._checker.close()

    @property
    def records(self) -> dict[str, UserRecord]:
        """Every user by name, as of the last change seen; not to be changed by the caller."""
        return self._mirror.records

    def find(self, name: str) -> UserRecord | None:
        """Return the user of this name, disabled or not, from the mirror."""
        return self._mirror.records.get(name)

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call `callback(name)` after a user was added, changed or removed, here or elsewhere."""
        self._mirror.on_change(lambda name, _: callback(name))

    async def add(
        self,
        name: str,
        password: str,
        permissions: Iterable[str],
        stations: Iterable[str] = ("*",),
        *,
        disabled: bool = False,
    ) -> UserRecord:
        """Store a new user.

        Raises:
            ClientFault: a name, permission, glob or password that cannot be, or a name in use.
        """
        check_user_name(name)
        record = UserRecord(
            name=name,
            password_hash="",
            permissions=check_permissions(permissions),
            stations=check_globs(stations),
            # WHY not 1: a user removed and added again must not revive the tokens of the first.
            epoch=time.time_ns() // 1_000_000,
            disabled=disabled,
            created_at=time.time(),
        )
        record = msgspec.structs.replace(record, password_hash=await self._checker.hash(password))
        try:
            await self._mirror.create(name, record)
        except Exists:
            raise ClientFault("bad-request", f"the user {clip(name)} exists already") from None
        return record

    async def passwd(self, name: str, password: str) -> UserRecord:
        """Give a user another password; tokens issued before end.

        Raises:
            ClientFault: no such user, or a password that cannot be.
        """
        return await self.change(name, password=password)

    async def set_disabled(self, name: str, disabled: bool) -> UserRecord:
        """Shut a user out, or let it in again; tokens issued before end either way.

        Raises:
            ClientFault: no such user, or the last one that may administer all stations.
        """
        return await self.change(name, disabled=disabled)

    async def set_permissions(
        self, name: str, permissions: Iterable[str], stations: Iterable[str]
    ) -> UserRecord:
        """Replace what a user may do, and where; tokens issued before end.

        Raises:
            ClientFault: no such user, a permission or glob that cannot be, or the last one that may
                administer all stations.
        """
        return await self.change(name, permissions=permissions, stations=stations)

    async def change(
        self,
        name: str,
        *,
        password: str | None = None,
        permissions: Iterable[str] | None = None,
        stations: Iterable[str] | None = None,
        disabled: bool | None = None,
    ) -> UserRecord:
        """Change what is not None, at once; tokens issued before end, unless nothing differs.

        Raises:
            ClientFault: no such user, a value that cannot be, or "conflict" for the last user that
                may administer all stations.
        """
        fields: dict[str, object] = {}
        if permissions is not None:
            fields["permissions"] = check_permissions(permissions)
        if stations is not None:
            fields["stations"] = check_globs(stations)
        if disabled is not None:
            fields["disabled"] = disabled
        if password is not None:
            if self.find(name) is None:
                raise _unknown(name)
            fields["password_hash"] = await self._checker.hash(password)
        others = await self._others_administer(name)

        def change(record: UserRecord) -> UserRecord:
            changed = msgspec.structs.replace(record, **fields)
            if changed == record:
                return record
            if not others and is_chief(record) and not is_chief(changed):
                raise _last_chief(name)
            return msgspec.structs.replace(changed, epoch=record.epoch + 1)

        stored = await self._mirror.modify(name, change)
        if stored is None:
            raise _unknown(name)
        return stored

    async def remove(self, name: str) -> None:
        """Remove a user.

        Raises:
            ClientFault: no such user, or "conflict" for the last one that may administer all
                stations.
        """
        found = await self._mirror.read(name)
        if found is not None and is_chief(found[0]) and not await self._others_administer(name):
            raise _last_chief(name)
        if not await self._mirror.remove(name):
            raise _unknown(name)

    async def check(self, name: str, password: str) -> UserRecord | None:
        """Return the user when the password is right and the user is not disabled, else None.

        Every outcome costs one hash, off the loop.

        Raises:
            UpstreamFault: "overloaded", when too many checks wait already.
        """
        before = self.find(name)
        usable = before is not None and not before.disabled
        right = await self._checker.verify(
            password, before.password_hash if before is not None and usable else None
        )
        # WHY again: the user may have been changed or removed while the hash was computed.
        return before if right and self.find(name) == before else None

    async def _others_administer(self, name: str) -> bool:
        """Tell whether a user beside `name` may administer all stations.

        WHY a look into the store: the mirror may not show yet what another gateway changed just
        now. Two administrators that demote each other in the same instant still get through;
        `fastgw user add` on the broker's machine helps then.
        """
        others = [one.name for one in self.records.values() if one.name != name and is_chief(one)]
        for other in others:
            found = await self._mirror.read(other)
            if found is not None and is_chief(found[0]):
                return True
        return False


def is_chief(record: UserRecord) -> bool:
    """Tell whether a user may administer everything now: users, keys and secrets too."""
    return not record.disabled and "admin" in record.permissions and "*" in record.stations


def _unknown(name: str) -> ClientFault:
    return ClientFault("not-found", f"there is no user {clip(name)}")


def _last_chief(name: str) -> ClientFault:
    return ClientFault(
        "conflict",
        f"{clip(name)} is the last user that may administer all stations; add another one first",
    )


def check_user_name(name: str) -> None:
    """Check a new user's name.

    ':' would end it in a Basic header, '$' begins an account number in a login.

    Raises:
        ClientFault: the name cannot be used.
    """
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise ClientFault(
            "bad-request",
            f"a user name of {len(name)} characters is not 1 to {NAME_CHARS_MAX} characters long",
        )
    if name != name.strip() or not name.isprintable() or _NAME_FORBIDDEN & set(name):
        raise ClientFault(
            "bad-request",
            f"the user name {clip(name)} has ':', '$', control characters or outer spaces",
        )


def check_permissions(permissions: Iterable[str]) -> list[Permission]:
    """Return them in their order, each once.

    Raises:
        ClientFault: one that cannot be, none, or too many.
    """
    asked = set(permissions)
    unknown = sorted(asked.difference(PERMISSIONS))
    if unknown or not asked:
        got = clip(unknown[0]) if unknown else "none"
        raise ClientFault(
            "bad-request", f"permissions are among {', '.join(PERMISSIONS)}; got {got}"
        )
    return [permission for permission in PERMISSIONS if permission in asked]


def check_globs(stations: Iterable[str]) -> list[str]:
    """Return them in their order, each once.

    Raises:
        ClientFault: one that cannot be, none, or too many.
    """
    globs = list(dict.fromkeys(stations))
    if not 1 <= len(globs) <= STATIONS_MAX:
        raise ClientFault("bad-request", f"{len(globs)} station globs are not 1 to {STATIONS_MAX}")
    for glob in globs:
        if not 1 <= len(glob) <= GLOB_CHARS_MAX or not glob.isprintable() or " " in glob:
            raise ClientFault("bad-request", f"the station glob {clip(glob)} cannot match a name")
    return globs
