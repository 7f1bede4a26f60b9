"""Tokens of an outside issuer on a real gateway: served, refused, and ended with their key."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.token_forge import AUDIENCE, ISSUER, ed_key, forge, make_jwk, outside_claims, signer
from tests.wire.gateway import Gateway, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.wire.raw_http import Response

CHANGE_S_MAX = 10.0
"""LIMIT: a key file is looked at every second; a busy machine gets more."""

CONFIG = """
[[issuers]]
name = "login"
issuer = "{issuer}"
audience = ["{audience}"]
jwks_file = "{file}"
algorithms = ["EdDSA"]
permissions = {{ write = ["produce"], read = ["consume"] }}
stations_claim = "stations"

[[issuers]]
name = "staff"
issuer = "urn:staff"
audience = ["{audience}"]
jwks_file = "{file}"
algorithms = ["EdDSA"]
maps = "user"
"""

KEYS = {name: make_jwk(ed_key(name), "EdDSA", name) for name in ("one", "two")}


def publish(path: Path, *names: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": [KEYS[name] for name in names]}))
    os.replace(fresh, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("issuers")


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[Gateway]:
    keys, config = folder / "keys.json", folder / "fastgw.toml"
    publish(keys, "one", "two")
    config.write_text(CONFIG.format(issuer=ISSUER, audience=AUDIENCE, file=keys))
    with serving(folder / "data", ("--config", str(config))) as running:
        yield running
    assert "eyJ" not in running.log_text()


def token(key: str = "one", **claims: Any) -> str:
    fields = {"stations": ["outside-*"], "scope": "write", **claims}
    sign = signer(ed_key(key), "EdDSA")
    return forge({"alg": "EdDSA", "kid": key}, outside_claims(**fields), sign)


def produce(gateway: Gateway, text: str, station: str = "outside-a") -> Response:
    headers = {"Authorization": f"Bearer {text}"}
    return gateway.ask(f"/stations/{station}/produce/single", b"message", headers=headers)


def test_produce_outside_token_does_what_its_claims_allow(gateway: Gateway) -> None:
    assert produce(gateway, token()).status == 200
    assert produce(gateway, token(), "other").status == 403
    assert produce(gateway, token(scope="read")).status == 403
    assert produce(gateway, token(scope="openid")).status == 403
    assert produce(gateway, token(stations=None)).status == 403
    assert gateway.ask(f"/stations/outside-a/produce/single?access_token={token()}").status == 200


def test_produce_hostile_outside_token_401(gateway: Gateway) -> None:
    hostile = [
        token(exp=1),
        token(aud="other"),
        token(iss="https://evil.example/"),
        token("thief"),
        forge({"alg": "none", "kid": "one"}, outside_claims(), lambda data: b""),
        token() + "=",
    ]
    for text in hostile * 2:
        assert produce(gateway, text).status == 401


def test_produce_outside_token_of_a_user_of_ours(gateway: Gateway) -> None:
    assert produce(gateway, token(iss="urn:staff", sub="root"), "any").status == 200
    assert produce(gateway, token(iss="urn:staff", sub="nobody"), "any").status == 401


def test_produce_token_ends_with_its_key(gateway: Gateway, folder: Path) -> None:
    text = token("two")
    assert produce(gateway, text).status == 200
    publish(folder / "keys.json", "one")
    wait_until(lambda: produce(gateway, text).status == 401, CHANGE_S_MAX, "the key is withdrawn")
    assert produce(gateway, token()).status == 200
    publish(folder / "keys.json", "one", "two")
    wait_until(lambda: produce(gateway, text).status == 200, CHANGE_S_MAX, "the key is back")
