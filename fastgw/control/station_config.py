"""What a station is: its record, and the settings that an administrator may give it.

What enters: names and settings as they were asked for. What leaves: a `StationRecord` to store, and
the part of them that belongs to the stream behind it.
Called by `stations`, the admin routes and the command line. Nothing here talks to the broker.
A record that an older gateway stored must still be readable: every newer field has a default.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal, TypedDict, cast

import msgspec

from fastgw.errors import ClientFault, clip
from fastgw.nats.library import api
from fastgw.senders.signatures import VerifierConfig, check_verifier

NAME_CHARS_MAX: Final = 128
HEADER_GLOBS_MAX: Final = 64
SUBJECT_CHARS_MAX: Final = 255
CONSUMERS_MAX: Final = 1000
"""LIMIT: consumer groups of a stream that we create; each costs the broker memory and a file."""

DUPLICATE_WINDOW_S: Final = 120
"""LIMIT: JetStream's own default; each message id costs the broker 230 bytes for that long."""

DUPLICATE_WINDOW_S_MIN: Final = 0.1
"""SOURCE: nats-server refuses a shorter window."""

REPLICAS_MAX: Final = 5
"""SOURCE: nats-server, StreamMaxReplicas."""

AMOUNT_MAX: Final = 2**62
AGE_S_MAX: Final = 9_000_000_000
"""LIMIT: JetStream counts ages in nanoseconds of 64 bits, 292 years."""

MARK: Final = "fastgw.station"
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_HEADER_GLOB: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~?-]{1,128}")
_SUBJECT: Final = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(?:\.[^\s.*>\x00-\x1f\x7f]+)*")

Storage = Literal["file", "memory"]
Retention = Literal["limits", "interest", "workqueue"]
Ack = Literal["stored", "fsync"]
HeaderPolicy = Literal["all", "none"] | Sequence[str]
STORAGES: Final = ("file", "memory")
RETENTIONS: Final = ("limits", "interest", "workqueue")
ACKS: Final = ("stored", "fsync")


class StationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One station as stored.

    `headers` says which request headers become message headers; `header_allow` names further
    `Nats-*` headers that producers may set; `owned` tells that the stream was created for it.
    `schema_version` is a number whenever `schema` names a schema. `filters` are the subjects that
    its consumers read; none for the whole stream. `verifier` says whose signatures stand in for a
    credential; its secrets are not in the record's repr. `ack` "fsync" has messages that come at
    once stored as one batch, for a broker that syncs each write before it answers.
    """

    name: str
    stream: str
    subject: str
    headers: Literal["all", "none"] | list[str] = "all"
    header_allow: list[str] = []
    owned: bool = False
    created_at: float = 0.0
    schema: str | None = None
    schema_version: int | None = None
    dead_letter: str | None = None
    allow_no_wait: bool = False
    allow_suffix: bool = True
    message_bytes_max: int | None = None
    filters: list[str] = []
    verifier: VerifierConfig | None = None
    ack: Ack = "stored"


class StationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker tells about a station's stream at this moment."""

    record: StationRecord
    subjects: list[str]
    storage: str
    replicas: int
    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    consumers: int
    max_age_s: float
    retention: str = "limits"
    max_messages: int | None = None
    max_bytes: int | None = None
    duplicate_window_s: float = 0.0


class StationSettings(TypedDict, total=False):
    """What an administrator may set; a key that is missing stays as it is, or takes its default.

    Of the record: `headers` (all, none, or globs), `header_allow`, `schema` with `schema_version`
    (None or 0 pins the latest), `dead_letter` (a station), `allow_no_wait`, `allow_suffix`,
    `message_bytes_max`, `verifier` (None takes it away), `ack` ("fsync" needs a stream with
    allow_atomic, which one that was made for the station gets). Of the stream: `storage`,
    `replicas`, `retention` ("limits", or "interest": until every group acknowledged, or
    "workqueue": until the one group did), `max_age_s` (0 for ever), `max_messages`, `max_bytes`
    (None without bound), `duplicate_window_s`.
    """

    headers: HeaderPolicy
    header_allow: Sequence[str]
    schema: str | None
    schema_version: int | None
    dead_letter: str | None
    allow_no_wait: bool
    allow_suffix: bool
    message_bytes_max: int | None
    verifier: VerifierConfig | None
    ack: Ack
    storage: Storage
    replicas: int
    retention: Retention
    max_age_s: float
    max_messages: int | None
    max_bytes: int | None
    duplicate_window_s: float


STREAM_KEYS: Final = frozenset(
    {
        "storage",
        "replicas",
        "retention",
        "max_age_s",
        "max_messages",
        "max_bytes",
        "duplicate_window_s",
    }
)
SCHEMA_KEYS: Final = frozenset({"schema", "schema_version"})


def check_station_name(name: str) -> None:
    """Check a station's name: 1 to 128 of `A-Z a-z 0-9 _ - .`, first and last alphanumeric.

    Raises:
        ClientFault: "bad-station".
    """
    check_name(name, "station", "bad-station")


def check_name(name: str, what: str, kind: str) -> None:
    """Check the name of a station or a schema; both follow the same rule.

    Raises:
        ClientFault: of `kind`.
    """
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise ClientFault(
            kind, f"a {what} name of {len(name)} characters is not 1 to {NAME_CHARS_MAX} long"
        )
    if not _NAME.fullmatch(name) or ".." in name:
        raise ClientFault(
            kind,
            f"the {what} name {clip(name)} may hold A-Z a-z 0-9 _ - and single dots, "
            "and begins and ends with a letter or digit",
        )


def stream_name(name: str) -> str:
    """Return the stream's name of a station; JetStream allows no '.' there."""
    return name.replace(".", "#")


def check_settings(settings: StationSettings) -> None:
    """Check every setting by itself, before anything is stored or created.

    Raises:
        ClientFault: "bad-request", naming the setting, what was got and the range.
    """
    for key, low, high in (
        ("message_bytes_max", 1, AMOUNT_MAX),
        ("max_messages", 1, AMOUNT_MAX),
        ("max_bytes", 1, AMOUNT_MAX),
        ("replicas", 1, REPLICAS_MAX),
        ("max_age_s", 0, AGE_S_MAX),
        ("duplicate_window_s", DUPLICATE_WINDOW_S_MIN, AGE_S_MAX),
        ("schema_version", 0, AMOUNT_MAX),
    ):
        value = cast("float | None", settings.get(key))
        if value is not None and not low <= value <= high:
            raise ClientFault("bad-request", f"{key} of {clip(value)} is outside {low} to {high}")
    for key, words in (("storage", STORAGES), ("retention", RETENTIONS), ("ack", ACKS)):
        word = settings.get(key)
        if word is not None and word not in words:
            raise ClientFault("bad-request", f"{key} is {' or '.join(words)}; got {clip(word)}")
    if settings.get("ack") == "fsync" and settings.get("storage") == "memory":
        raise ClientFault("bad-request", "ack fsync goes with file storage: memory is not synced")
    if settings.get("schema_version") and "schema" not in settings:
        raise ClientFault("bad-request", "a schema_version goes with the name of its schema")


def policy_fields(settings: StationSettings) -> dict[str, Any]:
    """Return the settings that stand in the record itself, checked, without the schema's."""
    fields: dict[str, Any] = {
        key: value
        for key, value in settings.items()
        if key not in STREAM_KEYS and key not in SCHEMA_KEYS
    }
    if "headers" in fields and fields["headers"] not in ("all", "none"):
        fields["headers"] = _check_globs(fields["headers"])
    if "header_allow" in fields:
        fields["header_allow"] = _check_globs(fields["header_allow"])
    if fields.get("verifier") is not None:
        check_verifier(fields["verifier"])
    return fields


def new_stream(name: str, settings: StationSettings, replicas: int) -> api.StreamConfig:
    """Return the configuration of a stream that is made for a station."""
    age_s = settings.get("max_age_s", 0)
    max_bytes, max_messages = settings.get("max_bytes"), settings.get("max_messages")
    # JetStream takes no window that is longer than the messages live.
    window_s = settings.get("duplicate_window_s") or min(
        DUPLICATE_WINDOW_S, age_s or DUPLICATE_WINDOW_S
    )
    return api.StreamConfig(
        name=stream_name(name),
        description=f"fastgw station {name}",
        subjects=[name, f"{name}.>"],
        storage=api.StorageType(settings.get("storage", "file")),
        retention=api.RetentionPolicy(settings.get("retention", "limits")),
        num_replicas=settings.get("replicas", replicas),
        max_age=age_s,
        max_msgs=max_messages if max_messages is not None else -1,
        max_bytes=max_bytes if max_bytes is not None else -1,
        max_consumers=CONSUMERS_MAX,
        duplicate_window=window_s,
        allow_direct=True,
        allow_atomic=True if settings.get("ack") == "fsync" else None,
        metadata={MARK: name},
    )


def change_stream(config: dict[str, Any], settings: StationSettings) -> dict[str, Any]:
    """Return the broker's own configuration of a stream with the settings put into it.

    Args:
        config: as STREAM.INFO tells it; what we do not know stays as it is.
        settings: those of the stream count.
    """
    changed = dict(config)
    if "storage" in settings:
        changed["storage"] = settings["storage"]
    if "retention" in settings:
        changed["retention"] = settings["retention"]
    if "replicas" in settings:
        changed["num_replicas"] = settings["replicas"]
    if "max_messages" in settings:
        changed["max_msgs"] = settings["max_messages"] or -1
    if "max_bytes" in settings:
        changed["max_bytes"] = settings["max_bytes"] or -1
    if "max_age_s" in settings:
        changed["max_age"] = _ns(settings["max_age_s"])
    if "duplicate_window_s" in settings:
        changed["duplicate_window"] = _ns(settings["duplicate_window_s"])
    elif changed.get("max_age"):
        window_ns = changed.get("duplicate_window") or _ns(DUPLICATE_WINDOW_S)
        changed["duplicate_window"] = min(window_ns, changed["max_age"])
    return changed


def check_subject(subject: str) -> None:
    """Check the subject that a station publishes to: no wildcard, no empty token, no space.

    Raises:
        ClientFault: "bad-subject".
    """
    if (
        len(subject.encode()) > SUBJECT_CHARS_MAX
        or not _SUBJECT.fullmatch(subject)
        or subject.startswith(("$", "_INBOX"))
    ):
        raise ClientFault(
            "bad-subject",
            f"the subject {clip(subject)} has a wildcard, an empty token, spaces, a leading '$', "
            f"or more than {SUBJECT_CHARS_MAX} bytes",
        )


def is_covered(subject: str, pattern: str) -> bool:
    """Tell whether every subject that `subject` stands for is captured by `pattern`."""
    asked, given = subject.split("."), pattern.split(".")
    for index, part in enumerate(given):
        if part == ">":
            return len(asked) > index
        if index >= len(asked) or asked[index] == ">":
            return False
        if part not in ("*", asked[index]):
            return False
    return len(asked) == len(given)


def _check_globs(globs: Sequence[str]) -> list[str]:
    if isinstance(globs, str) or len(globs) > HEADER_GLOBS_MAX:
        raise ClientFault(
            "bad-request", f"headers are all, none, or at most {HEADER_GLOBS_MAX} globs"
        )
    for glob in globs:
        if not _HEADER_GLOB.fullmatch(glob):
            raise ClientFault("bad-request", f"the header glob {clip(glob)} cannot match a header")
    return [*globs]


def _ns(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
