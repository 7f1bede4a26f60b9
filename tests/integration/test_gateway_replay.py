"""A broker is killed with publishes under way: those with an id are stored once, and answered."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Final

import requests

from tests.wire.gateway import Broker, Gateway, stored, wait_until
from tests.wire.raw_http import build

if TYPE_CHECKING:
    from pathlib import Path

TARGET: Final = "/stations/kept/produce/single"


def in_flight(gateway: Gateway) -> float:
    text = requests.get(f"{gateway.url}/metrics", timeout=5).text
    (line,) = re.findall(r"^fastgw_publishes_in_flight (\d+)$", text, re.MULTILINE)
    return float(line)


def test_message_with_an_id_outlives_a_killed_broker(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker").start()
    env = {"FASTGW_STATIONS_AUTO_CREATE": "true", "FASTGW_LIMITS_WAITING_MS_MAX": "20000"}
    gateway = Gateway(tmp_path / "data", ("--nats", broker.url), env)
    try:
        gateway.start()
        gateway.produce("kept", b"first")
        broker.freeze()
        with gateway.wire() as named, gateway.wire() as nameless:
            named.send(build(TARGET, b"named", headers=gateway.auth(Idempotency_Key="k")))
            nameless.send(build(TARGET, b"nameless", headers=gateway.auth()))
            # The broker's kernel has both then, and its process none.
            wait_until(lambda: in_flight(gateway) == 2, what="both publishes")
            broker.kill()
            assert nameless.receive().status == 503
            broker.start()
            answer = named.receive()
        assert (answer.status, answer.json()) == (200, {"error": None, "success": True})
        parts = broker.user, broker.password
        messages = [one.data for one in stored(broker.url, *parts, "kept")]
        assert messages == [b"first", b"named"]
    finally:
        gateway.stop()
        if broker.process is not None and broker.process.poll() is None:
            broker.signal(signal.SIGCONT)
            broker.kill()
