"""The benchmarks' own parts: parsing, judging, medians, results, and the floor at its work."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jwt
import msgspec
import pytest

from benchmarks import command, needs, proc, results
from benchmarks.broker import Broker, start_broker
from benchmarks.floor import SOURCE_FILE, build_floor
from benchmarks.harness import Record, judge
from benchmarks.load import wrk
from benchmarks.processes import (
    ROOT,
    Child,
    Failed,
    clean_environment,
    find_cores,
    find_free_port,
    run_bounded,
)
from benchmarks.subjects import (
    SUBJECTS,
    Bench,
    Running,
    find_left_out,
    start_ready,
    wait_for_answer,
)
from benchmarks.workloads import FORWARDED, POOL, WORKLOADS, Request, build_message

STAT = "4711 (a (b) c) S 4700 4711 4700 0 -1 4194304 99 0 0 0 {user} {system} 7 9 20 0 1 0 5 6 7"
OUTPUT = (
    "Running 2s test @ http://127.0.0.1:1\n  1 threads and 64 connections\n"
    'fastgw-load {"requests":1000,"duration_us":2000000,"p50_us":900,"p90_us":1000,"p99_us":2100,'
    '"p999_us":3000,"max_us":4000,"refused":0,"socket_errors":0}\n'
)
LOAD = wrk.Load(1000, 2_000_000, 900, 1000, 2100, 3000, 4000, 0, 0)
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def figures(cpu_us: float, problem: str = "", **more: float) -> results.Figures:
    given = {
        "requests": 1000, "rate": 500.0, "cpu_us": cpu_us, "broker_cpu_us": 3.0, "p50_us": 900,
        "p90_us": 950, "p99_us": 1500, "p999_us": 1600, "max_us": 1700, "rss_kb": 2048,
        "peak_kb": 4096, "stored": 1000, "others_cpu_percent": 0.0, "problem": problem, **more,
    }  # fmt: skip
    return msgspec.convert(given, results.Figures)


def sample(subject: str, number: int, cpu_us: float, problem: str = "") -> results.Sample:
    return results.Sample("single", subject, number, figures(cpu_us, problem))


# --- /proc -------------------------------------------------------------------------------------


def test_stat_with_parentheses_in_the_name_is_read() -> None:
    stat = proc.parse_stat(STAT.format(user=120, system=30))
    assert stat == proc.Stat(4711, 4700, 150 * proc.TICK_US)


def test_memory_of_a_process_is_read_and_of_a_kernel_thread_is_zero() -> None:
    text = "Name:\tx\nVmPeak:\t 90 kB\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\nThreads:\t1\n"
    assert proc.parse_memory(text) == proc.Memory(2048, 4096)
    assert proc.parse_memory("Name:\tkthreadd\nThreads:\t1\n") == proc.Memory(0, 0)


def test_busy_time_of_a_core_leaves_out_idle_and_iowait() -> None:
    text = (
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 400 50 6 7 8 0 0\ncpu1 1 0 0 4 0 0 0 0 0 0\nintr 1\n"
    )
    assert proc.parse_core_busy_us(text, 0) == (1 + 2 + 3 + 6 + 7 + 8) * proc.TICK_US
    assert proc.parse_core_busy_us(text, 1) == proc.TICK_US
    with pytest.raises(ValueError, match="core 7"):
        proc.parse_core_busy_us(text, 7)


def test_cpu_model_is_found_or_unknown() -> None:
    assert proc.parse_cpu_model("processor\t: 0\nmodel name\t: AMD EPYC: x\n") == "AMD EPYC: x"
    assert proc.parse_cpu_model("processor\t: 0\nBogoMIPS\t: 100\n") == "unknown"


def test_tree_of_this_process_holds_a_child_and_counts_its_time() -> None:
    busy = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
    argv = [sys.executable, "-c", busy + "input()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 20
        while proc.measure_cpu_us(child.pid) < 200_000 and time.monotonic() < deadline:
            time.sleep(0.02)
        pids = [stat.pid for stat in proc.find_tree(os.getpid())]
        assert pids[0] == os.getpid()
        assert child.pid in pids
        assert proc.measure_cpu_us(child.pid) >= 200_000
        assert proc.measure_memory(child.pid).rss_kb > 1000
        child.communicate(b"\n")
    assert proc.find_tree(child.pid) == []
    assert proc.measure_core_busy_us(find_cores()[0]) > 0


# --- the load generator ------------------------------------------------------------------------


def test_output_of_wrk_is_read_from_the_marked_line() -> None:
    load = wrk.parse_output(OUTPUT)
    assert load == LOAD
    assert load.rate == 500


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("unable to connect to 127.0.0.1:1 Connection refused\n", "no result: unable to connect"),
        ('fastgw-load {"requests":1}\n', "damaged"),
        ("fastgw-load {\n", "damaged"),
    ],
)
def test_output_without_a_result_fails_with_what_was_printed(output: str, text: str) -> None:
    with pytest.raises(Failed, match=text):
        wrk.parse_output(output)


def test_workload_varies_one_header_and_no_size() -> None:
    request = WORKLOADS["single"].build_request("t")
    varied = request.vary()
    assert len({one.headers["X-Request-Id"] for one in varied}) == len(varied) == POOL
    assert len({len(one.headers["X-Request-Id"]) for one in varied}) == 1
    script = wrk.build_script(request)
    assert f"for i = 1, {POOL} do" in script
    repeated = WORKLOADS["single-repeated"].build_request("t")
    assert repeated.vary() == [repeated]
    assert "pool" not in wrk.build_script(repeated)


def test_script_repeats_the_request_to_the_byte() -> None:
    script = wrk.build_script(Request("/a", {"X-A": 'say "\\"'}, b'{"b":1}'))
    assert 'wrk.path = "/a"' in script
    assert 'wrk.headers["X-A"] = "say \\"\\\\\\""' in script
    assert 'wrk.body = "{\\"b\\":1}"' in script


@pytest.mark.parametrize("text", ["a\nb", "a\0", "caf\u00e9"])
def test_script_refuses_what_lua_would_read(text: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        wrk.quote_lua(text)


@pytest.mark.parametrize(
    ("load", "stored", "text"),
    [
        (LOAD, 1000, ""),
        (LOAD, 1064, ""),
        (replace(LOAD, refused=3), 1000, "3 of 1000 answers were not 2xx"),
        (replace(LOAD, socket_errors=2), 1000, "2 connections failed"),
        (replace(LOAD, requests=0), 0, "no request was answered"),
        (LOAD, 999, "only 999 messages stored"),
    ],
)
def test_round_counts_only_when_all_was_answered_and_stored(
    load: wrk.Load, stored: int, text: str
) -> None:
    problem = judge(load, stored, 1)
    assert text in problem
    assert bool(text) == bool(problem)


def test_round_of_batches_needs_every_message_stored() -> None:
    assert judge(LOAD, 100_000, 100) == ""
    assert "99999 messages" in judge(LOAD, 99_999, 100)


# --- workloads ---------------------------------------------------------------------------------


def test_message_has_its_size_and_is_json() -> None:
    assert len(build_message()) == 120
    assert json.loads(build_message())["type"] == "order.created"


def test_requests_differ_from_subject_to_subject_in_the_token_alone() -> None:
    one, other = (WORKLOADS["single"].build_request(token) for token in ("a", "b"))
    assert one.headers.pop("Authorization") == "Bearer a"
    assert other.headers.pop("Authorization") == "Bearer b"
    assert one == other
    # Host, Content-Length and Authorization make eight fields.
    assert len(one.headers) == 5


def test_batch_holds_a_hundred_messages_as_they_are() -> None:
    request = WORKLOADS["batch"].build_request("t")
    assert request.path == "/stations/bench/produce/batch"
    assert request.body == b"[" + b",".join([build_message()] * 100) + b"]"


# --- results -----------------------------------------------------------------------------------


def test_rows_are_medians_of_the_rounds_that_count() -> None:
    samples = [
        sample("fastgw", 1, 20.0),
        sample("floor", 1, 10.0),
        sample("floor", 2, 30.0),
        sample("fastgw", 2, 900.0, "3 of 10 answers were not 2xx"),
        sample("floor", 3, 12.0),
    ]
    floor, gateway = results.build_rows(samples, {("single", "floor"): 1024}, {})
    assert (floor.subject, floor.rounds_valid, floor.cpu_us, floor.times_floor) == (
        "floor", 3, 12.0, 1.0,
    )  # fmt: skip
    assert (floor.cpu_us_min, floor.cpu_us_max, floor.idle_rss_mb) == (10.0, 30.0, 1.0)
    assert (gateway.rounds_valid, gateway.cpu_us, gateway.times_floor) == (1, 20.0, 1.67)
    assert gateway.problem == "3 of 10 answers were not 2xx"
    assert gateway.rss_mb == 2.0


def test_batch_rows_tell_the_cost_of_a_message() -> None:
    row = results.build_rows([results.Sample("batch", "floor", 1, figures(60.0))], {}, {})[0]
    assert row.cpu_us_per_message == 0.6


def test_subject_that_failed_has_a_row_that_says_why_and_no_ratio() -> None:
    failures = {("single", "fastgw"): "it ended with 1:\nTraceback"}
    rows = results.build_rows([sample("floor", 1, 10.0)], {}, failures)
    assert [row.subject for row in rows] == ["floor", "fastgw"]
    assert rows[1].times_floor is None
    assert results.format_cells(rows[1])[1:] == ["-"] * 8
    assert results.format_problems(rows)[0] == ("- fastgw, single: it ended with 1: Traceback")


def test_noise_of_others_is_said() -> None:
    noisy = results.Sample("single", "floor", 1, figures(10.0, others_cpu_percent=40.0))
    assert "took 40 %" in results.format_problems(results.build_rows([noisy], {}, {}))[0]


@pytest.mark.parametrize(("time_us", "text"), [(0, "0 µs"), (999.4, "999 µs"), (1250, "1.25 ms")])
def test_times_are_shown_in_a_readers_unit(time_us: float, text: str) -> None:
    assert results.format_time(time_us) == text


def build_results() -> results.Results:
    samples = [sample("floor", 1, 10.0), sample("fastgw", 1, 15.0)]
    return results.Results(
        format=results.FORMAT,
        started_at="2026-01-02T03:04:05+00:00",
        commit="abc",
        options=results.Options(["single"], ["floor", "fastgw"], 1, 2, 64),
        machine=command.describe_machine(),
        versions={"python": "3.11"},
        rows=results.build_rows(samples, {}, {("single", "fastapi"): "absent"}),
        samples=samples,
    )


def test_stored_results_read_back_as_they_were(tmp_path: Path) -> None:
    written = build_results()
    day = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    path = command.store(written, tmp_path / "new", day)
    assert path.name == "2026-01-02-abc.json"
    assert msgspec.json.decode(path.read_bytes(), type=results.Results, strict=True) == written
    text = path.with_suffix(".md").read_text()
    assert "| C floor | 10.00 | 1.00 | 10.000 |" in text
    assert "| fastgw | 15.00 | 1.50 |" in text
    assert "- fastapi, single: absent" in text


# --- the command line --------------------------------------------------------------------------


def test_options_have_defaults_for_the_whole_table() -> None:
    options, out = command.parse_options([])
    assert options.workloads == [
        "single",
        "single-repeated",
        "single-plain",
        "batch",
        "batch-plain",
        "schema",
        "schema-batch",
    ]
    assert options.subjects == [name for name in SUBJECTS if name not in find_left_out()]
    assert options.connections == 64
    assert out == ROOT / "benchmarks" / "results"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--subjects", "floor,nginx"], "'nginx' is unknown; known are floor, fastgw"),
        (["--workload", ","], "at least one name"),
        (["--rounds", "0"], "0 is not between 1 and 50"),
        (["--seconds", "x"], "invalid"),
    ],
)
def test_wrong_options_end_with_2_and_say_what_is_known(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.parse_options(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_missing_tools_and_packages_are_named_with_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = needs.find_missing(("wrk", "cc", "valgrind"), ("no-such-package", "msgspec"))
    assert [line.split()[0] for line in missing[:3]] == ["wrk", "cc", "valgrind"]
    assert "apt-get install wrk" in missing[0]
    assert "no-such-package is not installed: pip install -e '.[bench]'" in missing[3]
    assert len(missing) == 4


def test_missing_peer_ends_with_2_and_says_how_to_leave_it_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_missing", lambda *_: ["the package granian is missing"])
    assert command.run_command(["--subjects", "asgi-granian"]) == 2
    printed = capsys.readouterr().out
    assert "granian is missing" in printed
    assert "--subjects asgi-granian" in printed


def test_children_see_no_setting_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTGW_LISTEN", "0.0.0.0:1")
    monkeypatch.setenv("JWT_SECRET", "x")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = clean_environment({"FASTGW_DATA": "d"})
    assert "FASTGW_LISTEN" not in environment
    assert "JWT_SECRET" not in environment
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["FASTGW_DATA"] == "d"
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


# --- processes ---------------------------------------------------------------------------------


def test_command_that_does_not_end_is_killed_at_its_bound() -> None:
    with pytest.raises(Failed, match="did not end within 0 s"):
        run_bounded(["sleep", "60"], find_cores()[0], 0.3, {})


def test_command_that_fails_tells_what_it_printed() -> None:
    with pytest.raises(Failed, match=r"cat ended with 1: .*/no/such"):
        run_bounded(["cat", "/no/such"], find_cores()[0], 10, {})
    with pytest.raises(Failed, match="cannot run no-such-tool"):
        run_bounded(["no-such-tool"], find_cores()[0], 10, {})


def test_child_is_pinned_and_ends_with_what_it_started(tmp_path: Path) -> None:
    core = find_cores()[1]
    code = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    child = Child([sys.executable, "-c", code], core, tmp_path / "log", {})
    deadline = time.monotonic() + 20
    while len(proc.find_tree(child.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    pids = [stat.pid for stat in proc.find_tree(child.pid)]
    assert len(pids) == 2
    assert os.sched_getaffinity(pids[1]) == {core}
    child.stop()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/root").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}/root").exists() for pid in pids)
    with pytest.raises(Failed, match="it ended with"):
        child.check_alive()


# --- the peers' shared work --------------------------------------------------------------------


def test_peers_forward_the_headers_that_the_gateway_forwards() -> None:
    from benchmarks.peers.common import forward_headers

    secret = {"Authorization": "x", "Cookie": "c", "Nats-Rollup": "all", "Proxy-Auth": "p"}
    assert forward_headers([*FORWARDED.items(), *secret.items()]) == FORWARDED


def test_peers_check_tokens_once_and_their_expiry_always() -> None:
    from benchmarks.peers.common import Tokens

    key = "k" * 32
    tokens = Tokens(key)
    good = jwt.encode({"exp": time.time() + 60}, key, "HS256")
    late = jwt.encode({"exp": time.time() - 60}, key, "HS256")
    forged = jwt.encode({"exp": time.time() + 60}, "x" * 32, "HS256")
    assert tokens.is_valid(f"Bearer {good}")
    assert tokens.is_valid(f"Bearer {good}")
    assert not tokens.is_valid(f"Bearer {late}")
    assert not tokens.is_valid(f"Bearer {forged}")
    assert not tokens.is_valid("")


# --- the floor against a real broker -----------------------------------------------------------


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    if needs.find_nats_server() is None:
        pytest.skip("nats-server is not installed")
    broker = start_broker(tmp_path_factory.mktemp("broker"), find_cores()[0])
    try:
        broker.make_stream("bench")
        yield broker
    finally:
        broker.child.stop()


@pytest.fixture(scope="module")
def floor(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("floor")
    running = start_ready(
        SUBJECTS["floor"], Bench(broker, find_cores()[0], folder), WORKLOADS["single"]
    )
    try:
        yield running
        running.child.check_alive()
    finally:
        running.child.stop()


OK = b"HTTP/1.1 200 OK"


def talk(port: int, pieces: list[bytes], answers: int) -> bytes:
    """Send bytes piece by piece, read until so many answers came (or the bound)."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
        received = b""
        while received.count(b'"success":') < answers and (data := client.recv(65536)):
            received += data
    return received


def post(body: bytes, path: str = "/stations/bench/produce/single") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\ncontent-length: %d\r\n\r\n%s" % (
        path.encode(), len(body), body,
    )  # fmt: skip


@needs_cc
def test_floor_compiles_without_a_warning_and_only_once(tmp_path: Path) -> None:
    argv = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "x"), str(SOURCE_FILE)]
    run_bounded(argv, find_cores()[0], 60, {})
    built = build_floor(tmp_path / "build")
    assert os.access(built, os.X_OK)
    before = built.stat().st_mtime_ns
    assert build_floor(tmp_path / "build").stat().st_mtime_ns == before


def test_floor_answers_one_request_after_it_is_stored(floor: Running, broker: Broker) -> None:
    broker.purge("bench")
    answer = talk(floor.port, [post(b"hello")], 1)
    assert answer.startswith(OK)
    assert answer.endswith(b'\r\n\r\n{"error":null,"success":true}')
    assert broker.find_last("bench").data == b"hello"
    assert broker.count_stored("bench") == 1


def test_floor_answers_every_pipelined_request(floor: Running, broker: Broker) -> None:
    broker.purge("bench")
    answer = talk(floor.port, [b"".join(post(b"%d" % n) for n in range(300))], 300)
    assert answer.count(OK) == 300
    assert broker.count_stored("bench") == 300
    assert broker.find_last("bench").data == b"299"


def test_floor_reads_a_request_byte_by_byte(floor: Running, broker: Broker) -> None:
    broker.purge("bench")
    request = post(b'{"a":1}') + post(b"[1,[2]]", "/stations/bench/produce/batch")
    answer = talk(floor.port, [bytes([byte]) for byte in request], 2)
    assert answer.count(OK) == 2
    assert broker.count_stored("bench") == 3


@pytest.mark.parametrize(
    ("body", "count", "last"),
    [
        (b'[{"a":[1,2]}, "x,]\\"y" ,3]', 3, b"3"),
        (b'[[1,2],[3],{"b":"}"}]', 3, b'{"b":"}"}'),
        (b'["one"]', 1, b'"one"'),
        (b"[" + b",".join(b"%d" % n for n in range(1700)) + b"]", 1700, b"1699"),
    ],
)
def test_floor_splits_a_batch_and_answers_once(
    floor: Running, broker: Broker, body: bytes, count: int, last: bytes
) -> None:
    broker.purge("bench")
    answer = talk(floor.port, [post(body, "/stations/bench/produce/batch") + post(b"end")], 2)
    assert answer.count(OK) == 2
    assert broker.count_stored("bench") == count + 1
    answer = talk(floor.port, [post(body, "/stations/bench/produce/batch")], 1)
    assert broker.find_last("bench").data == last


def test_floor_answers_an_empty_batch(floor: Running) -> None:
    assert talk(floor.port, [post(b"[]", "/stations/bench/produce/batch")], 1).startswith(OK)


def test_floor_outlives_clients_that_leave_before_the_answer(floor: Running) -> None:
    batch = b"[" + b",".join([b"1"] * 2000) + b"]"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", floor.port), timeout=10) as client:
            client.sendall(post(batch, "/stations/bench/produce/batch") + post(b"x") * 20)
    floor.child.check_alive()
    assert talk(floor.port, [post(b"after")], 1).startswith(OK)


def test_floor_does_not_answer_200_when_no_stream_stores(broker: Broker, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    bench = Bench(broker, find_cores()[0], tmp_path)
    with pytest.raises(Failed, match="it answered 500"):
        start_ready(SUBJECTS["floor"], bench, replace(WORKLOADS["single"], station="nowhere"))


def test_server_that_ends_at_once_fails_with_its_log(tmp_path: Path) -> None:
    child = Child(["sh", "-c", "echo no luck; exit 3"], find_cores()[0], tmp_path / "log", {})
    running = Running(child, find_free_port(), "t")
    with pytest.raises(Failed, match="it ended with 3: no luck"):
        wait_for_answer(running, WORKLOADS["single"].build_request("t"))


# --- a whole run --------------------------------------------------------------------------------


@needs_wrk
@needs_cc
def test_run_of_the_floor_stores_valid_results(tmp_path: Path) -> None:
    if needs.find_nats_server() is None:
        pytest.skip("nats-server is not installed")
    argv = ["--subjects", "floor", "--workload", "single,batch", "--rounds", "1", "--seconds", "1"]
    assert command.run_command([*argv, "--out", str(tmp_path)]) == 0
    stored = msgspec.json.decode(next(tmp_path.glob("*.json")).read_bytes(), type=results.Results)
    assert [row.workload for row in stored.rows] == ["single", "batch"]
    for row in stored.rows:
        assert row.rounds_valid == 1
        assert row.cpu_us > 0
        assert row.times_floor == 1.0
        assert row.problem == ""


def test_interrupted_run_stores_nothing_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> Record:
        signal.raise_signal(signal.SIGINT)
        return Record()

    monkeypatch.setattr(command, "run_harness", interrupt)
    # WHY: a test run in the background of a shell inherits an ignored SIGINT.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert command.run_command(["--subjects", "floor", "--out", str(tmp_path)]) == 1
    finally:
        signal.signal(signal.SIGINT, previous)
    assert list(tmp_path.iterdir()) == []
