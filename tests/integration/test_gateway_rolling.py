"""Rolling restarts of real gateways under a small load: nothing is lost, refused or doubled."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_gateway_workers import children
from tests.wire.gateway import Gateway, wait_until
from tests.wire.raw_http import build

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="children are looked up in /proc"
)

STATION = "rolling"
TARGET = f"/stations/{STATION}/produce/single"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


class Load(threading.Thread):
    """Produces numbered messages, on one connection for as long as it lasts or on one for each."""

    def __init__(self, gateway: Gateway, name: str, *, keeps: bool, path: str = "") -> None:
        super().__init__()
        self.stored: list[bytes] = []
        self.troubles: list[str] = []
        self.closes_count = 0
        self.is_ending = False
        self._headers = gateway.auth()
        self._address = gateway.address
        self._name = name
        self._keeps = keeps
        self._path = path

    def run(self) -> None:
        """Produce until it is told to end; a 503 or an OSError is a trouble, never tried again."""
        connection = self._make()
        number = 0
        try:
            while not self.is_ending:
                body = f"{self._name}-{number}".encode()
                connection.request("POST", TARGET, body, self._headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    self.troubles.append(f"{answer.status} {text!r}")
                    return
                self.stored.append(body)
                self.closes_count += answer.will_close
                number += 1
                if not self._keeps:
                    connection.close()
        except (OSError, http.client.HTTPException) as error:
            self.troubles.append(f"{self._name}: {error!r}")
        finally:
            connection.close()

    def _make(self) -> http.client.HTTPConnection:
        if self._path:
            return UnixConnection(self._path)
        return http.client.HTTPConnection(*self._address, timeout=20)


@contextmanager
def loaded(gateway: Gateway, path: str = "") -> Iterator[list[Load]]:
    """Run a small load; at the end nobody had trouble, and each 200 is in the stream once."""
    gateway.produce(STATION, b"first")
    loads = [
        Load(gateway, "keeping", keeps=True),
        Load(gateway, "coming", keeps=False),
        *([Load(gateway, "local", keeps=False, path=path)] if path else []),
    ]
    for load in loads:
        load.start()
    try:
        yield loads
    finally:
        for load in loads:
            load.is_ending = True
        for load in loads:
            load.join(30)
    assert [load.troubles for load in loads] == [[] for _ in loads], gateway.log_text()
    found = [message.data for message in gateway.stored(STATION)]
    assert len(found) == len(set(found))
    assert set(found) == {b"first", *(body for load in loads for body in load.stored)}


def wait_for_more(loads: list[Load]) -> None:
    """Wait until each load has had some more messages stored."""
    before = [len(load.stored) for load in loads]
    wait_until(
        lambda: all(
            load.troubles or len(load.stored) > count + 3
            for load, count in zip(loads, before, strict=True)
        ),
        what="progress of the load",
    )


@contextmanager
def running(tmp_path: Path, *flags: str, grace_ms: int = 2000) -> Iterator[Gateway]:
    config = tmp_path / "fastgw.toml"
    config.write_text(
        f'[limits]\ndrain_grace_ms = {grace_ms}\n[[listeners]]\nlisten = "unix:{tmp_path}/sock"\n'
    )
    config.chmod(0o600)
    gateway = Gateway(tmp_path / "data", ("--config", str(config), *flags)).start()
    try:
        yield gateway
    finally:
        assert gateway.stop() == 0, gateway.log_text()
    assert "Traceback" not in gateway.log_text()
    assert not (tmp_path / "sock").exists()


def pid_of(gateway: Gateway) -> int:
    assert gateway.process is not None
    return gateway.process.pid


# --- workers one after another --------------------------------------------------------------------


def test_rolling_restart_under_load_loses_and_refuses_nothing(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2") as gateway:
        old = set(wait_until(lambda: children(pid_of(gateway))))
        with loaded(gateway, str(tmp_path / "sock")) as loads:
            wait_for_more(loads)
            os.kill(pid_of(gateway), signal.SIGUSR2)
            wait_until(lambda: "every worker was replaced" in gateway.log_text(), what="the roll")
            wait_for_more(loads)
        new = set(children(pid_of(gateway)))
        assert len(new) == 2
        assert not new & old
        # The welcome is for the start.
        assert gateway.log_text().count("is ready at") == 1


def test_one_worker_hands_over_to_a_new_gateway_in_its_process(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        folder = Path(f"/proc/{pid_of(gateway)}")
        with loaded(gateway, str(tmp_path / "sock")) as loads:
            wait_for_more(loads)
            files_max = 0
            for number in range(1, 4):
                os.kill(pid_of(gateway), signal.SIGUSR2)
                wait_until(lambda n=number: gateway.log_text().count("old gateway has left") == n)
                wait_for_more(loads)
                if number == 1:
                    files_max = len(list((folder / "fd").iterdir())) + 3
            assert next(load for load in loads if load.closes_count).stored
            # Nothing of an old gateway stays: sockets, links to the broker, threads. How many of
            # the load are open at a time differs.
            wait_until(lambda: len(list((folder / "fd").iterdir())) <= files_max, what="closing")
        assert len(list((folder / "task").iterdir())) < 20


def test_request_in_flight_is_answered_by_the_worker_that_leaves(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2") as gateway:
        gateway.produce(STATION, b"x")
        assert len(gateway.consume(STATION)) == 1
        body = b'{"consumer_name":"tests","batch_max_wait_time_ms":1500}'
        request = build(f"/stations/{STATION}/consume/batch", body, headers=gateway.auth())
        with ExitStack() as stack:
            waiting = [stack.enter_context(gateway.wire()) for _ in range(4)]
            for wire in waiting:
                wire.send(request)
            os.kill(pid_of(gateway), signal.SIGUSR2)
            assert [wire.expect().status for wire in waiting] == [200] * 4
        wait_until(lambda: "every worker was replaced" in gateway.log_text(), what="the roll")


def test_idle_client_of_a_leaving_worker_may_ask_once_more(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2", grace_ms=8000) as gateway, ExitStack() as stack:
        idle = [stack.enter_context(gateway.wire()) for _ in range(6)]
        # WHY this path: the address is served, so that a probe on a connection that stands must
        # not see a gateway that goes away.
        request = build("/readyz", None, method="GET")
        for wire in idle:
            wire.send(request)
            assert wire.expect().header("connection") is None
        os.kill(pid_of(gateway), signal.SIGUSR2)
        wait_until(lambda: len(children(pid_of(gateway))) == 3, what="the first successor")
        closed = 0
        while closed < len(idle):
            # Whoever is with a leaving worker is answered and told so; the others just answered.
            for wire in list(idle):
                wire.send(request)
                answer = wire.expect()
                assert answer.status == 200
                if answer.header("connection") == "close":
                    assert wire.drain() == []
                    idle.remove(wire)
            if "every worker was replaced" in gateway.log_text():
                break
        assert idle == []


# --- a worker's death -----------------------------------------------------------------------------


def test_clients_in_the_queue_of_a_killed_worker_are_served_by_its_successor(
    tmp_path: Path,
) -> None:
    with running(tmp_path, "--workers", "2") as gateway:
        request = build(TARGET, b"queued", headers=gateway.auth())
        workers = wait_until(lambda: children(pid_of(gateway)))
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
            wait_until(lambda w=worker: state_of(w) == "T", what="a standstill")
        with ExitStack() as stack:
            wires = [stack.enter_context(gateway.wire()) for _ in range(8)]
            for wire in wires:
                wire.send(request)
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            assert [wire.expect().status for wire in wires] == [200] * 8
        assert len(gateway.stored(STATION)) == 8


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_worker_that_dies_again_and_again_does_not_keep_clients_waiting(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2") as gateway:
        gateway.produce(STATION, b"first")
        victim, other = wait_until(lambda: children(pid_of(gateway)))
        for _ in range(6):
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda v=victim: f"pid {v}) ended" in gateway.log_text(), what="its death")
            if "again in 3.2 s" in gateway.log_text():
                break
            found = wait_until(lambda v=victim: set(children(pid_of(gateway))) - {v, other})
            (victim,) = found
        for _ in range(8):
            assert gateway.produce(STATION, b"served").status == 200
        # All of them were served while the worker was not there, so none waited for it.
        assert children(pid_of(gateway)) == [other]
