"""Metrics of running gateways: summed over workers, kept when one dies, told to who may know."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.test_gateway_workers import children
from tests.wire.gateway import Gateway, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONNECTIONS = 24
"""The kernel spreads connections by hash: all on one of two workers is one case in 8 million."""

TIMEOUT_S = 20
STORED = 'fastgw_requests_total{route="single",status="200"}'


def read(gateway: Gateway, headers: dict[str, str] | None = None) -> dict[str, float]:
    """Scrape on a connection of its own; return each sample by its name and labels, as sent."""
    answer = requests.get(f"{gateway.url}/metrics", headers=headers, timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    samples = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation and family.type != "unknown", family
        for sample in family.samples:
            shown = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            samples[sample.name + (f"{{{shown}}}" if shown else "")] = sample.value
    return samples


def refusal(gateway: Gateway, headers: dict[str, str] | None = None, path: str = "/metrics") -> int:
    return requests.get(f"{gateway.url}{path}", headers=headers, timeout=TIMEOUT_S).status_code


def wait_told(gateway: Gateway, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """Scrape until a condition holds: a count may come a moment behind its answer."""
    told: dict[str, float] = {}

    def holds() -> bool:
        told.clear()
        told.update(read(gateway))
        return condition(told)

    try:
        wait_until(holds)
    except AssertionError as error:
        raise AssertionError({name: value for name, value in told.items() if value}) from error
    return told


@dataclass
class Fleet:
    """A gateway of two workers, and how many messages it has stored by now."""

    gateway: Gateway
    stored_count: int = 0

    def produce(self, station: str, count: int) -> None:
        """Store messages, each on a connection of its own."""
        for number in range(count):
            self.gateway.produce(station, b"%d" % number)
        self.stored_count += count

    def wait_counted(self) -> dict[str, float]:
        """Scrape until every message is counted, and not one too many."""
        return wait_told(self.gateway, lambda told: told[STORED] == self.stored_count)


def workers_of(gateway: Gateway) -> list[int]:
    assert gateway.process is not None
    return children(gateway.process.pid)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with serving(tmp_path_factory.mktemp("metrics") / "data", ("--workers", "2")) as running:
        wait_told(running, lambda told: told["fastgw_broker_live"] == 2)
        yield Fleet(running)


def test_counts_of_two_workers_are_told_by_either(fleet: Fleet) -> None:
    before = fleet.wait_counted()
    fleet.produce("counted", CONNECTIONS)
    for _ in range(8):
        told = fleet.wait_counted()
        for name in (
            "fastgw_publishes_total",
            'fastgw_acks_total{outcome="stored"}',
            "fastgw_ack_duration_seconds_count",
        ):
            assert told[name] - before[name] == CONNECTIONS, name
        assert told["fastgw_request_duration_seconds_count"] >= CONNECTIONS
        assert 0 < told["fastgw_ack_duration_seconds_sum"] < CONNECTIONS * TIMEOUT_S
    assert told["fastgw_workers"] == 2
    assert told["fastgw_workers_up"] == 2
    assert told["process_cpu_seconds_total"] > 0
    assert told["process_resident_memory_bytes"] > 2 * 10**6


def test_text_names_no_station_user_or_secret(fleet: Fleet) -> None:
    fleet.produce("orders-of-ann", 1)
    told = fleet.wait_counted()
    text = "\n".join(told)
    for name in ("orders-of-ann", "root", fleet.gateway.token()[:20], "127.0.0.1"):
        assert name not in text
    fleet.produce("another-station", 1)
    assert fleet.wait_counted().keys() == told.keys()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are in /proc")
def test_counts_outlive_a_killed_worker_and_its_gauges_do_not(fleet: Fleet) -> None:
    gateway = fleet.gateway
    fleet.produce("kept", CONNECTIONS)
    fleet.wait_counted()
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(gateway.address, TIMEOUT_S))
            for _ in range(CONNECTIONS)
        ]
        # The scrape's own connection counts, too.
        wait_told(gateway, lambda told: told["fastgw_connections"] == CONNECTIONS + 1)
        first, second = workers_of(gateway)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: first not in workers_of(gateway), what="the end of the worker")
        left = [each for each in idle if is_open(each)]
        assert 0 < len(left) < CONNECTIONS
        told = wait_told(
            gateway,
            lambda told: (
                told["fastgw_broker_live"] == 2 and told["fastgw_connections"] == len(left) + 1
            ),
        )
        assert second in workers_of(gateway)
        assert told[STORED] == fleet.stored_count
        assert told["fastgw_worker_starts_total"] == 3
        fleet.produce("kept", CONNECTIONS)
        fleet.wait_counted()


def is_open(one: socket.socket) -> bool:
    """Whether the peer has neither closed nor reset the connection."""
    one.setblocking(False)
    try:
        return one.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


# --- who may know -------------------------------------------------------------------------------


def test_metrics_on_loopback_are_open_but_for_web_pages(fleet: Fleet) -> None:
    gateway = fleet.gateway
    port = gateway.address[1]
    assert refusal(gateway, {"Host": f"localhost:{port}"}) == 200
    assert refusal(gateway, {"Host": f"rebound.example:{port}"}) == 401
    assert refusal(gateway, {"Origin": "https://evil.example"}) == 401
    assert refusal(gateway, {"X-Forwarded-For": "192.0.2.7"}) == 401
    assert refusal(gateway, {"Origin": "https://ours.example"} | gateway.auth()) == 200


def test_metrics_on_every_interface_need_an_admin_of_any_station(tmp_path: Path) -> None:
    env = {"FASTGW_METRICS_RESOURCES": "true"}
    gateway = Gateway(tmp_path / "data", env=env).start("0.0.0.0:0")
    try:
        assert refusal(gateway) == 401
        assert refusal(gateway, {"Authorization": "Bearer none"}) == 401
        for name, permission, status in (("scraper", "admin", 200), ("producer", "produce", 403)):
            made = requests.put(
                f"{gateway.url}/keys/{name}",
                json={"permissions": [permission], "stations": ["no-such-station"]},
                headers=gateway.auth(),
                timeout=TIMEOUT_S,
            )
            headers = {"Authorization": f"Bearer {made.json()['key']}"}
            assert refusal(gateway, headers) == status
        produced = gateway.ask("/stations/orders/produce/single", b"1", headers=headers)
        assert produced.status == 403
        resources = requests.get(
            f"{gateway.url}/monitoring/getResourcesUtilization", timeout=TIMEOUT_S
        )
        assert resources.status_code == 200
        assert list(resources.json()) == ["cpu", "memory", "storage"]
        assert resources.json()["cpu"] > 0 == resources.json()["storage"]
        assert 0 <= resources.json()["memory"] < 100
    finally:
        assert gateway.stop() == 0


def test_metrics_disabled_are_an_unknown_path(tmp_path: Path) -> None:
    with serving(tmp_path / "data", env={"FASTGW_METRICS_ENABLED": "false"}) as gateway:
        for path in ("/metrics", "/monitoring/getResourcesUtilization"):
            assert refusal(gateway, path=path) == 401
            assert refusal(gateway, gateway.auth(), path) == 404
