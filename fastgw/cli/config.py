"""`fastgw config`: check a configuration, or show it with where each value came from.

What enters: the same file, environment and flags as `fastgw serve` reads. What leaves: a table or
JSON with the secrets masked; or the first mistake, on standard error, with exit code 2.
"""

from __future__ import annotations

import click
import msgspec

from fastgw.cli._common import answer_rows, broker_options, json_option, warn
from fastgw.config import Loaded, mask_urls


@click.group("config")
def command() -> None:
    """Check or show the configuration."""


@command.command()
@broker_options
def check(loaded: Loaded) -> None:
    """Read the configuration as `serve` would, and tell the first mistake.

    Exit code 0 when it can be used, 2 when not. It does not connect to the broker.
    """
    warn(loaded)
    changed = sum(origin != "default" for origin in loaded.origins.values())
    click.echo(f"The configuration is good: {changed} of {len(loaded.origins)} keys are set.")
    settings = loaded.config
    where = " and ".join(listener.listen for listener in settings.all_listeners())
    urls = ", ".join(map(mask_urls, settings.nats.url))
    broker = urls or f"the embedded broker, data in {settings.data}"
    click.echo(f"It serves {where} with {settings.workers_count} worker(s) and {broker}.")


@command.command()
@click.option("--changed", is_flag=True, help="Only the values that are not the default.")
@json_option
@broker_options
def show(loaded: Loaded, changed: bool, as_json: bool) -> None:
    """Show each key with its value and where it came from; secrets are masked."""
    warn(loaded)
    rows = [row for row in loaded.rows() if not changed or row[2] != "default"]
    answer_rows(
        as_json,
        {key: {"value": value, "origin": origin} for key, value, origin in rows},
        ("KEY", "VALUE", "ORIGIN"),
        ((key, _text(value), origin) for key, value, origin in rows),
        empty="Every key has its default.",
    )


def _text(value: object) -> str:
    """Show a value as the file would write it; a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, msgspec.Struct):
        return _table(value)
    return ", ".join(map(_text, value)) or "-" if isinstance(value, list) else str(value)


def _table(value: msgspec.Struct) -> str:
    """Show a table on one line, without what has its default."""
    fields = msgspec.structs.fields(value)
    told = ((one.name, getattr(value, one.name)) for one in fields)
    plain = {one.name: one.default for one in fields}
    told = ((name, value) for name, value in told if value not in (plain[name], [], {}))
    return "{" + ", ".join(f"{name} = {_text(value)}" for name, value in told) + "}"
