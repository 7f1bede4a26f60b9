"""The OpenAPI document against a running gateway: every operation, its doors and its answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
import requests

from tests.wire.gateway import Gateway, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 20
EXAMPLES = {
    "station": "orders", "schema": "orders", "number": "1", "user": "ada", "key": "web",
    "kid": "none",
}  # fmt: skip
BODIES: dict[str, Any] = {
    "authenticate": {"username": "nobody", "password": "wrong"},
    "refreshToken": {"jwt_refresh_token": "none"},
    "produceBatch": [1, 2],
    "consumeBatch": {"consumer_name": "me", "batch_max_wait_time_ms": 1, "metadata": True},
    "putSchema": {"type": "json", "text": "{}"},
    "attachSchema": {"name": "orders"},
    "putUser": {"password": "a-Password-of-the-tests-1"},
    "putKey": {"permissions": ["produce"], "origins": ["https://shop.example"]},
}
ORDER = ("put", "post", "get", "delete")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("openapi") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def document(gateway: Gateway) -> dict[str, Any]:
    answer = requests.get(f"{gateway.url}/openapi.json", timeout=TIMEOUT_S)
    assert answer.headers["Content-Type"] == "application/json"
    found = answer.json()
    assert isinstance(found, dict)
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every operation, those first that make what the others need."""
    found = [
        (method, path, item[method])
        for path, item in document["paths"].items()
        for method in ORDER
        if method in item
    ]
    # A station before its schema is attached; and detached before either is removed.
    found.sort(key=lambda one: (ORDER.index(one[0]), len(one[1]) * (-1) ** (one[0] == "delete")))
    known = sum(len(set(item) - {"parameters"}) for item in document["paths"].values())
    assert len(found) == known
    return found


def fill(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda part: EXAMPLES[part[1]], path)


def find_methods(document: dict[str, Any], path: str) -> set[str]:
    """The methods of every template that fits a path; `rotate` could be a secret's id, too."""
    found = set()
    for template, item in document["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            found |= {method.upper() for method in item if method != "parameters"}
    return found


def send(
    gateway: Gateway, method: str, path: str, name: str = "", headers: dict[str, str] | None = None
) -> requests.Response:
    body = BODIES.get(name, {} if method in ("put", "post") else None)
    return requests.request(
        method, gateway.url + fill(path), json=body, headers=headers, timeout=TIMEOUT_S
    )


def resolve(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in value:
        _, kind, name = value["$ref"].removeprefix("#/").split("/")
        value = document["components"][kind][name]
    return value


def check_documented(document: dict[str, Any], operation: Any, answer: requests.Response) -> None:
    """Check an answer's status, headers and body against the document."""
    where = f"{operation['operationId']}: {answer.status_code} {answer.text[:300]}"
    assert str(answer.status_code) in operation["responses"], where
    response = resolve(document, operation["responses"][str(answer.status_code)])
    for name, header in response.get("headers", {}).items():
        assert name in answer.headers or not header.get("required"), (where, name)
        if name in answer.headers and "enum" in header["schema"]:
            assert answer.headers[name] in header["schema"]["enum"], (where, name)
    content = response.get("content", {})
    media = answer.headers.get("Content-Type", "").partition(";")[0]
    assert media in content or not content, where
    if media == "application/json":
        schema = content[media]["schema"] | {"components": document["components"]}
        jsonschema_rs.validate(schema, answer.json())


def test_operations_answer_as_documented(gateway: Gateway, document: dict[str, Any]) -> None:
    statuses = {}
    for method, path, operation in operations(document):
        name = operation["operationId"]
        answer = send(gateway, method, path, name, gateway.auth())
        check_documented(document, operation, answer)
        statuses[name] = answer.status_code
    refused = {name: status for name, status in statuses.items() if status >= 400}
    assert refused == {"authenticate": 401, "refreshToken": 401, "deleteSecret": 404}


def test_secured_operations_need_a_credential(gateway: Gateway, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        name = operation["operationId"]
        if operation.get("security") == []:
            continue
        for headers in ({}, {"Authorization": "Bearer none"}, {"X-API-Key": "fgw_none"}):
            answer = send(gateway, method, path, name, headers)
            assert answer.status_code == 401, (name, headers, answer.text)
            check_documented(document, operation, answer)


def test_other_methods_are_405_and_allow_tells_the_documented(
    gateway: Gateway, document: dict[str, Any]
) -> None:
    for path in document["paths"]:
        served = find_methods(document, fill(path))
        wanted = served | {"OPTIONS"} | ({"HEAD"} if "GET" in served else set())
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH"} - served:
            answer = send(gateway, method, path, headers=gateway.auth())
            assert answer.status_code == 405, (method, path, answer.text)
            allowed = {one.strip() for one in answer.headers["Allow"].split(",")}
            assert allowed == wanted, (method, path)
            response = document["components"]["responses"]["MethodNotAllowed"]
            check_documented(
                document, {"operationId": path, "responses": {"405": response}}, answer
            )


def test_documents_are_cached_by_their_tags(gateway: Gateway) -> None:
    for path in ("/openapi.json", "/docs"):
        first = requests.get(f"{gateway.url}{path}", timeout=TIMEOUT_S)
        assert first.headers["Cache-Control"] == "no-cache"
        known = {"If-None-Match": first.headers["ETag"]}
        again = requests.get(f"{gateway.url}{path}", headers=known, timeout=TIMEOUT_S)
        assert (again.status_code, again.content) == (304, b"")
        assert "Content-Length" not in again.headers
        head = requests.head(f"{gateway.url}{path}", timeout=TIMEOUT_S)
        assert head.headers["Content-Length"] == str(len(first.content))


def test_docs_page_has_a_strict_policy_and_the_cors_headers(gateway: Gateway) -> None:
    answer = requests.get(f"{gateway.url}/docs", timeout=TIMEOUT_S)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
