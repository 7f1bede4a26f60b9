"""`fastgw bench` against real gateways: what it counts, what it stores, and whom it tells what."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.certificates import Authority
from tests.integration.test_gateway_restart import _plain
from tests.wire.gateway import (
    Gateway,
    ask_broker,
    clean_env,
    fastgw,
    free_port,
    run_fastgw,
    serving,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE_PER_S = 20.0
WAIT_S_MAX = 30.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    env = {"FASTGW_RATE_KEY_REQUESTS_PER_S": str(RATE_PER_S), "FASTGW_RATE_BURST_S": "1.0"}
    with serving(tmp_path_factory.mktemp("bench") / "data", env=env) as running:
        yield running


def bench(
    gateway: Gateway, *arguments: str, env: dict[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command with the admin's token from the environment, unless told otherwise."""
    env = {"FASTGW_BENCH_TOKEN": gateway.token()} if env is None else env
    done = run_fastgw("bench", gateway.url, *arguments, env=env, stdin=stdin)
    assert "Traceback" not in done.stderr
    assert gateway.token() not in done.stdout + done.stderr
    return done


def count_stored(gateway: Gateway, station: str) -> int:
    """Count the messages of a station."""
    state = ask_broker(gateway, f"STREAM.INFO.{station}", {}).get("state", {})
    assert isinstance(state, dict)
    return int(state["messages"])


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    told = json.loads(done.stdout)
    assert isinstance(told, dict)
    return told


def test_single_messages_are_stored_and_counted(gateway: Gateway) -> None:
    done = bench(gateway, "--rate", "200", "--seconds", "0.5", "--station", "ones", "--json")
    assert done.returncode == 0, done.stderr
    told = report_of(done)
    assert (told["due"], told["succeeded"], told["unsent"]) == (100, 100, 0)
    assert told["statuses"] == {"200": 100}
    assert told["error_codes"] == told["failures"] == {}
    assert told["reconnected"] == 0
    assert told["body_bytes"] == 120
    assert told["url"] == gateway.url
    assert 0 < told["latency"]["p50_ms"] <= told["latency"]["p99_ms"] <= told["latency"]["max_ms"]
    assert count_stored(gateway, "ones") == 101, "the trial is stored, too, and counts nowhere"
    stored = gateway.stored("ones")[-1]
    assert len(stored.data) == 120
    assert json.loads(stored.data)["bench"].strip("x") == ""


def test_batches_of_a_file_are_stored_with_their_headers(gateway: Gateway, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"n": 1}')
    options = ["--rate", "50", "--seconds", "0.2", "--batch", "7", "--body", str(body), "--json"]
    done = bench(gateway, *options, "--station", "sevens", "--header", "X-Run: one two")
    assert done.returncode == 0, done.stderr
    told = report_of(done)
    assert (told["due"], told["batch"], told["body_bytes"]) == (10, 7, 64)
    assert told["messages_per_s"] == pytest.approx(7 * told["rate_answered"], rel=0.01)
    assert count_stored(gateway, "sevens") == 77
    stored = gateway.stored("sevens")[0]
    assert stored.data == b'{"n": 1}'
    assert stored.header("X-Run") == "one two"


def test_table_tells_rate_statuses_and_percentiles(gateway: Gateway) -> None:
    done = bench(gateway, "--rate", "100", "--seconds", "0.3", "--connections", "4")
    assert done.returncode == 0, done.stderr
    first = rf"{gateway.url}, station bench: single messages, bodies of 120 bytes, 4 connections"
    assert done.stdout.splitlines()[0] == first
    assert re.search(r"^rate asked +100/s for 0.3 s$", done.stdout, re.MULTILINE)
    assert re.search(r"^requests +30 due, 30 answered$", done.stdout, re.MULTILINE)
    assert re.search(r"^statuses +200: 30$", done.stdout, re.MULTILINE)
    assert re.search(r"^MILLISECONDS +p50 +p90 +p99 +p99\.9 +max +mean$", done.stdout, re.MULTILINE)
    assert re.search(r"^latency, since it was due( +\d+\.\d{3}){6}$", done.stdout, re.MULTILINE)
    assert "of 0.3 s" not in done.stderr, "there is no line of progress without a terminal"


def test_refusals_are_told_by_their_error_code(gateway: Gateway, tmp_path: Path) -> None:
    made = run_fastgw("key", "add", "bench", "--data", str(gateway.data), "--json")
    assert made.returncode == 0, made.stderr
    secret = json.loads(made.stdout)["key"]
    file = tmp_path / "key"
    file.write_text(f"{secret}\n")
    options = ["--rate", "100", "--seconds", "0.5", "--station", "keyed", "--json"]
    wait_until(lambda: gateway.ask("/stations/keyed/produce/single", b"{}",
               headers={"X-API-Key": secret}).status == 200)  # fmt: skip
    done = bench(gateway, *options, "--key-file", str(file), env={})
    told = report_of(done)
    assert done.returncode == 1
    assert set(told["statuses"]) == {"200", "429"}
    assert told["error_codes"] == {"rate-limited": told["statuses"]["429"]}
    assert told["succeeded"] == told["statuses"]["200"]
    assert secret not in done.stdout + done.stderr


def test_credential_comes_from_standard_input_or_a_variable(gateway: Gateway) -> None:
    short = ("--rate", "50", "--seconds", "0.1", "--json")
    piped = bench(gateway, *short, "--token-file", "-", env={}, stdin=f"{gateway.token()}\n")
    assert piped.returncode == 0, piped.stderr
    none = bench(gateway, *short, env={})
    assert none.returncode == 1
    assert none.stderr == "fastgw: the first request was answered with 401 unauthorized\n"
    wrong = bench(gateway, *short, env={"FASTGW_BENCH_KEY": "fgw_" + "x" * 43})
    assert wrong.stderr == "fastgw: the first request was answered with 401 unauthorized\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "are numbers"),
        (["--rate", "100001"], "--rate"),
        (["--connections", "10001"], "--connections"),
        (["--connections", "0"], "--connections"),
        (["--seconds", "3601"], "--seconds"),
        (["--seconds", "0.09"], "--seconds"),
        (["--batch", "20001"], "--batch"),
        (["--size", "11"], "--size"),
        (["--size", "67108865"], "--size"),
        (["--size", "20000", "--batch", "10000"], "a body of 200010001 bytes exceeds"),
        (["--header", "Authorization: Bearer hidden"], "use --key-file"),
        (["--size", "20", "--body", "-"], "--size and --body exclude each other"),
        (["--key-file", "-", "--token-file", "-"], "--key-file and --token-file exclude"),
        (["--ca-file", __file__], "--ca-file"),
    ],
)
def test_option_beyond_its_bound_is_refused(
    gateway: Gateway, arguments: list[str], text: str
) -> None:
    done = bench(gateway, *arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert "hidden" not in done.stderr
    assert done.stdout == ""


def test_connections_beyond_the_open_files_are_refused(gateway: Gateway) -> None:
    line = f"ulimit -n 200 && exec {' '.join(fastgw('bench', gateway.url))} --connections 300"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        env=clean_env(),
        capture_output=True,
        text=True,
        timeout=WAIT_S_MAX,
        check=False,
    )
    assert done.returncode == 1
    assert "300 connections need 364 open files, and this process may have 200" in done.stderr


def test_gateway_that_is_not_there_is_told(gateway: Gateway) -> None:
    port = free_port()
    done = run_fastgw("bench", f"http://127.0.0.1:{port}", "--seconds", "1")
    assert done.returncode == 1
    assert re.fullmatch(rf"fastgw: cannot connect to 127\.0\.0\.1:{port}: .*\n", done.stderr)
    secret = run_fastgw("bench", "http://ann:hidden@127.0.0.1:1")
    assert secret.returncode == 2
    assert "hidden" not in secret.stderr


def test_interrupted_run_prints_what_was_measured(gateway: Gateway) -> None:
    before = count_stored(gateway, "bench")
    process = subprocess.Popen(
        fastgw("bench", gateway.url, "--rate", "50", "--seconds", "600", "--json"),
        env=clean_env({"FASTGW_BENCH_TOKEN": gateway.token()}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: count_stored(gateway, "bench") >= before + 10)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S_MAX)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    told = json.loads(out)
    assert told["interrupted"]
    assert 9 <= told["succeeded"] <= told["due"] < 30_000
    assert "Traceback" not in err


def test_terminal_shows_a_line_of_progress_that_goes_away(gateway: Gateway) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        fastgw("bench", gateway.url, "--rate", "100", "--seconds", "1.4"),
        env=clean_env({"FASTGW_BENCH_TOKEN": gateway.token(), "TERM": "xterm", "COLUMNS": "140"}),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        seen = read_all(ours)
        assert process.wait(WAIT_S_MAX) == 0
        assert process.stdout is not None
        assert b"latency, since it was due" in process.stdout.read()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        assert process.stdout is not None
        process.stdout.close()
    plain = _plain(seen)
    assert re.search(r"of 1\.4 s +\d+ answers/s  p50 +\d+\.\d\d ms  p99 +\d+\.\d\d ms", plain)
    drawn, _, after = seen.partition("\r\x1b[K")
    assert drawn
    assert "answers/s" not in after, "only warnings may follow"
    assert gateway.token() not in seen


def read_all(terminal: int) -> str:
    """Read what a process writes to its terminal, until it ends."""
    seen = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux: nobody has the other side open any more.
            break
        if not data:
            break
        seen += data
    return seen.decode()


def test_https_is_spoken_to_who_shows_a_trusted_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    issued = authority.issue("server", "localhost", is_server=True)
    config = tmp_path / "fastgw.toml"
    config.write_text(
        '[[listeners]]\nlisten = "127.0.0.1:0"\n[listeners.tls]\n'
        f'cert_file = "{issued.cert_file}"\nkey_file = "{issued.key_file}"\n'
    )
    config.chmod(0o600)
    short = ("--rate", "100", "--seconds", "0.2", "--json")
    with serving(tmp_path / "data", ("--config", str(config))) as gateway:
        url = json.loads((gateway.data / "gateway.json").read_bytes())["listeners"][1]
        assert url.startswith("https://")
        env = {"FASTGW_BENCH_TOKEN": gateway.token()}
        done = run_fastgw("bench", url, *short, "--ca-file", str(authority.ca_file), env=env)
        assert done.returncode == 0, done.stderr
        assert report_of(done)["succeeded"] == 20
        assert count_stored(gateway, "bench") == 21
        refused = run_fastgw("bench", url, *short, env=env)
        assert refused.returncode == 1
        assert "certificate verify failed" in refused.stderr.lower()
        assert count_stored(gateway, "bench") == 21
