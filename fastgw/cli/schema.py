"""`fastgw schema`: the registry of schemas, and trying one on messages before it is attached.

What enters: names, and files with the text of a schema or with messages. What leaves: changed
records in the broker's store, which every gateway follows within a second; tables, text or JSON.
`check` needs no broker: its exit code is 0 when every message satisfies the schema, else 1.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click

from fastgw.cli._common import (
    EXIT_FAILED,
    EXIT_USAGE,
    Failed,
    answer,
    answer_rows,
    broker_options,
    debug_option,
    json_option,
    print_json,
    print_table,
    show_time,
)
from fastgw.cli._control import ControlPlane, read_with_control, run_with_control
from fastgw.config import Loaded
from fastgw.errors import clip

if TYPE_CHECKING:
    from fastgw.control.schema_record import SchemaRecord, SchemaType, Version
    from fastgw.control.verdicts import Judged

F = TypeVar("F", bound=Callable[..., Any])
TYPES: Final = ("json", "protobuf", "avro", "graphql")
FILE_BYTES_MAX: Final = 256 * 1024
INPUT_BYTES_MAX: Final = 64 * 1024 * 1024
"""LIMIT: one message of --whole, or one line; far above any broker's max_payload."""

LINES_SHOWN: Final = 20


def _schema_options(command: F) -> F:
    """Give a command the options of a version."""
    message = click.option("--message", metavar="NAME", help="Of protobuf: the message's name.")
    unknown = click.option(
        "--unknown-fields",
        type=click.Choice(["accept", "refuse"]),
        help="Of protobuf: what becomes of fields that the schema does not know. [accept]",
    )
    return message(unknown(command))


type_option = click.option(
    "--type", "kind", type=click.Choice(TYPES), required=True, help="The schema's type."
)


@click.group("schema")
def command() -> None:
    """Add, compare, try and remove schemas.

    A schema has immutable versions; a station has at most one version attached.
    """


@command.command()
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@type_option
@_schema_options
@json_option
@broker_options
def add(
    loaded: Loaded,
    name: str,
    file: IO[bytes],
    kind: str,
    message: str | None,
    unknown_fields: str | None,
    as_json: bool,
) -> None:
    """Add the schema NAME; FILE holds its text, - is standard input."""
    text, options = _read_text(file), _options(message, unknown_fields)
    record = run_with_control(
        loaded,
        lambda plane: plane.schemas.create(name, kind, text, options),
        starts_empty=True,
    )
    answer(as_json, _shown(record), f"Added schema {name}, version 1 of type {kind}.")


@command.command()
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@_schema_options
@json_option
@broker_options
def version(
    loaded: Loaded,
    name: str,
    file: IO[bytes],
    message: str | None,
    unknown_fields: str | None,
    as_json: bool,
) -> None:
    """Add a version to the schema NAME; the latest version's own text adds none.

    Stations keep the version that they have attached.
    """
    text, options = _read_text(file), _options(message, unknown_fields) or None

    async def work(plane: ControlPlane) -> tuple[SchemaRecord, Version, bool]:
        before = plane.schemas.find(name)
        record, added = await plane.schemas.add_version(name, text, options)
        known = before is not None and before.find(added.number) is not None
        return record, added, known

    record, added, known = run_with_control(loaded, work)
    value = {"name": record.name, "type": record.type} | _shown_version(added)
    what = "has this text already as" if known else "now has"
    answer(as_json, value, f"Schema {name} {what} version {added.number}.")


@command.command("list")
@json_option
@broker_options
def list_(loaded: Loaded, as_json: bool) -> None:
    """List the schemas, and where they are attached."""
    schemas, stations = read_with_control(
        loaded, lambda plane: (plane.schemas.list(), plane.stations.list())
    )
    found = [
        (record, [one.name for one in stations if one.schema == record.name]) for record in schemas
    ]
    answer_rows(
        as_json,
        [_shown(record) | {"stations": names} for record, names in found],
        ("SCHEMA", "TYPE", "VERSION", "STATIONS", "SINCE"),
        (
            (
                record.name,
                record.type,
                str(record.latest.number),
                clip(", ".join(names), 60) or "-",
                show_time(record.latest.created_at),
            )
            for record, names in found
        ),
        empty="There are no schemas yet; add one with: fastgw schema add NAME FILE --type json",
    )


@command.command()
@click.argument("name")
@click.option("--version", "number", type=click.IntRange(1), help="Without it: the latest.")
@click.option("--text", "only_text", is_flag=True, help="Write the text alone, byte for byte.")
@json_option
@broker_options
def show(loaded: Loaded, name: str, number: int | None, only_text: bool, as_json: bool) -> None:
    """Show a version of the schema NAME."""
    record, found, text = run_with_control(loaded, lambda plane: plane.schemas.show(name, number))
    if as_json:
        versions = [_shown_version(one) for one in record.versions]
        head = {"name": record.name, "type": record.type} | _shown_version(found)
        print_json(head | {"versions": versions, "text": text})
        return
    if only_text:
        click.echo(text, nl=False)
        return
    rows = [
        ("type", record.type),
        ("version", f"{found.number} of {record.latest.number}"),
        ("since", show_time(found.created_at)),
        ("sha256", found.sha256),
    ]
    rows += list(found.options.items())
    rows += [(f"uses {reference}", meant) for reference, meant in found.uses.items()]
    print_table(("SCHEMA", name), rows)
    click.echo(f"\n{text}", nl=not text.endswith("\n"))


@command.command()
@click.argument("name")
@click.argument("old", metavar="[FROM]", type=click.IntRange(1), required=False)
@click.argument("new", metavar="[TO]", type=click.IntRange(1), required=False)
@json_option
@broker_options
def diff(loaded: Loaded, name: str, old: int | None, new: int | None, as_json: bool) -> None:
    """Show what changed between two versions; without numbers, the last two.

    The exit code is 0 in any case.
    """

    async def work(plane: ControlPlane) -> tuple[int, int, str]:
        last = new or (await plane.schemas.show(name))[0].latest.number
        first = old or max(1, last - 1)
        return first, last, await plane.schemas.diff(name, first, last)

    first, last, text = run_with_control(loaded, work)
    if as_json:
        print_json({"name": name, "from": first, "to": last, "diff": text})
        return
    click.echo(text or f"Versions {first} and {last} of {name} are the same.\n", nl=False)


@command.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@broker_options
def rm(loaded: Loaded, name: str, yes: bool, as_json: bool) -> None:
    """Remove the schema NAME with all its versions, unless a station has it attached."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("This deletes every version of the schema: say --yes.")
        if not click.confirm(f"Delete schema {name} with all its versions?", err=True):
            raise Failed("nothing was deleted")
    run_with_control(loaded, lambda plane: plane.schemas.remove(name))
    answer(as_json, {"name": name, "removed": True}, f"Removed schema {name}.")


@command.command()
@click.argument("file", type=click.File("rb"))
@click.argument("events", type=click.File("rb"), default="-")
@type_option
@_schema_options
@click.option(
    "--with",
    "others",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="A schema that FILE refers to, by this file's name; repeatable.",
)
@click.option("--whole", is_flag=True, help="EVENTS is one message, not one a line.")
@click.option("--content-type", metavar="TYPE", help="Judge as if it were sent with this type.")
@click.option("--all", "shows_all", is_flag=True, help="Show the good lines as well.")
@json_option
@debug_option
def check(
    file: IO[bytes],
    events: IO[bytes],
    kind: SchemaType,
    message: str | None,
    unknown_fields: str | None,
    others: tuple[Path, ...],
    whole: bool,
    content_type: str | None,
    shows_all: bool,
    as_json: bool,
) -> int:
    """Try the schema in FILE on EVENTS, one message a line (default: standard input).

    Nothing is stored and no broker is needed. The exit code is 0 when every message is good, 1
    when one is not, and 2 when the schema itself cannot be used.
    """
    from fastgw.control.schema_record import check_options, compile_text
    from fastgw.control.verdicts import Verdicts, line_type
    from fastgw.errors import ClientFault

    texts = _read_others(others)
    try:
        options = check_options(kind, _options(message, unknown_fields))
        validator = compile_text(kind, _read_text(file), options, texts.get)
    except ClientFault as fault:
        click.echo(f"fastgw: {getattr(file, 'name', 'FILE')}: {fault.text}", err=True)
        return EXIT_USAGE
    verdicts = Verdicts(validator)
    sent_as = content_type.encode() if content_type else None
    messages = _read_whole(events) if whole else _read_lines(events)
    if not whole and sent_as is None:
        sent_as = line_type(kind)
    bad: list[dict[str, object]] = []

    async def judge() -> None:
        async for one in verdicts.judge(messages, sent_as):
            if as_json:
                bad.append(_shown_verdict(one))
            elif shows_all or not one.is_good:
                click.echo(f"line {one.line}: {one.reason or 'good'}")

    asyncio.run(judge())
    counts = {"valid": verdicts.good_count, "invalid": verdicts.bad_count}
    if as_json:
        print_json(counts | {"results": bad})
    else:
        total = verdicts.good_count + verdicts.bad_count
        click.echo(f"{verdicts.good_count} of {total} are good, {verdicts.bad_count} are not.")
    return EXIT_FAILED if verdicts.bad_count else 0


def _read_text(file: IO[bytes]) -> str:
    raw = file.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:
        raise Failed(f"the schema's file has more than {FILE_BYTES_MAX} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Failed(f"the schema's file is not UTF-8 at byte {error.start}") from error


def _read_others(paths: Iterable[Path]) -> dict[str, str]:
    """Return the texts that a schema may refer to, by file name with and without its ending."""
    texts: dict[str, str] = {}
    for path in paths:
        with path.open("rb") as file:
            texts[path.name] = texts[path.stem] = _read_text(file)
    return texts


def _read_whole(events: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    body = events.read(INPUT_BYTES_MAX + 1)
    if len(body) > INPUT_BYTES_MAX:
        raise Failed(f"the message has more than {INPUT_BYTES_MAX} bytes")
    yield 1, body


def _read_lines(events: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    from fastgw.control.verdicts import BOM, number_lines

    def read() -> Iterator[bytes]:
        is_first = True
        while line := events.readline(INPUT_BYTES_MAX + 1):
            if len(line) > INPUT_BYTES_MAX:
                raise Failed(f"a line has more than {INPUT_BYTES_MAX} bytes")
            yield line.removeprefix(BOM) if is_first else line
            is_first = False

    return number_lines(read())


def _options(message: str | None, unknown_fields: str | None) -> dict[str, str]:
    found = {"message": message, "unknown_fields": unknown_fields}
    return {key: value for key, value in found.items() if value is not None}


def _shown(record: SchemaRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "type": record.type,
        "version": record.latest.number,
        "created_at": show_time(record.created_at),
        "changed_at": show_time(record.latest.created_at),
    }


def _shown_version(found: Version) -> dict[str, object]:
    return {
        "version": found.number,
        "sha256": found.sha256,
        "bytes": found.bytes,
        "created_at": show_time(found.created_at),
        "options": found.options,
        "uses": found.uses,
    }


def _shown_verdict(one: Judged) -> dict[str, object]:
    shown: dict[str, object] = {"line": one.line, "valid": one.is_good}
    return shown if one.is_good else shown | {"error": one.reason}
