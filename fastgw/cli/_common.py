"""What the commands share: their options, how they read a configuration, and how they answer.

What enters: the options of one command line. What leaves: a `Loaded` configuration, tables and
JSON on standard output, warnings on standard error.
Called by each command module. Nothing here connects to a broker.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click
import msgspec

from fastgw.config import ConfigError, Loaded, load
from fastgw.errors import Fault, clip

F = TypeVar("F", bound=Callable[..., Any])

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
FAILURE_CHARS_MAX: Final = 300
"""LIMIT: a failure is told in one line that a terminal or a log collector shows whole."""

PIPE_COLUMNS: Final = 10_000
"""LIMIT: wider than any row of values that `clip` or the configuration let through."""


@dataclass
class State:
    """What one run of the command line knows beside its arguments."""

    debug: bool = False


class Failed(Exception):
    """The command could not do its work; the text is one line for the operator."""


def describe_failure(error: Exception) -> tuple[str, int]:
    """Return the one line that tells an exception, and the exit code."""
    if isinstance(error, ConfigError):
        return error.text, EXIT_USAGE
    if isinstance(error, Failed | Fault):
        return str(error), EXIT_FAILED
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}", EXIT_FAILED
    # The broker's and the store's errors are words for the operator; anything else is a defect.
    ours = type(error).__module__.startswith("fastgw.")
    text = clip(str(error) or type(error).__name__, FAILURE_CHARS_MAX)
    return (text if ours else f"{type(error).__name__}: {text} (--debug tells more)"), EXIT_FAILED


def _set_debug(context: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and isinstance(state := context.find_root().obj, State):
        state.debug = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_set_debug,
    help="Show the traceback when something fails.",
)
config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help="TOML file [env FASTGW_CONFIG].",
)
data_option = click.option(
    "--data", metavar="DIR", help="Folder of the embedded broker [key data; default fastgw-data]."
)
nats_option = click.option(
    "--nats",
    metavar="URL",
    help="Use the broker at nats://HOST:PORT or tls://…, several with commas [key nats.url].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for scripts.")

PERMISSIONS: Final = ("produce", "consume", "admin")


def is_debugging() -> bool:
    """Tell whether the running command was given --debug."""
    state = click.get_current_context().find_root().obj
    return isinstance(state, State) and state.debug


def broker_options(command: F) -> F:
    """Give a command the options that find the broker, as one argument `loaded`; and --debug."""

    @config_option
    @data_option
    @nats_option
    @debug_option
    @functools.wraps(command)
    def wrapper(
        *args: Any, config_path: str | None, data: str | None, nats: str | None, **kwargs: Any
    ) -> Any:
        loaded = load(config_path, os.environ, {"data": data, "nats.url": nats})
        return command(*args, loaded=loaded, **kwargs)

    return wrapper  # type: ignore[return-value]


def rights_options(
    permissions_help: str,
    stations_help: str = "Only stations with such a name, as in 'orders.*'; repeatable. Without it:"
    " all.",
) -> Callable[[F], F]:
    """Give a command the options `permissions` and `stations`: what somebody may do, and where."""

    def decorate(command: F) -> F:
        permission = click.option(
            "--permission",
            "permissions",
            type=click.Choice(PERMISSIONS),
            multiple=True,
            help=permissions_help,
        )
        station = click.option(
            "--station", "stations", metavar="GLOB", multiple=True, help=stations_help
        )
        return permission(station(command))

    return decorate


def warn(loaded: Loaded) -> None:
    """Tell the operator what the configuration allows but should not."""
    for line in loaded.warnings:
        click.echo(f"fastgw: warning: {line}", err=True)


def print_json(value: object) -> None:
    """Write one JSON document and a newline to standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def answer(as_json: bool, value: object, text: str) -> None:
    """Tell what a command did: `value` to a script that asked for JSON, else `text` to people."""
    if as_json:
        print_json(value)
    else:
        click.echo(text)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], empty: str = "") -> None:
    """Write a table for people; `empty` is said when there is no row."""
    lines = [*rows]
    if not lines:
        click.echo(empty)
        return
    # WHY here: it takes as long to load as click does, and `fastgw serve` prints no table.
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for line in lines:
        table.add_row(*map(_plain, line))
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    # WHY: without a terminal nothing is cut or wrapped to 80 columns, so that grep finds values.
    console = Console(width=PIPE_COLUMNS, highlight=False)
    with console.capture() as written:
        console.print(table)
    for line in written.get().splitlines():
        click.echo(line.rstrip())


def answer_rows(
    as_json: bool,
    values: object,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    empty: str = "",
) -> None:
    """Tell what a command found: `values` to a script, else the same as a table; or `empty`."""
    if as_json:
        print_json(values)
    else:
        print_table(headings, rows, empty)


def show_time(unix_s: float) -> str:
    """Return a time as people and scripts read it: UTC, to the second."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def show_stations(globs: Sequence[str]) -> str:
    """Return which stations the globs mean, for a sentence."""
    return "all stations" if list(globs) == ["*"] else ", ".join(globs)


def _plain(text: str) -> str:
    """Keep rich from reading "[...]" in a value as markup."""
    return text.replace("[", r"\[")
