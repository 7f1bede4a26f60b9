"""Users, API keys and signing secrets over HTTP, for administrators of all stations.

What enters: requests whose principal is known. What leaves: the records as JSON, after they were
changed by the same code that the command line uses.
The gateway finds a handler through `Routes` and turns a raised Fault into the answer. Whoever may
change users can become any of them, so that nothing here is for an administrator of some stations.
No answer holds a hash or a secret; the text of a key is told once, to whoever made it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from fastgw.control.secrets import LEGACY_KID
from fastgw.errors import ClientFault, clip
from fastgw.handlers.admin import allow_everywhere
from fastgw.handlers.admin_access_body import (
    check_same_key,
    parse_key,
    parse_rotate,
    parse_user,
)
from fastgw.handlers.routes import Route, answer

if TYPE_CHECKING:
    from fastgw.control.keys import KeyRecord, Keys
    from fastgw.control.secrets import Secrets, SigningSecret
    from fastgw.control.users import UserRecord, Users
    from fastgw.handlers import Header, Request

NO_STORE: Final[tuple[Header, ...]] = ((b"Cache-Control", b"no-store"),)
USER_PERMISSIONS: Final = ("produce", "consume")
KEY_PERMISSIONS: Final = ("produce",)
"""What is granted where a body names no permission; the command line grants the same."""


class AdminAccess:
    """The routes of users, keys and secrets.

    Args:
        users: the users.
        keys: the API keys.
        secrets: what signs the tokens.
    """

    def __init__(self, users: Users, keys: Keys, secrets: Secrets) -> None:
        self._users = users
        self._keys = keys
        self._secrets = secrets

    def routes(self) -> list[Route]:
        """Return method, path template and handler of every route."""
        return [
            ("GET", "/users", self.list_users),
            ("GET", "/users/{name}", self.show_user),
            ("PUT", "/users/{name}", self.put_user),
            ("DELETE", "/users/{name}", self.delete_user),
            ("GET", "/keys", self.list_keys),
            ("GET", "/keys/{name}", self.show_key),
            ("PUT", "/keys/{name}", self.put_key),
            ("DELETE", "/keys/{name}", self.delete_key),
            ("GET", "/secrets", self.list_secrets),
            ("POST", "/secrets/rotate", self.rotate),
            ("DELETE", "/secrets/{kid}", self.delete_secret),
        ]

    # --- users ------------------------------------------------------------------------------------

    async def list_users(self, request: Request) -> None:
        """Answer all users, by name."""
        allow_everywhere(request)
        records = sorted(self._users.records.values(), key=lambda record: record.name)
        answer(request, 200, [show_user(record) for record in records])

    async def show_user(self, request: Request, name: str) -> None:
        """Answer one user."""
        allow_everywhere(request)
        record = self._users.find(name)
        if record is None:
            raise ClientFault("not-found", f"there is no user {clip(name)}")
        answer(request, 200, show_user(record))

    async def put_user(self, request: Request, name: str) -> None:
        """Create a user (201), or change what the body names (200), which ends its tokens."""
        allow_everywhere(request)
        fields = parse_user(request.body, name)
        if self._users.find(name) is not None:
            answer(request, 200, show_user(await self._users.change(name, **fields)))
            return
        if "password" not in fields:
            raise ClientFault("bad-request", "password: a new user's password is required")
        record = await self._users.add(name, **{"permissions": USER_PERMISSIONS} | fields)
        answer(request, 201, show_user(record))

    async def delete_user(self, request: Request, name: str) -> None:
        """Remove a user; its tokens end."""
        allow_everywhere(request)
        await self._users.remove(name)
        answer(request, 200, {"name": name, "removed": True})

    # --- keys -------------------------------------------------------------------------------------

    async def list_keys(self, request: Request) -> None:
        """Answer all keys, by name."""
        allow_everywhere(request)
        records = sorted(self._keys.records.values(), key=lambda record: record.name)
        answer(request, 200, [show_key(record) for record in records])

    async def show_key(self, request: Request, name: str) -> None:
        """Answer one key, without its text, which nobody knows any more."""
        allow_everywhere(request)
        answer(request, 200, show_key(self._find_key(name)))

    async def put_key(self, request: Request, name: str) -> None:
        """Create a key (201, with its text, only now), or disable or enable one (200)."""
        allow_everywhere(request)
        fields, disabled = parse_key(request.body, name)
        found = self._keys.find(name)
        if found is None:
            if disabled:
                # WHY: made first and disabled then, a failure between would lose the text.
                raise ClientFault("bad-request", "disabled: a new key is enabled; disable it later")
            record, text = await self._keys.add(name, **{"permissions": KEY_PERMISSIONS} | fields)
            answer(request, 201, show_key(record) | {"key": text}, NO_STORE)
            return
        check_same_key(fields, found)
        if disabled is not None:
            await self._keys.set_disabled(name, disabled)
        answer(request, 200, show_key(self._find_key(name)))

    async def delete_key(self, request: Request, name: str) -> None:
        """Remove a key; it is refused from then on."""
        allow_everywhere(request)
        await self._keys.remove(name)
        answer(request, 200, {"name": name, "removed": True})

    def _find_key(self, name: str) -> KeyRecord:
        record = self._keys.find(name)
        if record is None:
            raise ClientFault("not-found", f"there is no key {clip(name)}")
        return record

    # --- secrets ----------------------------------------------------------------------------------

    async def list_secrets(self, request: Request) -> None:
        """Answer which secrets sign and verify, without them."""
        allow_everywhere(request)
        answer(request, 200, show_secrets(self._secrets))

    async def rotate(self, request: Request) -> None:
        """Make a new secret per use; what the older ones signed goes on being accepted."""
        allow_everywhere(request)
        body = parse_rotate(request.body)
        made = {one.kid for one in await self._secrets.rotate(body.use, body.algorithm)}
        answer(request, 201, [one for one in show_secrets(self._secrets) if one["kid"] in made])

    async def delete_secret(self, request: Request, kid: str) -> None:
        """Remove a secret; the tokens that it signed end."""
        allow_everywhere(request)
        await self._secrets.remove(kid)
        answer(request, 200, {"kid": kid, "removed": True})


def show_user(record: UserRecord) -> dict[str, Any]:
    """Return a user as administrators see it: everything but the hash."""
    return {
        "name": record.name,
        "permissions": record.permissions,
        "stations": record.stations,
        "disabled": record.disabled,
        "created_at": record.created_at,
    }


def show_key(record: KeyRecord) -> dict[str, Any]:
    """Return a key as administrators see it: everything but the hash."""
    return {
        "name": record.name,
        "permissions": record.permissions,
        "stations": record.stations,
        "origins": record.origins,
        "expires_at": record.expires_at,
        "expired": record.expires_at is not None and record.expires_at <= time.time(),
        "disabled": record.disabled,
        "created_at": record.created_at,
    }


def show_secrets(secrets: Secrets) -> list[dict[str, Any]]:
    """Return the signing secrets as administrators see them: which, since when, and what for.

    `state` is "signing" for the one that signs now, "waiting" for one that will as soon as every
    gateway knows it, and "verifying" for the others.
    """
    return [_show_secret(one, secrets.find_signer(one.use).kid) for one in secrets.list()]


def _show_secret(secret: SigningSecret, signer: str) -> dict[str, Any]:
    state = "verifying"
    if secret.kid == signer:
        state = "signing"
    elif secret.signs_from is not None and secret.signs_from > time.time():
        state = "waiting"
    return {
        "kid": secret.kid,
        "use": secret.use,
        "algorithm": secret.algorithm,
        # A configured one, or one of before kids, does not tell its age.
        "created_at": secret.created_at or None,
        "state": state,
        "configured": not secret.created_at and secret.kid not in LEGACY_KID.values(),
    }
