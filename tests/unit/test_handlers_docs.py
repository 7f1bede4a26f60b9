"""The OpenAPI document against the tables and structs that it speaks of, and the page around it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import jsonschema_rs
import msgspec
import pytest

from fastgw import gateway as gateway_module
from fastgw.config_types import AuthConfig, Config, LimitsConfig
from fastgw.control import keys
from fastgw.control.keys import KeyRecord
from fastgw.control.schema_record import TYPES
from fastgw.control.secrets import SigningSecret
from fastgw.control.station_config import StationInfo, StationRecord
from fastgw.control.users import PERMISSIONS, UserRecord
from fastgw.errors import KINDS
from fastgw.gateway import Gateway
from fastgw.handlers import (
    admin_access,
    auth,
    consume,
    openapi,
    openapi_access,
    openapi_admin,
)
from fastgw.handlers.admin import Admin, show_station
from fastgw.handlers.admin_access import AdminAccess
from fastgw.handlers.admin_access_body import KeyBody, RotateBody, UserBody
from fastgw.handlers.admin_body import AttachBody, SchemaBody, StationBody
from fastgw.handlers.auth import AuthenticateBody, RefreshBody
from fastgw.handlers.consume import ConsumeBody
from fastgw.handlers.docs import PAGE, Docs
from fastgw.handlers.openapi import build_document
from fastgw.handlers.openapi_parts import error_name
from fastgw.senders.signatures import VerifierConfig
from tests.unit.handler_fakes import FakeRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = build_document(Config())
SCHEMAS = DOCUMENT["components"]["schemas"]


@dataclass
class Reader(FakeRequest):
    """A request whose answer need not be JSON."""

    method: str = "GET"
    raw: list[tuple[int, bytes, dict[bytes, bytes], bytes]] = field(default_factory=list)

    def respond(
        self,
        status: int,
        body: bytes = b"",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        content_type: bytes = b"application/json",
    ) -> None:
        self.raw.append((status, body, dict(headers), content_type))


def ask(handler: Any, **fields: bytes) -> tuple[int, bytes, dict[bytes, bytes], bytes]:
    request = Reader(fields={key.replace("_", "-").encode(): one for key, one in fields.items()})
    handler(request)
    (answer,) = request.raw
    return answer


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield method, path, operation


def find_refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for one in value.values():
            yield from find_refs(one)
    elif isinstance(value, list):
        for one in value:
            yield from find_refs(one)


def bare(method: str, path: str) -> tuple[str, str]:
    """A path without the names of its parts; the gateway compares one of them without case."""
    return method.lower(), re.sub(r"\{\w+\}", "{}", path).lower()


# --- what is served ------------------------------------------------------------------------------


def test_every_route_is_in_the_document_and_the_other_way_round() -> None:
    fake = MagicMock()
    fake.config = Config()
    table = Gateway._build_table(fake, MagicMock())
    served = {bare(method, path) for path, found in table.items() for method in found}
    for admin in (Admin(MagicMock(), MagicMock()), AdminAccess(*[MagicMock()] * 3)):
        served |= {bare(method, template) for method, template, _ in admin.routes()}
    pattern = gateway_module._STATION_PATH.pattern
    actions = re.search(r"\(\?P<what>([^)]*)\)", pattern)
    assert actions is not None
    served |= {bare("post", f"/stations/{{}}/{one}") for one in actions[1].split("|")}
    documented = [bare(method, path) for method, path, _ in operations()]
    assert len(documented) == len(set(documented))
    assert set(documented) == served


def test_every_reference_is_there_and_every_schema_is_one() -> None:
    for reference in set(find_refs(DOCUMENT)):
        _, kind, name = reference.removeprefix("#/").split("/")
        assert name in DOCUMENT["components"][kind], reference
    used = set(find_refs(DOCUMENT))
    unused = {name for name in SCHEMAS if f"#/components/schemas/{name}" not in used}
    assert unused == set()
    for one in SCHEMAS.values():
        jsonschema_rs.meta.validate(
            one | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        )
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for _, _, operation in operations() for tag in operation["tags"]} == tags


def test_every_path_part_is_a_parameter() -> None:
    for _, path, operation in operations():
        parameters = DOCUMENT["paths"][path].get("parameters", []) + operation.get("parameters", [])
        in_path = [one["name"] for one in parameters if one["in"] == "path"]
        assert in_path == re.findall(r"\{(\w+)\}", path), path


def test_every_kind_of_failure_is_in_an_answer() -> None:
    responses = DOCUMENT["components"]["responses"]
    for kind in KINDS.values():
        response = responses[error_name(kind.status)]
        assert kind.word in response["headers"]["Error-Code"]["schema"]["enum"]
        if kind.retry_after_s:
            assert "Retry-After" in response["headers"]
    told = {
        word
        for one in responses.values()
        for word in one["headers"]["Error-Code"]["schema"]["enum"]
    }
    assert told == set(KINDS)


@pytest.mark.parametrize(
    ("struct", "schema"),
    [
        (StationBody, SCHEMAS["StationSettings"]),
        (SchemaBody, SCHEMAS["SchemaBody"]),
        (AttachBody, SCHEMAS["Attach"]),
        (UserBody, SCHEMAS["UserBody"]),
        (KeyBody, SCHEMAS["KeyBody"]),
        (RotateBody, SCHEMAS["RotateBody"]),
        (VerifierConfig, SCHEMAS["StationSettings"]["properties"]["verifier"]),
        (AuthenticateBody, "/auth/authenticate"),
        (RefreshBody, "/auth/refreshToken"),
        (ConsumeBody, "/stations/{station}/consume/batch"),
    ],
)
def test_body_has_the_fields_of_its_struct(struct: type[msgspec.Struct], schema: Any) -> None:
    if isinstance(schema, str):
        body = DOCUMENT["paths"][schema]["post"]["requestBody"]
        schema = body["content"]["application/json"]["schema"]
    else:
        assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(struct.__struct_fields__)


def test_answers_have_the_members_that_are_shown() -> None:
    station = show_station(StationRecord(name="s", stream="s", subject="s"))
    assert set(SCHEMAS["Station"]["properties"]) == set(station)
    state = SCHEMAS["StationState"]["allOf"][1]["properties"]
    assert set(state) == set(StationInfo.__struct_fields__) - {"record"}
    key = admin_access.show_key(
        KeyRecord(name="k", hash="0" * 64, permissions=["produce"], created_at=0.0)
    )
    assert set(SCHEMAS["Key"]["properties"]) == set(key)
    assert set(SCHEMAS["Key"]["required"]) == set(key)
    made = SigningSecret(
        kid="k", use="access", algorithm="HS256", secret="", created_at=1.0, signs_from=None
    )
    secret = admin_access._show_secret(made, "k")
    assert set(SCHEMAS["Secret"]["properties"]) == set(SCHEMAS["Secret"]["required"]) == set(secret)
    user = admin_access.show_user(UserRecord(name="u", password_hash="", permissions=["produce"]))
    assert set(SCHEMAS["User"]["properties"]) == set(SCHEMAS["User"]["required"]) == set(user)


def test_constants_are_those_of_the_code() -> None:
    assert openapi.EXPIRY_MINUTES_MAX == auth.EXPIRY_MINUTES_MAX
    assert openapi.BATCH_SIZE_DEFAULT == consume.BATCH_SIZE_DEFAULT
    assert openapi.WAIT_MS_DEFAULT == consume.WAIT_MS_DEFAULT
    assert tuple(openapi_access.PERMISSIONS) == PERMISSIONS
    assert openapi_access.EXPIRES_AT_MAX == keys.EXPIRES_AT_MAX
    assert tuple(openapi_admin.SCHEMA_TYPES) == TYPES


def test_limits_and_mode_are_those_of_the_configuration() -> None:
    limits = LimitsConfig(headers_count_max=77, body_bytes_max=54_321, batch_messages_max=99)
    document = build_document(Config(limits=limits, auth=AuthConfig(mode="none")))
    text = document["info"]["description"]
    for shown in ("77 fields", "body\n54,321 bytes (413)", "99 messages"):
        assert shown in text, text
    assert document["security"] == []
    assert [set(one) for one in DOCUMENT["security"]] == [
        {"bearer"},
        {"basic"},
        {"apiKey"},
        {"query"},
    ]


# --- the two routes ------------------------------------------------------------------------------


def test_document_is_answered_with_a_tag_and_then_not_again() -> None:
    docs = Docs(Config())
    status, body, headers, content_type = ask(docs.openapi)
    assert (status, content_type) == (200, b"application/json")
    assert json.loads(body) == DOCUMENT
    assert headers[b"Cache-Control"] == b"no-cache"
    tag = headers[b"ETag"]
    for known in (tag, b'"other", W/' + tag):
        status, body, headers, _ = ask(docs.openapi, if_none_match=known)
        assert (status, body, headers[b"ETag"]) == (304, b"", tag)
    assert ask(docs.openapi, if_none_match=b'"other"')[0] == 200
    assert ask(docs.page, if_none_match=tag)[0] == 200


def test_page_may_run_its_own_script_and_load_nothing() -> None:
    status, page, headers, content_type = ask(Docs(Config()).page)
    assert (status, content_type) == (200, b"text/html; charset=utf-8")
    assert page == PAGE.read_bytes()
    policy = dict(part.split(b" ", 1) for part in headers[b"Content-Security-Policy"].split(b"; "))
    for kind in (b"script", b"style"):
        (text,) = re.findall(b"<%b>(.*?)</%b>" % (kind, kind), page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text).digest())
        assert policy[kind + b"-src"] == b"'sha256-" + digest + b"'"
    assert policy[b"default-src"] == policy[b"form-action"] == policy[b"base-uri"] == b"'none'"
    assert policy[b"connect-src"] == b"'self'"
    assert b"unsafe" not in headers[b"Content-Security-Policy"]
    assert not re.findall(rb"(?:src|href)=\"(?:https?:)?//", page)
    assert not re.findall(rb"\son\w+=|style=", page)
    assert b"innerHTML" not in page
