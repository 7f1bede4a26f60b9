"""The parts that the operations of the OpenAPI document share: schemas, parameters, answers.

What enters: the table of failures, from which every error answer with its words is made.
What leaves: plain dicts of the OpenAPI 3.1 document. Called by `openapi` and `openapi_admin`.
It must never state what the gateway does not do: tests compare it with the structs and the tables.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastgw.errors import KINDS

Json = dict[str, Any]

JSON_TYPE: Final = "application/json"
NAME_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9_.\-]{0,126}[A-Za-z0-9])?$"
AMOUNT_MAX: Final = 2**62
ANY_STATUSES: Final = (400, 408, 413, 414, 415, 417, 429, 431, 500, 501, 503, 505)
"""Answers that any request may get, whatever it asks for: its head, body or time was refused."""

_TEXTS: Final = {
    400: "What was sent is not HTTP, not JSON, refused by the schema or by the broker.",
    401: "No valid credential.",
    403: "The credential is valid and does not permit this.",
    404: "There is no such thing.",
    405: "Another method is served here; `Allow` names it.",
    408: "The head or the body came too slowly. The connection closes.",
    409: "It contradicts what is there.",
    413: "Too large. The connection may close.",
    414: "The request target is too long. The connection closes.",
    415: "A Content-Type that contradicts the schema, or an unknown Content-Encoding.",
    417: "An unknown `Expect`.",
    429: "Too much at once.",
    431: "Too many or too large headers. The connection closes.",
    500: "A defect of the gateway; it is in its log.",
    501: "An unknown Transfer-Encoding. The connection closes.",
    503: "It cannot be done now. A message was not stored, or nobody knows when `Error-Code` is "
    "`outcome-unknown`.",
    504: "The broker's confirmation is late: stored or not, nobody knows.",
    505: "Another HTTP version than 1.0 and 1.1. The connection closes.",
}


def ref(kind: str, name: str) -> Json:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Json:
    """Return a reference to a schema."""
    return ref("schemas", name)


def fields(required: tuple[str, ...], properties: Json | None = None, /, **more: Json) -> Json:
    """Return the schema of an object with these members, some of them required."""
    found: Json = {"type": "object", "properties": (properties or {}) | more}
    return found | ({"required": list(required)} if required else {})


def string(text: str = "", **more: Any) -> Json:
    """Return the schema of a string."""
    return {"type": "string"} | more | ({"description": text} if text else {})


def integer(text: str = "", low: int = 0, high: int = 2**53, **more: Any) -> Json:
    """Return the schema of an integer of a range."""
    found = {"type": "integer", "minimum": low, "maximum": high}
    return found | more | ({"description": text} if text else {})


def boolean(text: str = "") -> Json:
    """Return the schema of a boolean."""
    return {"type": "boolean"} | ({"description": text} if text else {})


def array(items: Json, text: str = "", **more: Any) -> Json:
    """Return the schema of an array."""
    found = {"type": "array", "items": items}
    return found | more | ({"description": text} if text else {})


def nullable(one: Json) -> Json:
    """Return `one` with null allowed beside it."""
    found = one | {"type": [one["type"], "null"]}
    return found | ({"enum": [*one["enum"], None]} if "enum" in one else {})


def content(one: Json, media: str = JSON_TYPE) -> Json:
    """Return the content of one media type."""
    return {media: {"schema": one}}


def answer(text: str, one: Json | None = None, headers: Json | None = None) -> Json:
    """Return an answer with a JSON body."""
    found: Json = {"description": text}
    if headers:
        found["headers"] = headers
    return found | ({"content": content(one)} if one is not None else {})


def parameter(where: str, name: str, one: Json, text: str) -> Json:
    """Return a parameter of the query, a header or the path."""
    head = {"name": name, "in": where, "description": text, "schema": one}
    return head | ({"required": True} if where == "path" else {})


def error_name(status: int) -> str:
    """Return the component's name of an error answer, as in `Unauthorized`."""
    return HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")


def error_answer(status: int, body: Json | None = None) -> Json:
    """Return the answer of a status, with the words that `Error-Code` may hold."""
    kinds = [kind for kind in KINDS.values() if kind.status == status]
    headers = {
        "Error-Code": {
            "description": "A stable word for the cause.",
            "required": True,
            "schema": string(enum=sorted(kind.word for kind in kinds)),
        }
    }
    waits = [kind.retry_after_s for kind in kinds]
    if any(waits):
        headers["Retry-After"] = {
            "description": "Seconds after which to try again.",
            "required": all(waits),
            "schema": integer(low=1),
        }
    if status == 401:
        headers["WWW-Authenticate"] = {
            "description": "How to authenticate.",
            "required": True,
            "schema": string(),
        }
    if status == 405:
        headers["Allow"] = {
            "description": "The methods that are served here.",
            "required": True,
            "schema": string(),
        }
    default = schema("Unauthorized" if status == 401 else "Error")
    return answer(_TEXTS[status], body or default, headers)


def error_answers(*statuses: int) -> Json:
    """Return references to error answers: those named, and those that any request may get."""
    return {
        str(status): ref("responses", error_name(status))
        for status in sorted({*statuses, *ANY_STATUSES})
    }


def every_error() -> Json:
    """Return the components of all error answers."""
    return {error_name(status): error_answer(status) for status in _TEXTS}


STORED_HEADERS: Final = {
    "Nats-Stream": {
        "description": "The JetStream stream that holds it.",
        "schema": string(),
    },
    "Nats-Sequence": {
        "description": "Its sequence number there; of a batch, that of the last message.",
        "schema": integer(),
    },
    "Nats-Duplicate": {
        "description": "`true` when a message of this id was stored before; it is stored once.",
        "schema": string(const="true"),
    },
}

STATION: Final = parameter(
    "path",
    "station",
    string(pattern=NAME_PATTERN, examples=["orders"]),
    "1 to 128 of `A-Z a-z 0-9 _ - .`, first and last a letter or digit, no two dots together.",
)
SCHEMA_NAME: Final = STATION | {"name": "schema"}


def base_schemas() -> Json:
    """Return the schemas of the data plane and of tokens."""
    reasons = array(
        fields(("field", "reason"), field=string(), reason=string(const="required")),
        "What is missing.",
    )
    result = {
        "anyOf": [
            fields(("seq",), seq=integer("Where it is stored."), duplicate={"const": True}),
            fields(("error",), error=string("Why it is not stored.")),
        ]
    }
    message = fields(
        ("message", "headers"),
        message=string("The payload."),
        encoding=string("There when the payload is not UTF-8.", const="base64"),
        headers={"type": "object", "additionalProperties": string()},
        seq=integer("Its sequence number. This and the rest only with `metadata`."),
        timestamp=string("When it was stored."),
        deliveries=integer("How often the group got it, this time included."),
        subject=string("The NATS subject."),
    )
    return {
        "Error": fields(
            ("error", "success"), error=string("What was wrong."), success={"const": False}
        ),
        "Unauthorized": fields(("message",), message={"const": "Unauthorized"}),
        "Message": fields(("message",), message={"anyOf": [string("What was wrong."), reasons]}),
        "Status": fields(("status",), status={"const": "ok"}),
        "Stored": fields(
            ("error", "success"),
            error={"type": "null"},
            success={"const": True},
            results=array(schema("Result"), "With `results=true` on a batch."),
        ),
        "BatchError": fields(
            ("errors", "fail", "sent", "success"),
            errors=array(string(), "A text for each message that is not stored.", minItems=1),
            fail=integer("How many are not stored.", low=1),
            sent=integer("How many are stored."),
            success={"const": False},
            results=array(schema("Result"), "With `results=true`, in the order of the request."),
        ),
        "Result": result,
        "Messages": array(message),
        "TokenPair": fields(
            ("expires_in", "jwt", "jwt_refresh_token", "refresh_token_expires_in"),
            expires_in=integer("How long the token holds, in milliseconds.", low=1),
            jwt=string("The access token."),
            jwt_refresh_token=string("Opens nothing but `/auth/refreshToken`."),
            refresh_token_expires_in=integer("The same of the refresh token.", low=1),
        )
        | {"additionalProperties": False, "description": "Exactly these four members."},
    }
