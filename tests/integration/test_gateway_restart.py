"""Starts and stops: what survives a second start, and the one line that explains a failed one."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import requests

from tests.wire.gateway import (
    ADMIN,
    PASSWORD,
    Gateway,
    clean_env,
    fastgw,
    free_port,
    run_fastgw,
    wait_until,
)
from tests.wire.raw_http import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that a test starts and stops by itself."""
    gateway = Gateway(tmp_path / "data")
    try:
        yield gateway
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.stop()


def is_running(pid: int) -> bool:
    """Whether a process is there; a zombie is not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
    except OSError:
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            return True
        return False


def test_second_start_keeps_everything(fresh: Gateway) -> None:
    fresh.start()
    pair = fresh.authenticate({"username": ADMIN, "password": PASSWORD}).json()
    fresh.produce("kept.one", b"1", {"Nats-Msg-Id": "id-1"})
    fresh.produce("kept.one", b"2")
    assert len(fresh.consume("kept.one", batch_size=1)) == 1
    arguments = ("--data", str(fresh.data))
    added = run_fastgw("user", "add", "ann", "--password-stdin", *arguments, stdin="ann-secret-1\n")
    assert added.returncode == 0, added.stderr
    assert fresh.stop() == 0
    # WHY: the admin in the store counts; a changed environment must not quietly replace it.
    fresh.start()
    headers = {"Authorization": f"Bearer {pair['jwt']}"}
    target = "/stations/kept.one/produce/single"
    assert fresh.ask(target, b"3", headers=headers).header("nats-sequence") == "3"
    refresh = json.dumps({"jwt_refresh_token": pair["jwt_refresh_token"]}).encode()
    assert fresh.ask("/auth/refreshToken", refresh).status == 200
    assert fresh.authenticate({"username": "ann", "password": "ann-secret-1"}).status == 200
    again = fresh.produce("kept.one", b"1", {"Nats-Msg-Id": "id-1"})
    assert again.header("nats-duplicate") == "true"
    assert [message.data for message in fresh.stored("kept.one")] == [b"1", b"2", b"3"]
    assert [message["message"] for message in fresh.consume("kept.one")] == ["2", "3"]


def test_killed_gateway_takes_its_broker_along_and_starts_again(fresh: Gateway) -> None:
    fresh.start()
    broker_pid = int(fresh.broker()["pid"])
    fresh.produce("kept", b"1")
    assert is_running(broker_pid)
    fresh.stop(signal.SIGKILL)
    wait_until(lambda: not is_running(broker_pid), 10, "the broker's end")
    fresh.start()
    assert [message.data for message in fresh.stored("kept")] == [b"1"]


def test_stop_ends_the_broker_and_frees_the_port(fresh: Gateway) -> None:
    fresh.start()
    broker_pid = int(fresh.broker()["pid"])
    port = fresh.address[1]
    assert fresh.stop() == 0
    assert not is_running(broker_pid)
    fresh.start(f"127.0.0.1:{port}")
    assert fresh.address[1] == port


def test_sigint_stops_like_sigterm(fresh: Gateway) -> None:
    fresh.start()
    assert fresh.stop(signal.SIGINT) == 0
    assert "Traceback" not in fresh.log_text()


def test_stop_answers_what_is_in_flight(fresh: Gateway) -> None:
    fresh.start()
    fresh.produce("drain", b"x")
    assert len(fresh.consume("drain")) == 1
    body = b'{"consumer_name":"c","batch_max_wait_time_ms":2000}'
    request = build("/stations/drain/consume/batch", body, headers=fresh.auth())
    with fresh.wire() as waiting, fresh.wire() as idle:
        idle.send(build("/", None, method="GET"))
        assert idle.expect().status == 200
        waiting.send(request)
        assert fresh.ask("/healthz", None, method="GET").status == 200
        assert fresh.process is not None
        fresh.process.send_signal(signal.SIGTERM)
        response = waiting.expect()
        assert response.status in (200, 503)
        assert response.header("connection") == "close"
        assert waiting.drain() == []
        assert idle.drain() == []
    assert fresh.stop() == 0


def test_data_has_no_readable_secret(fresh: Gateway) -> None:
    fresh.start()
    told = fresh.data / "broker.json"
    assert told.stat().st_mode & 0o077 == 0
    token = fresh.token()
    assert fresh.ask(f"/stations/s/produce/single?authorization={token}", b"x").status == 200
    assert fresh.ask(f"/stations/*/produce/single?authorization={token}", b"x").status == 400
    assert fresh.ask(f"/stations/s/produce/single?authorization={token}x", b"x").status == 401
    assert token not in fresh.log_text()
    assert PASSWORD not in fresh.log_text()
    assert fresh.broker()["password"] not in fresh.log_text()


def check_one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One clear line on stderr, the exit code, and no traceback."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def serve(data: Path, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    settings = {"FASTGW_ADMIN_USER": ADMIN, "FASTGW_ADMIN_PASSWORD": PASSWORD} | env
    return run_fastgw("serve", "--data", str(data), *flags, env=settings)


def test_port_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = serve(tmp_path / "data", "--listen", f"127.0.0.1:{port}")
    check_one_line(done, 1, str(port))


def test_broker_away_at_start_is_one_line(tmp_path: Path) -> None:
    port = free_port()
    url = f"nats://u:secret@127.0.0.1:{port}"
    done = serve(tmp_path / "data", "--listen", "127.0.0.1:0", FASTGW_NATS_URL=url)
    check_one_line(done, 1, str(port))
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "env", "word"),
    [
        (("--listen", "nonsense"), {}, "--listen"),
        (("--listen", "127.0.0.1:99999"), {}, "--listen"),
        (("--workers", "0"), {}, "--workers"),
        ((), {"FASTGW_LIMITS_ACK_TIMEOUT_MS": "soon"}, "FASTGW_LIMITS_ACK_TIMEOUT_MS"),
        (("--config", "/nowhere/fastgw.toml"), {}, "fastgw.toml"),
        (("--nats", "http://x"), {}, "--nats"),
    ],
)
def test_bad_config_is_one_line(
    tmp_path: Path, flags: tuple[str, ...], env: dict[str, str], word: str
) -> None:
    check_one_line(serve(tmp_path / "data", *flags, **env), 2, word)


def test_bad_config_file_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "fastgw.toml"
    path.write_text("[auth]\njwt_secret = 5\n")
    done = serve(tmp_path / "data", "--config", str(path))
    check_one_line(done, 2, "fastgw.toml", "jwt_secret")


def test_second_gateway_on_the_same_data_is_one_line(fresh: Gateway) -> None:
    fresh.start()
    done = serve(fresh.data, "--listen", "127.0.0.1:0")
    check_one_line(done, 1)
    assert fresh.produce("still", b"x").status == 200


def test_first_start_shows_a_password_once_and_lines_that_work(tmp_path: Path) -> None:
    """What a newcomer sees: an admin's password, and commands that can be pasted."""
    first = _serve_until_shown(tmp_path, "first", lambda text: _paste(text, tmp_path))
    (password,) = re.findall(r"^\W*password\s+(\S{12,})\s", first, re.MULTILINE | re.IGNORECASE)
    second = _serve_until_shown(tmp_path, "second", lambda text: None)
    assert password not in second


def _serve_until_shown(folder: Path, name: str, then: Callable[[str], None]) -> str:
    """Start without a configured admin, wait for what is printed, and return all of it."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            fastgw("serve", "--listen", "127.0.0.1:0", "--data", str(folder / "data")),
            env=clean_env(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            address = wait_until(lambda: _announced(folder / "data", process), what="gateway.json")
            wait_until(lambda: _is_ready(address), what="readyz")
            wait_until(lambda: "ready at" in log.read_text("utf-8"), 10, "the welcome")
            then(log.read_text("utf-8"))
        finally:
            process.terminate()
            code = process.wait(20)
    assert code == 0
    return _plain(log.read_text("utf-8"))


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _announced(data: Path, process: subprocess.Popen[bytes]) -> str | None:
    assert process.poll() is None
    try:
        told = json.loads((data / "gateway.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return str(told["address"]) if told["pid"] == process.pid else None


def _is_ready(address: str) -> bool:
    with suppress(requests.ConnectionError, requests.Timeout):
        return requests.get(f"{address}/readyz", timeout=5).status_code == 200
    return False


def _paste(text: str, folder: Path) -> None:
    """Run the printed commands in a shell, as a newcomer pastes them."""
    plain = _plain(text)
    lines = plain.splitlines()
    script: list[str] = []
    for number, line in enumerate(lines):
        is_start = re.match(r"\s*(curl\b|[A-Z_]+=\$\()", line)
        is_more = number > 0 and lines[number - 1].rstrip().endswith("\\")
        if is_start or (is_more and script):
            script.append(line.strip())
    assert script, plain
    env = {name: value for name, value in clean_env().items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(script)],
        capture_output=True, text=True, timeout=60, cwd=folder, env=env, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    assert '{"error":null,"success":true}' in done.stdout
    assert '"message":' in done.stdout, (script, done.stdout)


def test_who_is_told_that_it_is_ready_may_log_in_at_once(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "data")
    try:
        gateway.start()
        assert gateway.authenticate({"username": ADMIN, "password": PASSWORD}).status == 200
    finally:
        gateway.stop()
