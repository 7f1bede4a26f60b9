"""The benchmarks' pacer, its histograms, and the dialogues that drive it."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from benchmarks import proc
from benchmarks.load import pace, publish
from benchmarks.load.histogram import Histogram
from benchmarks.load.pace import Pace, Paced, build_bytes, parse_output, run_pace, write_requests
from benchmarks.processes import Failed, find_cores, open_dialogue, run_bounded
from benchmarks.suites.bodies import build_body
from benchmarks.workloads import Request

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
CORE = find_cores()[1]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
WAIT_S = 20.0


# --- a server of this test's own ----------------------------------------------------------------


class Server:
    """Answers each request of one connection after another; the first one late, if asked.

    Args:
        answer: the bytes of every answer.
        stall_s: how long the first request waits.
        closes_after: answers before the connection is closed; 0 for never.
    """

    def __init__(self, answer: bytes = OK, stall_s: float = 0, closes_after: int = 0) -> None:
        self.answer, self.stall_s, self.closes_after = answer, stall_s, closes_after
        self.bodies: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        """Accept until the listener is closed."""
        workers: list[threading.Thread] = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            workers.append(threading.Thread(target=self._serve, args=(client,)))
            workers[-1].start()
        for worker in workers:
            worker.join(WAIT_S)

    def _serve(self, client: socket.socket) -> None:
        answered = 0
        with client, client.makefile("rb") as lines:
            while line := lines.readline():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
                if line != b"\r\n":
                    continue
                self.bodies.append(lines.read(length))
                if self.stall_s and not answered:
                    threading.Event().wait(self.stall_s)
                client.sendall(self.answer)
                answered += 1
                if answered == self.closes_after:
                    return

    def close(self) -> None:
        """Stop accepting."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(WAIT_S)


def run(server: Server, tmp_path: Path, plan: Pace, count: int = 1) -> Paced:
    requests = [build_bytes(Request("/x", {"X-A": "b"}, b"body-%d" % n)) for n in range(count)]
    path = write_requests(requests, tmp_path / "requests")
    with serving(server):
        return run_pace(path, server.port, plan)


# --- the pacer ----------------------------------------------------------------------------------


@needs_cc
@pytest.mark.parametrize("source", [pace.SOURCE_FILE, publish.SOURCE_FILE])
def test_program_compiles_without_a_warning(source: Path, tmp_path: Path) -> None:
    argv = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "x"), str(source)]
    run_bounded(argv, CORE, 60, {})


@needs_cc
def test_pacer_sends_every_request_of_the_file_in_turn(tmp_path: Path) -> None:
    server = Server()
    done = run(server, tmp_path, Pace(1, CORE, 10, warm_up_s=0, count=7), count=3)
    assert done.answers == 7
    assert done.bytes == 14
    assert done.problem == ""
    assert server.bodies == [b"body-%d" % (n % 3) for n in range(7)]


@needs_cc
def test_pacer_keeps_a_pipeline_full_and_stops_at_its_count(tmp_path: Path) -> None:
    done = run(Server(), tmp_path, Pace(2, CORE, 10, warm_up_s=0, depth=16, count=1000))
    assert (done.answers, done.unanswered, done.problem) == (1000, 0, "")
    assert done.latency.total == 1000


@needs_cc
def test_pacer_sends_bodies_that_no_socket_takes_at_once(tmp_path: Path) -> None:
    server = Server()
    body = build_body(3_000_000)
    path = write_requests([build_bytes(Request("/x", {}, body))], tmp_path / "requests")
    with serving(server):
        done = run_pace(path, server.port, Pace(2, CORE, 20, warm_up_s=0, count=6))
    assert done.answers == 6
    assert server.bodies == [body] * 6


@needs_cc
def test_pacer_reads_an_answer_that_comes_in_pieces(tmp_path: Path) -> None:
    long = b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 600000\r\n\r\n" % (b"y" * 4000)
    done = run(Server(long + b"z" * 600_000), tmp_path, Pace(1, CORE, 20, warm_up_s=0, count=5))
    assert (done.answers, done.bytes) == (5, 3_000_000)


@needs_cc
def test_pacer_charges_a_stall_to_everything_that_was_due_meanwhile(tmp_path: Path) -> None:
    # 100 a second for 0.6 s, and the first answer takes 0.3 s: those due in between waited too.
    plan = Pace(1, CORE, 0.6, rate=100, warm_up_s=0)
    done = run(Server(stall_s=0.3), tmp_path, plan)
    assert done.answers == done.latency.total == 60
    assert done.latency.percentile_us(70) > 50_000
    assert done.latency.max_us >= 300_000


@needs_cc
def test_pacer_counts_what_is_never_answered_with_its_age(tmp_path: Path) -> None:
    plan = Pace(1, CORE, 0.2, rate=100, warm_up_s=0)
    done = run(Server(stall_s=4), tmp_path, plan)
    assert (done.answers, done.unanswered) == (0, 20)
    assert done.latency.total == 20
    assert done.latency.percentile_us(1) > 1_000_000


@needs_cc
def test_pacer_leaves_the_warm_up_out_of_the_histogram(tmp_path: Path) -> None:
    done = run(Server(), tmp_path, Pace(1, CORE, 0.3, rate=100, warm_up_s=0.2))
    assert done.answers == 50
    assert done.latency.total == 30
    assert done.lag.total == 30


@needs_cc
def test_pacer_counts_refusals_and_lost_connections(tmp_path: Path) -> None:
    refusing = Server(OK.replace(b"200 OK", b"503 Busy"))
    done = run(refusing, tmp_path, Pace(1, CORE, 10, warm_up_s=0, count=3))
    assert done.problem == "3 of 3 answers were not 2xx"
    done = run(Server(closes_after=2), tmp_path, Pace(1, CORE, 10, warm_up_s=0, count=5))
    assert done.answers == 2
    assert "1 requests were lost" in done.problem


@needs_cc
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"SSH-2.0-x and more text\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "no Content-Length"),
    ],
)
def test_pacer_says_what_it_cannot_read(answer: bytes, text: str, tmp_path: Path) -> None:
    with pytest.raises(Failed, match=text):
        run(Server(answer), tmp_path, Pace(1, CORE, 10, warm_up_s=0, count=1))


@needs_cc
def test_pacer_refuses_damaged_requests_and_a_closed_port(tmp_path: Path) -> None:
    path = tmp_path / "requests"
    path.write_bytes(b"100\nshort")
    with pytest.raises(Failed, match="damaged requests"):
        run_pace(path, 1, Pace(1, CORE, 1))
    write_requests([b"GET / HTTP/1.1\r\n\r\n"], path)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(Failed, match="cannot connect"):
        run_pace(path, port, Pace(1, CORE, 1))


@needs_cc
def test_mark_is_called_when_connected_and_when_answered(tmp_path: Path) -> None:
    server, seen = Server(), []
    path = write_requests([build_bytes(Request("/x", {}, b"1"))], tmp_path / "requests")
    with serving(server):
        plan = Pace(1, CORE, 10, warm_up_s=0, count=4)
        run_pace(path, server.port, plan, lambda: seen.append(len(server.bodies)))
    assert seen == [0, 4]


def test_request_has_the_bytes_of_its_parts() -> None:
    assert build_bytes(Request("/a", {"X": "y"}, b"[]"), "PUT") == (
        b"PUT /a HTTP/1.1\r\nHost: 127.0.0.1\r\nX: y\r\nContent-Length: 2\r\n\r\n[]"
    )


@pytest.mark.parametrize("text", ["", "{}", '{"answers":1}', "no json"])
def test_output_without_a_result_fails(text: str) -> None:
    with pytest.raises(Failed, match="printed no result"):
        parse_output(text)


# --- histograms ---------------------------------------------------------------------------------


def test_percentiles_are_those_of_the_counted_times() -> None:
    times = Histogram([(100_000, 980), (2_000_000, 19), (50_000_000, 1)])
    assert times.total == 1000
    assert times.percentile_us(50) == pytest.approx(100, rel=1e-3)
    assert times.percentile_us(99) == pytest.approx(2000, rel=1e-3)
    assert times.percentile_us(100) == pytest.approx(50_000, rel=1e-3)
    assert times.max_us == pytest.approx(50_000, rel=1e-3)


def test_empty_histogram_has_no_times() -> None:
    assert (Histogram().total, Histogram().percentile_us(99), Histogram().max_us) == (0, 0, 0)


def test_histograms_are_added_not_averaged() -> None:
    whole = Histogram([(1000, 99)])
    whole.add(Histogram([(9_000_000, 101)]))
    assert whole.total == 200
    assert whole.percentile_us(50) == pytest.approx(9000, rel=1e-3)


def test_encoded_histogram_is_read_by_the_library() -> None:
    read = HdrHistogram.decode(Histogram([(123_456, 7)]).encode().encode())
    assert read.get_total_count() == 7


@needs_cc
def test_pacer_counts_in_the_librarys_own_buckets(tmp_path: Path) -> None:
    path = write_requests([build_bytes(Request("/x", {}, b"1"))], tmp_path / "requests")
    with serving(Server()) as server:
        argv = [str(pace.build_program(pace.SOURCE_FILE)), str(server.port), "1", "0", "0"]
        argv += ["10000", "1", "200", str(path)]
        with open_dialogue(argv, CORE, WAIT_S) as pacer:
            assert pacer.read_line() == "ready"
            pacer.say("go")
            counts = json.loads(pacer.read_line())["latency"]
    library = HdrHistogram(1, 1 << 45, 3)
    assert sum(count for _, count in counts) == 200
    assert all(library.get_lowest_equivalent_value(value) == value for value, _ in counts)


# --- dialogues and /proc ------------------------------------------------------------------------


def test_dialogue_fails_with_what_the_command_said_and_at_its_bound() -> None:
    argv = [sys.executable, "-c", "import sys; sys.exit('no luck')"]
    with pytest.raises(Failed, match="no luck"), open_dialogue(argv, CORE, WAIT_S) as command_line:
        command_line.read_line()
    with pytest.raises(Failed, match="not done in time"), open_dialogue(["cat"], CORE, 0.2) as cat:
        cat.read_line()


def test_schedstat_is_read_and_a_busy_process_is_measured() -> None:
    assert proc.parse_schedstat_us("1234567 89 10\n") == 1234
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert proc.measure_cpu_us_finely(1) >= 0
