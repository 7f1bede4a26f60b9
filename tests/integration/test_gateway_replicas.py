"""More than one: gateways on one broker, workers of one gateway, and what exceeds the bounds."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.wire.gateway import Broker, Gateway, nats_server_path, run_fastgw, stored, wait_until
from tests.wire.raw_http import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(nats_server_path() is None, reason="nats-server is not installed")

SECRET = "the-password-of-a-user-2"
OPEN = {"FASTGW_STATIONS_AUTO_CREATE": "true"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    running = Broker(tmp_path_factory.mktemp("replicas")).start()
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.signal(signal.SIGCONT)
        running.kill()


@pytest.fixture(scope="module")
def pair(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Two gateways that share nothing but the broker."""
    folder = tmp_path_factory.mktemp("pair")
    flags = ("--nats", broker.url)
    gateways = [Gateway(folder / name, flags=flags, env=OPEN) for name in ("a", "b")]
    try:
        yield [gateway.start() for gateway in gateways]
    finally:
        codes = [gateway.stop() for gateway in gateways if gateway.process is not None]
    assert codes == [0, 0], [gateway.log_text() for gateway in gateways]


def cli(broker: Broker, *arguments: str, stdin: str = "") -> None:
    done = run_fastgw(*arguments, "--nats", broker.url, stdin=stdin)
    assert done.returncode == 0, done.stderr


def knows_eve(gateway: Gateway) -> bool:
    return gateway.authenticate({"username": "eve", "password": SECRET}).status == 200


def test_replicas_share_tokens_users_and_stations(broker: Broker, pair: list[Gateway]) -> None:
    one, two = pair
    tokens = one.authenticate({"username": "root", "password": "a-Password-of-the-tests-1"}).json()
    headers = {"Authorization": f"Bearer {tokens['jwt']}"}
    for number, gateway in enumerate((one, two, one, two)):
        response = gateway.ask("/stations/common/produce/single", b"x", headers=headers)
        assert (response.status, response.header("nats-sequence")) == (200, str(number + 1))
    refresh = json.dumps({"jwt_refresh_token": tokens["jwt_refresh_token"]}).encode()
    assert two.ask("/auth/refreshToken", refresh).status == 200
    # Of a group, one message goes to one member, whichever gateway it asks.
    assert len(one.consume("common", batch_size=3)) == 3
    assert len(two.consume("common", batch_size=3)) == 1


def test_replicas_follow_a_password_within_a_second(broker: Broker, pair: list[Gateway]) -> None:
    cli(broker, "user", "add", "eve", "--password-stdin", stdin=SECRET + "\n")
    requests = []
    for gateway in pair:
        wait_until(partial(knows_eve, gateway), 5, "the user")
        headers = {"Authorization": f"Bearer {gateway.token('eve', SECRET)}"}
        requests.append(build("/stations/eve/produce/single", b"x", headers=headers))
    with pair[0].wire() as one, pair[1].wire() as two:
        wires = list(zip((one, two), requests, strict=True))
        for wire, request in wires:
            wire.send(request)
            assert wire.expect().status == 200
        cli(broker, "user", "passwd", "eve", "--password-stdin", stdin="another-one-3\n")
        start = time.monotonic()
        for wire, request in wires:
            while True:
                wire.send(request)
                if wire.expect().status == 401:
                    break
                assert time.monotonic() - start < 5, "not revoked"


def test_replicas_create_a_station_at_once_and_agree(pair: list[Gateway]) -> None:
    """Twenty first messages through both gateways at the same time: one stream, nothing lost."""
    wires = [pair[n % 2].wire() for n in range(20)]
    try:
        for n, wire in enumerate(wires):
            headers = pair[n % 2].auth()
            wire.send(build("/stations/race/produce/single", b"%d" % n, headers=headers))
        sequences = [int(wire.expect().header("nats-sequence") or 0) for wire in wires]
    finally:
        for wire in wires:
            wire.close()
    assert sorted(sequences) == list(range(1, 21))


def test_workers_serve_one_address_and_end_together(broker: Broker, tmp_path: Path) -> None:
    flags = ("--nats", broker.url, "--workers", "2")
    gateway = Gateway(tmp_path / "workers", flags=flags, env=OPEN)
    try:
        gateway.start()
        token = gateway.token()
        headers = {"Authorization": f"Bearer {token}"}
        for _ in range(20):
            response = gateway.ask("/stations/workers/produce/single", b"x", headers=headers)
            assert response.status == 200
    finally:
        code = gateway.stop()
    assert code == 0, gateway.log_text()
    assert "Traceback" not in gateway.log_text(), gateway.log_text()
    user, password = broker.user, broker.password
    assert len(stored(f"nats://127.0.0.1:{broker.port}", user, password, "workers")) == 20


def test_overload_is_503_with_retry_after_and_bounded(broker: Broker, tmp_path: Path) -> None:
    """With two publishes in flight and the broker frozen, the others are told, not kept."""
    env = OPEN | {
        "FASTGW_LIMITS_PUBLISHES_IN_FLIGHT_MAX": "2",
        "FASTGW_LIMITS_WAITING_BYTES_MAX": "65536",
        "FASTGW_LIMITS_WAITING_MS_MAX": "300",
        "FASTGW_LIMITS_ACK_TIMEOUT_MS": "1500",
    }
    gateway = Gateway(tmp_path / "overload", flags=("--nats", broker.url), env=env)
    wires = []
    try:
        gateway.start()
        gateway.produce("overload", b"first")
        request = build("/stations/overload/produce/single", b"x" * 20_000, headers=gateway.auth())
        broker.freeze()
        for _ in range(12):
            wire = gateway.wire()
            wires.append(wire)
            wire.send(request)
        responses = [wire.expect() for wire in wires]
        broker.signal(signal.SIGCONT)
        statuses = sorted(response.status for response in responses)
        assert statuses == [503] * 10 + [504] * 2
        for response in responses:
            if response.status == 503:
                assert response.header("error-code") == "overloaded"
                assert response.header("retry-after")
        wait_until(
            lambda: (
                gateway.ask(
                    "/stations/overload/produce/single", b"again", headers=gateway.auth()
                ).status
                == 200
            ),
            10,
            "service resumes",
        )
        # What was refused with "nothing was sent" is nowhere.
        user, password = broker.user, broker.password
        messages = stored(f"nats://127.0.0.1:{broker.port}", user, password, "overload")
        assert len([message for message in messages if message.data == b"x" * 20_000]) <= 2
    finally:
        broker.signal(signal.SIGCONT)
        for wire in wires:
            wire.close()
        code = gateway.stop()
    assert code == 0, gateway.log_text()


def test_many_more_messages_than_slots_are_all_stored(broker: Broker, tmp_path: Path) -> None:
    env = OPEN | {"FASTGW_LIMITS_PUBLISHES_IN_FLIGHT_MAX": "3"}
    gateway = Gateway(tmp_path / "slots", flags=("--nats", broker.url), env=env)
    try:
        gateway.start()
        headers = gateway.auth(Content_Type="application/json")
        elements = [b"%d" % n for n in range(1000)]
        body = b"[" + b",".join(elements) + b"]"
        response = gateway.ask("/stations/slots/produce/batch", body, headers=headers)
        assert response.status == 200
        data = build("/stations/slots/produce/single", b"x", headers=gateway.auth())
        assert [r.status for r in gateway.exchange(data * 50)] == [200] * 50
    finally:
        code = gateway.stop()
    assert code == 0, gateway.log_text()
    user, password = broker.user, broker.password
    messages = stored(f"nats://127.0.0.1:{broker.port}", user, password, "slots")
    assert [message.data for message in messages] == elements + [b"x"] * 50


def test_embedded_broker_that_dies_is_started_again(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "keeper")
    try:
        gateway.start()
        gateway.produce("keeper", b"before")
        pid = int(gateway.broker()["pid"])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: int(gateway.broker()["pid"]) != pid, 15, "another broker")
        wait_until(
            lambda: (
                gateway.ask(
                    "/stations/keeper/produce/single", b"after", headers=gateway.auth()
                ).status
                == 200
            ),
            15,
            "service resumes",
        )
        datas = [message.data for message in gateway.stored("keeper")]
    finally:
        code = gateway.stop()
    assert code == 0, gateway.log_text()
    assert datas == [b"before", b"after"]
