"""What the gateway says when it is ready: addresses, and a curl that reaches them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw import welcome
from fastgw.config_types import AuthConfig, Config, ListenerConfig, NatsConfig, TlsConfig
from fastgw.welcome import Admin, say_ready, wait_admin

CERT = TlsConfig(cert_file="/etc/a b.pem", key_file="/etc/k.pem")
DEMANDING = TlsConfig(
    cert_file="/c.pem", key_file="/k.pem", client_ca_file="/ca.pem", client_cert="required"
)


@pytest.mark.parametrize(
    ("listener", "url", "shown"),
    [
        (ListenerConfig(listen="127.0.0.1:1"), "http://127.0.0.1:1", "curl http://127.0.0.1:1/"),
        (
            ListenerConfig(listen="127.0.0.1:1", tls=CERT),
            "https://127.0.0.1:1",
            "curl --cacert '/etc/a b.pem' https://127.0.0.1:1/",
        ),
        (
            ListenerConfig(listen="127.0.0.1:1", tls=DEMANDING),
            "https://127.0.0.1:1",
            "curl --cacert /c.pem --cert YOURS.pem --key YOURS.key https://127.0.0.1:1/",
        ),
        (
            ListenerConfig(listen="127.0.0.1:1", proxy_from=["127.0.0.1"]),
            "http://127.0.0.1:1",
            "curl --haproxy-protocol http://127.0.0.1:1/",
        ),
        (
            ListenerConfig(listen="unix:/run/a b.sock"),
            "unix:/run/a b.sock",
            "curl --unix-socket '/run/a b.sock' http://localhost/",
        ),
    ],
)
def test_first_start_shows_a_curl_that_reaches_the_main_listener(
    listener: ListenerConfig, url: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ListenerConfig(listen="127.0.0.1:2")
    config = Config(listeners=[listener, other])
    say_ready(config, [url, "http://127.0.0.1:2"], Admin("ann", "shown-once"), known_users=0)
    text = capsys.readouterr().out
    assert f"ready at {url}, http://127.0.0.1:2 " in text
    assert text.count(shown + "stations/hello") == 3
    assert text.count("shown-once") == 2


def test_later_start_shows_the_way_to_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(listen="unix:/run/s", nats=NatsConfig(url=["nats://ann:secret@localhost:4222"]))
    say_ready(config, ["unix:/run/s"], None, known_users=0)
    text = capsys.readouterr().out
    assert "POST username and password to http://localhost/auth/authenticate" in text
    assert "(curl --unix-socket /run/s)" in text
    assert "There is no user yet" in text
    assert "secret" not in text


class KnownUsers:
    """The users that a worker knows by now, each with all permissions."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self._callbacks: list[Callable[[str], None]] = []

    def find(self, name: str) -> Any:
        return self.records.get(name)

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def put(self, name: str, *permissions: str) -> None:
        self.records[name] = SimpleNamespace(permissions=permissions)
        for callback in self._callbacks:
            callback(name)


CONFIGURED = AuthConfig(admin_user="root", admin_password="a-password-of-12")


@pytest.mark.parametrize(
    ("auth", "name"), [(CONFIGURED, "root"), (AuthConfig(), "admin")], ids=["configured", "default"]
)
async def test_worker_waits_for_the_admin_that_another_makes(auth: AuthConfig, name: str) -> None:
    users: Any = KnownUsers()
    waiting = asyncio.ensure_future(wait_admin(users, Config(auth=auth)))
    await asyncio.sleep(0)
    users.put("another", "produce")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    users.put(name, "admin")
    await waiting


async def test_admin_that_never_comes_is_waited_for_within_a_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(welcome, "ADMIN_S_MAX", 0.05)
    caplog.set_level(logging.WARNING)
    users: Any = KnownUsers()
    await wait_admin(users, Config(auth=CONFIGURED))
    assert "the first user is not known after 0.05 s; serving without" in caplog.text


@pytest.mark.parametrize(
    "config",
    [Config(auth=AuthConfig(mode="none")), Config(nats=NatsConfig(url=["nats://a:1"]))],
    ids=["nobody logs in", "not our broker"],
)
async def test_nobody_waits_for_an_admin_that_nobody_makes(config: Config) -> None:
    users: Any = KnownUsers()
    async with asyncio.timeout(welcome.ADMIN_S_MAX / 2):
        await wait_admin(users, config)
