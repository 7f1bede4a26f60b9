"""The constant-rate client: its histogram, its plan, its pace, one connection, and whole runs."""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from fastgw.load import connection as connection_module
from fastgw.load import pace, plan, report, session
from fastgw.load.connection import Connection
from fastgw.load.histogram import BUCKETS, Histogram, find_bucket, find_upper_end
from fastgw.load.plan import Plan, PlanError
from fastgw.load.session import Session

CONTEXT = ssl.create_default_context()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
WAIT_S_MAX = 20.0


# --- the histogram ------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**43 - 1), min_size=1, max_size=400), st.floats(0, 100))
def test_percentiles_are_those_of_the_sorted_values_to_a_step(
    values: list[int], percent: float
) -> None:
    percent = round(percent, 3)
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    exact = sorted(values)[max(0, math.ceil(len(values) * round(percent * 1000) / 100_000) - 1)]
    found = histogram.find_percentile(percent)
    assert exact <= found <= exact + exact / 128
    assert histogram.find_percentile(100) == max(values) == histogram.max
    assert histogram.mean == pytest.approx(sum(values) / len(values))
    assert histogram.count == len(values)


@given(st.integers(0, 2**43 - 1))
def test_bucket_holds_its_value_and_is_narrow(value: int) -> None:
    bucket = find_bucket(value)
    assert 0 <= bucket < BUCKETS
    assert value <= find_upper_end(bucket)
    assert bucket == 0 or find_upper_end(bucket - 1) < value


def test_buckets_follow_each_other_without_a_gap() -> None:
    ends = [find_upper_end(bucket) for bucket in range(BUCKETS)]
    assert ends == sorted(set(ends))
    assert all(find_bucket(end) == bucket for bucket, end in enumerate(ends))
    assert all(find_bucket(end + 1) == bucket + 1 for bucket, end in enumerate(ends[:-1]))


def test_value_beyond_the_last_bucket_is_kept_as_the_longest() -> None:
    histogram = Histogram()
    histogram.record(1)
    histogram.record(2**50)
    assert histogram.find_percentiles((50.0, 99.9)) == [1, 2**50]


def test_empty_histogram_answers_zeros_and_negatives_count_as_zero() -> None:
    histogram = Histogram()
    assert (histogram.find_percentile(99), histogram.mean, histogram.max) == (0, 0.0, 0)
    histogram.record(-5, times=3)
    assert (histogram.find_percentile(99), histogram.count) == (0, 3)
    histogram.record(100)
    histogram.clear()
    assert (histogram.find_percentile(99), histogram.count, histogram.total) == (0, 0, 0)


def test_rank_is_not_moved_by_the_binary_form_of_a_percentage() -> None:
    histogram = Histogram()
    histogram.record(1, times=999)
    histogram.record(100)
    assert histogram.find_percentiles((99.9, 99.91)) == [1, 100]


# --- the plan -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "netloc", "prefix"),
    [
        ("http://gw:4444", "gw:4444", ""),
        ("http://gw:4444/", "gw:4444", ""),
        ("http://GW", "gw", ""),
        ("https://gw", "gw", ""),
        ("https://gw:80", "gw:80", ""),
        ("https://gw:443/a/b/", "gw", "/a/b"),
        ("http://[::1]:4444", "[::1]:4444", ""),
        ("https://b\u00fccher.example", "xn--bcher-kva.example", ""),
    ],
)
def test_address_of_a_url(url: str, netloc: str, prefix: str) -> None:
    address = plan.parse_address(url, CONTEXT)
    assert (address.netloc, address.prefix) == (netloc, prefix)
    assert (address.context is CONTEXT) == url.startswith("https")
    target = plan.build_target(address, "a.b/\u00fc", 0)
    assert target == f"{prefix}/stations/a.b%2F%C3%BC/produce/single"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("gw:4444", "is no URL as in"),
        ("ftp://gw", "is no URL as in"),
        ("http://", "is no URL as in"),
        ("http://gw:99999", "is no URL"),
        ("http://gw:0x1", "is no URL"),
        ("http://[::1", "is no URL"),
        ("http://ann:secret@gw", "holds a user or a password"),
        ("http://gw/?a=b", "more than a scheme"),
        ("http://gw/#a", "more than a scheme"),
        ("http://gw/a b", "more than a scheme"),
        ("http://gw\u2028/", "no name of a host"),
        ("http://" + "\u00fc" * 70, "no name of a host"),
    ],
)
def test_what_is_no_url_of_a_gateway_is_refused(url: str, text: str) -> None:
    with pytest.raises(PlanError, match=text) as raised:
        plan.parse_address(url, CONTEXT)
    assert "secret" not in str(raised.value)


def test_request_is_whole_and_the_plan_never_shows_the_secret() -> None:
    made = make_plan(4444, secret="fgw_secret", headers=("User-Agent: me", "x-a:  b "), batch=2)
    head, _, body = made.request.partition(b"\r\n\r\n")
    assert head.decode().split("\r\n") == [
        "POST /stations/s/produce/batch HTTP/1.1",
        "Host: 127.0.0.1:4444",
        "Content-Type: application/json",
        "Authorization: Bearer fgw_secret",
        "User-Agent: me",
        "x-a: b",
        "Content-Length: 27",
    ]
    assert body == b'[{"bench":""},{"bench":""}]'
    assert "fgw_secret" not in repr(made)
    assert (made.requests, made.messages) == (10, 2)


@pytest.mark.parametrize("size", [plan.SIZE_MIN, 13, 120, 5000])
def test_message_has_exactly_the_size(size: int) -> None:
    message = plan.build_message(size)
    assert len(message) == size
    assert plan.build_body(message, 0) == message
    assert len(plan.build_body(message, 3)) == 3 * size + 4


def test_body_beyond_its_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "BODY_BYTES_MAX", 30)
    assert len(plan.build_body(b"x" * 30, 0)) == 30
    assert len(plan.build_body(b"x" * 13, 2)) == 29
    with pytest.raises(PlanError, match="a body of 31 bytes exceeds 30"):
        plan.build_body(b"x" * 31, 0)
    with pytest.raises(PlanError, match="a body of 31 bytes exceeds 30"):
        plan.build_body(b"x" * 14, 2)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["no header"], "written as"),
        ([": b"], "written as"),
        (["a: b\r\nc: d"], "written as"),
        (["a: \u00fc"], "written as"),
        (["Host: x"], "Host is the client's own"),
        (["content-length: 1"], "content-length is the client's own"),
        (["Authorization: Bearer secret"], "use --key-file"),
        (["Cookie: secret"], "use --key-file"),
        (["X-API-Key: secret"], "use --key-file"),
        (["a: b"] * 65, "65 headers exceed 64"),
    ],
)
def test_header_that_cannot_be_sent_is_refused(lines: list[str], text: str) -> None:
    with pytest.raises(PlanError, match=text) as raised:
        plan.parse_headers(lines)
    assert "secret" not in str(raised.value)
    assert len(plan.parse_headers(["a: b"] * plan.HEADERS_MAX)) == 64


@pytest.mark.parametrize("text", ["", " \n", "two words", "a\nb", "\u00fc", "x" * 8193])
def test_what_is_no_credential_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(PlanError, match="--key-file holds") as raised:
        plan.check_secret(text, "--key-file")
    assert len(str(raised.value)) < 80


def test_credential_loses_the_white_space_around_it() -> None:
    assert plan.check_secret("  fgw_x\r\n", "--key-file") == "fgw_x"
    assert plan.check_secret("x" * plan.SECRET_CHARS_MAX, "--key-file") == "x" * 8192


# --- the pace -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "tick_ns"), [(0.5, 2 * 10**9), (100, 10**7), (10_000, 10**5), (100_000, 10**5)]
)
def test_each_request_has_a_tick_unless_they_are_too_many(rate: float, tick_ns: int) -> None:
    assert pace.choose_tick_ns(rate) == tick_ns


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("make", [pace.start_ticker, pace.LoopTicker])
def test_ticks_come_at_their_moments_until_closed(
    new_loop: Callable[[], asyncio.AbstractEventLoop], make: Callable[..., pace.Ticker]
) -> None:
    async def run() -> list[int]:
        moments: list[int] = []
        enough = asyncio.Event()

        def note() -> None:
            moments.append(time.monotonic_ns())
            if len(moments) >= 5:
                enough.set()

        first = time.monotonic_ns() + 5_000_000
        ticker = make(asyncio.get_running_loop(), first, 5_000_000, note)
        try:
            await asyncio.wait_for(enough.wait(), WAIT_S_MAX)
        finally:
            ticker.close()
            ticker.close()
        return [moment - first for moment in moments]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        offsets = runner.run(run())
    assert all(offset >= 5_000_000 * number for number, offset in enumerate(offsets[:5]))


async def test_without_a_timer_of_the_kernel_the_loop_ticks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(pace, "KernelTicker", refuse)
    ticker = pace.start_ticker(asyncio.get_running_loop(), 0, 10**6, lambda: None)
    assert isinstance(ticker, pace.LoopTicker)
    ticker.close()


# --- one connection -----------------------------------------------------------------------------


class FakeTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.is_aborted = True


class Heard:
    """An owner that notes what it hears."""

    def __init__(self) -> None:
        self.notes: list[tuple[object, ...]] = []

    def on_answer(self, _: Connection, status: int, code: str, now: int) -> None:
        assert now > 0
        self.notes.append(("answer", status, code))

    def on_failure(self, _: Connection, reason: str) -> None:
        self.notes.append(("failure", reason))

    def on_gone(self, _: Connection) -> None:
        self.notes.append(("gone",))


def open_connection() -> tuple[Connection, Heard, FakeTransport]:
    heard, transport = Heard(), FakeTransport()
    connection = Connection(heard, b"REQUEST")
    connection.connection_made(transport)
    return connection, heard, transport


def cut(data: bytes) -> Iterator[list[bytes]]:
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


REFUSED = (
    b"HTTP/1.1 429 Too Many Requests\r\nError-Code: rate-limited\r\nContent-Length: 4\r\n\r\nslow"
)


@pytest.mark.parametrize(
    ("answer", "notes"),
    [
        (OK, [("answer", 200, "")]),
        (REFUSED, [("answer", 429, "rate-limited")]),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, [("answer", 200, "")]),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            [("answer", 200, "")],
        ),
        (
            b"HTTP/1.1 503 x\r\nerror-code: draining\r\nConnection: close\r\n"
            b"Content-Length: 0\r\n\r\n",
            [("answer", 503, "draining"), ("gone",)],
        ),
        (b"HTTP/1.1 204 No Content\r\nError-Code: \xff\r\n\r\n", [("answer", 204, "\ufffd")]),
    ],
)
def test_answer_is_understood_whole_byte_by_byte_and_at_each_split(
    answer: bytes, notes: list[tuple[object, ...]]
) -> None:
    for parts in cut(answer):
        connection, heard, transport = open_connection()
        connection.send(5, 7)
        assert (transport.written, connection.due, connection.sent) == (b"REQUEST", 5, 7)
        for part in parts:
            connection.data_received(part)
        assert heard.notes == notes
        assert connection.answer_bytes == len(answer)
        assert not connection.is_busy
        if connection.is_over:
            assert transport.is_aborted
            continue
        connection.send(8, 9)
        connection.data_received(OK)
        assert heard.notes[len(notes) :] == [("answer", 200, "")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"SSH-2.0-x\r\n", connection_module.NOT_HTTP),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", connection_module.NOT_HTTP),
        (
            b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            connection_module.NOT_HTTP,
        ),
    ],
)
def test_what_is_no_answer_ends_the_connection(data: bytes, reason: str) -> None:
    connection, heard, transport = open_connection()
    connection.send(1, 1)
    connection.data_received(data)
    assert heard.notes == [("failure", reason)]
    assert transport.is_aborted
    connection.data_received(OK)
    connection.connection_lost(None)
    assert len(heard.notes) == 1


def test_answer_beyond_its_bound_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "ANSWER_BYTES_MAX", 100)
    connection, heard, _ = open_connection()
    connection.send(1, 1)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + b"x" * 59)
    assert heard.notes == []
    connection.data_received(b"xx")
    assert heard.notes == [("failure", connection_module.TOO_LONG)]


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    connection, heard, transport = open_connection()
    connection.data_received(OK)
    assert heard.notes == [("gone",)]
    assert transport.is_aborted


@pytest.mark.parametrize(
    ("error", "reason"),
    [(None, "connection lost"), (ConnectionResetError(), "connection lost: ConnectionResetError")],
)
def test_lost_connection_fails_its_request(error: Exception | None, reason: str) -> None:
    connection, heard, _ = open_connection()
    connection.send(1, 1)
    connection.connection_lost(error)
    assert heard.notes == [("failure", reason)]


# --- whole runs ---------------------------------------------------------------------------------

Serve = Callable[[int, asyncio.StreamWriter], "asyncio.Future[None] | None"]


def make_plan(
    port: int,
    *,
    rate: float = 100.0,
    seconds: float = 0.1,
    connections: int = 2,
    batch: int = 0,
    secret: str | None = None,
    headers: tuple[str, ...] = (),
) -> Plan:
    address = plan.parse_address(f"http://127.0.0.1:{port}", CONTEXT)
    body = plan.build_body(plan.build_message(plan.SIZE_MIN), batch)
    target = plan.build_target(address, "s", batch)
    fields = plan.parse_headers(headers)
    request = plan.build_request(address, target, body, fields, secret)
    return Plan(address, request, rate, connections, seconds, "s", batch, len(body))


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """Serve on a free port; `serve` is told the number of the request, from 0, which is the trial.

    It writes the answer, or returns a future to wait for beforehand, or closes the connection.
    """
    count = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                number, count = count, count + 1
                if (wait := serve(number, writer)) is not None:
                    await wait
                    writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        server.close_clients() if hasattr(server, "close_clients") else None


def answer_ok(_: int, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def run_session(made: Session) -> report.Report:
    await asyncio.wait_for(made.run(), WAIT_S_MAX)
    return report.build_report(made)


async def test_run_sends_what_is_due_and_tells_it() -> None:
    lines: list[int] = []
    async with serving(answer_ok) as port:
        made = Session(make_plan(port, rate=200, seconds=0.5, batch=3))
        await asyncio.wait_for(made.run(lambda s: lines.append(s.answered), 0.1), WAIT_S_MAX)
    told = report.build_report(made)
    assert (told.due, told.sent, told.answered, told.succeeded) == (100, 100, 100, 100)
    assert (told.unsent, told.in_flight, told.failures) == (0, 0, {})
    assert told.statuses == {"200": 100}
    assert told.rate_answered <= 200
    assert told.messages_per_s == pytest.approx(3 * told.rate_answered, rel=0.01)
    assert told.bytes_received == 100 * len(OK)
    assert told.bytes_sent == 100 * len(made.plan.request)
    assert 0 < told.latency.p50_ms <= told.latency.p99_ms <= told.latency.max_ms
    assert lines
    assert lines == sorted(lines)


async def test_waiting_for_a_server_that_stands_still_is_not_hidden() -> None:
    loop = asyncio.get_running_loop()

    def stand_still(number: int, writer: asyncio.StreamWriter) -> asyncio.Future[None] | None:
        if number == 1:  # The first that counts.
            future = loop.create_future()
            loop.call_later(0.4, future.set_result, None)
            return future
        writer.write(OK)
        return None

    async with serving(stand_still) as port:
        told = await run_session(Session(make_plan(port, rate=100, seconds=0.8, connections=1)))
    assert told.answered == 80
    # One request waits in the server, and 39 more at the door: half of all were slow.
    assert told.service.max_ms >= 400
    assert told.latency.p90_ms >= 250 > told.service.p90_ms
    assert told.waited >= 35
    assert any("waited for a free connection" in line for line in told.warnings)


async def test_requests_that_were_never_sent_count_with_their_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "GRACE_S", 0.1)
    monkeypatch.setattr(session, "UNSENT_RECORDS_MAX", 7)
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = []

    def swallow(number: int, writer: asyncio.StreamWriter) -> asyncio.Future[None] | None:
        if number == 0:
            writer.write(OK)
            return None
        futures.append(loop.create_future())
        return futures[-1]

    async with serving(swallow) as port:
        made = Session(make_plan(port, rate=100, seconds=0.5), answer_s_max=0.9)
        told = await run_session(made)
        for future in futures:
            future.cancel()
    assert told.failures == {session.UNANSWERED: 2}
    assert (told.due, told.sent, told.unsent, told.answered) == (50, 2, 48, 0)
    assert made.latency.count == 50
    assert told.latency.p50_ms >= 300
    assert any("were due and never sent" in line for line in told.warnings)


async def test_lost_connections_are_made_again_and_their_requests_counted() -> None:
    def hang_up(number: int, writer: asyncio.StreamWriter) -> None:
        if number % 5 == 1:
            writer.close()
        else:
            writer.write(OK)

    async with serving(hang_up) as port:
        told = await run_session(Session(make_plan(port, rate=100, seconds=0.5)))
    assert told.due == told.sent == 50
    assert told.answered + sum(told.failures.values()) == 50
    assert sum(told.failures.values()) >= 5
    assert all(reason.startswith("connection lost") for reason in told.failures)
    assert told.reconnected == sum(told.failures.values())
    assert told.latency.max_ms > 0


async def test_server_that_hangs_up_is_not_run_over() -> None:
    accepted = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        if accepted == 1:  # The trial's connection, if it is asked first; it stays for one answer.
            await reader.readuntil(b'{"bench":""}')
            writer.write(OK)
            await reader.read(1)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        told = await run_session(Session(make_plan(port, rate=50, seconds=0.5, connections=1)))
    finally:
        server.close()
    assert told.answered == 0
    assert told.due == 25
    # Within the second and a half that the run may take, one at a tenth of a second.
    assert accepted <= 18


async def test_server_that_closes_after_each_answer_is_no_failure() -> None:
    def close(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        writer.close()

    async with serving(close) as port:
        told = await run_session(Session(make_plan(port, rate=100, seconds=0.3)))
    assert (told.answered, told.failures) == (30, {})
    assert told.reconnected == 30


async def test_refusals_are_told_apart_by_status_and_code() -> None:
    def refuse(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(REFUSED if number % 2 else OK)

    async with serving(refuse) as port:
        told = await run_session(Session(make_plan(port, rate=100, seconds=0.2)))
    assert told.statuses == {"200": 10, "429": 10}
    assert told.error_codes == {"rate-limited": 10}
    assert told.succeeded == 10


async def test_different_codes_are_told_apart_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "REASONS_MAX", 3)

    def invent(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(REFUSED.replace(b"rate-limited", b"code-%d" % number))

    async with serving(invent) as port:
        told = await run_session(Session(make_plan(port, rate=100, seconds=0.1)))
    assert sorted(told.error_codes) == ["code-1", "code-2", "code-3", session.OTHERS]
    assert told.error_codes[session.OTHERS] == 7


async def test_interrupted_run_tells_what_was_measured() -> None:
    async with serving(answer_ok) as port:
        made = Session(make_plan(port, rate=100, seconds=60))
        running = asyncio.create_task(made.run())
        deadline = time.monotonic() + WAIT_S_MAX
        while made.answered < 5 or not made.started:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        made.interrupt()
        await asyncio.wait_for(running, WAIT_S_MAX)
    told = report.build_report(made)
    assert told.interrupted
    assert 5 <= told.answered <= told.due < 6000
    assert told.answered + told.in_flight == told.sent
    assert told.rate_answered < 1000


async def test_run_without_a_server_says_where_it_could_not_connect() -> None:
    async with serving(answer_ok) as port:
        pass
    with pytest.raises(PlanError, match=rf"cannot connect to 127\.0\.0\.1:{port}: "):
        await Session(make_plan(port)).run()


@pytest.mark.parametrize("status", [301, 401, 404])
async def test_first_request_that_is_refused_for_good_ends_the_run(status: int) -> None:
    def refuse(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(REFUSED.replace(b"429", b"%d" % status).replace(b"rate-limited", b"no-way"))

    async with serving(refuse) as port:
        with pytest.raises(PlanError, match=f"was answered with {status} no-way"):
            await Session(make_plan(port)).run()


async def test_first_request_without_an_answer_ends_the_run() -> None:
    loop = asyncio.get_running_loop()
    held: list[asyncio.Future[None]] = []

    def swallow(_: int, __: asyncio.StreamWriter) -> asyncio.Future[None]:
        held.append(loop.create_future())
        return held[-1]

    async with serving(swallow) as port:
        with pytest.raises(PlanError, match="the first request failed: no answer within"):
            await Session(make_plan(port), answer_s_max=0.05).run()
        for future in held:
            future.cancel()


# --- the report ---------------------------------------------------------------------------------


def make_session(**changes: Any) -> Session:
    """Make a session that has ended well: 10 requests in 100 ms."""
    made = Session(make_plan(1))
    made.started, made.ended, made.sent = 10**9, 10**9 + 10**8, 10
    for _ in range(10):
        made.statuses[200] += 1
        made.latency.record(10**6)
        made.service.record(10**6)
        made.lag.record(10**5)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_good_run_has_no_warning() -> None:
    told = report.build_report(make_session())
    assert told.warnings == []
    assert (told.rate_answered, told.client_cpu_percent) == (100.0, 0.0)
    assert told.latency == report.Times(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


def test_client_that_could_not_keep_the_pace_is_told() -> None:
    slow = make_session()
    slow.lag.record(round(report.LAG_MS_MAX * 1e6) + 10**6)
    assert "this client fell behind by itself" in report.build_report(slow).warnings[0]
    busy = make_session(cpu_s=0.1 * report.CPU_SHARE_MAX + 0.001)
    assert "this client used 91 % of a core" in report.build_report(busy).warnings[0]
    assert report.build_report(make_session(cpu_s=0.089)).warnings == []


def test_requests_without_an_answer_are_told() -> None:
    made = make_session(sent=11)
    made.failures["connection lost"] = 1
    told = report.build_report(made)
    assert told.warnings == ["only 10 of 11 requests were answered"]
    assert told.in_flight == 0


def test_plan_of_less_than_one_request_has_one() -> None:
    assert replace(make_plan(1), rate=0.1, seconds=0.1).requests == 1
