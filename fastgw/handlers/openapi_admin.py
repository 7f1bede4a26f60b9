"""The admin operations of the OpenAPI document: stations and schemas.

What enters: nothing but the names of the station settings. What leaves: paths and schemas.
Called by `openapi`. It must never name a field that the bodies in `admin_body` do not have.
"""

from __future__ import annotations

from typing import Any, Final

from fastgw.handlers.openapi_parts import (
    AMOUNT_MAX,
    JSON_TYPE,
    NAME_PATTERN,
    SCHEMA_NAME,
    STATION,
    Json,
    answer,
    array,
    boolean,
    content,
    error_answers,
    fields,
    integer,
    nullable,
    parameter,
    schema,
    string,
)

SCHEMA_TYPES: Final = ["json", "protobuf", "avro", "graphql"]
VERSION: Final = parameter(
    "path",
    "number",
    string(pattern="^([0-9]{1,9}|latest)$", examples=["1"]),
    "The version's number, or `latest`.",
)
_NAME: Final = string(pattern=NAME_PATTERN)
_SECONDS: Final[Json] = {"type": "number", "minimum": 0, "maximum": 9_000_000_000}
_OPTIONS: Final[Json] = {"type": "object", "additionalProperties": string()}


def flag(name: str, text: str) -> Json:
    """Return a query parameter that is true or false."""
    return parameter("query", name, string(enum=["true", "false"], default="false"), text)


def admin_operation(
    tag: str, name: str, summary: str, good: dict[int, Json], *errors: int, **more: Any
) -> Json:
    """Return an operation that needs the permission admin."""
    responses = {str(status): answer(summary, one) for status, one in good.items()}
    responses |= error_answers(401, 403, *errors)
    body = more.pop("body", None)
    if body is not None:
        more["requestBody"] = {"required": False, "content": content(body)}
    head = {"operationId": name, "tags": [tag], "summary": summary}
    return head | more | {"responses": responses}


def admin_schemas() -> Json:
    """Return the schemas of stations and schemas."""
    settings = _station_settings()
    record = {key: settings[key] for key in ("schema", "schema_version", "dead_letter")}
    record |= {key: settings[key] for key in ("allow_no_wait", "allow_suffix", "header_allow")}
    record |= {key: settings[key] for key in ("message_bytes_max", "ack")}
    station = fields(
        ("name", "stream", "subject", "headers", "header_allow", "owned", "created_at", "filters"),
        name=string(),
        stream=string("The JetStream stream."),
        subject=string("Where its messages are published to."),
        headers=settings["headers"],
        owned=boolean("Whether the stream was made for it."),
        created_at={"type": "number", "description": "Seconds since 1970."},
        filters=array(string(), "The subjects that its consumers read; none for the whole stream."),
        verifier={
            "type": ["object", "null"],
            "description": "The webhook verifier; of its secrets the count.",
        },
        **record,
    )
    state = fields(
        ("subjects", "storage", "replicas", "messages", "bytes", "first_seq", "last_seq"),
        subjects=array(string()),
        messages=integer("How many it holds."),
        bytes=integer("How large they are."),
        first_seq=integer(),
        last_seq=integer(),
        consumers=integer("How many groups read it."),
        retention=string(),
        storage=string(),
        **{
            key: settings[key]
            for key in ("replicas", "max_age_s", "max_messages", "max_bytes", "duplicate_window_s")
        },
    )
    version = fields(
        ("version", "sha256", "bytes", "created_at", "options", "uses"),
        version=integer(low=1),
        sha256=string(pattern="^[0-9a-f]{64}$"),
        bytes=integer("The size of its text."),
        created_at={"type": "number"},
        options=_OPTIONS,
        uses=_OPTIONS | {"description": "Which versions its references meant."},
    )
    head = fields(("name", "type"), name=string(), type=string(enum=SCHEMA_TYPES))
    short = fields(
        ("name", "type", "version", "created_at", "changed_at"),
        name=string(),
        type=string(enum=SCHEMA_TYPES),
        version=integer("The latest.", low=1),
        created_at={"type": "number"},
        changed_at={"type": "number"},
    )
    text = fields(("text",), text=string("The schema itself."))
    return {
        "Station": station,
        "StationState": {"allOf": [schema("Station"), state]},
        "StationSettings": _closed(settings | _memphis_settings()),
        "Attach": _attach(),
        "Schema": short,
        "SchemaShown": {
            "allOf": [short, text, fields(("versions",), versions=array(version), options=_OPTIONS)]
        },
        "SchemaBody": _schema_body(),
        "Version": {"allOf": [head, version]},
        "VersionShown": {"allOf": [head, version, text]},
        "Removed": fields(("name", "removed"), name=string(), removed={"const": True}),
        "Verdicts": _verdicts(),
    }


def _closed(properties: Json) -> Json:
    """Return an object's schema without any other member."""
    return fields((), **properties) | {"additionalProperties": False}


def _station_settings() -> Json:
    """Return what an administrator may set, in our own words."""
    globs = array(string(pattern="^[A-Za-z0-9*?_-]{1,128}$"), maxItems=64)
    amount = nullable(integer("null for no bound.", low=1, high=AMOUNT_MAX))
    return {
        "headers": {
            "description": "Which request headers become message headers: all, none, or globs.",
            "anyOf": [string(enum=["all", "none"]), globs],
        },
        "header_allow": array(
            string(pattern="^[A-Za-z0-9*?-]{1,128}$"),
            "The `Nats-*` headers that producers may set, beside `Nats-Msg-Id`: of "
            "`Nats-Expected-Last-Sequence`, `Nats-Expected-Last-Subject-Sequence`, "
            "`Nats-Expected-Last-Msg-Id` and `Nats-TTL`.",
            maxItems=64,
        ),
        "schema": nullable(_NAME | {"description": "The schema attached; null detaches it."}),
        "schema_version": nullable(integer("null and 0 pin the latest.", high=10**9)),
        "dead_letter": nullable(
            _NAME | {"description": "The station that keeps refused messages."}
        ),
        "allow_no_wait": boolean("Whether `wait=false` is answered."),
        "allow_suffix": boolean("Whether producers may append tokens to the subject."),
        "message_bytes_max": nullable(integer("The largest message.", low=1, high=AMOUNT_MAX)),
        "ack": string(
            "When 200 comes: the broker has `stored` the message; or `fsync`, on a broker with "
            "`sync_interval: always`, where messages that come at once are synced together.",
            enum=["stored", "fsync"],
        ),
        "verifier": nullable(_verifier()),
        "storage": string(enum=["file", "memory"]),
        "replicas": integer("Copies in the broker's cluster.", 1, 5),
        "retention": string(enum=["limits", "interest", "workqueue"]),
        "max_age_s": _SECONDS | {"description": "0 for ever."},
        "max_messages": amount,
        "max_bytes": amount,
        "duplicate_window_s": _SECONDS | {"description": "How long message ids are remembered."},
    }


def _verifier() -> Json:
    """Return a webhook verifier as it is asked for."""
    presets = ["standard-webhooks", "svix", "github", "fivetran", "stripe", "shopify", "hmac"]
    name = nullable(string(pattern="^[A-Za-z0-9-]{1,128}$"))
    return {
        "description": "Whose signatures requests may carry instead of a credential. Only "
        "the preset `hmac` reads the fields from `header` to `id_header`.",
        **_closed(
            {
                "preset": string(enum=presets),
                "secrets": array(string("Never shown again.", minLength=1), minItems=1, maxItems=8),
                "header": name,
                "prefix": string(),
                "encoding": string(enum=["hex", "base64"]),
                "algorithm": string(enum=["sha256", "sha512"]),
                "signed": string(enum=["body", "ts.body", "id.ts.body"]),
                "timestamp_header": name,
                "id_header": name,
                "tolerance_s": integer("How far a timestamp may be off.", 1, 86_400, default=300),
            }
        ),
        "required": ["preset", "secrets"],
    }


def _memphis_settings() -> Json:
    """Return what `PUT /stations/{station}` takes beside the settings, Memphis' names too."""
    words = {
        "retention_type": string(
            enum=["message_age_sec", "messages", "bytes", "ack_based"],
        ),
        "storage_type": string(enum=["file", "disk", "memory"]),
        "username": string(),
        "tenant_name": string(),
    }
    found: Json = {
        "name": nullable(_NAME | {"description": "The name in the path, where it is told at all."}),
        "stream": nullable(string("Adopts a stream that is there.", minLength=1)),
        "subject": nullable(string("Of an adopted stream, where it captures several.")),
        "retention_value": nullable(integer(low=1, high=AMOUNT_MAX)),
        "idempotency_window_in_ms": nullable(integer(high=9_000_000_000)),
        "schema_name": nullable(_NAME),
        "dls_station": nullable(_NAME),
        "dls_configuration": {"type": ["object", "null"]},
        "tiered_storage_enabled": {"enum": [False, None]},
        "partitions_number": {"enum": [0, 1, None]},
    }
    found |= {key: nullable(one) for key, one in words.items()}
    memphis = "Memphis' word for it."
    return {
        key: one if "description" in one else one | {"description": memphis}
        for key, one in found.items()
    }


def _attach() -> Json:
    number = nullable(integer("null and 0 pin the latest.", high=10**9))
    return _closed(
        {
            "name": nullable(_NAME | {"description": "The schema. Required, by one of its names."}),
            "version": number,
            "schema": nullable(_NAME),
            "schema_version": number,
            "schema_name": nullable(_NAME),
            "station_name": nullable(_NAME),
        }
    )


def _schema_body() -> Json:
    return _closed(
        {
            "name": nullable(_NAME),
            "type": nullable(string("Required for a new schema.", enum=SCHEMA_TYPES)),
            "text": nullable(string("The schema's text. One of this and the next two.")),
            "schema": {"description": "A text that is JSON, as it is."},
            "schema_content": nullable(string("Memphis' word for `text`.")),
            "message": nullable(string("protobuf: which message is meant.")),
            "message_struct_name": nullable(string("Memphis' word for `message`.")),
            "unknown_fields": nullable(string("protobuf.", enum=["accept", "refuse"])),
            "created_by_username": nullable(string("Of Memphis' clients; not kept.")),
        }
    )


def _verdicts() -> Json:
    line = fields(
        ("line", "valid"),
        line=integer(low=1),
        valid=boolean(),
        error=string("Why it is not."),
    )
    return fields(
        ("name", "type", "version", "valid", "invalid", "results"),
        name=string(),
        type=string(enum=SCHEMA_TYPES),
        version=integer(low=1),
        valid=integer("How many satisfy the schema."),
        invalid=integer("How many do not."),
        results=array(line),
    )


def admin_paths() -> Json:
    """Return the operations on stations and schemas."""
    return _station_paths() | _schema_paths()


def _station_paths() -> Json:
    def one(name: str, summary: str, good: dict[int, Json], *errors: int, **more: Any) -> Json:
        return admin_operation("stations", name, summary, good, *errors, **more)

    station = schema("Station")
    either = {"anyOf": [schema("StationState"), station]}
    removed = {"allOf": [schema("Removed"), fields(("stream_deleted",), stream_deleted=boolean())]}
    state = flag("state", "`true` asks the broker what each stream holds.")
    keep = flag("keep_stream", "`true` leaves the stream and its messages.")
    return {
        "/stations": {
            "get": one("listStations", "The stations that you may administer", {200: array(either)})
            | {"parameters": [state]}
        },
        "/stations/{station}": {
            "parameters": [STATION],
            "get": one(
                "showStation", "A station and what its stream holds", {200: schema("StationState")},
                404,
            ),
            "put": one(
                "putStation", "Create a station (201) or change what the body names (200)",
                {200: station, 201: station}, 404, 409, body=schema("StationSettings"),
            ),
            "delete": one(
                "deleteStation", "Remove a station, and the stream that was made for it",
                {200: removed}, 404, 409, parameters=[keep],
            ),
        },
        "/stations/{station}/schema": {
            "parameters": [STATION],
            "put": one(
                "attachSchema", "Attach a version of a schema", {200: station}, 404, 409,
                body=schema("Attach"),
            ),
            "delete": one("detachSchema", "Detach the station's schema", {200: station}, 404, 409),
        },
    }  # fmt: skip


def _schema_paths() -> Json:
    def one(name: str, summary: str, good: dict[int, Json], *errors: int, **more: Any) -> Json:
        return admin_operation("schemas", name, summary, good, *errors, **more)

    number = string(pattern="^([0-9]{1,9}|latest)$")
    version = schema("Version")
    diff = fields(
        ("name", "from", "to", "diff"),
        name=string(), to=integer(), diff=string("A unified difference."), **{"from": integer()},
    )  # fmt: skip
    judged = {
        JSON_TYPE: {"schema": {}},
        "application/x-ndjson": {"schema": string("One message a line.")},
        "application/jsonl": {"schema": string("One message a line.")},
        "application/octet-stream": {"schema": string(format="binary")},
    }
    validate = one(
        "validate", "Judge a message, or each line, without storing anything",
        {200: schema("Verdicts")}, 404,
        parameters=[parameter("query", "version", number, "The latest by default.")],
    )  # fmt: skip
    return {
        "/schemas": {
            "get": one(
                "listSchemas", "The schemas that you may administer", {200: array(schema("Schema"))}
            )
        },
        "/schemas/{schema}": {
            "parameters": [SCHEMA_NAME],
            "get": one(
                "showSchema", "A schema, its versions and the latest text",
                {200: schema("SchemaShown")}, 404,
            ),
            "put": one(
                "putSchema", "Create a schema, or add a version unless it is the latest",
                {200: version, 201: version}, 404, 409, body=schema("SchemaBody"),
            ),
            "delete": one(
                "deleteSchema", "Remove a schema that no station has attached",
                {200: schema("Removed")}, 404, 409,
            ),
        },
        "/schemas/{schema}/versions/{number}": {
            "parameters": [SCHEMA_NAME, VERSION],
            "get": one("showVersion", "One version", {200: schema("VersionShown")}, 404),
        },
        "/schemas/{schema}/diff": {
            "parameters": [SCHEMA_NAME],
            "get": one(
                "diffVersions", "Two versions compared", {200: diff}, 404,
                parameters=[
                    parameter("query", "from", number, "The one before `to` by default."),
                    parameter("query", "to", number, "The latest by default."),
                ],
            ),
        },
        "/schemas/{schema}/validate": {
            "parameters": [SCHEMA_NAME],
            "post": validate | {"requestBody": {"required": False, "content": judged}},
        },
    }  # fmt: skip
