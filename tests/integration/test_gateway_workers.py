"""Several workers under one supervisor: real processes, real signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from tests.wire.gateway import ADMIN, PASSWORD, Gateway, free_port, wait_until

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="children are looked up in /proc"
)


def children(pid: int) -> list[int]:
    """The direct children of a process that are workers, not the broker."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split() if b"nats-server" not in command(int(child))]


def command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def is_alive(pid: int) -> bool:
    return command(pid) != b""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    started = Gateway(tmp_path / "data", ("--workers", "2")).start()
    yield started
    if started.process is not None and started.process.poll() is None:
        assert started.stop() == 0


def supervisor(gateway: Gateway) -> int:
    assert gateway.process is not None
    return gateway.process.pid


def test_workers_serve_side_by_side_with_one_secret(gateway: Gateway) -> None:
    assert len(wait_until(lambda: children(supervisor(gateway)))) == 2
    headers = gateway.auth()
    for number in range(20):
        # A connection each, so that the kernel spreads them over the workers.
        answer = requests.post(
            f"{gateway.url}/stations/many/produce/single",
            data=b"%d" % number,
            headers=headers,
            timeout=10,
        )
        assert answer.status_code == 200
    assert len(gateway.stored("many")) == 20


def test_worker_killed_is_replaced_and_the_others_serve_on(gateway: Gateway) -> None:
    first, second = wait_until(lambda: children(supervisor(gateway)))
    gateway.produce("kept", b"before")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: first not in children(supervisor(gateway)), what="the end of the worker")
    wait_until(lambda: len(children(supervisor(gateway))) == 2, what="a new worker")
    assert second in children(supervisor(gateway))
    wait_until(gateway.is_ready)
    assert gateway.produce("kept", b"after").status == 200
    assert f"pid {first}" in gateway.log_text()


def test_supervisor_killed_takes_its_workers_along(gateway: Gateway) -> None:
    workers = wait_until(lambda: children(supervisor(gateway)))
    gateway.stop(signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in workers), what="the end of the workers")


def test_broker_killed_is_started_again_by_the_supervisor(gateway: Gateway) -> None:
    gateway.produce("kept", b"before")
    text = Path(f"/proc/{supervisor(gateway)}/task/{supervisor(gateway)}/children").read_text()
    (broker,) = [int(pid) for pid in text.split() if b"nats-server" in command(int(pid))]
    os.kill(broker, signal.SIGKILL)
    wait_until(lambda: "starting it again" in gateway.log_text())
    wait_until(gateway.is_ready)
    headers = gateway.auth()
    target = "/stations/kept/produce/single"
    # The workers come back one by one, and the kernel picks which of them answers.
    wait_until(lambda: gateway.ask(target, b"after", headers=headers).status == 200)
    assert next(message.data for message in gateway.stored("kept")) == b"before"


def test_who_is_told_by_any_worker_that_it_is_ready_may_log_in_at_once(tmp_path: Path) -> None:
    # WHY a port that is known before: not the announcement counts here, but what a probe is told.
    port = free_port()
    login = {"username": ADMIN, "password": PASSWORD}
    gateway = Gateway(tmp_path / "data", ("--workers", "2"))
    with ThreadPoolExecutor(1) as other:
        starting = other.submit(gateway.start, f"127.0.0.1:{port}")
        asking = Gateway(tmp_path / "none", address=("127.0.0.1", port))
        try:
            wait_until(asking.is_ready, what="readyz")
            # On connections of their own, so that each worker is likely to be asked.
            assert [asking.authenticate(login).status for _ in range(4)] == [200] * 4
        finally:
            starting.result()
            assert gateway.stop() == 0


def test_workers_that_cannot_start_end_with_one_line(tmp_path: Path) -> None:
    from tests.wire.gateway import run_fastgw

    done = run_fastgw(
        "serve", "--listen", "127.0.0.1:0", "--workers", "2", "--nats", "nats://127.0.0.1:1",
        "--data", str(tmp_path / "data"),
    )  # fmt: skip
    assert done.returncode == 1
    assert "no broker at nats://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
