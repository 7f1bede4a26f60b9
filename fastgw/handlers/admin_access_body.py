"""The JSON bodies of the routes that administer users, API keys and signing secrets.

What enters: a body's bytes. What leaves: what is asked for, typed, with absent told from empty.
Called by `admin_access`. A field that nobody knows is refused by its name, as in `admin_body`; what
a value may be is the control plane's to check. No text here may repeat a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from msgspec import UNSET, UnsetType

from fastgw.errors import ClientFault, clip
from fastgw.handlers.admin_body import Body, check_same_name, decode

if TYPE_CHECKING:
    from fastgw.control.keys import KeyRecord

_KEY_FIELDS: Final = ("permissions", "stations", "origins", "expires_at")


class UserBody(Body, frozen=True, kw_only=True):
    """Body of `PUT /users/{u}`; what is absent stays as it is, or takes its default."""

    name: str | None = None
    password: str | UnsetType = UNSET
    permissions: list[str] | UnsetType = UNSET
    stations: list[str] | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET

    def __repr__(self) -> str:
        """Hide the password."""
        return f"UserBody(name={self.name!r})"


class KeyBody(Body, frozen=True, kw_only=True):
    """Body of `PUT /keys/{k}`; `expires_at` is a unix time in seconds, null for never."""

    name: str | None = None
    permissions: list[str] | UnsetType = UNSET
    stations: list[str] | UnsetType = UNSET
    origins: list[str] | UnsetType = UNSET
    expires_at: float | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET


class RotateBody(Body, frozen=True, kw_only=True):
    """Body of `POST /secrets/rotate`; without a use both are rotated."""

    use: str | None = None
    algorithm: str | None = None


_user_decoder: Final = msgspec.json.Decoder(UserBody)
_key_decoder: Final = msgspec.json.Decoder(KeyBody)
_rotate_decoder: Final = msgspec.json.Decoder(RotateBody)


def parse_user(body: bytes, name: str) -> dict[str, Any]:
    """Parse what a user shall be: keyword arguments of `Users.change`.

    Raises:
        ClientFault: not JSON, or an unknown field.
    """
    parsed = cast("UserBody", decode(_user_decoder, body))
    check_same_name(parsed.name, name)
    fields = {
        key: getattr(parsed, key) for key in ("password", "permissions", "stations", "disabled")
    }
    return {key: value for key, value in fields.items() if value is not UNSET}


def parse_key(body: bytes, name: str) -> tuple[dict[str, Any], bool | None]:
    """Parse what a key shall be: keyword arguments of `Keys.add`, and whether it is disabled.

    Raises:
        ClientFault: not JSON, or an unknown field.
    """
    parsed = cast("KeyBody", decode(_key_decoder, body))
    check_same_name(parsed.name, name)
    fields = {key: getattr(parsed, key) for key in _KEY_FIELDS}
    fields = {key: value for key, value in fields.items() if value is not UNSET}
    disabled = None if isinstance(parsed.disabled, UnsetType) else parsed.disabled
    return fields, disabled


def parse_rotate(body: bytes) -> RotateBody:
    """Parse which secrets to rotate, and the algorithm of the new ones.

    Raises:
        ClientFault: not JSON, or an unknown field.
    """
    return cast("RotateBody", decode(_rotate_decoder, body))


def check_same_key(fields: dict[str, Any], record: KeyRecord) -> None:
    """Check that a body for a key that is there asks for nothing but what it has.

    WHY refused: whoever holds the key was told what it may do; another scope is another key.

    Raises:
        ClientFault: "conflict", naming the field.
    """
    for key, value in fields.items():
        has = getattr(record, key)
        same = sorted(value) == sorted(has) if isinstance(value, list) else value == has
        if not same:
            raise ClientFault(
                "conflict",
                f"{key}: the key {clip(record.name)} is there, and only disabled can be changed;"
                " remove it first, or add another key",
            )
