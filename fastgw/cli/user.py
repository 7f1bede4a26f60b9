"""`fastgw user`: who may call the gateway.

What enters: names and permissions as arguments; a password from the prompt, from standard input
or made here. What leaves: changed records in the broker's store, which every gateway follows
within a second, and a table or JSON. A password is shown only when it was made here, once; a hash
never is.
"""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from fastgw.cli._common import (
    broker_options,
    json_option,
    print_json,
    print_table,
    show_time,
)
from fastgw.cli._control import ControlPlane, run_with_control
from fastgw.config import Loaded

if TYPE_CHECKING:
    from fastgw.control.users import UserRecord

PASSWORD_BYTES: Final = 18
"""LIMIT: 144 random bits, 24 characters that need no quoting in a shell."""
PASSWORD_CHARS_MAX: Final = 1024
PERMISSIONS: Final = ("produce", "consume", "admin")


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
@click.option(
    "--permission",
    "permissions",
    type=click.Choice(PERMISSIONS),
    multiple=True,
    help="What the user may do; repeatable. Without it: produce and consume.",
)
@click.option(
    "--station",
    "stations",
    metavar="GLOB",
    multiple=True,
    help="Only stations with such a name, as in 'orders.*'; repeatable. Without it: all.",
)
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

    async def work(plane: ControlPlane) -> UserRecord:
        return await plane.users.add(name, password, wanted, stations or ("*",))

    record = run_with_control(loaded, work, starts_empty=True)
    if as_json:
        print_json(_shown(record) | ({"password": password} if generate else {}))
        return
    click.echo(f"Added user {name}: may {', '.join(record.permissions)} on {_globs(record)}.")
    _show_password(password if generate else None)


@command.command()
@click.argument("name")
@_password_options
@json_option
@broker_options
def passwd(loaded: Loaded, name: str, generate: bool, password_stdin: bool, as_json: bool) -> None:
    """Change the password of the user NAME; tokens issued before stop working."""
    password = _take_password(generate=generate, from_stdin=password_stdin)

    async def work(plane: ControlPlane) -> None:
        await plane.users.passwd(name, password)

    run_with_control(loaded, work)
    if as_json:
        print_json({"name": name} | ({"password": password} if generate else {}))
        return
    click.echo(f"Changed the password of {name}; tokens issued before no longer work.")
    _show_password(password if generate else None)


@command.command()
@click.argument("name")
@click.option(
    "--permission",
    "permissions",
    type=click.Choice(PERMISSIONS),
    multiple=True,
    help="What the user may do from now on; repeatable. Without it: as before.",
)
@click.option(
    "--station",
    "stations",
    metavar="GLOB",
    multiple=True,
    help="Only stations with such a name from now on; repeatable. Without it: as before.",
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

    async def work(plane: ControlPlane) -> UserRecord:
        return await plane.users.change(
            name, permissions=permissions or None, stations=stations or None
        )

    record = run_with_control(loaded, work)
    if as_json:
        print_json(_shown(record))
        return
    click.echo(f"User {name} may now {', '.join(record.permissions)} on {_globs(record)}.")


@command.command()
@click.argument("name")
@json_option
@broker_options
def disable(loaded: Loaded, name: str, as_json: bool) -> None:
    """Shut the user NAME out; its tokens stop working at once."""
    record = _set_disabled(loaded, name, disabled=True)
    if as_json:
        print_json(_shown(record))
        return
    click.echo(f"Disabled user {name}.")


@command.command()
@click.argument("name")
@json_option
@broker_options
def enable(loaded: Loaded, name: str, as_json: bool) -> None:
    """Let the user NAME in again; it needs new tokens."""
    record = _set_disabled(loaded, name, disabled=False)
    if as_json:
        print_json(_shown(record))
        return
    click.echo(f"Enabled user {name}.")


@command.command("list")
@json_option
@broker_options
def list_(loaded: Loaded, as_json: bool) -> None:
    """List the users."""

    async def work(plane: ControlPlane) -> list[UserRecord]:
        return sorted(plane.users.records.values(), key=lambda record: record.name)

    records = run_with_control(loaded, work)
    if as_json:
        print_json([_shown(record) for record in records])
        return
    print_table(
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

    async def work(plane: ControlPlane) -> None:
        await plane.users.remove(name)

    run_with_control(loaded, work)
    if as_json:
        print_json({"name": name, "removed": True})
        return
    click.echo(f"Removed user {name}.")


def _set_disabled(loaded: Loaded, name: str, *, disabled: bool) -> UserRecord:
    async def work(plane: ControlPlane) -> UserRecord:
        return await plane.users.set_disabled(name, disabled)

    return run_with_control(loaded, work)


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


def _show_password(password: str | None) -> None:
    if password is not None:
        click.echo(f"Password, shown only now: {password}")


def _globs(record: UserRecord) -> str:
    return "all stations" if record.stations == ["*"] else ", ".join(record.stations)


def _shown(record: UserRecord) -> dict[str, object]:
    """Return what a script may see of a user: everything but the hash."""
    return {
        "name": record.name,
        "permissions": record.permissions,
        "stations": record.stations,
        "disabled": record.disabled,
        "created_at": show_time(record.created_at),
    }
