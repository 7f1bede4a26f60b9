"""The JSON bodies of the admin routes, in our words and in Memphis'.

What enters: a body's bytes. What leaves: settings of a station, or the parts of a schema, with one
meaning each. Called by `admin`, and for its parts by `admin_access_body`. A field that nobody knows
is refused by its name: a setting with a slip in it must not be taken for done. No text here may
repeat a verifier's secret.
"""

from __future__ import annotations

import re
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, UnsetType

from fastgw.control.station_config import StationSettings
from fastgw.errors import ClientFault, clip
from fastgw.handlers import parse_body
from fastgw.senders.signatures import VerifierConfig

STORAGE_WORDS: Final = {"file": "file", "disk": "file", "memory": "memory"}
RETENTION_WORDS: Final = {
    "limits": "limits",
    "interest": "interest",
    "ack": "interest",
    "ack_based": "interest",
    "workqueue": "workqueue",
}
_LIMITS: Final = {"message_age_sec": "max_age_s", "messages": "max_messages", "bytes": "max_bytes"}
_SAME_NAMES: Final = (
    "headers",
    "header_allow",
    "schema_version",
    "dead_letter",
    "allow_no_wait",
    "allow_suffix",
    "message_bytes_max",
    "ack",
    "replicas",
    "max_age_s",
    "max_messages",
    "max_bytes",
    "duplicate_window_s",
)
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body whose fields all have a meaning."""


class VerifierBody(Body, frozen=True, kw_only=True):
    """A webhook verifier as it is asked for; `check_verifier` judges the words and their bounds."""

    preset: str = ""
    secrets: list[str] = []
    header: str | UnsetType | None = UNSET
    prefix: str | UnsetType = UNSET
    encoding: str | UnsetType = UNSET
    algorithm: str | UnsetType = UNSET
    signed: str | UnsetType = UNSET
    timestamp_header: str | UnsetType | None = UNSET
    id_header: str | UnsetType | None = UNSET
    tolerance_s: int | UnsetType = UNSET

    def __repr__(self) -> str:
        """Hide the secrets."""
        return f"VerifierBody(preset={self.preset!r})"


class StationBody(Body, frozen=True, kw_only=True):
    """Body of `PUT /stations/{s}`; behind our own names stand those of Memphis.

    WHY some are taken and do nothing: Memphis' clients send them always, with the values that mean
    nothing to ask for.
    """

    name: str | None = None
    stream: str | None = None
    subject: str | None = None
    headers: str | list[str] | UnsetType = UNSET
    header_allow: list[str] | UnsetType = UNSET
    schema: str | UnsetType | None = UNSET
    schema_version: int | UnsetType | None = UNSET
    dead_letter: str | UnsetType | None = UNSET
    allow_no_wait: bool | UnsetType = UNSET
    allow_suffix: bool | UnsetType = UNSET
    message_bytes_max: int | UnsetType | None = UNSET
    ack: str | UnsetType = UNSET
    storage: str | UnsetType = UNSET
    replicas: int | UnsetType = UNSET
    retention: str | UnsetType = UNSET
    max_age_s: float | UnsetType = UNSET
    max_messages: int | UnsetType | None = UNSET
    max_bytes: int | UnsetType | None = UNSET
    duplicate_window_s: float | UnsetType = UNSET
    verifier: VerifierBody | UnsetType | None = UNSET
    # Memphis' names.
    retention_type: str | None = None
    retention_value: int | None = None
    storage_type: str | None = None
    idempotency_window_in_ms: int | None = None
    schema_name: str | UnsetType | None = UNSET
    dls_station: str | UnsetType | None = UNSET
    dls_configuration: dict[str, Any] | None = None
    tiered_storage_enabled: bool | None = None
    partitions_number: int | None = None
    username: str | None = None
    tenant_name: str | None = None


class SchemaBody(Body, frozen=True, kw_only=True):
    """Body of `PUT /schemas/{s}`; `schema` holds a JSON text as the JSON that it is."""

    name: str | None = None
    type: str | None = None
    text: str | None = None
    schema: msgspec.Raw | UnsetType = UNSET
    message: str | None = None
    unknown_fields: str | None = None
    # Memphis' names.
    schema_content: str | None = None
    message_struct_name: str | None = None
    created_by_username: str | None = None


class AttachBody(Body, frozen=True, kw_only=True):
    """Body of `PUT /stations/{s}/schema`."""

    name: str | None = None
    version: int | None = None
    schema: str | None = None
    schema_version: int | None = None
    schema_name: str | None = None
    station_name: str | None = None


_station_decoder: Final = msgspec.json.Decoder(StationBody)
_schema_decoder: Final = msgspec.json.Decoder(SchemaBody)
_attach_decoder: Final = msgspec.json.Decoder(AttachBody)


def parse_station(body: bytes, name: str) -> tuple[StationBody, StationSettings]:
    """Parse the settings of a station.

    Raises:
        ClientFault: not JSON, an unknown field, two names for one thing that differ, or a wish of
            Memphis' that is not served.
    """
    parsed = decode(_station_decoder, body)
    check_same_name(parsed.name, name)
    if parsed.tiered_storage_enabled:
        raise ClientFault("bad-request", "tiered_storage_enabled is not served")
    if parsed.partitions_number not in (None, 0, 1):
        raise ClientFault("bad-request", "partitions_number is 1: a station is one stream")
    found: dict[str, object] = {}
    for key in _SAME_NAMES:
        _put(found, key, getattr(parsed, key))
    _put(found, "verifier", _verifier(parsed.verifier))
    _put(found, "schema", parsed.schema)
    _put(found, "schema", parsed.schema_name)
    if found.get("schema") == "":
        found["schema"] = None
    _put(found, "dead_letter", parsed.dls_station)
    if found.get("dead_letter") == "":
        found["dead_letter"] = None
    _put(found, "storage", _word("storage", parsed.storage, STORAGE_WORDS))
    if parsed.storage_type is not None:
        _put(found, "storage", _word("storage_type", parsed.storage_type, STORAGE_WORDS))
    _put(found, "retention", _word("retention", parsed.retention, RETENTION_WORDS))
    if parsed.idempotency_window_in_ms is not None:
        # Memphis takes less than 100 ms for 100 ms, which is the broker's own least.
        _put(found, "duplicate_window_s", max(parsed.idempotency_window_in_ms, 100) / 1000)
    _put_retention(found, parsed)
    return parsed, cast("StationSettings", found)


def parse_schema(body: bytes, name: str) -> tuple[str | None, str, dict[str, str] | None]:
    """Parse a schema: its type where one is told, its text, and its options where any are.

    Raises:
        ClientFault: not JSON, an unknown field, or no text.
    """
    parsed = decode(_schema_decoder, body)
    check_same_name(parsed.name, name)
    embedded = None if isinstance(parsed.schema, UnsetType) else _text(bytes(parsed.schema))
    texts = [text for text in (parsed.text, parsed.schema_content, embedded) if text is not None]
    if len(texts) != 1:
        raise ClientFault(
            "bad-request", "a schema has one of text, schema_content (both strings) and schema"
        )
    message = parsed.message or parsed.message_struct_name
    options = {"message": message or "", "unknown_fields": parsed.unknown_fields or ""}
    return parsed.type, texts[0], options if any(options.values()) else None


def parse_attach(body: bytes, station: str) -> tuple[str, int | None]:
    """Parse which version of which schema to attach.

    Raises:
        ClientFault: not JSON, an unknown field, or no name.
    """
    parsed = decode(_attach_decoder, body)
    check_same_name(parsed.station_name, station)
    schema = parsed.name or parsed.schema or parsed.schema_name
    if not schema:
        raise ClientFault("bad-request", "name: the schema's name is required")
    return schema, parsed.version if parsed.version is not None else parsed.schema_version


def _text(raw: bytes) -> str:
    # WHY: msgspec hands raw parts of a document out without a look at their UTF-8.
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ClientFault("bad-json", "schema: the bytes are not UTF-8") from error


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Decode a body; an empty one is an empty object.

    Raises:
        ClientFault: not JSON, a field of another type, or a field that there is not.
    """
    try:
        return parse_body(decoder, body or b"{}")
    except ClientFault as fault:
        unknown = _UNKNOWN.search(str(fault.__cause__))
        if unknown is None:
            raise
        raise ClientFault("bad-request", f"{clip(unknown[1])}: there is no such field") from fault


def check_same_name(told: str | None, name: str) -> None:
    """Check that a body which names its subject means the one of the path."""
    if told is not None and told != name:
        raise ClientFault(
            "bad-request", f"the body names {clip(told)} where the path names {clip(name)}"
        )


def _put(found: dict[str, object], key: str, value: object) -> None:
    if value is UNSET:
        return
    if key in found and found[key] != value:
        raise ClientFault("bad-request", f"{key} is told twice, with different values")
    found[key] = value


def _verifier(body: VerifierBody | UnsetType | None) -> VerifierConfig | UnsetType | None:
    if body is None or isinstance(body, UnsetType):
        return body
    told = msgspec.structs.asdict(body)
    return VerifierConfig(**{key: value for key, value in told.items() if value is not UNSET})


def _word(key: str, value: str | UnsetType, words: dict[str, str]) -> str | UnsetType:
    if isinstance(value, UnsetType):
        return UNSET
    if value not in words:
        raise ClientFault("bad-request", f"{key} is {', '.join(words)}; got {clip(value)}")
    return words[value]


def _put_retention(found: dict[str, object], parsed: StationBody) -> None:
    """Put the one retention that Memphis has among ours."""
    kind = parsed.retention_type
    if kind is None:
        if parsed.retention_value is not None:
            raise ClientFault("bad-request", "retention_value goes with a retention_type")
        return
    if kind == "ack_based":
        _put(found, "retention", "interest")
        return
    key = _LIMITS.get(kind)
    if key is None:
        known = ", ".join([*_LIMITS, "ack_based"])
        raise ClientFault("bad-request", f"retention_type is {known}; got {clip(kind)}")
    value = parsed.retention_value
    if value is None or value < 1:
        raise ClientFault("bad-request", f"retention_value of {clip(value)} is below 1")
    _put(found, key, value)
