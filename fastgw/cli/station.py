"""`fastgw station`: the JetStream streams that the gateway may produce to.

What enters: station names and what their streams shall keep, as arguments.
What leaves: changed records in the broker's store, which every gateway follows within a second;
created or deleted streams; a table or JSON. Messages are deleted only after a question, or with
`--yes`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from fastgw.cli import dead_letters
from fastgw.cli._common import (
    Failed,
    broker_options,
    json_option,
    print_json,
    print_table,
    show_time,
)
from fastgw.cli._control import ControlPlane, run_with_control
from fastgw.cli.station_options import (
    SECONDS,
    policy_options,
    read_schema,
    read_settings,
    stream_options,
)
from fastgw.config import Loaded
from fastgw.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastgw.control.stations import StationInfo, StationRecord


@click.group("station")
def command() -> None:
    """Add, change, list and remove stations.

    A station is a JetStream stream that the gateway may produce to.
    """


command.add_command(dead_letters.command)


@command.command()
@click.argument("name")
@policy_options
@stream_options
@json_option
@broker_options
def add(loaded: Loaded, name: str, as_json: bool, **options: Any) -> None:
    """Add the station NAME.

    It stands on a stream of that name with the subjects NAME and NAME.> : one that is there is
    taken as it is, else one is made.
    """
    settings = read_settings(options)

    async def work(plane: ControlPlane) -> StationRecord:
        return await plane.stations.add(name, **settings)

    def tell(record: StationRecord) -> str:
        stream = "a new stream" if record.owned else "the stream that was there"
        return f"Added station {name} on {stream}, {record.stream}."

    _change(loaded, work, as_json, tell, starts_empty=True)


@command.command()
@click.argument("name")
@click.argument("stream")
@click.option("--subject", help="What to publish to. Without it: the stream's only subject.")
@policy_options
@json_option
@broker_options
def adopt(
    loaded: Loaded, name: str, stream: str, subject: str | None, as_json: bool, **options: Any
) -> None:
    """Add the station NAME on STREAM, which is there and stays as it is."""
    settings = read_settings(options)

    async def work(plane: ControlPlane) -> StationRecord:
        return await plane.stations.adopt(name, stream, subject, **settings)

    _change(
        loaded,
        work,
        as_json,
        lambda record: f"Added station {name} on stream {stream}, publishing to {record.subject}.",
    )


@command.command()
@click.argument("name")
@policy_options
@stream_options
@json_option
@broker_options
def change(loaded: Loaded, name: str, as_json: bool, **options: Any) -> None:
    """Change the station NAME; what is not named stays.

    The word none takes a bound, the schema or the dead-letter station away.
    """
    settings = read_settings(options)
    if not settings:
        raise click.UsageError("Say what to change.")

    async def work(plane: ControlPlane) -> StationRecord:
        return await plane.stations.change(name, **settings)

    _change(loaded, work, as_json, lambda _: f"Changed station {name}.")


@command.command()
@click.argument("name")
@click.argument("schema", metavar="SCHEMA[@VERSION]")
@json_option
@broker_options
def attach(loaded: Loaded, name: str, schema: str, as_json: bool) -> None:
    """Attach SCHEMA to the station NAME: every message must satisfy it from then on."""
    wanted = read_schema(schema)
    if wanted["schema"] is None:
        raise click.UsageError("Name a schema, or use: fastgw station detach.")

    async def work(plane: ControlPlane) -> StationRecord:
        return await plane.stations.attach(name, wanted["schema"], wanted.get("schema_version"))

    def tell(record: StationRecord) -> str:
        return f"Attached {record.schema} version {record.schema_version} to station {name}."

    _change(loaded, work, as_json, tell)


@command.command()
@click.argument("name")
@json_option
@broker_options
def detach(loaded: Loaded, name: str, as_json: bool) -> None:
    """Detach the schema of the station NAME: every message is good from then on."""

    async def work(plane: ControlPlane) -> StationRecord:
        return await plane.stations.detach(name)

    _change(loaded, work, as_json, lambda _: f"Station {name} has no schema now.")


@command.command("list")
@click.option("--state", "with_state", is_flag=True, help="Ask for messages and bytes as well.")
@json_option
@broker_options
def list_(loaded: Loaded, with_state: bool, as_json: bool) -> None:
    """List the stations."""

    async def work(plane: ControlPlane) -> list[tuple[StationRecord, StationInfo | None]]:
        records = plane.stations.list()
        if not with_state:
            return [(record, None) for record in records]
        return [(record, await _find_info(plane, record.name)) for record in records]

    found = run_with_control(loaded, work)
    if as_json:
        print_json([_shown(record) | _shown_state(info) for record, info in found])
        return
    headings = ["STATION", "STREAM", "SCHEMA", "HEADERS", "SINCE"]
    rows = [
        [
            record.name,
            record.stream,
            _schema(record),
            _text(record.headers),
            show_time(record.created_at),
        ]
        for record, _ in found
    ]
    if with_state:
        headings += ["MESSAGES", "SIZE"]
        for row, (_, info) in zip(rows, found, strict=True):
            row.extend(["-", "-"] if info is None else [str(info.messages), _size(info.bytes)])
    print_table(
        headings, rows, empty="There are no stations yet; add one with: fastgw station add NAME"
    )


@command.command()
@click.argument("name")
@json_option
@broker_options
def info(loaded: Loaded, name: str, as_json: bool) -> None:
    """Show the station NAME and what its stream holds now."""

    async def work(plane: ControlPlane) -> StationInfo:
        return await plane.stations.info(name)

    found = run_with_control(loaded, work)
    record = found.record
    if as_json:
        print_json(_shown(record) | _shown_state(found))
        return
    made = "made for the station" if record.owned else "was there before"
    print_table(
        ("STATION", name),
        (
            ("stream", f"{record.stream} ({made})"),
            ("subjects", ", ".join(found.subjects)),
            ("published to", record.subject),
            ("headers", _text(record.headers)),
            ("allowed Nats-…", ", ".join(record.header_allow) or "-"),
            ("schema", _schema(record)),
            ("dead letters", record.dead_letter or "-"),
            ("wait=false", "allowed" if record.allow_no_wait else "refused"),
            ("subject suffix", "allowed" if record.allow_suffix else "refused"),
            ("message limit", _bound(record.message_bytes_max)),
            ("ack", record.ack),
            ("webhooks", _webhook(record)),
            ("storage", f"{found.storage}, {found.replicas} replica(s)"),
            ("retention", found.retention),
            ("keeps", _age(found.max_age_s)),
            ("at most", _most(found)),
            ("duplicates", _age(found.duplicate_window_s)),
            ("messages", f"{found.messages} ({_size(found.bytes)})"),
            ("sequences", f"{found.first_seq} to {found.last_seq}" if found.messages else "-"),
            ("consumers", str(found.consumers)),
            ("since", show_time(record.created_at)),
        ),
    )


@command.command()
@click.argument("name")
@click.option("--keep-stream", is_flag=True, help="Leave the stream and its messages.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@broker_options
def rm(loaded: Loaded, name: str, keep_stream: bool, yes: bool, as_json: bool) -> None:
    """Remove the station NAME, and its stream with all messages.

    A stream that was there before the station is left as it is.
    """
    if not (yes or keep_stream):
        if not sys.stdin.isatty():
            raise click.UsageError(
                "This deletes the station's messages: say --yes, or --keep-stream."
            )
        if not click.confirm(f"Delete station {name} with all its messages?", err=True):
            raise Failed("nothing was deleted")

    async def work(plane: ControlPlane) -> bool:
        record = plane.stations.find(name)
        await plane.stations.remove(name, keep_stream=keep_stream)
        return record is not None and record.owned and not keep_stream

    deleted = run_with_control(loaded, work)
    if as_json:
        print_json({"name": name, "removed": True, "stream_deleted": deleted})
        return
    stream = "with its stream and messages" if deleted else "and left its stream as it is"
    click.echo(f"Removed station {name} {stream}.")


def _change(
    loaded: Loaded,
    work: Callable[[ControlPlane], Awaitable[StationRecord]],
    as_json: bool,
    tell: Callable[[StationRecord], str],
    *,
    starts_empty: bool = False,
) -> None:
    """Do what leaves a changed station, and show it as JSON or in a sentence."""
    record = run_with_control(loaded, work, starts_empty=starts_empty)
    if as_json:
        print_json(_shown(record))
    else:
        click.echo(tell(record))


async def _find_info(plane: ControlPlane, name: str) -> StationInfo | None:
    """Return the state of a station, None when its stream does not tell."""
    try:
        return await plane.stations.info(name)
    except Fault:
        return None


def _shown(record: StationRecord) -> dict[str, object]:
    """Return what a script may see of a station: of a webhook's secrets, how many there are."""
    return {
        "name": record.name,
        "stream": record.stream,
        "subject": record.subject,
        "headers": record.headers,
        "header_allow": record.header_allow,
        "owned": record.owned,
        "schema": record.schema,
        "schema_version": record.schema_version,
        "dead_letter": record.dead_letter,
        "allow_no_wait": record.allow_no_wait,
        "allow_suffix": record.allow_suffix,
        "message_bytes_max": record.message_bytes_max,
        "ack": record.ack,
        "verifier": _verifier(record),
        "created_at": show_time(record.created_at),
    }


def _shown_state(info: StationInfo | None) -> dict[str, object]:
    if info is None:
        return {}
    return {
        "subjects": info.subjects,
        "storage": info.storage,
        "replicas": info.replicas,
        "messages": info.messages,
        "bytes": info.bytes,
        "first_seq": info.first_seq,
        "last_seq": info.last_seq,
        "consumers": info.consumers,
        "max_age_s": info.max_age_s,
        "max_messages": info.max_messages,
        "max_bytes": info.max_bytes,
        "retention": info.retention,
        "duplicate_window_s": info.duplicate_window_s,
    }


def _text(headers: str | Sequence[str]) -> str:
    return headers if isinstance(headers, str) else ", ".join(headers)


def _schema(record: StationRecord) -> str:
    return f"{record.schema}@{record.schema_version}" if record.schema is not None else "-"


def _verifier(record: StationRecord) -> dict[str, object] | None:
    if record.verifier is None:
        return None
    from fastgw.senders.signatures import show_verifier

    return show_verifier(record.verifier)


def _webhook(record: StationRecord) -> str:
    verifier = record.verifier
    if verifier is None:
        return "-"
    return f"signed by {verifier.preset}, {len(verifier.secrets)} secret(s)"


def _bound(count: int | None) -> str:
    return "-" if count is None else _size(count)


def _most(info: StationInfo) -> str:
    """Show the bounds of a stream, in one line."""
    bounds = []
    if info.max_messages is not None:
        bounds.append(f"{info.max_messages} messages")
    if info.max_bytes is not None:
        bounds.append(_size(info.max_bytes))
    return ", ".join(bounds) or "-"


def _size(count: int) -> str:
    """Show bytes in the unit that leaves a number below 1024."""
    number, unit = float(count), "B"
    for name in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            break
        number, unit = number / 1024, name
    return f"{count} B" if unit == "B" else f"{number:.1f} {unit}"


def _age(seconds: float) -> str:
    """Show how long messages are kept, in the largest unit that divides it."""
    if seconds <= 0:
        return "for ever"
    for unit, length in reversed(SECONDS.items()):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:g} s"
