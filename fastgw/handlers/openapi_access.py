"""The operations of the OpenAPI document on who may call: users, API keys, signing secrets.

What enters: nothing. What leaves: paths and schemas. Called by `openapi`.
It must never name a field that the bodies in `admin_access_body` do not have.
"""

from __future__ import annotations

from typing import Any, Final

from fastgw.handlers.openapi_admin import admin_operation
from fastgw.handlers.openapi_parts import (
    Json,
    array,
    boolean,
    fields,
    nullable,
    parameter,
    schema,
    string,
)

PERMISSIONS: Final = ["produce", "consume", "admin"]
USES: Final = ["access", "refresh"]
STATES: Final = ["signing", "waiting", "verifying"]
ALGORITHMS: Final = ["HS256", "HS384", "HS512", "EdDSA"]
EXPIRES_AT_MAX: Final = 253_402_300_799
USER: Final = parameter(
    "path",
    "user",
    string(pattern=r"^[A-Za-z0-9_.@+\-]{1,128}$", examples=["ada"]),
    "1 to 128 printable characters without `:`, `$` and outer spaces.",
)
KEY: Final = parameter(
    "path",
    "key",
    string(pattern=r"^[A-Za-z0-9_.@+\-]{1,128}$", examples=["web-shop"]),
    "1 to 128 printable characters without `:` and outer spaces.",
)
KID: Final = parameter(
    "path", "kid", string(pattern=r"^[A-Za-z0-9_\-]{1,64}$"), "The id that its tokens carry."
)
_SECONDS: Final[Json] = {"type": "number", "description": "Seconds since 1970."}
_GLOBS: Final = array(
    string(pattern=r"^[A-Za-z0-9_.*?\-]{1,128}$"),
    "Globs of the stations.",
    minItems=1,
    maxItems=256,
)


def access_schemas() -> Json:
    """Return the schemas of users, keys and secrets."""
    permissions = array(string(enum=PERMISSIONS), "What is allowed.")
    common = {
        "name": string(),
        "permissions": permissions,
        "stations": array(string(), "Globs of the stations that this holds for."),
        "disabled": boolean(),
        "created_at": _SECONDS,
    }
    origins = array(
        string(),
        "Web origins, as `https://shop.example`, that alone may send it; such a key may only "
        "produce.",
    )
    key = fields(
        (*common, "origins", "expires_at", "expired"),
        common,
        origins=origins,
        expires_at=nullable(_SECONDS | {"description": "A unix time; null for never."}),
        expired=boolean(),
    )
    text = string("The key itself, told once.", pattern="^fgw_[A-Za-z0-9_-]{43}$")
    return {
        "User": fields(tuple(common), common),
        "UserBody": _closed(
            name=nullable(string("The name in the path, where it is told at all.")),
            password=string(
                "Required for a new user.", format="password", minLength=1, maxLength=1024
            ),
            permissions=array(string(enum=PERMISSIONS), "produce and consume by default."),
            stations=_GLOBS,
            disabled=boolean(),
        ),
        "Key": key,
        "KeyMade": {"allOf": [schema("Key"), fields(("key",), key=text)]},
        "KeyBody": _closed(
            name=nullable(string("The name in the path, where it is told at all.")),
            permissions=array(string(enum=PERMISSIONS), "produce by default.", minItems=1),
            stations=_GLOBS,
            origins=array(string(pattern=r"^https?://[a-z0-9.\-]+(:[0-9]{1,5})?$"), maxItems=64),
            expires_at=nullable(
                {"type": "number", "maximum": EXPIRES_AT_MAX, "description": "A time to come."}
            ),
            disabled=boolean("Only this can be changed of a key that is there."),
        ),
        "Secret": fields(
            ("kid", "use", "algorithm", "created_at", "state", "configured"),
            kid=string("The id that its tokens carry."),
            use=string(enum=USES),
            algorithm=string(enum=ALGORITHMS),
            created_at=nullable(_SECONDS),
            state=string("Whether it signs, will soon, or only verifies.", enum=STATES),
            configured=boolean("Whether it stands in the configuration."),
        ),
        "RotateBody": _closed(
            use=nullable(string("Both by default.", enum=USES)),
            algorithm=nullable(string("The configured one by default.", enum=ALGORITHMS)),
        ),
    }


def _closed(**properties: Json) -> Json:
    """Return an object's schema without any other member."""
    return fields((), properties) | {"additionalProperties": False}


def access_paths() -> Json:
    """Return the operations on users, keys and secrets."""

    def one(name: str, summary: str, good: dict[int, Json], *errors: int, **more: Any) -> Json:
        made = admin_operation("access", name, summary, good, *errors, **more)
        return made | {"description": "Only for administrators of all stations, `*`."}

    user, key, secret = schema("User"), schema("Key"), schema("Secret")
    removed = fields(("kid", "removed"), kid=string(), removed={"const": True})
    return {
        "/users": {"get": one("listUsers", "All users", {200: array(user)})},
        "/users/{user}": {
            "parameters": [USER],
            "get": one("showUser", "One user", {200: user}, 404),
            "put": one(
                "putUser", "Create a user, or change one, which ends his tokens",
                {200: user, 201: user}, 404, 409, body=schema("UserBody"),
            ),
            "delete": one(
                "deleteUser", "Remove a user; his tokens end", {200: schema("Removed")}, 404, 409
            ),
        },
        "/keys": {"get": one("listKeys", "All API keys, without their texts", {200: array(key)})},
        "/keys/{key}": {
            "parameters": [KEY],
            "get": one("showKey", "One API key, without its text", {200: key}, 404),
            "put": one(
                "putKey", "Create an API key, told once, or disable or enable one",
                {200: key, 201: schema("KeyMade")}, 404, 409, body=schema("KeyBody"),
            ),
            "delete": one(
                "deleteKey", "Remove an API key; it is refused from then on",
                {200: schema("Removed")}, 404,
            ),
        },
        "/secrets": {
            "get": one("listSecrets", "What signs and verifies tokens", {200: array(secret)})
        },
        "/secrets/rotate": {
            "post": one(
                "rotateSecrets", "Make a new secret; the older ones go on verifying",
                {201: array(secret)}, 409, body=schema("RotateBody"),
            )
        },
        "/secrets/{kid}": {
            "parameters": [KID],
            "delete": one(
                "deleteSecret", "Remove a secret; the tokens that it signed end",
                {200: removed}, 404, 409,
            ),
        },
    }  # fmt: skip
