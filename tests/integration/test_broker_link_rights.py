"""What becomes of requests whose right at the broker is gone: the inbox, a pull, an ack."""

from __future__ import annotations

import json
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.faults.brokers import ConfiguredBroker
from tests.wire.gateway import Gateway, nats_server_path, stored, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.wire.raw_http import Response

pytestmark = pytest.mark.skipif(nats_server_path() is None, reason="nats-server is not installed")

PASSWORD: Final = "data-password-of-the-test"
ACK_TIMEOUT_S: Final = 0.5
WAIT_MS: Final = 1000
PATIENT_MS: Final = 10_000
"""Far above what a refusal takes, on a busy machine too."""

ANSWER_S_MAX: Final = 5.0
INBOXES: Final = ("_INBOX.>",)
NO_INBOXES: Final = ("nothing.>",)
MESSAGES: Final = 40
TOLD: Final = ("Permissions Violation for Subscription", "no longer lets us hear its acks")
LINES_MAX: Final = 4
START_LINES_MAX: Final = 12


def options(*denied: str, inboxes: tuple[str, ...] = INBOXES) -> dict[str, Any]:
    """A control user who may do everything, and a data user who may not do what is named."""
    publish = {"allow": [">"], "deny": ["$JS.API.STREAM.>", *denied]}
    permissions = {"publish": publish, "subscribe": {"allow": list(inboxes)}}
    control = {"user": ConfiguredBroker.user, "password": ConfiguredBroker.password}
    data = {"user": "data", "password": PASSWORD, "permissions": permissions}
    return {"authorization": {"users": [control, data]}}


@contextmanager
def running(
    folder: Path, settings: dict[str, Any], *, is_started: bool = True
) -> Iterator[tuple[ConfiguredBroker, Gateway]]:
    env = {
        "FASTGW_NATS_DATA_USER": "data",
        "FASTGW_NATS_DATA_PASSWORD": PASSWORD,
        "FASTGW_STATIONS_AUTO_CREATE": "true",
        "FASTGW_AUTH_MODE": "none",
        "FASTGW_LIMITS_ACK_TIMEOUT_MS": str(int(ACK_TIMEOUT_S * 1000)),
        "FASTGW_LIMITS_WAITING_MS_MAX": "500",
        "FASTGW_NATS_RECONNECT_WAIT_MS_MAX": "100",
    }
    broker = ConfiguredBroker(folder / "broker", options=settings)
    broker.start()
    gateway = Gateway(folder / "gateway", flags=("--nats", broker.url), env=env)
    try:
        if is_started:
            gateway.start()
        yield broker, gateway
        if gateway.process is not None and gateway.process.poll() is None:
            assert gateway.stop() == 0
            assert "Traceback" not in gateway.log_text()
            assert PASSWORD not in gateway.log_text()
    finally:
        if gateway.process is not None:
            gateway.stop(signal.SIGKILL)
        broker.kill()


def is_told(gateway: Gateway) -> bool:
    return any(text in gateway.log_text() for text in TOLD)


def produce(gateway: Gateway, station: str, body: bytes = b"1") -> Response:
    return gateway.ask(f"/stations/{station}/produce/single", body)


def consume(gateway: Gateway, station: str, count: int = 1, wait_ms: int = WAIT_MS) -> Response:
    body = {"consumer_name": "c", "batch_size": count, "batch_max_wait_time_ms": wait_ms}
    return gateway.ask(f"/stations/{station}/consume/batch", json.dumps(body).encode())


def test_link_inbox_lost_by_a_reload_is_told_and_no_request_hangs(tmp_path: Path) -> None:
    with running(tmp_path, options()) as (broker, gateway):
        assert produce(gateway, "a").status == 200
        broker.reload(options(inboxes=NO_INBOXES))
        started = time.monotonic()
        answer = produce(gateway, "a", b"2")
        assert answer.status in (503, 504), answer
        assert time.monotonic() - started < ANSWER_S_MAX
        wait_until(lambda: is_told(gateway), ANSWER_S_MAX, "a line about the inbox")
        # Nobody is told "empty" by a gateway that cannot hear.
        assert consume(gateway, "a").status == 503
        assert sum(map(gateway.log_text().count, TOLD)) <= LINES_MAX, gateway.log_text()
        broker.reload(options())
        wait_until(lambda: produce(gateway, "a", b"3").status == 200, ANSWER_S_MAX, "the inbox")
        assert gateway.ask("/readyz", None, method="GET").status == 200


def test_link_inbox_refused_from_the_start_is_not_ready(tmp_path: Path) -> None:
    with running(tmp_path, options(), is_started=False) as (broker, gateway):
        gateway.start()
        assert produce(gateway, "a").status == 200
        gateway.stop()
        broker.reload(options(inboxes=NO_INBOXES))
        with pytest.raises(AssertionError, match="Permissions Violation for Subscription"):
            gateway.start()
        assert gateway.log_text().count("\n") <= START_LINES_MAX, gateway.log_text()
        bodies = [one.data for one in stored(broker.url, None, None, "a")]
        assert bodies == [b"1"]


def test_link_pull_refused_is_403_for_that_consume_alone(tmp_path: Path) -> None:
    denied = "$JS.API.CONSUMER.MSG.NEXT.secret.>"
    with running(tmp_path, options(denied)) as (broker, gateway):
        for station in ("secret", "open"):
            assert produce(gateway, station).status == 200
        started = time.monotonic()
        answer = consume(gateway, "secret", wait_ms=PATIENT_MS)
        assert (answer.status, answer.header("error-code")) == (403, "forbidden"), answer
        assert time.monotonic() - started < PATIENT_MS / 1000
        assert [one["message"] for one in consume(gateway, "open").json()] == ["1"]
        broker.reload(options())
        assert [one["message"] for one in consume(gateway, "secret").json()] == ["1"]


def test_link_acks_refused_leave_messages_and_few_lines(tmp_path: Path) -> None:
    with running(tmp_path, options("$JS.ACK.>")) as (_, gateway):
        for number in range(MESSAGES):
            assert produce(gateway, "a", b"%d" % number).status == 200
        assert len(consume(gateway, "a", MESSAGES).json()) == MESSAGES
        log = "Permissions Violation for Publish"
        wait_until(lambda: log in gateway.log_text(), ANSWER_S_MAX, "a line about the acks")
        assert produce(gateway, "a").status == 200
        assert gateway.log_text().count(log) <= 2, gateway.log_text()
