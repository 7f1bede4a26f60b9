"""`fastgw user`: who may call the gateway.

What enters: names and permissions as arguments; a password from the prompt, from standard input
or made here. What leaves: changed records in the broker's store, which every gateway follows
within a second, and a table or JSON. A password is shown only when it was made here, once; a hash
never is.
"""

from __future__ import annotations

import secrets
import sys
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import click

from fastgw.cli._common import (
    answer,
    answer_rows,
    broker_options,
    json_option,
    rights_options,
    show_stations,
    show_time,
)
from fastgw.cli._control import read_with_control, run_with_control
from fastgw.config import Loaded

if TYPE_CHECKING:
    from fastgw.control.users import UserRecord

PASSWORD_BYTES: Final = 18
"""LIMIT: 144 random bits, 24 characters that need no quoting in a shell."""
PASSWORD_CHARS_MAX: Final = 1024


@click.group("user")
def command() -> None:
    """Add, change, list and remove users."""


def _password_options(function: Any) -> Any:
    generate = click.option(
        "--generate", is_flag=True, help="Make a random password and show it once."
    )
    from_stdin = click.option(
        "--password-stdin", is_flag=True, help="Read the password from standard input."
    )
    return generate(from_stdin(function))


@command.command()
@click.argument("name")
@_password_options
@rights_options("What the user may do; repeatable. Without it: produce and consume.")
@json_option
@broker_options
def add(
    loaded: Loaded,
    name: str,
    generate: bool,
    password_stdin: bool,
    permissions: tuple[str, ...],
    stations: tuple[str, ...],
    as_json: bool,
) -> None:
    """Add the user NAME; the password is asked for."""
    password = _take_password(generate=generate, from_stdin=password_stdin)
    wanted = permissions or ("produce", "consume")
    record = run_with_control(
        loaded,
        lambda plane: plane.users.add(name, password, wanted, stations or ("*",)),
        starts_empty=True,
    )
    may = f"may {', '.join(record.permissions)} on {show_stations(record.stations)}"
    value, text = _shown(record), f"Added user {name}: {may}."
    _answer_with_password(as_json, value, text, password if generate else None)


@command.command()
@click.argument("name")
@_password_options
@json_option
@broker_options
def passwd(loaded: Loaded, name: str, generate: bool, password_stdin: bool, as_json: bool) -> None:
    """Change the password of the user NAME; tokens issued before stop working."""
    password = _take_password(generate=generate, from_stdin=password_stdin)
    run_with_control(loaded, lambda plane: plane.users.passwd(name, password))
    text = f"Changed the password of {name}; tokens issued before no longer work."
    _answer_with_password(as_json, {"name": name}, text, password if generate else None)


@command.command()
@click.argument("name")
@rights_options(
    "What the user may do from now on; repeatable. Without it: as before.",
    "Only stations with such a name from now on; repeatable. Without it: as before.",
)
@json_option
@broker_options
def permissions(
    loaded: Loaded,
    name: str,
    permissions: tuple[str, ...],
    stations: tuple[str, ...],
    as_json: bool,
) -> None:
    """Replace what the user NAME may do; tokens issued before stop working."""
    if not (permissions or stations):
        raise click.UsageError("Say what to change: --permission, --station or both.")
    record = run_with_control(
        loaded,
        lambda plane: plane.users.change(
            name, permissions=permissions or None, stations=stations or None
        ),
    )
    may = f"{', '.join(record.permissions)} on {show_stations(record.stations)}"
    answer(as_json, _shown(record), f"User {name} may now {may}.")


@command.command()
@click.argument("name")
@json_option
@broker_options
def disable(loaded: Loaded, name: str, as_json: bool) -> None:
    """Shut the user NAME out; its tokens stop working at once."""
    record = run_with_control(loaded, lambda plane: plane.users.set_disabled(name, True))
    answer(as_json, _shown(record), f"Disabled user {name}.")


@command.command()
@click.argument("name")
@json_option
@broker_options
def enable(loaded: Loaded, name: str, as_json: bool) -> None:
    """Let the user NAME in again; it needs new tokens."""
    record = run_with_control(loaded, lambda plane: plane.users.set_disabled(name, False))
    answer(as_json, _shown(record), f"Enabled user {name}.")


@command.command("list")
@json_option
@broker_options
def list_(loaded: Loaded, as_json: bool) -> None:
    """List the users."""
    records = read_with_control(
        loaded, lambda plane: sorted(plane.users.records.values(), key=attrgetter("name"))
    )
    answer_rows(
        as_json,
        [_shown(record) for record in records],
        ("USER", "PERMISSIONS", "STATIONS", "STATE", "SINCE"),
        (
            (
                record.name,
                ", ".join(record.permissions),
                ", ".join(record.stations),
                "disabled" if record.disabled else "active",
                show_time(record.created_at),
            )
            for record in records
        ),
        empty="There are no users yet; add one with: fastgw user add NAME",
    )


@command.command()
@click.argument("name")
@json_option
@broker_options
def rm(loaded: Loaded, name: str, as_json: bool) -> None:
    """Remove the user NAME; its tokens stop working at once."""
    run_with_control(loaded, lambda plane: plane.users.remove(name))
    answer(as_json, {"name": name, "removed": True}, f"Removed user {name}.")


def _take_password(*, generate: bool, from_stdin: bool) -> str:
    """Make, read or ask for a password; ask twice, since it is not shown."""
    if generate and from_stdin:
        raise click.UsageError("--generate and --password-stdin exclude each other.")
    if generate:
        return secrets.token_urlsafe(PASSWORD_BYTES)
    if from_stdin:
        password = sys.stdin.readline(PASSWORD_CHARS_MAX + 2).removesuffix("\n").removesuffix("\r")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        raise click.UsageError("No terminal to ask on: use --password-stdin or --generate.")
    if not password:
        raise click.UsageError("The password is empty.")
    if len(password) > PASSWORD_CHARS_MAX:
        raise click.UsageError(f"The password has more than {PASSWORD_CHARS_MAX} characters.")
    return password


def _answer_with_password(
    as_json: bool, value: dict[str, object], text: str, made: str | None
) -> None:
    """Answer, and show the password if it was made here: this once only."""
    if made is not None:
        value, text = value | {"password": made}, f"{text}\nPassword, shown only now: {made}"
    answer(as_json, value, text)


def _shown(record: UserRecord) -> dict[str, object]:
    """Return what a script may see of a user: everything but the hash."""
    return {
        "name": record.name,
        "permissions": record.permissions,
        "stations": record.stations,
        "disabled": record.disabled,
        "created_at": show_time(record.created_at),
    }
