"""What the gateway says when it is ready: addresses, and a curl that reaches them."""

from __future__ import annotations

import pytest

from fastgw.config_types import Config, ListenerConfig, NatsConfig, TlsConfig
from fastgw.welcome import Admin, say_ready

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
