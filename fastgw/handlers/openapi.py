"""The contract as an OpenAPI 3.1 document.

What enters: the configuration, for the limits that clients meet. What leaves: one dict, made once
when a gateway starts. Called by `docs`.
It must never hold a path or method that the gateway does not serve, nor miss one: tests compare it
with the gateway's own tables, and send requests made from it to a running gateway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastgw import __version__
from fastgw.handlers.monitoring import METRICS_PATH, RESOURCES_PATH, are_metrics_open
from fastgw.handlers.openapi_access import access_paths, access_schemas
from fastgw.handlers.openapi_admin import admin_operation, admin_paths, admin_schemas
from fastgw.handlers.openapi_parts import (
    JSON_TYPE,
    STATION,
    STORED_HEADERS,
    Json,
    answer,
    array,
    base_schemas,
    boolean,
    content,
    error_answer,
    error_answers,
    every_error,
    fields,
    integer,
    nullable,
    parameter,
    schema,
    string,
)

if TYPE_CHECKING:
    from fastgw.config import Config
    from fastgw.config_types import LimitsConfig

OPENAPI_VERSION: Final = "3.1.0"
EXPIRY_MINUTES_MAX: Final = 100_000_000_000
BATCH_SIZE_DEFAULT: Final = 10
SUFFIX_PATTERN: Final = r"^[!-)+,\-/-=?-~]+(\.[!-)+,\-/-=?-~]+)*$"
"""Printable ASCII in tokens between dots, without the wildcards `*` and `>`."""

WAIT_MS_DEFAULT: Final = 5000
OPEN: Final[list[dict[str, list[str]]]] = []
"""The security of what needs no credential."""

SECURITY_SCHEMES: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `/auth/authenticate`, or an API key. Any other word than "
        "`Bearer` does too, also `Bearer:`.",
    },
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "A user's name and password, for senders that cannot ask for a token.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key.",
    },
    "query": {
        "type": "apiKey",
        "in": "query",
        "name": "access_token",
        "description": "A token or an API key, for senders that cannot set headers; "
        "`authorization` is another name for it. It is never logged.",
    },
}

_INTRODUCTION: Final = """\
HTTP in, stored in NATS JetStream, answered. A *station* is a stream that messages are produced to.

The first credential that a request carries counts: `Authorization`, `X-API-Key`, the query; then a
client's certificate, where the listener asks for one. A station may also name a webhook signature,
which its senders use instead. Without a valid credential every path but the open ones is 401, an
unknown path too; another method than those listed is 405 with `Allow`. `HEAD` works where `GET`
does, and `OPTIONS` is answered 204 everywhere.

Errors are JSON, and `Error-Code` holds a stable word for the cause. Every answer carries the CORS
headers, and none is a redirect.

Limits here: target {line} bytes (414), headers {headers} bytes and {count} fields (431), body
{body} (413), batch {batch} bytes and {messages} messages (413), head within {head} s and body
within {whole} s (408). `Content-Encoding` may be gzip, deflate or zstd,
within the same bounds; a message is stored unpacked.
"""


def build_document(config: Config) -> Json:
    """Build the document of a gateway with this configuration."""
    limits = config.limits
    paths = probe_paths() | metrics_paths(config) | auth_paths()
    paths |= produce_paths(limits) | consume_paths(limits)
    document: Json = {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "fastgw",
            "version": __version__,
            "description": _introduce(limits),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "produce", "description": "Messages in."},
            {"name": "consume", "description": "Messages out."},
            {"name": "tokens", "description": "A password against a pair of tokens."},
            {"name": "stations", "description": "Stations and their settings."},
            {"name": "schemas", "description": "What messages must satisfy."},
            {"name": "access", "description": "Users, API keys and signing secrets."},
            {"name": "probes", "description": "Whether it lives and can serve; this contract."},
        ],
        "paths": paths | admin_paths() | access_paths(),
        "components": {
            "schemas": base_schemas() | admin_schemas() | access_schemas(),
            "responses": every_error(),
            "securitySchemes": SECURITY_SCHEMES,
        },
        "security": OPEN
        if config.auth.mode == "none"
        else [{name: []} for name in SECURITY_SCHEMES],
    }
    return document


def _introduce(limits: LimitsConfig) -> str:
    body = limits.body_bytes_max
    return _INTRODUCTION.format(
        line=f"{limits.request_line_bytes_max:,}",
        headers=f"{limits.headers_bytes_max:,}",
        count=limits.headers_count_max,
        body="as the broker's `max_payload`" if body is None else f"{body:,} bytes",
        batch=f"{limits.batch_bytes_max:,}",
        messages=f"{limits.batch_messages_max:,}",
        head=f"{limits.head_timeout_ms / 1000:g}",
        whole=f"{limits.body_timeout_ms / 1000:g}",
    )


def operation(name: str, tag: str, summary: str, responses: Json, **more: Any) -> Json:
    """Return one operation."""
    return (
        {"operationId": name, "tags": [tag], "summary": summary} | more | {"responses": responses}
    )


def probe_paths() -> Json:
    """Return what probes and readers ask for."""
    alive = {"200": answer("The process lives.", schema("Status"))} | error_answers()

    def probe(name: str, summary: str, responses: Json = alive) -> Json:
        return {"get": operation(name, "probes", summary, responses, security=OPEN)}

    cached = {"ETag": {"description": "Of this version.", "schema": string()}}
    page = {
        "description": "The page.",
        "headers": cached,
        "content": content(string(), "text/html"),
    }
    document = answer("The document.", {"type": "object"}, cached)
    unchanged = {"304": {"description": "`If-None-Match` names this version.", "headers": cached}}
    return {
        "/": probe("root", "Whether the process lives"),
        "/monitoring/status": probe("status", "Whether the process lives, by Memphis' path"),
        "/healthz": probe("healthz", "Whether the process lives"),
        "/readyz": probe("readyz", "Whether a message could be stored now (503 otherwise)"),
        "/openapi.json": probe(
            "openapi", "This document", {"200": document} | unchanged | error_answers()
        ),
        "/docs": probe(
            "docs", "This document as a page", {"200": page} | unchanged | error_answers()
        ),
    }


def metrics_paths(config: Config) -> Json:
    """Return what tells figures, where it is enabled."""
    paths: Json = {}
    text = content(string("Prometheus' text format 0.0.4."), "text/plain")
    if config.metrics.enabled:
        opened = {"security": OPEN} if are_metrics_open(config) else {}
        told = admin_operation(
            "probes", "metrics", "The counters of all workers, for Prometheus", {},
            description="For administrators, of whatever stations. By `metrics.auth` also without "
            "a credential: where only this machine can ask and does so itself, and on listeners "
            "for administration.",
        )  # fmt: skip
        told["responses"] |= {"200": {"description": "The metrics.", "content": text}}
        paths[METRICS_PATH] = {"get": told | opened}
    if config.metrics.resources:
        percent = {"type": "number", "minimum": 0}
        shown = fields(
            ("cpu", "memory", "storage"),
            cpu=percent | {"description": "Of one processor since the start, in percent."},
            memory=percent | {"description": "Of the machine's memory, in percent."},
            storage={"const": 0},
        )
        good = {"200": answer("What the workers use.", shown)} | error_answers()
        paths[RESOURCES_PATH] = {
            "get": operation(
                "resources", "probes", "Processor and memory, by Memphis' path", good, security=OPEN
            )
        }
    return paths


def auth_paths() -> Json:
    """Return the two ways to a pair of tokens."""
    either = {"anyOf": [schema("Message"), schema("Error")]}
    responses = {"200": answer("A pair of tokens.", schema("TokenPair"))} | error_answers(401)
    responses |= {str(status): error_answer(status, either) for status in (400, 503)}
    minutes = integer("0 and null stand for the default.", high=EXPIRY_MINUTES_MAX)
    expiries = {
        "token_expiry_in_minutes": nullable(minutes | {"default": 15}),
        "refresh_token_expiry_in_minutes": nullable(minutes | {"default": 300}),
    }
    account = {
        "description": "The tenant: a number or a string of digits. Else `?accountId=`, else "
        "`name$id` as the user name.",
        "anyOf": [
            integer(low=1, high=2**63 - 1),
            string(pattern="^[1-9][0-9]{0,17}$"),
            {"type": "null"},
        ],
    }
    login = fields(
        ("username",),
        username=string("The user.", minLength=1),
        password=nullable(string("The password.", format="password")),
        account_id=account,
        **expiries,
    )
    again = fields(
        ("jwt_refresh_token",),
        jwt_refresh_token=string("The refresh token.", minLength=1),
        **expiries,
    )
    where = parameter("query", "accountId", string(pattern="^[1-9][0-9]{0,17}$"), "The tenant.")
    return {
        "/auth/authenticate": {
            "post": operation(
                "authenticate", "tokens", "A user's password against a pair of tokens", responses,
                description="A configured cap shortens the expiries, and the answer tells it.",
                parameters=[where], security=OPEN, requestBody=_body(login),
            )
        },
        "/auth/refreshToken": {
            "post": operation(
                "refreshToken", "tokens", "A refresh token against a new pair", responses,
                description="The old pair stays valid. The path is compared without case.",
                security=OPEN, requestBody=_body(again),
            )
        },
    }  # fmt: skip


def _body(one: Json) -> Json:
    return {"required": True, "content": content(one)}


def _produce_parameters() -> list[Json]:
    """Return what a producer may say beside the message."""
    number = string(examples=["128"])
    expected = "Refused with 409 when it differs."
    return [
        STATION,
        parameter(
            "query", "subject", string(pattern=SUFFIX_PATTERN),
            "Tokens behind the station's subject, where the station allows it; 512 bytes with it. "
            "The header `Fastgw-Subject` is another way to say it.",
        ),
        parameter(
            "query", "wait", string(enum=["true", "false"], default="true"),
            "`false`, where the station allows it: 202 as soon as the message is written to the "
            "broker connection. It may still be lost.",
        ),
        parameter(
            "header", "Nats-Msg-Id", string(maxLength=512),
            "The message's id: a repeat within the station's duplicate window is stored once. Else "
            "`Idempotency-Key`, `msg-id` or `webhook-id`. In a batch, element *i* gets `<id>.<i>`.",
        ),
        parameter(
            "header", "Nats-TTL", string(examples=["1h"]),
            "When the broker drops the message. Only where the station allows this header; as the "
            "next three.",
        ),
        parameter("header", "Nats-Expected-Last-Sequence", number, expected),
        parameter("header", "Nats-Expected-Last-Subject-Sequence", number, expected),
        parameter("header", "Nats-Expected-Last-Msg-Id", string(), expected),
    ]  # fmt: skip


def produce_paths(limits: LimitsConfig) -> Json:
    """Return producing one message, and many."""
    stored = answer("Stored.", schema("Stored"), STORED_HEADERS)
    written = answer("Written to the broker connection (`wait=false`).", schema("Stored"))
    responses = {"200": stored, "202": written} | error_answers(401, 403, 404, 409, 504)
    some = {"anyOf": [schema("BatchError"), schema("Error")]}
    of_batch = responses | {str(status): error_answer(status, some) for status in (400, 503)}
    single = {
        "application/json": {"schema": {}, "examples": {"order": {"value": {"n": 128}}}},
        "text/plain": {"schema": string()},
        "application/octet-stream": {"schema": string(format="binary")},
        "*/*": {"schema": string(format="binary")},
    }
    # No type: a line may hold any JSON value, and one line alone is that value itself.
    lines = {
        "schema": {"description": "One JSON value a line.", "examples": ['{"n":1}\n{"n":2}\n']}
    }
    event = {"id": "1", "source": "/shop", "specversion": "1.0", "type": "shop.order"}
    events = {"schema": array({}, "CloudEvents, kept as they are.", examples=[[event]])}
    many = {
        JSON_TYPE: {"schema": array({}, examples=[[{"n": 1}, {"n": 2}]])},
        "application/x-ndjson": lines,
        "application/jsonl": lines,
        "application/cloudevents-batch+json": events,
        "application/cloudevents+json": events,
    }
    results = parameter(
        "query", "results", string(enum=["true", "false"], default="false"),
        "`true` adds `results`, one for each message in the order of the request.",
    )  # fmt: skip
    return {
        "/stations/{station}/produce/single": {
            "post": operation(
                "produceSingle", "produce", "Store one message", responses,
                description="The body is the message, verbatim, whatever its Content-Type; an "
                "empty one too. A station with a schema judges it. Request headers become "
                "message headers, without credentials, hop-by-hop headers and what the station "
                "leaves out.",
                parameters=_produce_parameters(),
                requestBody={"required": False, "content": single},
            )
        },
        "/stations/{station}/produce/batch": {
            "post": operation(
                "produceBatch", "produce", "Store many messages", of_batch,
                description="Each element of the array, or each line, is one message with its own "
                f"bytes of the request; at most {limits.batch_messages_max:,}. A body that is no "
                "array, or has a broken line, is 400 and nothing of it is stored. A message that "
                "is refused does not stop the others.",
                parameters=[*_produce_parameters(), results],
                requestBody={"required": True, "content": many},
            )
        },
    }  # fmt: skip


def consume_paths(limits: LimitsConfig) -> Json:
    """Return consuming."""
    count = min(BATCH_SIZE_DEFAULT, limits.consume_batch_max)
    wish = fields(
        ("consumer_name",),
        consumer_name=string("Who asks.", minLength=1),
        consumer_group=nullable(
            string(
                "The group that shares the messages; one without a name by default.",
                pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.\-]{0,126}[A-Za-z0-9])?)?$",
            )
        ),
        batch_size=nullable(
            integer("How many messages at most.", 1, limits.consume_batch_max, default=count)
        ),
        batch_max_wait_time_ms=nullable(
            {
                "type": "integer",
                "minimum": 0,
                "default": WAIT_MS_DEFAULT,
                "description": "How long to wait for the first; longer than "
                f"{limits.consume_wait_ms_max:,} is taken for that.",
            }
        ),
        ack=nullable(string("When a message counts as handled.", enum=["auto"])),
        metadata=nullable(boolean("Whether each message tells where it is stored.")),
    )
    responses = {"200": answer("Messages, or `[]` at the deadline.", schema("Messages"))}
    return {
        "/stations/{station}/consume/batch": {
            "post": operation(
                "consumeBatch", "consume", "Take messages for a consumer group",
                responses | error_answers(401, 403, 404),
                description="The answer comes as soon as something is there. The messages are "
                "acknowledged after the answer was handed to the client's connection; those of a "
                "client that has left go back to the group.",
                parameters=[STATION],
                requestBody=_body(wish),
            )
        }
    }  # fmt: skip
