"""`fastgw station`: the JetStream streams that the gateway may produce to.

What enters: station names and what their streams shall keep, as arguments.
What leaves: changed records in the broker's store, which every gateway follows within a second;
created or deleted streams; a table or JSON. Messages are deleted only after a question, or with
`--yes`.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final, Literal

import click

from fastgw.cli._common import (
    Failed,
    broker_options,
    json_option,
    print_json,
    print_table,
    show_time,
)
from fastgw.cli._control import ControlPlane, run_with_control
from fastgw.config import Loaded
from fastgw.errors import Fault, clip

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastgw.control.stations import StationInfo, StationRecord

SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
BYTES: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_AMOUNT: Final = re.compile(r"(\d{1,18})\s*([A-Za-z]*)")


def _amount(
    units: dict[str, int], example: str
) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """Return what reads an option like "7d" or "10GiB", as a count of the smallest unit."""

    def convert(_context: click.Context, _param: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        match = _AMOUNT.fullmatch(value.strip())
        if match is None or match[2] not in units or int(match[1]) == 0:
            known = ", ".join(filter(None, units))
            raise click.BadParameter(
                f"{clip(value)!r} is no amount like {example}; the units are {known}."
            )
        return int(match[1]) * units[match[2]]

    return convert


@click.group("station")
def command() -> None:
    """Add, list and remove stations.

    A station is a JetStream stream that the gateway may produce to.
    """


@command.command()
@click.argument("name")
@click.option(
    "--headers",
    metavar="all|none|GLOB",
    multiple=True,
    help="Which request headers become message headers; globs are repeatable. Without it: all.",
)
@click.option(
    "--allow-header",
    "header_allow",
    metavar="GLOB",
    multiple=True,
    help="A Nats-… header that producers may set, as Nats-TTL; repeatable.",
)
@click.option(
    "--storage", type=click.Choice(["file", "memory"]), default="file", help="Of the stream."
)
@click.option(
    "--max-age",
    metavar="AGE",
    callback=_amount(SECONDS, "7d"),
    help="How long the stream keeps messages: 90s, 30m, 12h, 7d. Without it: for ever.",
)
@click.option(
    "--max-bytes",
    metavar="SIZE",
    callback=_amount(BYTES, "10GiB"),
    help="The most that it keeps, then it drops the oldest: 500MiB, 10GiB. Without it: all.",
)
@json_option
@broker_options
def add(
    loaded: Loaded,
    name: str,
    headers: tuple[str, ...],
    header_allow: tuple[str, ...],
    storage: Literal["file", "memory"],
    max_age: int | None,
    max_bytes: int | None,
    as_json: bool,
) -> None:
    """Add the station NAME.

    It stands on a stream of that name with the subjects NAME and NAME.> : one that is there is
    taken as it is, else one is made, with `nats.replicas` copies.
    """
    wanted = _take_headers(headers)

    async def work(plane: ControlPlane) -> StationRecord:
        return await plane.stations.add(
            name,
            headers=wanted,
            header_allow=header_allow,
            storage=storage,
            max_age_s=max_age or 0,
            max_bytes=max_bytes,
        )

    record = run_with_control(loaded, work, starts_empty=True)
    if as_json:
        print_json(_shown(record))
        return
    stream = "a new stream" if record.owned else "the stream that was there"
    click.echo(f"Added station {name} on {stream}, {record.stream}.")


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
    headings = ["STATION", "STREAM", "HEADERS", "SINCE"]
    rows = [
        [record.name, record.stream, _text(record.headers), show_time(record.created_at)]
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
            ("storage", f"{found.storage}, {found.replicas} replica(s)"),
            ("keeps", _age(found.max_age_s)),
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


def _take_headers(words: Sequence[str]) -> Literal["all", "none"] | list[str]:
    """Return "all", "none" or globs; the two words stand alone."""
    if not words:
        return "all"
    if "all" in words or "none" in words:
        if len(words) > 1:
            raise click.UsageError("--headers all and --headers none stand alone.")
        return "all" if words[0] == "all" else "none"
    return [*words]


async def _find_info(plane: ControlPlane, name: str) -> StationInfo | None:
    """Return the state of a station, None when its stream does not tell."""
    try:
        return await plane.stations.info(name)
    except Fault:
        return None


def _shown(record: StationRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "stream": record.stream,
        "subject": record.subject,
        "headers": record.headers,
        "header_allow": record.header_allow,
        "owned": record.owned,
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
    }


def _text(headers: str | Sequence[str]) -> str:
    return headers if isinstance(headers, str) else ", ".join(headers)


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
