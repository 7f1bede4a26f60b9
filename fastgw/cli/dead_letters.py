"""`fastgw station dead-letters`: what a station's schema refused, shown and sent again.

What enters: a station's name. What leaves: a table or JSON; with --resend, messages that are good
now in their station, and as many dead letters less. A dead letter goes only when its message is
stored. Progress is drawn on standard error, where a terminal is.
"""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastgw.cli._common import (
    EXIT_FAILED,
    Failed,
    answer_rows,
    broker_options,
    json_option,
    print_json,
    show_time,
)
from fastgw.cli._control import ControlPlane, run_with_control
from fastgw.config import Loaded
from fastgw.errors import Fault, UpstreamFault, clip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastgw.control.dead_letters import DeadLetter, DeadLetters
    from fastgw.control.stations import StationRecord
    from fastgw.control.verdicts import Verdicts

SHOWN_DEFAULT: Final = 50
REASONS_SHOWN: Final = 20


class Outcome(msgspec.Struct):
    """What --resend did; `kept` says why the others are still dead letters."""

    sent: int = 0
    kept: dict[str, str] = msgspec.field(default_factory=dict)
    failure: str = ""


@click.command("dead-letters")
@click.argument("name")
@click.option("--resend", is_flag=True, help="Send again those that satisfy the schema of now.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=SHOWN_DEFAULT,
    help=f"How many to show. [{SHOWN_DEFAULT}]",
)
@click.option("--payload", is_flag=True, help="Show the messages and their headers (with --json).")
@json_option
@broker_options
def command(
    loaded: Loaded, name: str, resend: bool, limit: int, payload: bool, as_json: bool
) -> int:
    """Show what the schema of the station NAME refused, or send it again.

    NAME can also be a station that keeps the dead letters of others: then all of them are shown.
    The exit code of --resend is 1 when any is left.
    """
    if resend:
        outcome = run_with_control(loaded, lambda plane: _resend(plane, name), seconds_max=None)
        return _tell(outcome, as_json)
    found = run_with_control(loaded, lambda plane: _read(plane, name, limit))
    values = [_shown(letter, with_payload=payload) for letter in found]
    rows = [
        [
            str(letter.seq),
            show_time(letter.time),
            letter.station,
            f"{letter.schema}@{letter.schema_version}",
            clip(letter.user, 24),
            letter.client,
            str(len(letter.payload)),
            clip(letter.reason, 160),
        ]
        for letter in found
    ]
    heads = ("SEQUENCE", "SINCE", "STATION", "SCHEMA", "USER", "CLIENT", "BYTES", "REASON")
    answer_rows(as_json, values, heads, rows, empty=f"There are no dead letters of {name}.")
    return 0


async def _open(plane: ControlPlane, name: str) -> tuple[DeadLetters, StationRecord | None]:
    """Return the dead letters that the name means, and the station that refused them."""
    from fastgw.control.dead_letters import DeadLetters

    station = plane.stations.find(name)
    if station is None:
        raise Failed(f"there is no station {clip(name)}")
    if station.dead_letter is None:
        if not any(other.dead_letter == name for other in plane.stations.list()):
            raise Failed(
                f"the station {name} has no dead-letter station;"
                f" give it one: fastgw station change {name} --dead-letter STATION"
            )
        return DeadLetters(plane.client, station, None), None
    place = plane.stations.find(station.dead_letter)
    if place is None:
        raise Failed(f"the dead-letter station {station.dead_letter} is gone")
    return DeadLetters(plane.client, place, station), station


async def _read(plane: ControlPlane, name: str, limit: int) -> list[DeadLetter]:
    letters, _ = await _open(plane, name)
    found = []
    async for _, letter in letters.read():
        if letter is not None:
            found.append(letter)
        if len(found) >= limit:
            break
    return found


async def _resend(plane: ControlPlane, name: str) -> Outcome:
    letters, station = await _open(plane, name)
    if station is None:
        raise Failed(f"name the station that refused them; {name} keeps those of others")
    verdicts = await _find_verdicts(plane, station)
    outcome = Outcome()
    last = await letters.find_last()
    with _progress() as progress:
        bar = progress.add_task("re-sending", total=None)
        first = 0
        try:
            async for sequence, letter in letters.read():
                first = first or sequence
                if letter is not None:
                    await _resend_one(letters, letter, verdicts, outcome)
                progress.update(bar, completed=sequence - first + 1, total=last - first + 1)
        except UpstreamFault as fault:
            # WHY not raised: what was sent is told as well, and the rest is still there.
            outcome.failure = fault.text
    return outcome


async def _find_verdicts(plane: ControlPlane, station: StationRecord) -> Verdicts | None:
    from fastgw.control.verdicts import Verdicts

    if station.schema is None:
        return None
    return Verdicts(await plane.schemas.compile(station.schema, station.schema_version))


async def _resend_one(
    letters: DeadLetters, letter: DeadLetter, verdicts: Verdicts | None, outcome: Outcome
) -> None:
    try:
        reason = await letters.resend(letter, verdicts)
    except UpstreamFault:
        raise
    except Fault as fault:
        reason = fault.text
    if reason is None:
        outcome.sent += 1
    else:
        outcome.kept[str(letter.seq)] = reason


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def _tell(outcome: Outcome, as_json: bool) -> int:
    if as_json:
        print_json(outcome)
    else:
        for sequence, reason in _first(outcome.kept):
            click.echo(f"{sequence}: {reason}")
        click.echo(f"Sent {outcome.sent} again, kept {len(outcome.kept)}.")
    if outcome.failure:
        raise Failed(outcome.failure)
    return EXIT_FAILED if outcome.kept else 0


def _first(kept: dict[str, str]) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(kept.items()):
        if number >= REASONS_SHOWN:
            yield "…", f"and {len(kept) - number} more"
            return
        yield entry


def _shown(letter: DeadLetter, *, with_payload: bool) -> dict[str, object]:
    shown: dict[str, object] = {
        "seq": letter.seq,
        "time": show_time(letter.time),
        "station": letter.station,
        "reason": letter.reason,
        "schema": letter.schema,
        "schema_version": letter.schema_version,
        "user": letter.user,
        "client": letter.client,
        "bytes": len(letter.payload),
    }
    if with_payload:
        headers = [
            [name.decode("latin-1"), value.decode("latin-1")] for name, value in letter.headers
        ]
        shown |= {"headers": headers, **_shown_payload(letter.payload)}
    return shown


def _shown_payload(payload: bytes) -> dict[str, object]:
    try:
        return {"message": payload.decode()}
    except UnicodeDecodeError:
        return {"message": base64.b64encode(payload).decode(), "encoding": "base64"}
