"""`fastgw bench`: requests at a constant rate against a gateway that runs, and how it answered.

What enters: its address, the rate, and a credential from a file or the environment. What leaves: a
line of progress on standard error, where a terminal is; then a table or JSON. Ctrl-C ends the run
and tells what was measured so far.
The messages are stored: it must be pointed at a station whose messages nobody misses.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import ssl
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click
from rich.console import Console
from rich.text import Text

from fastgw.cli._common import (
    EXIT_FAILED,
    Failed,
    debug_option,
    json_option,
    print_json,
    print_table,
)
from fastgw.load.plan import (
    BATCH_MAX,
    BODY_BYTES_MAX,
    CONNECTIONS_DEFAULT,
    CONNECTIONS_MAX,
    RATE_DEFAULT,
    RATE_MAX,
    RATE_MIN,
    SECONDS_DEFAULT,
    SECONDS_MAX,
    SECONDS_MIN,
    SECRET_CHARS_MAX,
    SIZE_DEFAULT,
    SIZE_MIN,
    Plan,
    PlanError,
    build_body,
    build_message,
    build_request,
    build_target,
    check_secret,
    parse_address,
    parse_headers,
)

if TYPE_CHECKING:
    from fastgw.load.report import Report, Times
    from fastgw.load.session import Session

F = TypeVar("F", bound=Callable[..., Any])
EXIT_INTERRUPTED: Final = 130
KEY_ENV: Final = "FASTGW_BENCH_KEY"
TOKEN_ENV: Final = "FASTGW_BENCH_TOKEN"  # noqa: S105 -- the name of a variable
STATION_DEFAULT: Final = "bench"
SPARE_FILES: Final = 64
"""LIMIT: what the process has open beside its connections, with room to spare."""


def _schedule_options(command: F) -> F:
    """Give a command the options that say how often, how wide and how long."""
    rate = click.option(
        "--rate",
        type=click.FloatRange(RATE_MIN, RATE_MAX),
        default=RATE_DEFAULT,
        help=f"Requests a second, all connections together, whatever the answers do."
        f" [{RATE_DEFAULT:g}]",
    )
    connections = click.option(
        "--connections",
        type=click.IntRange(1, CONNECTIONS_MAX),
        default=CONNECTIONS_DEFAULT,
        help=f"How many requests may wait for their answers at once. [{CONNECTIONS_DEFAULT}]",
    )
    seconds = click.option(
        "--seconds",
        type=click.FloatRange(SECONDS_MIN, SECONDS_MAX),
        default=SECONDS_DEFAULT,
        help=f"How long. [{SECONDS_DEFAULT:g}]",
    )
    return rate(connections(seconds(command)))


def _message_options(command: F) -> F:
    """Give a command the options that say what is sent where."""
    options = (
        click.option(
            "--station",
            metavar="NAME",
            default=STATION_DEFAULT,
            help=f"Where the messages are stored. [{STATION_DEFAULT}]",
        ),
        click.option(
            "--size",
            type=click.IntRange(SIZE_MIN, BODY_BYTES_MAX),
            help=f"Bytes of a JSON message that is made here. [{SIZE_DEFAULT}]",
        ),
        click.option(
            "--body",
            type=click.File("rb"),
            metavar="FILE",
            help="The message; - is standard input.",
        ),
        click.option(
            "--batch",
            type=click.IntRange(1, BATCH_MAX),
            help="Send arrays of so many messages, to produce/batch.",
        ),
        click.option(
            "--header",
            "headers",
            metavar="'NAME: VALUE'",
            multiple=True,
            help="A header of each request; repeatable. Not for secrets.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _access_options(command: F) -> F:
    """Give a command the options that say who it is, and whom it trusts."""
    key = click.option(
        "--key-file",
        type=click.File("r"),
        metavar="FILE",
        help=f"Holds the API key; - is standard input. [env {KEY_ENV}]",
    )
    token = click.option(
        "--token-file",
        type=click.File("r"),
        metavar="FILE",
        help=f"Holds the token; - is standard input. [env {TOKEN_ENV}]",
    )
    ca = click.option(
        "--ca-file",
        type=click.Path(exists=True, dir_okay=False),
        help="Certificates to trust instead of the system's.",
    )
    return key(token(ca(command)))


@click.command("bench")
@click.argument("url")
@_schedule_options
@_message_options
@_access_options
@json_option
@debug_option
def command(
    url: str,
    rate: float,
    connections: int,
    seconds: float,
    station: str,
    size: int | None,
    body: IO[bytes] | None,
    batch: int | None,
    headers: tuple[str, ...],
    key_file: IO[str] | None,
    token_file: IO[str] | None,
    ca_file: str | None,
    as_json: bool,
) -> int:
    """Send messages to the gateway at URL at a constant rate, and tell how it answers.

    A request's latency counts from the moment when it was due, so that waiting is not hidden.
    The messages are stored: name a station for them. The exit code is 1 when a request was refused
    or not answered.
    """
    if math.isnan(rate + seconds):
        raise click.UsageError("--rate and --seconds are numbers.")
    try:
        address = parse_address(url, _make_context(ca_file))
        message = _read_message(body, size)
        payload = build_body(message, batch or 0)
        target = build_target(address, station, batch or 0)
        fields = parse_headers(headers)
        request = build_request(
            address, target, payload, fields, _read_secret(key_file, token_file)
        )
    except PlanError as error:
        raise click.UsageError(str(error)) from error
    _raise_files_limit(connections)
    plan = Plan(
        address=address,
        request=request,
        rate=rate,
        connections=connections,
        seconds=seconds,
        station=station,
        batch=batch or 0,
        body_bytes=len(payload),
    )
    report = _run(plan)
    if as_json:
        print_json(report)
    else:
        _show(report)
    if report.interrupted:
        return EXIT_INTERRUPTED
    return 0 if report.succeeded == report.due else EXIT_FAILED


# --- what the options mean ------------------------------------------------------------------------


def _make_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise PlanError(f"--ca-file: {error.reason or 'no certificate'}") from error


def _read_message(body: IO[bytes] | None, size: int | None) -> bytes:
    if body is None:
        return build_message(size or SIZE_DEFAULT)
    if size is not None:
        raise click.UsageError("--size and --body exclude each other.")
    return body.read(BODY_BYTES_MAX + 1)  # `build_body` refuses what is longer.


def _read_secret(key_file: IO[str] | None, token_file: IO[str] | None) -> str | None:
    """Read the credential; none is possible, for a station that takes signed requests only."""
    if key_file is not None and token_file is not None:
        raise click.UsageError("--key-file and --token-file exclude each other.")
    for option, file in (("--key-file", key_file), ("--token-file", token_file)):
        if file is not None:
            try:
                return check_secret(file.read(SECRET_CHARS_MAX + 2), option)
            except UnicodeDecodeError as error:
                raise PlanError(f"{option} holds no text") from error
    for name in (KEY_ENV, TOKEN_ENV):
        if text := os.environ.get(name):
            return check_secret(text, name)
    return None


def _raise_files_limit(connections: int) -> None:
    """Let this process open as many files as it needs, if the system lets it.

    Raises:
        Failed: it does not.
    """
    import resource

    needed = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        except (ValueError, OSError) as error:
            raise Failed(
                f"{connections} connections need {needed} open files, and this process may have"
                f" {hard}; see ulimit -n"
            ) from error


# --- the run --------------------------------------------------------------------------------------


def _run(plan: Plan) -> Report:
    import uvloop

    from fastgw.load.report import build_report
    from fastgw.load.session import Session

    session = Session(plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_follow(session))
        except PlanError as error:
            raise Failed(str(error)) from error
    return build_report(session)


async def _follow(session: Session) -> None:
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        # WHY removed: whoever presses Ctrl-C twice does not want to wait for anything.
        loop.remove_signal_handler(signal.SIGINT)
        session.interrupt()

    with contextlib.suppress(ValueError, RuntimeError):  # Not the main thread.
        loop.add_signal_handler(signal.SIGINT, interrupt)
    with _progress() as say:
        await session.run(say)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Session], None] | None]:
    """Give what draws the line, and leave an empty one behind; None where nobody looks."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield None
        return
    before = [0, 0.0]  # Answers and seconds when the line was drawn before.

    def say(session: Session) -> None:
        seconds, answered = session.elapsed_s, session.answered
        rate = (answered - before[0]) / max(seconds - before[1], 1e-9)
        before[:] = [answered, seconds]
        console.print(_describe(session, rate), end="\r", no_wrap=True, overflow="crop", crop=True)

    try:
        yield say
    finally:
        console.file.write("\r\x1b[K")
        console.file.flush()


def _describe(session: Session, rate: float) -> Text:
    """Describe a run that is under way, in one line of constant width."""
    p50, p99 = session.latency.find_percentiles((50.0, 99.0))
    refused = sum(n for status, n in session.statuses.items() if not 200 <= status < 300)
    failed = refused + session.failures.total()
    behind = max(0, session.count_due_now() - session.sent)
    return Text.assemble(
        (f"{session.elapsed_s:6.1f} of {session.plan.seconds:g} s", "bold"),
        f"  {rate:8,.0f} answers/s  p50 {_show_ms(p50 / 1e6)}  p99 {_show_ms(p99 / 1e6)}"
        f"  in flight {session.in_flight:5,}",
        (f"  waiting {behind:,}" if behind else "", "yellow"),
        (f"  failed {failed:,}" if failed else "", "red"),
        "      ",
    )


# --- the table ------------------------------------------------------------------------------------


def _show(report: Report) -> None:
    kind = f"batches of {report.batch}" if report.batch else "single messages"
    click.echo(
        f"{report.url}, station {report.station}: {kind}, bodies of {report.body_bytes:,} bytes,"
        f" {report.connections} connections" + (" - interrupted" if report.interrupted else "")
    )
    click.echo("")
    rows = [
        ["rate asked", f"{report.rate_asked:,.10g}/s for {report.seconds_asked:g} s"],
        ["rate answered", f"{report.rate_answered:,.1f}/s in {report.seconds:.2f} s"],
        ["messages stored", f"{report.messages_per_s:,.1f}/s"],
        ["requests", _show_requests(report)],
        ["statuses", _show_counts(report.statuses)],
    ]
    if report.error_codes:
        rows.append(["error codes", _show_counts(report.error_codes)])
    if report.failures:
        rows.append(["failures", _show_counts(report.failures)])
    if report.reconnected:
        rows.append(["connections made again", f"{report.reconnected:,}"])
    rows.append(["bytes sent", f"{report.bytes_sent:,}"])
    rows.append(["bytes received", f"{report.bytes_received:,}"])
    print_table(("WHAT", ""), rows)
    click.echo("")
    heads = ("MILLISECONDS", "p50", "p90", "p99", "p99.9", "max", "mean")
    lines = [
        ["latency, since it was due", *_show_times(report.latency)],
        ["service, since it was sent", *_show_times(report.service)],
        ["lag of this client", *_show_times(report.lag)],
    ]
    print_table(heads, lines)
    for warning in report.warnings:
        click.echo(f"fastgw: warning: {warning}", err=True)


def _show_requests(report: Report) -> str:
    parts = [f"{report.due:,} due", f"{report.answered:,} answered"]
    parts += [f"{report.unsent:,} never sent"] if report.unsent else []
    parts += [f"{report.in_flight:,} under way"] if report.in_flight else []
    return ", ".join(parts)


def _show_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{word}: {count:,}" for word, count in counts.items()) or "none"


def _show_times(times: Times) -> list[str]:
    found = (times.p50_ms, times.p90_ms, times.p99_ms, times.p999_ms, times.max_ms, times.mean_ms)
    return [f"{value:.3f}" for value in found]


def _show_ms(value: float) -> str:
    return f"{value:8.2f} ms"
