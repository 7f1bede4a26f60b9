"""`fastgw key`: API keys, for senders that cannot ask for tokens.

What enters: names, permissions and what bounds a key, as arguments. What leaves: changed records in
the broker's store, which every gateway follows within a second, and a table or JSON. The key itself
is made here and shown once; the store keeps its hash, which is never shown.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path
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
from fastgw.cli.station_options import SECONDS
from fastgw.config import Loaded
from fastgw.errors import clip

if TYPE_CHECKING:
    from fastgw.config import Config
    from fastgw.control.keys import KeyRecord

_AMOUNT: Final = re.compile(r"(\d{1,9})([smhd])")
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_WILD: Final = re.compile(r"\*|\?|\[[^]]+\]")


@click.group("key")
def command() -> None:
    """Add, list, disable and remove API keys."""


def _read_expiry(_context: click.Context, _param: click.Parameter, value: str | None) -> Any:
    """Read "90d" or "2027-01-01" as a unix time in seconds."""
    if value is None:
        return None
    try:
        amount = _AMOUNT.fullmatch(value)
        if amount is not None:
            moment = time.time() + int(amount[1]) * SECONDS[amount[2]]
            datetime.fromtimestamp(moment, UTC)
        elif _DATE.fullmatch(value):
            moment = datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp()
        else:
            raise ValueError(value)
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(f"{clip(value)!r} is no time like 90d or 2027-01-01.") from None
    if moment <= time.time():
        raise click.BadParameter(f"{clip(value)} has passed already.")
    return moment


@command.command()
@click.argument("name")
@rights_options("What the key may do; repeatable. Without it: produce.")
@click.option(
    "--origin",
    "origins",
    metavar="URL",
    multiple=True,
    help="Only from web pages of this origin, as https://example.org; repeatable. Such a key may"
    " only produce.",
)
@click.option(
    "--expires",
    "expires_at",
    metavar="AGE|DATE",
    callback=_read_expiry,
    help="When it ends: 90d, 12h, or 2027-01-01 (the first moment of that day, UTC). [never]",
)
@json_option
@broker_options
def add(
    loaded: Loaded,
    name: str,
    permissions: tuple[str, ...],
    stations: tuple[str, ...],
    origins: tuple[str, ...],
    expires_at: float | None,
    as_json: bool,
) -> None:
    """Add the key NAME, and show it: this once only."""
    wanted = permissions or ("produce",)
    record, text = run_with_control(
        loaded,
        lambda plane: plane.keys.add(name, wanted, stations or ("*",), origins, expires_at),
        starts_empty=True,
    )
    may = f"may {', '.join(record.permissions)} on {show_stations(record.stations)}"
    answer(
        as_json,
        _shown(record) | {"key": text},
        f"Added key {name}: {may}.\nKey, shown only now: {text}\n"
        f"Try it: {_try_line(loaded.config, record, text)}",
    )


@command.command("list")
@json_option
@broker_options
def list_(loaded: Loaded, as_json: bool) -> None:
    """List the keys; none of them can be shown again."""
    records = read_with_control(
        loaded, lambda plane: sorted(plane.keys.records.values(), key=attrgetter("name"))
    )
    answer_rows(
        as_json,
        [_shown(record) for record in records],
        ("KEY", "PERMISSIONS", "STATIONS", "ORIGINS", "STATE", "EXPIRES", "SINCE"),
        (
            (
                record.name,
                ", ".join(record.permissions),
                ", ".join(record.stations),
                ", ".join(record.origins) or "-",
                _state(record),
                "-" if record.expires_at is None else show_time(record.expires_at),
                show_time(record.created_at),
            )
            for record in records
        ),
        empty="There are no keys yet; add one with: fastgw key add NAME",
    )


@command.command()
@click.argument("name")
@json_option
@broker_options
def rm(loaded: Loaded, name: str, as_json: bool) -> None:
    """Remove the key NAME; it stops working at once."""
    run_with_control(loaded, lambda plane: plane.keys.remove(name))
    answer(as_json, {"name": name, "removed": True}, f"Removed key {name}.")


@command.command()
@click.argument("name")
@json_option
@broker_options
def disable(loaded: Loaded, name: str, as_json: bool) -> None:
    """Shut the key NAME out, at once, until it is enabled."""
    run_with_control(loaded, lambda plane: plane.keys.set_disabled(name, True))
    answer(as_json, {"name": name, "disabled": True}, f"Disabled key {name}.")


@command.command()
@click.argument("name")
@json_option
@broker_options
def enable(loaded: Loaded, name: str, as_json: bool) -> None:
    """Let the key NAME in again."""
    run_with_control(loaded, lambda plane: plane.keys.set_disabled(name, False))
    answer(as_json, {"name": name, "disabled": False}, f"Enabled key {name}.")


def _try_line(config: Config, record: KeyRecord, text: str) -> str:
    """Return a command that uses the key, on a station that it may use."""
    socket, url = _find_gateway(config)
    words = ["curl", *(["--unix-socket", socket] if socket else [])]
    header = f"Authorization: Bearer {text}"
    station = _example(record.stations[0])
    if "produce" in record.permissions:
        words += [f"{url}/stations/{station}/produce/single", "-H", header]
        words += ["-H", f"Origin: {record.origins[0]}"] if record.origins else []
        words += ["-d", "hello"]
    elif "consume" in record.permissions:
        words += [f"{url}/stations/{station}/consume/batch", "-H", header]
        words += ["-d", json.dumps({"consumer_name": record.name})]
    else:
        words += [f"{url}/stations", "-H", header]
    return shlex.join(words)


def _example(glob: str) -> str:
    """Return a station's name that the glob lets in, or the word STATION for the user's own."""
    name = _WILD.sub(lambda wild: {"*": "hello", "?": "a"}.get(wild[0], wild[0][1:2]), glob)
    return name if fnmatchcase(name, glob) and _NAME.fullmatch(name) else "STATION"


def _find_gateway(config: Config) -> tuple[str | None, str]:
    """Return the path of the unix socket, if that is where it listens, and the URL to ask."""
    try:
        told = json.loads(Path(config.data, "gateway.json").read_bytes())["address"]
    except (OSError, ValueError, KeyError, TypeError):
        told = None
    if isinstance(told, str) and told.startswith(("http://", "https://")):
        return None, told
    listeners = config.all_listeners()
    listener = next((one for one in listeners if one.serves != "admin"), listeners[0])
    address = listener.address()
    if isinstance(address, str):
        return address, "http://localhost"
    host, port = address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if listener.tls.cert_file is not None else "http"
    return None, f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _state(record: KeyRecord) -> str:
    if record.disabled:
        return "disabled"
    return "expired" if _is_expired(record) else "active"


def _is_expired(record: KeyRecord) -> bool:
    return record.expires_at is not None and record.expires_at <= time.time()


def _shown(record: KeyRecord) -> dict[str, object]:
    """Return what a script may see of a key: everything but the hash."""
    return {
        "name": record.name,
        "permissions": record.permissions,
        "stations": record.stations,
        "origins": record.origins,
        "expires_at": None if record.expires_at is None else show_time(record.expires_at),
        "expired": _is_expired(record),
        "disabled": record.disabled,
        "created_at": show_time(record.created_at),
    }
