"""The command line: `fastgw serve`, `user`, `key`, `station`, `schema`, `bench` and the others.

What enters: arguments, the environment, a password from the prompt or standard input.
What leaves: text or JSON on standard output, one line on standard error when something is wrong,
and an exit code: 0 done, 1 it could not be done now, 2 wrong usage or configuration.
Each command lives in a module of its own, which is loaded when it is asked for: a gateway need not
load the others before it serves, nor keep them. No command takes a password or secret as an
argument, where other users of the machine could read it, and none shows a traceback unless
`--debug` asks for it.
"""

from __future__ import annotations

import importlib
import sys
from collections import UserDict
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from fastgw import __version__
from fastgw.cli._common import State, debug_option, describe_failure

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130


NAMES: Final = ("bench", "config", "key", "schema", "secret", "serve", "station", "user")
"""Of the commands; each is also the name of its module."""


class Commands(UserDict[str, Any]):
    """The commands by name, each loaded when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        """Return a command; raise KeyError when there is none."""
        if self.data[name] is None:
            self.data[name] = importlib.import_module(f"fastgw.cli.{name}").command
        return self.data[name]


@click.group(
    commands=Commands(dict.fromkeys(NAMES)),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="fastgw %(version)s")
@debug_option
def cli() -> None:
    """HTTP in, stored in NATS JetStream, answered.

    `fastgw serve` needs nothing else: it brings its own broker and prints commands to try.
    """


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; what went wrong is told on stderr."""
    state = State()
    try:
        result = cli.main(list(args), prog_name="fastgw", standalone_mode=False, obj=state)
    except click.exceptions.NoArgsIsHelpError as error:
        # WHY: a bare `fastgw` asks what there is; that is no mistake worth an "Error:" line.
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        if state.debug:
            raise
        click.echo(f"fastgw: {error.format_message()}{_hint(error)}", err=True)
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("fastgw: interrupted", err=True)
        return EXIT_INTERRUPTED
    except Exception as error:  # the last resort of a command line
        if state.debug:
            raise
        text, code = describe_failure(error)
        click.echo(f"fastgw: {text}", err=True)
        return code
    return result if isinstance(result, int) else EXIT_OK


def _hint(error: click.ClickException) -> str:
    """Name the help of the command that was used wrongly."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f" See: {context.command_path} --help" if context is not None else ""


def main() -> NoReturn:
    """Run the process's own command line; the console script `fastgw` is this function."""
    sys.exit(run(sys.argv[1:]))
