"""The CONNECT line: which identity wins, what is signed, and what never shows."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec
import nkeys
import pytest

from fastgw.config_types import NatsConfig
from fastgw.nats.credentials import Credentials, CredentialsError, UserInfo, build_connect

if TYPE_CHECKING:
    from pathlib import Path

SEED = nkeys.encode_seed(b"u" * 32, nkeys.PREFIX_BYTE_USER)


def connect_of(
    config: NatsConfig, info: dict[str, object] | None = None, userinfo: UserInfo | None = None
) -> dict[str, Any]:
    line = build_connect(Credentials(config), info or {}, userinfo, "me")
    assert line.startswith(b"CONNECT {") and line.endswith(b"}\r\n")
    fields: dict[str, Any] = msgspec.json.decode(line[8:])
    return fields


def test_connect_asks_for_answers_instead_of_silence() -> None:
    fields = connect_of(NatsConfig())
    assert (fields["headers"], fields["no_responders"], fields["protocol"]) == (True, True, 1)
    assert (fields["verbose"], fields["pedantic"], fields["echo"]) == (False, False, False)
    assert (fields["name"], fields["lang"]) == ("me", "python-fastgw")
    assert not {"user", "pass", "auth_token", "jwt", "nkey", "sig"} & fields.keys()
    assert connect_of(NatsConfig(), {"tls_required": True})["tls_required"] is True


@pytest.mark.parametrize(
    ("fields", "userinfo", "expected"),
    [
        ({"user": "a", "password": "b"}, UserInfo("u", "p"), {"user": "a", "pass": "b"}),
        ({"user": "a"}, None, {"user": "a", "pass": ""}),
        ({"token": "t", "user": "a"}, None, {"auth_token": "t"}),
        ({}, UserInfo("u", "p"), {"user": "u", "pass": "p"}),
        ({}, UserInfo("u", None), {"auth_token": "u"}),
    ],
)
def test_connect_strongest_identity_wins(
    fields: dict[str, str], userinfo: UserInfo | None, expected: dict[str, str]
) -> None:
    sent = connect_of(NatsConfig(**fields), None, userinfo)
    assert {key: sent[key] for key in ("user", "pass", "auth_token") if key in sent} == expected


def test_connect_data_plane_takes_the_second_user_where_there_is_one() -> None:
    both = NatsConfig(user="a", password="b", data_user="c", data_password="d")
    assert Credentials(both, "data").connect_fields(None, None) == {"user": "c", "pass": "d"}
    assert Credentials(both).connect_fields(None, None) == {"user": "a", "pass": "b"}
    one = NatsConfig(token="t")
    assert Credentials(one, "data").connect_fields(None, None) == {"auth_token": "t"}


def test_connect_nkey_signs_the_nonce(tmp_path: Path) -> None:
    path = tmp_path / "user.nk"
    path.write_bytes(SEED + b"\n")
    fields = connect_of(NatsConfig(nkey_seed_file=str(path)), {"nonce": "abc"})
    pair = nkeys.from_seed(bytearray(SEED))
    assert fields["nkey"] == pair.public_key.decode()
    assert "=" not in fields["sig"]
    assert pair.verify(b"abc", base64.urlsafe_b64decode(fields["sig"] + "=="))
    assert SEED.decode() not in str(fields)


def test_connect_nkey_without_nonce_refused(tmp_path: Path) -> None:
    path = tmp_path / "user.nk"
    path.write_bytes(SEED)
    for info in ({}, {"nonce": 5}):
        with pytest.raises(CredentialsError, match="asks for no signature"):
            connect_of(NatsConfig(nkey_seed_file=str(path)), info)


def test_creds_file_with_windows_line_ends_is_read(tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    text = "-----BEGIN NATS USER JWT-----\neyJ.a.b\n------END NATS USER JWT------\n"
    text += f"-----BEGIN USER NKEY SEED-----\n{SEED.decode()}\n------END USER NKEY SEED------\n"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    fields = connect_of(NatsConfig(creds_file=str(path)), {"nonce": "abc"})
    assert fields["jwt"] == "eyJ.a.b"
    assert "nkey" not in fields


def test_userinfo_repr_hides_both() -> None:
    assert repr(UserInfo("token", "secret")) == "UserInfo(********)"
