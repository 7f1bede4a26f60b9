"""The broker goes away, freezes, or says goodbye: each has its answer, and service resumes."""

from __future__ import annotations

import itertools
import json
import signal
import time
from typing import TYPE_CHECKING

import pytest
import requests

from tests.wire.gateway import Broker, Gateway, nats_server_path, stored, wait_until
from tests.wire.raw_http import build

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.wire.gateway import Stored
    from tests.wire.raw_http import Response

ACK_TIMEOUT_MS = 700

pytestmark = pytest.mark.skipif(nats_server_path() is None, reason="nats-server is not installed")


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    running = Broker(tmp_path_factory.mktemp("broker")).start()
    try:
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="module")
def shared_gateway(
    shared_broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    env = {
        "FASTGW_STATIONS_AUTO_CREATE": "true",
        "FASTGW_LIMITS_ACK_TIMEOUT_MS": str(ACK_TIMEOUT_MS),
        "FASTGW_NATS_RECONNECT_WAIT_MS_MAX": "200",
    }
    data = tmp_path_factory.mktemp("faults") / "data"
    running = Gateway(data, flags=("--nats", shared_broker.url), env=env)
    try:
        yield running.start()
        assert running.stop() == 0, running.log_text()
        assert "Traceback" not in running.log_text(), running.log_text()
    finally:
        if running.process is not None and running.process.poll() is None:
            running.stop(signal.SIGKILL)


@pytest.fixture
def broker(shared_broker: Broker) -> Iterator[Broker]:
    """The broker, well; and well again afterwards, whatever the test did to it."""
    yield shared_broker
    if shared_broker.process is None or shared_broker.process.poll() is not None:
        shared_broker.start()
    shared_broker.signal(signal.SIGCONT)


@pytest.fixture
def gateway(broker: Broker, shared_gateway: Gateway) -> Gateway:
    """The gateway, ready."""
    wait_until(shared_gateway.is_ready, 15, "readyz before the test")
    return shared_gateway


@pytest.fixture
def station(gateway: Gateway) -> str:
    """A station of this test, with one message: "before"."""
    name = f"faults-{next(_numbers)}"
    wait_until(lambda: produce(gateway, name, b"before").status == 200, 15, "the first message")
    return name


def produce(gateway: Gateway, station: str, body: bytes, **headers: str) -> Response:
    auth = gateway.auth(**headers)
    return gateway.ask(f"/stations/{station}/produce/single", body, headers=auth)


def messages(broker: Broker, station: str) -> list[Stored]:
    plain = f"nats://127.0.0.1:{broker.port}"
    return stored(plain, broker.user, broker.password, station)


def check_away(response: Response) -> None:
    assert response.status == 503
    assert int(response.header("retry-after") or 0) >= 1
    assert response.header("error-code") in ("broker-away", "outcome-unknown")
    assert response.header("access-control-allow-origin") == "*"
    assert response.json()["success"] is False
    assert response.header("connection") is None, "the connection itself is well"


def resume(gateway: Gateway, station: str) -> None:
    wait_until(lambda: produce(gateway, station, b"resumed").status == 200, 15, "service resumes")
    wait_until(gateway.is_ready, 5, "readyz")


def test_broker_killed_is_503_until_it_is_back(
    broker: Broker, gateway: Gateway, station: str
) -> None:
    broker.kill()
    check_away(produce(gateway, station, b"away"))
    start = time.monotonic()
    check_away(produce(gateway, station, b"away"))
    assert time.monotonic() - start < 3, "503 must not wait for anything"
    headers = gateway.auth(Content_Type="application/json")
    batch = gateway.ask(f"/stations/{station}/produce/batch", b"[1,2]", headers=headers)
    assert batch.status == 503
    assert int(batch.header("retry-after") or 0) >= 1
    consume = gateway.ask(
        f"/stations/{station}/consume/batch", b'{"consumer_name":"c"}', headers=gateway.auth()
    )
    assert consume.status == 503
    check_away(produce(gateway, "not.made.yet", b"away"))
    assert time.monotonic() - start < 4, "503 must not wait, whatever is asked"
    assert requests.get(f"{gateway.url}/readyz", timeout=5).status_code == 503
    assert requests.get(f"{gateway.url}/healthz", timeout=5).status_code == 200
    broker.start()
    resume(gateway, station)
    datas = [message.data for message in messages(broker, station)]
    assert datas[0] == b"before"
    assert b"away" not in datas


def test_broker_killed_again_and_again(broker: Broker, gateway: Gateway, station: str) -> None:
    for _ in range(3):
        resume(gateway, station)
        broker.kill()
        check_away(produce(gateway, station, b"away"))
        broker.start()
    resume(gateway, station)


def test_stop_while_the_broker_is_away_is_clean(
    broker: Broker, gateway: Gateway, station: str
) -> None:
    broker.kill()
    wait_until(lambda: not gateway.is_ready(), 5, "the loss to be seen")
    assert gateway.stop() == 0, gateway.log_text()
    broker.start()
    gateway.start()
    resume(gateway, station)


def test_one_connection_lives_through_the_fault(
    broker: Broker, gateway: Gateway, station: str
) -> None:
    request = build(f"/stations/{station}/produce/single", b"x", headers=gateway.auth())
    with gateway.wire() as wire:
        wire.send(request)
        assert wire.expect().status == 200
        broker.kill()
        wire.send(request)
        check_away(wire.expect())
        broker.start()
        resume(gateway, station)
        wire.send(request)
        assert wire.expect().status == 200


def test_frozen_broker_is_504_and_late_acks_find_nobody(
    broker: Broker, gateway: Gateway, station: str
) -> None:
    broker.freeze()
    start = time.monotonic()
    late = [produce(gateway, station, b"late %d" % n) for n in range(2)]
    took_s = time.monotonic() - start
    broker.signal(signal.SIGCONT)
    for response in late:
        assert response.status == 504
        assert response.header("error-code") == "ack-timeout"
        assert "may or may not be stored" in response.json()["error"]
    assert took_s >= 2 * ACK_TIMEOUT_MS / 1000
    resume(gateway, station)
    # Each answer names the message that it belongs to, late acks or not.
    for n in range(20):
        response = produce(gateway, station, b"after %d" % n)
        sequence = int(response.header("nats-sequence") or 0)
        by_seq = {message.seq: message.data for message in messages(broker, station)}
        assert by_seq[sequence] == b"after %d" % n


def test_frozen_broker_batch_is_accounted_for(
    broker: Broker, gateway: Gateway, station: str
) -> None:
    headers = gateway.auth(Content_Type="application/json")
    broker.freeze()
    response = gateway.ask(f"/stations/{station}/produce/batch", b"[1,2,3]", headers=headers)
    broker.signal(signal.SIGCONT)
    assert response.status in (503, 504)
    answer = response.json()
    assert list(answer) == ["errors", "fail", "sent", "success"]
    assert (answer["fail"], answer["sent"], answer["success"]) == (3, 0, False)
    resume(gateway, station)


def test_broker_killed_under_a_publish_is_unknown(
    broker: Broker, gateway: Gateway, station: str
) -> None:
    request = build(f"/stations/{station}/produce/single", b"in flight", headers=gateway.auth())
    broker.freeze()
    with gateway.wire() as wire:
        wire.send(request * 3)
        # The answer to a later request shows that the publishes are on their way.
        assert gateway.ask("/healthz", None, method="GET").status == 200
        broker.kill()
        for _ in range(3):
            response = wire.expect()
            assert response.status in (503, 504)
            assert response.header("error-code") in ("outcome-unknown", "ack-timeout")
            assert "may or may not be stored" in response.json()["error"]
    broker.start()
    resume(gateway, station)


def test_repeat_with_id_after_unknown_is_stored_once(
    broker: Broker, gateway: Gateway, station: str
) -> None:
    broker.freeze()
    response = produce(gateway, station, b"with id", Nats_Msg_Id="one")
    broker.signal(signal.SIGCONT)
    assert response.status == 504

    def again() -> bool:
        return produce(gateway, station, b"with id", Nats_Msg_Id="one").status == 200

    wait_until(again, 15, "the repeat")
    assert [message.data for message in messages(broker, station)].count(b"with id") == 1


def test_lame_duck_sends_nothing_into_the_void(
    broker: Broker, gateway: Gateway, station: str
) -> None:
    broker.signal(signal.SIGUSR2)

    def is_refused() -> bool:
        response = produce(gateway, station, b"leaving")
        assert response.status in (200, 503, 504), response
        return response.status == 503

    wait_until(is_refused, 10, "503 in lame duck mode")
    assert produce(gateway, station, b"leaving").header("retry-after")
    broker.kill()
    broker.start()
    resume(gateway, station)


def test_consume_waiting_while_the_broker_dies_is_answered(
    broker: Broker, gateway: Gateway, station: str
) -> None:
    target = f"/stations/{station}/consume/batch"
    body = json.dumps({"consumer_name": "c", "batch_max_wait_time_ms": 15_000}).encode()
    request = build(target, body, headers=gateway.auth())
    with gateway.wire() as wire:
        wire.send(request)
        assert len(wire.expect().json()) == 1
        wire.send(request)
        assert gateway.ask("/healthz", None, method="GET").status == 200
        broker.kill()
        response = wire.expect(20)
        assert response.status == 503 or response.body == b"[]"
    broker.start()
    resume(gateway, station)


def test_messages_read_but_unacknowledged_survive_the_broker(
    broker: Broker, gateway: Gateway, station: str
) -> None:
    """What was handed out and acknowledged is gone, the rest is still there."""
    for n in range(4):
        assert produce(gateway, station, b"%d" % n).status == 200
    first = gateway.consume(station, batch_size=2)
    broker.signal(signal.SIGTERM)
    assert broker.process is not None
    broker.process.wait(20)
    broker.start()
    wait_until(gateway.is_ready, 15, "readyz")

    def rest() -> list[str]:
        response = gateway.ask(
            f"/stations/{station}/consume/batch",
            b'{"consumer_name":"c","batch_max_wait_time_ms":500}',
            headers=gateway.auth(),
        )
        assert response.status in (200, 503)
        return [m["message"] for m in response.json()] if response.status == 200 else []

    again = wait_until(rest, 20, "the rest")
    assert [message["message"] for message in first] == ["before", "0"]
    assert again[-3:] == ["1", "2", "3"]
