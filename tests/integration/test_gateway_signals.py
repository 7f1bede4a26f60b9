"""What real gateways do with SIGHUP, SIGTERM and SIGINT, and with a worker that hangs."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import pytest

from fastgw.config import LimitsConfig
from tests.integration.certificates import Authority
from tests.integration.test_gateway_rolling import loaded, pid_of, state_of, wait_for_more
from tests.integration.test_gateway_workers import children
from tests.wire.gateway import ADMIN, PASSWORD, Gateway, is_pending, wait_until
from tests.wire.raw_http import Wire, build

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "[limits]\ndrain_grace_ms = 2000\nbody_bytes_max = 100000\n"


class Configured(Gateway):
    """A gateway whose configuration file a test rewrites."""

    def write(self, text: str) -> None:
        """Replace the file whole."""
        path = self.data.parent / "fastgw.toml"
        draft = path.with_suffix(".draft")
        draft.write_text(text)
        draft.chmod(0o600)
        draft.replace(path)

    def hang_up(self) -> None:
        """Have it read again."""
        os.kill(pid_of(self), signal.SIGHUP)

    def wait_log(self, text: str, count: int = 1) -> None:
        """Wait for a line of the log."""
        wait_until(lambda: self.log_text().count(text) >= count, what=text)


def configured(tmp_path: Path, text: str, *flags: str, **env: str) -> Configured:
    path = tmp_path / "fastgw.toml"
    path.write_text(text)
    path.chmod(0o600)
    return Configured(tmp_path / "data", ("--config", str(path), *flags), env)


@contextmanager
def running(tmp_path: Path, text: str, *flags: str, **env: str) -> Iterator[Configured]:
    gateway = configured(tmp_path, text, *flags, **env)
    gateway.start()
    try:
        yield gateway
    finally:
        code = gateway.stop()
    assert code == 0, gateway.log_text()
    assert "Traceback" not in gateway.log_text()


def wait_replaced(gateway: Configured, workers: str) -> None:
    gateway.wait_log("every worker was replaced" if workers == "2" else "the old gateway has left")


# --- SIGHUP ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_hang_up_brings_a_new_configuration_under_load(tmp_path: Path, workers: str) -> None:
    with running(tmp_path, BASE, "--workers", workers) as gateway:
        big = b"x" * 2000
        assert gateway.produce("other", big).status == 200
        login = {"username": ADMIN, "password": PASSWORD}
        assert gateway.authenticate(login).json()["expires_in"] == 15 * 60 * 1000
        with loaded(gateway) as loads:
            wait_for_more(loads)
            gateway.write(
                "[limits]\ndrain_grace_ms = 2000\nbody_bytes_max = 1000\n"
                "[auth]\ntoken_expiry_minutes = 7\n"
                '[cors]\norigins = ["https://shop.example"]\n[log]\nlevel = "debug"\n'
            )
            gateway.hang_up()
            wait_replaced(gateway, workers)
            wait_for_more(loads)
        gateway.wait_log(
            "changed: auth.token_expiry_minutes, limits.body_bytes_max, cors.origins, log.level"
        )
        target = "/stations/other/produce/single"
        assert gateway.ask(target, big, headers=gateway.auth()).status == 413
        told = gateway.authenticate(login).json()
        assert told["expires_in"] == 7 * 60 * 1000
        origin = {"Origin": "https://shop.example"}
        answer = gateway.ask("/healthz", None, method="GET", headers=origin)
        assert answer.header("access-control-allow-origin") == "https://shop.example"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_hang_up_with_a_mistake_keeps_everything_and_says_so_once(
    tmp_path: Path, workers: str
) -> None:
    with running(tmp_path, BASE, "--workers", workers) as gateway:
        before = set(children(pid_of(gateway)))
        gateway.write("[limits]\nbody_bytes_max = 10\nack_timeout_ms = 0\n")
        gateway.hang_up()
        gateway.wait_log("the configuration stays as it is")
        lines = [line for line in gateway.log_text().splitlines() if "stays as it is" in line]
        assert len(lines) == 1
        assert "fastgw.toml: limits.ack_timeout_ms = 0: must be" in lines[0]
        assert gateway.produce("kept", b"x" * 20).status == 200
        # The file mended, the next signal works.
        gateway.write(BASE.replace("100000", "10"))
        gateway.hang_up()
        wait_replaced(gateway, workers)
        target = "/stations/kept/produce/single"
        assert gateway.ask(target, b"x" * 20, headers=gateway.auth()).status == 413
        if workers == "2":
            assert not before & set(children(pid_of(gateway)))


def test_hang_up_names_what_needs_a_restart_and_brings_the_rest(tmp_path: Path) -> None:
    with running(tmp_path, BASE) as gateway:
        gateway.write('workers = 3\n[nats]\nsync_interval = "1s"\n' + BASE.replace("100000", "10"))
        gateway.hang_up()
        gateway.wait_log("the old gateway has left")
        # The flag --workers is not there, so the file's value is new.
        text = "a restart is needed for workers, nats.sync_interval; until then the old counts"
        assert text in gateway.log_text()
        target = "/stations/s/produce/single"
        assert gateway.ask(target, b"x" * 20, headers=gateway.auth()).status == 413


def test_hang_up_never_opens_a_door_that_only_a_restart_would_close(tmp_path: Path) -> None:
    """A configuration may be safe for its own addresses only, and the old ones stay."""
    port = free_port_everywhere()
    listener = f'[[listeners]]\nlisten = "0.0.0.0:{port}"\n'
    with running(tmp_path, BASE + listener) as gateway:
        gateway.write('[auth]\nmode = "none"\n' + BASE + listener.replace("0.0.0.0", "127.0.0.1"))
        gateway.hang_up()
        gateway.wait_log("the configuration stays as it is: a restart is needed for listeners")
        assert 'auth.mode = "none": anyone could produce' in gateway.log_text()
        assert gateway.ask("/stations/s/produce/single", b"x").status == 401


def free_port_everywhere() -> int:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_hang_up_to_a_broker_that_refuses_us_keeps_the_old_one(tmp_path: Path) -> None:
    """The new configuration is good by itself, and cannot serve: nothing changes."""
    (tmp_path / "broker").mkdir()
    with running(tmp_path / "broker", BASE) as owner:
        told = owner.broker()
        nats = (
            f'url = ["{told["url"]}"]\nuser = "{told["user"]}"\npassword = "{told["password"]}"\n'
        )
        assert owner.produce("kept", b"x").status == 200
        (tmp_path / "own").mkdir()
        with running(tmp_path / "own", BASE + "[nats]\n" + nats) as gateway:
            wrong = nats.replace(told["password"], "wrong-password")
            gateway.write(BASE + "[nats]\nconnect_timeout_ms = 500\n" + wrong)
            gateway.hang_up()
            gateway.wait_log("the old configuration stays in force")
            assert "wrong-password" not in gateway.log_text()
            assert gateway.is_ready()
            assert gateway.produce("kept", b"x").status == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_hang_up_changes_what_a_listener_asks_of_its_clients(tmp_path: Path, workers: str) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("server", "localhost", is_server=True)
    port = free_port_everywhere()
    listener = f'[[listeners]]\nlisten = "127.0.0.1:{port}"\n'
    tls = f'tls = {{ cert_file = "{issued.cert_file}", key_file = "{issued.key_file}" }}\n'
    address, context = ("127.0.0.1", port), authority.client()
    with running(tmp_path, BASE + listener, "--workers", workers) as gateway:
        plain = http.client.HTTPConnection(*address, timeout=10)
        plain.request("GET", "/healthz")
        assert plain.getresponse().read()
        # Files that cannot be used are a mistake like any other.
        gateway.write(BASE + listener + tls.replace(".key", ".pem"))
        gateway.hang_up()
        gateway.wait_log("the configuration stays as it is")
        gateway.write(BASE + listener + tls + 'serves = "admin"\n')
        gateway.hang_up()
        # The connection that stands is answered as it began, and told to come again.
        gateway.wait_log("a new gateway serves" if workers == "1" else "was read again; changed:")
        plain.request("GET", "/healthz")
        assert plain.getresponse().read()
        plain.close()
        wait_replaced(gateway, workers)
        secure = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)
        secure.request("POST", "/stations/s/produce/single", b"x", gateway.auth())
        assert secure.getresponse().status == 404
        secure.close()


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(LimitsConfig(), "drain_delay_ms"), reason="no such key yet")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_end_says_so_first_and_serves_on_for_the_delay(tmp_path: Path, workers: str) -> None:
    text = BASE + "drain_delay_ms = 5000\n"
    with running(tmp_path, text, "--workers", workers) as gateway:
        headers = gateway.auth()
        request = build("/stations/late/produce/single", b"x", headers=headers)
        with gateway.wire() as kept:
            kept.send(request)
            assert kept.expect().header("connection") is None
            os.kill(pid_of(gateway), signal.SIGTERM)
            wait_until(lambda: not gateway.is_ready(), 3, "readiness to turn")

            def is_told(wire: Wire) -> bool:
                wire.send(request)
                answer = wire.expect()
                assert answer.status == 200
                return answer.header("connection") == "close"

            # Newcomers are served, and everyone is told to come back elsewhere; the worker that
            # answers may have heard of the end a moment after the one that told of it.
            wait_until(lambda: is_told(kept), 2, "the one that stands to be told")
            with gateway.wire() as newcomer:
                wait_until(lambda: is_told(newcomer), 2, "a newcomer to be told")
            assert kept.drain() == []
        assert gateway.process is not None
        assert gateway.process.wait(20) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_end_answers_those_who_were_in_the_queue_already(tmp_path: Path, workers: str) -> None:
    with running(tmp_path, BASE, "--workers", workers) as gateway:
        gateway.produce("queue", b"first")
        request = build("/stations/queue/produce/single", b"x", headers=gateway.auth())
        pids = children(pid_of(gateway)) if workers == "2" else [pid_of(gateway)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda p=pid: state_of(p) == "T", what="a standstill")
        with ExitStack() as stack:
            wires = [stack.enter_context(gateway.wire()) for _ in range(8)]
            for wire in wires:
                wire.send(request)
            os.kill(pid_of(gateway), signal.SIGTERM)
            if workers == "2":
                wait_until(
                    lambda: all(is_pending(pid, signal.SIGTERM) for pid in pids),
                    what="the parent's word",
                )
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            assert [wire.expect().status for wire in wires] == [200] * 8
        assert gateway.process is not None
        assert gateway.process.wait(20) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_second_signal_ends_at_once(tmp_path: Path, workers: str) -> None:
    text = BASE.replace("2000", "60000")
    gateway = configured(tmp_path, text, "--workers", workers)
    gateway.start()
    try:
        gateway.produce("wait", b"x")
        assert len(gateway.consume("wait")) == 1
        body = b'{"consumer_name":"tests","batch_max_wait_time_ms":25000}'
        request = build("/stations/wait/consume/batch", body, headers=gateway.auth())
        with gateway.wire() as waiting:
            waiting.send(request)
            assert gateway.ask("/healthz", None, method="GET").status == 200
            started = time.monotonic()
            os.kill(pid_of(gateway), signal.SIGTERM)
            gateway.wait_log("stopping: answering", int(workers))
            wait_until(lambda: time.monotonic() > started + 0.6, what="time for a second signal")
            os.kill(pid_of(gateway), signal.SIGTERM)
            assert gateway.process is not None
            assert gateway.process.wait(10) == 128 + signal.SIGTERM
        assert "told to end once more" in gateway.log_text()
        assert not (gateway.data / "broker.json").exists()
    finally:
        gateway.stop(signal.SIGKILL)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupt_of_the_whole_group_answers_what_is_in_flight(
    tmp_path: Path, workers: str
) -> None:
    """A terminal sends Ctrl-C to the workers, too; it counts once."""
    with running(tmp_path, BASE.replace("2000", "8000"), "--workers", workers) as gateway:
        gateway.produce("wait", b"x")
        assert len(gateway.consume("wait")) == 1
        body = b'{"consumer_name":"tests","batch_max_wait_time_ms":1500}'
        request = build("/stations/wait/consume/batch", body, headers=gateway.auth())
        with gateway.wire() as waiting:
            waiting.send(request)
            assert gateway.ask("/healthz", None, method="GET").status == 200
            for pid in [*(children(pid_of(gateway)) if workers == "2" else []), pid_of(gateway)]:
                os.kill(pid, signal.SIGINT)
            answer = waiting.expect()
            assert answer.status == 200
            assert answer.header("connection") == "close"
        assert gateway.process is not None
        assert gateway.process.wait(20) == 0


# --- a worker that hangs --------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(LimitsConfig(), "worker_silence_ms"), reason="no such key yet")
def test_worker_that_stands_still_is_replaced_and_its_clients_are_served(tmp_path: Path) -> None:
    text = BASE + "worker_silence_ms = 2000\n"
    with running(tmp_path, text, "--workers", "2") as gateway:
        request = build("/stations/s/produce/single", b"x", headers=gateway.auth())
        workers = wait_until(lambda: children(pid_of(gateway)))
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
            wait_until(lambda w=worker: state_of(w) == "T", what="a standstill")
        wires = [gateway.wire() for _ in range(6)]
        try:
            for wire in wires:
                wire.send(request)
            assert [wire.expect().status for wire in wires] == [200] * 6
        finally:
            for wire in wires:
                wire.close()
        # WHY: one worker may have got all six connections; the other is found when its time comes.
        hung = re.compile(r"worker \d \(pid (\d+)\) hangs")
        wait_until(
            lambda: {int(pid) for pid in hung.findall(gateway.log_text())} == set(workers),
            what="both to be found hanging",
        )
        assert json.loads((gateway.data / "gateway.json").read_bytes())["pid"] == pid_of(gateway)


# --- a clock that jumps ---------------------------------------------------------------------------

SHIM = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *offset_s;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FASTGW_TEST_CLOCK");
    int fd = path ? open(path, O_RDONLY) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) offset_s = page;
    if (fd >= 0) close(fd);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int code = syscall(SYS_clock_gettime, clock, now);
    if (!code && offset_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset_s;
    return code;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


@pytest.mark.skipif(sys.platform != "linux" or which("cc") is None, reason="needs Linux and a cc")
def test_clock_that_jumps_under_load_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "shim.c").write_text(SHIM)
    shim, clock = tmp_path / "shim.so", tmp_path / "clock"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", shim, tmp_path / "shim.c"], check=True, timeout=60
    )
    clock.write_bytes(struct.pack("q", 0))
    # A token that lives longer than the clock jumps; that one ends with its time is no harm.
    text = BASE + "[auth]\ntoken_expiry_minutes = 1000000\n"
    preload = f"{os.environ.get('LD_PRELOAD', '')} {shim}".strip()
    env = {"LD_PRELOAD": preload, "FASTGW_TEST_CLOCK": str(clock)}
    with running(tmp_path, text, "--workers", "2", **env) as gateway, loaded(gateway) as loads:
        workers = set(wait_until(lambda: children(pid_of(gateway))))
        for jump_s in (30 * 86_400, 60, 300 * 86_400, 3_600):
            with clock.open("r+b") as file:
                file.write(struct.pack("q", jump_s))
            wait_until(lambda j=jump_s: abs(lead_of(gateway) - j) < 5, 10, "the jump")
            wait_for_more(loads)
            assert gateway.is_ready()
        assert set(children(pid_of(gateway))) == workers
    assert "hangs" not in gateway.log_text()
    assert "dialling again" not in gateway.log_text()


def lead_of(gateway: Gateway) -> float:
    """How far the gateway's clock is ahead of ours, by the Date of an answer."""
    told = gateway.ask("/healthz", None, method="GET").header("date")
    assert told is not None
    return parsedate_to_datetime(told).timestamp() - time.time()
