"""Schemas and stations over HTTP on a real gateway: in force within a second, and dead letters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.gateway import CHANGE_S_MAX, Gateway, run_fastgw, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

# The promise is a second; a busy machine gets five, and without the watch it would be for ever.


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("schemas") / "data") as running:
        yield running


def ask(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    raw = b"" if body is None else json.dumps(body).encode()
    response = gateway.ask(path, raw, headers=gateway.auth(), method=method)
    return response.status, response.json()


def produce(gateway: Gateway, name: str, body: bytes) -> tuple[int, Any]:
    response = gateway.ask(f"/stations/{name}/produce/single", body, headers=gateway.auth())
    return response.status, response.json()


def test_schema_is_attached_changed_and_detached_within_a_second(gateway: Gateway) -> None:
    text = '{"type":"object","required":["a"]}'
    status, made = ask(gateway, "PUT", "/schemas/s", {"type": "json", "text": text})
    assert (status, made["version"]) == (201, 1), made
    assert ask(gateway, "PUT", "/stations/dls")[0] == 201
    body = {"schema_name": "s", "dls_station": "dls"}
    assert ask(gateway, "PUT", "/stations/st", body)[0] == 201
    wait_until(lambda: produce(gateway, "st", b"{}")[0] == 400, CHANGE_S_MAX, "the schema in force")
    status, refused = produce(gateway, "st", b'{"b":1}')
    assert status == 400
    assert refused["error"].startswith("Schema validation has failed: ")
    assert produce(gateway, "st", b'{"a":1}')[0] == 200
    status, refused = ask(gateway, "DELETE", "/schemas/s")
    assert (status, refused) == (
        409,
        {"error": "the schema s is attached to station st", "success": False},
    )
    wider = {"text": '{"type":"object","required":["b"]}'}
    assert ask(gateway, "PUT", "/schemas/s", wider)[0] == 201
    assert produce(gateway, "st", b'{"b":1}')[0] == 400, "a new version changes no station"
    assert ask(gateway, "PUT", "/stations/st/schema", {"name": "s"})[0] == 200
    wait_until(
        lambda: produce(gateway, "st", b'{"b":2}')[0] == 200, CHANGE_S_MAX, "the version in force"
    )


def test_refused_messages_are_dead_letters_and_sent_again(gateway: Gateway) -> None:
    def read() -> list[dict[str, Any]]:
        done = run_fastgw(
            "station", "dead-letters", "st", "--json", "--payload", "--data", str(gateway.data)
        )
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    wait_until(lambda: any(one["message"] == '{"b":1}' for one in read()), 5, "the dead letter")
    letter = next(one for one in read() if one["message"] == '{"b":1}')
    assert (letter["station"], letter["schema"], letter["schema_version"]) == ("st", "s", "1")
    assert letter["client"] == "127.0.0.1"
    assert letter["user"]
    done = run_fastgw("station", "dead-letters", "st", "--resend", "--data", str(gateway.data))
    assert done.returncode == 1, "those without b are kept"
    assert b'{"b":1}' in [message.data for message in gateway.stored("st")]
    assert all(one["message"] != '{"b":1}' for one in read())


def test_large_schema_is_stored_and_validates(gateway: Gateway) -> None:
    text = json.dumps({"required": ["k"], "description": "x" * 200_000})
    assert ask(gateway, "PUT", "/schemas/large", {"type": "json", "text": text})[0] == 201
    headers = gateway.auth(Content_Type="application/x-ndjson")
    lines = b'{"k":1}\n{}\n'
    response = gateway.ask("/schemas/large/validate", lines, headers=headers)
    assert response.status == 200
    assert (response.json()["valid"], response.json()["invalid"]) == (1, 1)
    refused = ask(gateway, "PUT", "/schemas/bad", {"type": "json", "text": '{"type":7}'})
    assert refused[0] == 400
    assert refused[1]["error"].startswith("the schema does not compile: ")
    assert refused[1]["success"] is False


def test_without_credentials_nothing_is_served(gateway: Gateway) -> None:
    for path in ("/schemas", "/schemas/s", "/stations", "/stations/st"):
        response = gateway.ask(path, b"", method="GET")
        assert response.status == 401, path
    assert ask(gateway, "POST", "/schemas/s")[0] == 405
