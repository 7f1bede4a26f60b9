"""The clients that people have: curl, requests, httpx, node and the JDK, as they really send."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import httpx
import pytest
import requests

from tests.wire.gateway import ADMIN, PASSWORD

if TYPE_CHECKING:
    from tests.wire.gateway import Gateway

CLIENTS = Path(__file__).parent / "clients"
STORED = '{"error":null,"success":true}'
TIMEOUT_S = 60


def need(program: str) -> str:
    path = which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run(*command: str, stdin: str = "") -> str:
    # WHY: a proxy of the caller's shell would stand between the client and the loopback address,
    # and what the sanitized build preloads into Python does not fit node or a JVM.
    env = {
        name: value
        for name, value in os.environ.items()
        if "proxy" not in name.lower() and name != "LD_PRELOAD"
    }
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, env=env,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def curl(*arguments: str) -> str:
    return run(need("curl"), "--silent", "--show-error", "--http1.1", *arguments)


def single(gateway: Gateway, station: str) -> str:
    return f"{gateway.url}/stations/{station}/produce/single"


def datas(gateway: Gateway, station: str) -> list[bytes]:
    return [message.data for message in gateway.stored(station)]


def test_curl_the_published_snippets(gateway: Gateway, station: str) -> None:
    """Authenticate, produce and consume with the lines that Memphis' own pages show."""
    asked = {
        "username": ADMIN, "password": PASSWORD, "account_id": "1",
        "token_expiry_in_minutes": 123, "refresh_token_expiry_in_minutes": 10000092,
    }  # fmt: skip
    json_type = "Content-Type: application/json"
    pair = json.loads(
        curl("-X", "POST", f"{gateway.url}/auth/authenticate", "--header", json_type,
             "--data-raw", json.dumps(asked))
    )  # fmt: skip
    auth = f"Authorization: Bearer {pair['jwt']}"
    produced = curl(
        "--location", "--request", "POST", single(gateway, station), "--header", auth,
        "--header", json_type, "--data-raw", '{"message": "New Message"}',
    )  # fmt: skip
    assert produced == STORED
    body = {
        "consumer_name": "c", "consumer_group": "g", "batch_size": 10,
        "batch_max_wait_time_ms": 2000,
    }  # fmt: skip
    consumed = curl(
        "-X", "POST", f"{gateway.url}/stations/{station}/consume/batch", "--header", auth,
        "--header", json_type, "--data-raw", json.dumps(body),
    )  # fmt: skip
    assert [message["message"] for message in json.loads(consumed)] == [
        '{"message": "New Message"}'
    ]


def test_curl_large_body_expects_100(gateway: Gateway, station: str, tmp_path: Path) -> None:
    path = tmp_path / "body"
    data = os.urandom(1 << 19) * 2
    data = data[: (1 << 20) - 8192]
    path.write_bytes(data)
    auth = f"Authorization: Bearer {gateway.token()}"
    out = curl(
        "-v", "--stderr", "-", "-H", auth, "-H", "Expect: 100-continue",
        "--expect100-timeout", "20", "--max-time", "10", "--data-binary", f"@{path}",
        single(gateway, station),
    )  # fmt: skip
    assert "100 Continue" in out
    assert STORED in out
    assert datas(gateway, station) == [data]


def test_curl_forms_chunks_and_http_1_0(gateway: Gateway, station: str) -> None:
    auth = f"Authorization: Bearer {gateway.token()}"
    url = single(gateway, station)
    assert curl("-H", auth, "-d", "a=b&c=d", url) == STORED
    assert curl("-H", auth, "-H", "Transfer-Encoding: chunked", "-d", "in chunks", url) == STORED
    assert curl("-H", auth, "--http1.0", "-d", "old", url) == STORED
    assert curl("-u", f"{ADMIN}:{PASSWORD}", "-d", "basic", url) == STORED
    assert curl("-d", "query", f"{url}?authorization={gateway.token()}") == STORED
    assert curl("-H", auth, "--http2", "-d", "asks for h2c", url) == STORED
    told = curl("-I", f"{gateway.url}/monitoring/status")
    assert told.startswith("HTTP/1.1 200 ")
    expected = [b"a=b&c=d", b"in chunks", b"old", b"basic", b"query", b"asks for h2c"]
    assert datas(gateway, station) == expected


def test_curl_reuses_its_connection(gateway: Gateway, station: str) -> None:
    auth = f"Authorization: Bearer {gateway.token()}"
    url = single(gateway, station)
    out = curl("-v", "--stderr", "-", "-H", auth, "-d", "x", url, url, url)
    assert out.count(STORED) == 3
    assert out.count("Re-using existing connection") == 2


def test_requests_session(gateway: Gateway, station: str) -> None:
    url = single(gateway, station)
    with requests.Session() as session:
        session.trust_env = False
        session.headers.update(gateway.auth())
        assert session.post(url, data="text").text == STORED
        assert session.post(url, data=b"\xff\x00").text == STORED
        assert session.post(url, json={"a": "é"}).text == STORED
        assert session.post(url, data=iter([b"in ", b"chunks"])).text == STORED
        assert session.post(url, data={"form": "1"}).text == STORED
        assert session.post(url).text == STORED
        gone = session.get(url)
        assert (gone.status_code, gone.headers["Allow"]) == (405, "POST, OPTIONS")
    expected = [b"text", b"\xff\x00", b'{"a": "\\u00e9"}', b"in chunks", b"form=1", b""]
    assert datas(gateway, station) == expected


def test_httpx_client(gateway: Gateway, station: str) -> None:
    url = single(gateway, station)
    with httpx.Client(headers=gateway.auth(), trust_env=False) as client:
        assert client.post(url, content="text é").text == STORED
        assert client.post(url, json={"a": 1}).text == STORED
        assert client.post(url, content=iter([b"in ", b"chunks"])).text == STORED
        batch = client.post(url.replace("single", "batch"), json=[{"b": 1}, 2])
        assert (batch.status_code, batch.text) == (200, STORED)
    assert datas(gateway, station) == [
        "text é".encode(),
        b'{"a":1}',
        b"in chunks",
        b'{"b":1}',
        b"2",
    ]


def test_node_fetch_and_http(gateway: Gateway, station: str) -> None:
    script = CLIENTS / "post.mjs"
    out = run(need("node"), str(script), single(gateway, station), gateway.token())
    assert out.splitlines() == [f"200 {STORED}"] * 6
    messages = gateway.stored(station)
    assert [message.data for message in messages] == [
        "fetch é".encode(),
        bytes(range(256)),
        b"fetch stream",
        b"node chunked",
        b"node length",
        b"node expect",
    ]
    types = [
        {name.lower(): value for name, value in message.headers}.get("content-type")
        for message in messages
    ]
    assert types == ["text/plain;charset=UTF-8", None, None, None, None, None]


def test_jdk_http_client_body_arrives(gateway: Gateway, station: str) -> None:
    java = need("java")
    count = 5
    source = CLIENTS / "Post.java"
    out = run(java, str(source), single(gateway, station), gateway.token(), str(count))
    assert out.splitlines() == [f"200 {STORED}"] * (2 * count + 4)
    messages = gateway.stored(station)
    expected = [f"jdk {n}".encode() for n in range(count)]
    large = bytes(n & 255 for n in range(300_000))
    expected += [large, b"jdk chunked", b"jdk stream " + large, b"jdk expect"] + [b"async"] * count
    assert [message.data for message in messages] == expected
    assert {message.header("X-Debezium-Op") for message in messages} == {"Yw=="}
    # The check is worth something only if the client did ask for the upgrade.
    assert all("Java-http-client" in (m.header("User-Agent") or "") for m in messages)


def debezium(gateway: Gateway, station: str, records: list[str], *how: str) -> list[str]:
    """Run the JDK client that speaks as Debezium Server does; return the lines it prints."""
    source = str(CLIENTS / "Debezium.java")
    out = run(need("java"), source, gateway.url, station, *how, stdin="\n".join(records))
    return out.splitlines()


RECORDS = ['{"op":"c","after":{"id":1,"name":"Zoë"}}', '{"op":"d","before":{"id":1}}']
KEY_BASE64 = base64.b64encode("clé\n1".encode()).decode()


def test_debezium_in_java_with_tokens(gateway: Gateway, station: str) -> None:
    """Each record comes nine tenths of a token's life after the last, so that each asks anew."""
    lines = debezium(gateway, station, RECORDS, "jwt", ADMIN, PASSWORD)
    stored = f"200 - {STORED}"
    assert lines == [stored, "refreshed", stored, "refreshed", stored]
    messages = gateway.stored(station)
    assert [message.data.decode() for message in messages] == RECORDS * 2
    for message in messages:
        assert message.header("X-DEBEZIUM-OP") == "Yw=="
        assert message.header("X-DEBEZIUM-KEY") == KEY_BASE64
        names = {name.lower() for name, _ in message.headers}
        assert not names & {"authorization", "upgrade", "http2-settings", "connection"}


def test_debezium_in_java_with_signatures(gateway: Gateway, station: str) -> None:
    """No other credential than the signature; a record sent again under its id is stored once."""
    secret = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
    other = "whsec_" + base64.b64encode(b"x" * 32).decode()
    body = {"verifier": {"preset": "standard-webhooks", "secrets": [other, secret]}}
    made = requests.put(
        f"{gateway.url}/stations/{station}", json=body, headers=gateway.auth(), timeout=TIMEOUT_S
    )
    assert made.status_code == 201, made.text
    assert secret not in made.text
    lines = debezium(gateway, station, RECORDS, "webhooks", secret)
    assert lines == [f"200 - {STORED}", f"200 true {STORED}"] * 2
    messages = gateway.stored(station)
    assert [message.data.decode() for message in messages] == RECORDS
    assert all((message.header("webhook-id") or "").startswith("msg_") for message in messages)
    wrong = "whsec_" + base64.b64encode(b"y" * 32).decode()
    with pytest.raises(AssertionError, match="401 - "):
        debezium(gateway, station, RECORDS, "webhooks", wrong)
    assert len(gateway.stored(station)) == len(RECORDS)


def test_debezium_dialogue(gateway: Gateway, station: str) -> None:
    """The bytes of Debezium Server's HTTP sink: authenticate, refresh, records with `Bearer: `."""
    kind = {"content-type": "application/json"}
    asked = {"username": ADMIN, "password": PASSWORD} | {
        "token_expiry_in_minutes": 60, "refresh_token_expiry_in_minutes": 1440,
    }  # fmt: skip
    pair = gateway.ask("/auth/authenticate", json.dumps(asked).encode(), headers=kind).json()
    again = {key: value for key, value in asked.items() if key.endswith("minutes")}
    again["jwt_refresh_token"] = pair["jwt_refresh_token"]
    refreshed = gateway.ask("/auth/refreshToken", json.dumps(again).encode(), headers=kind)
    assert set(refreshed.json()) == set(pair)
    headers = kind | {
        "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAEAAEAAAAIAAAAA",
        "Upgrade": "h2c", "Authorization": f"Bearer: {refreshed.json()['jwt']}",
        "X-DEBEZIUM-KEY": base64.b64encode(b"1").decode(),
    }  # fmt: skip
    target = f"/stations/{station}/produce/single"
    assert gateway.ask(target, b'{"op":"c"}', headers=headers).status == 200
    (message,) = gateway.stored(station)
    assert (message.data, message.header("X-DEBEZIUM-KEY")) == (b'{"op":"c"}', "MQ==")
