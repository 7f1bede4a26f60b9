"""The control-plane client against real servers: what nats-py alone would get wrong."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fastgw.errors import UpstreamFault
from fastgw.nats.connection import CredentialsError, open_control
from tests.integration.brokers import (
    Broker,
    broker,
    control,
    eventually,
    free_port,
    quick_config,
    running,
    server_tls,
)
from tests.integration.test_data_plane import Issuer, certificates, user_seed

if TYPE_CHECKING:
    from fastgw.nats.client import ControlClient

__all__ = ["broker", "certificates"]

REASON_S = 1.0
"""All of it is waited; within it a busy machine has dialled at least once, and knows the reason."""


async def check(client: ControlClient) -> None:
    assert client.is_connected
    async with asyncio.timeout(5):
        await client.flush()


async def test_open_each_identity_connects(tmp_path: Path) -> None:
    seed, public = user_seed()
    (tmp_path / "user.nk").write_text(seed)
    users = [{"user": "ada", "password": "p@ss"}, {"nkey": public}]
    with running(tmp_path / "b", {"authorization": {"users": users}}) as one:
        for config in (
            one.config(user="ada", password="p@ss", data_user="other", data_password="other-one"),
            quick_config([f"nats://ada:p%40ss@127.0.0.1:{one.port}"]),
            one.config(nkey_seed_file=str(tmp_path / "user.nk")),
        ):
            async with control(config) as client:
                await check(client)
    with running(tmp_path / "t", {"authorization": {"token": "s3cret"}}) as one:
        async with control(one.config(token="s3cret")) as client:
            await check(client)


async def test_open_creds_file_connects(tmp_path: Path) -> None:
    issuer = Issuer()
    path = tmp_path / "user.creds"
    issuer.write_creds(path)
    with running(tmp_path / "b", issuer.options()) as one:
        async with control(one.config(creds_file=str(path))) as client:
            await check(client)


async def test_open_wrong_password_told_at_once(tmp_path: Path) -> None:
    users = [{"user": "ada", "password": "right"}]
    with running(tmp_path, {"authorization": {"users": users}}) as one:
        started = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamFault) as raised:
            await open_control(one.config(user="ada", password="wrong-one"), timeout_s=10)
        assert asyncio.get_running_loop().time() - started < 5
        assert raised.value.text == f"no broker at {one.url}: Authorization Violation"


async def test_open_server_away_told_in_time(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    started = asyncio.get_running_loop().time()
    with pytest.raises(UpstreamFault, match=f"no broker at nats://127.0.0.1:{port}: ") as raised:
        await open_control(quick_config([f"nats://127.0.0.1:{port}"]), timeout_s=REASON_S)
    assert asyncio.get_running_loop().time() - started < 5
    assert raised.value.kind.word == "broker-away"
    assert raised.value.text.endswith(": Connection refused")
    assert caplog.text == "", "the fault is the one line that tells it"


async def test_open_server_silent_told_in_time(broker: Broker) -> None:
    broker.signal(signal.SIGSTOP)
    with pytest.raises(UpstreamFault, match=r"no answer within 0.2 s"):
        await open_control(broker.config(), timeout_s=0.2)


async def test_open_key_file_missing_told(broker: Broker) -> None:
    with pytest.raises(CredentialsError, match="cannot read the key file /none"):
        await open_control(broker.config(creds_file="/none"))


async def test_open_tls_connects(tmp_path: Path, certificates: Path) -> None:
    ca = {"tls_ca_file": str(certificates / "ca.pem")}
    mutual = {
        "tls_cert_file": str(certificates / "client.pem"),
        "tls_key_file": str(certificates / "client.key"),
    }
    with running(tmp_path / "a", server_tls(certificates, verify=True)) as one:
        async with control(one.config(**ca, **mutual)) as client:
            await check(client)
    with running(tmp_path / "b", server_tls(certificates, handshake_first=True)) as one:
        config = quick_config(
            [f"tls://localhost:{one.port}"],
            **ca,
            tls_handshake_first=True,
            tls_server_name="broker.test",
        )
        async with control(config) as client:
            await check(client)
    options = {**server_tls(certificates), "allow_non_tls": True}
    with running(tmp_path / "c", options) as one:
        async with control(one.config(**ca)) as client:
            await check(client)
            assert client._transport is not None
            writer = client._transport._io_writer
            assert writer.get_extra_info("ssl_object") is not None


async def test_open_tls_unknown_authority_refused(tmp_path: Path, certificates: Path) -> None:
    with (
        running(tmp_path, server_tls(certificates)) as one,
        pytest.raises(UpstreamFault, match="certificate"),
    ):
        await open_control(one.config(), timeout_s=REASON_S)


async def test_open_tls_demanded_but_not_offered_nothing_secret_sent(broker: Broker) -> None:
    config = quick_config([broker.url.replace("nats:", "tls:")], user="ada", password="secret")
    with pytest.raises(UpstreamFault, match="offers no TLS, which the configuration demands"):
        await open_control(config, timeout_s=REASON_S)


async def test_open_tls_file_missing_told(broker: Broker) -> None:
    config = broker.config(tls_ca_file="/none.pem", tls_handshake_first=True)
    with pytest.raises(UpstreamFault, match="cannot use the TLS files"):
        await open_control(config, timeout_s=0.2)


async def test_connected_server_killed_reconnects(broker: Broker) -> None:
    async with control(broker.config()) as client:
        told: list[str] = []
        client.on_reconnect.append(lambda: told.append("again"))
        broker.kill()
        await eventually(lambda: not client.is_connected)
        await eventually(lambda: "Connect" in client.last_text)
        broker.start()
        assert await eventually(lambda: told == ["again"]) < 5
        await check(client)


async def test_connected_error_that_ends_nats_py_reconnects(broker: Broker) -> None:
    async with control(broker.config()) as client:
        told: list[str] = []
        client.on_reconnect.append(lambda: told.append("again"))
        await client._send_command(b"NONSENSE\r\n")
        await client._flush_pending()
        await eventually(lambda: told == ["again"])
        assert not client.is_closed
        await check(client)


async def test_connected_key_file_that_vanishes_waits_for_its_return(tmp_path: Path) -> None:
    issuer = Issuer()
    path = tmp_path / "user.creds"
    issuer.write_creds(path)
    with running(tmp_path / "b", issuer.options()) as one:
        async with control(one.config(creds_file=str(path))) as client:
            path.unlink()
            one.kill()
            one.start()
            await eventually(lambda: "cannot read the key file" in client.last_text)
            issuer.write_creds(path)
            await eventually(lambda: client.is_connected)
            await check(client)


async def test_connected_permission_error_keeps_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["no"]}}}
    with running(tmp_path, {"authorization": {"users": [user]}}) as one:
        async with control(one.config(user="u", password="p")) as client:
            told: list[str] = []
            client.on_reconnect.append(lambda: told.append("again"))
            await client.publish("no", b"")
            await eventually(lambda: "permissions violation" in client.last_text)
            await check(client)
            assert told == []


async def test_connected_cluster_member_dies_takes_another_with_the_same_user(
    tmp_path: Path,
) -> None:
    routes = [free_port(), free_port()]
    users = [{"user": "ada", "password": "secret-1"}]

    def options(index: int) -> dict[str, object]:
        route = f"nats://127.0.0.1:{routes[1 - index]}"
        return {
            "server_name": f"s{index}",
            "jetstream": "disabled",
            "authorization": {"users": users},
            "cluster": {
                "name": "c",
                "listen": f"127.0.0.1:{routes[index]}",
                "routes": [route],
            },
        }

    with running(tmp_path / "a", options(0)) as one, running(tmp_path / "b", options(1)) as other:
        async with control(quick_config([one.url.replace("//", "//ada:secret-1@")])) as client:
            await eventually(
                lambda: any(url.port == other.port for url in client.discovered_servers)
            )
            one.kill()
            await eventually(
                lambda: client.is_connected and client.connected_url.port == other.port
            )
            await check(client)
