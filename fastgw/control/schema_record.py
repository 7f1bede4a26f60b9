"""What the registry keeps of a schema, and how its types are compiled.

What enters: a type's word, a text and its options. What leaves: records to store, and validators.
Called by `schemas`, the admin routes and the command line, which checks a file without a broker.
The compilers are imported when one is needed: each brings a library that a gateway without such
schemas never loads.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec

from fastgw.errors import ClientFault, clip
from fastgw.schema.base import REASON_CHARS_MAX, Resolve, SchemaError

if TYPE_CHECKING:
    from fastgw.schema.base import Validator

SchemaType = Literal["json", "protobuf", "avro", "graphql"]
TYPES: Final[tuple[SchemaType, ...]] = get_args(SchemaType)
UNKNOWN_FIELDS: Final = ("accept", "refuse")

TEXT_BYTES_MAX: Final = 256 * 1024
"""LIMIT: what is larger takes seconds to compile, and the store's values stop at 512 KiB."""

VERSIONS_MAX: Final = 500
"""LIMIT: the versions of one schema share one value of the store, about 400 bytes each."""

OPTION_CHARS_MAX: Final = 256


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a schema; it never changes.

    `key` finds its text in the store; `uri` is the name that the text gives itself (`$id` of a JSON
    Schema, the full name of an Avro type); `uses` tells which versions its references meant.
    """

    number: int
    key: str
    sha256: str
    bytes: int
    created_at: float
    options: dict[str, str] = {}
    uri: str = ""
    uses: dict[str, str] = {}


class SchemaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One schema with all its versions, the oldest first; `removing` while it is being removed."""

    name: str
    type: SchemaType
    created_at: float
    versions: list[Version]
    removing: bool = False

    @property
    def latest(self) -> Version:
        """The newest version."""
        return self.versions[-1]

    def find(self, number: int | None) -> Version | None:
        """Return a version by its number; None and 0 mean the newest."""
        if not number:
            return self.latest
        return next((version for version in self.versions if version.number == number), None)


class StoredText(msgspec.Struct, frozen=True):
    """The text of a version, with the texts of the schemas that it refers to.

    WHY the others' too: a version is immutable, so what it refers to must not change under it when
    the other schema gets a new version or is removed.
    """

    text: str
    texts: dict[str, str] = {}


def check_type(word: str) -> SchemaType:
    """Return the type of this word.

    Raises:
        ClientFault: "bad-schema", there is no such type.
    """
    for known in TYPES:
        if word == known:
            return known
    raise ClientFault("bad-schema", f"a schema's type is {', '.join(TYPES)}; got {clip(word)}")


def check_text(text: str) -> None:
    """Check a schema's size, and that it is text.

    Raises:
        ClientFault: "bad-schema".
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ClientFault("bad-schema", "the schema's text has half a surrogate pair") from error
    if not text.strip() or size > TEXT_BYTES_MAX:
        raise ClientFault(
            "bad-schema", f"a schema's text has 1 to {TEXT_BYTES_MAX} bytes, not {size}"
        )


def check_options(kind: SchemaType, options: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a version, those without a value left out.

    Raises:
        ClientFault: "bad-schema", an option that the type does not have.
    """
    wanted = {key: value for key, value in options.items() if value}
    known = ("message", "unknown_fields") if kind == "protobuf" else ()
    for key, value in wanted.items():
        if key not in known:
            raise ClientFault("bad-schema", f"a schema of type {kind} has no option {clip(key)}")
        if len(value) > OPTION_CHARS_MAX:
            raise ClientFault("bad-schema", f"the option {key} has over {OPTION_CHARS_MAX} letters")
    unknown = wanted.get("unknown_fields", "accept")
    if unknown not in UNKNOWN_FIELDS:
        raise ClientFault(
            "bad-schema", f"unknown_fields is {' or '.join(UNKNOWN_FIELDS)}; got {clip(unknown)}"
        )
    return dict(sorted(wanted.items()))


def compile_text(
    kind: SchemaType, text: str, options: Mapping[str, str], resolve: Resolve
) -> Validator:
    """Compile a schema; takes up to seconds, so it is called in a thread.

    Raises:
        ClientFault: "bad-schema", with the place and the reason.
    """
    check_text(text)
    compiler: Callable[..., Validator] = getattr(
        importlib.import_module(f"fastgw.schema.{kind}"), f"compile_{kind}"
    )
    arguments: dict[str, Any] = {"resolve": resolve}
    if kind == "protobuf":
        arguments["message"] = options.get("message")
        arguments["unknown_fields"] = options.get("unknown_fields", "accept")
    try:
        return compiler(text, **arguments)
    except SchemaError as error:
        reason = clip(str(error), REASON_CHARS_MAX)
        raise ClientFault("bad-schema", f"the schema does not compile: {reason}") from error


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def find_uri(kind: SchemaType, text: str) -> str:
    """Return the name that a schema's text gives itself, "" for none."""
    if kind not in ("json", "avro"):
        return ""
    try:
        parsed = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(parsed, dict):
        return ""
    if kind == "json":
        found = parsed.get("$id", parsed.get("id"))
        return found.rstrip("#") if isinstance(found, str) else ""
    name, space = parsed.get("name"), parsed.get("namespace")
    if not isinstance(name, str):
        return ""
    return f"{space}.{name}" if isinstance(space, str) and space and "." not in name else name
