"""The options that make or change a station, as the settings that the control plane takes.

What enters: click's values, None where an option was not given; the secrets of webhook senders from
standard input or files. What leaves: `StationSettings` with nothing in it but what was asked for.
Called by the station commands. No secret may be an argument, nor stand in a text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

import click

from fastgw.errors import clip

if TYPE_CHECKING:
    from fastgw.control.station_config import StationSettings
    from fastgw.senders.signatures import VerifierConfig

F = TypeVar("F", bound=Callable[..., Any])

SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
BYTES: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
NO_BOUND: Final = "none"
WEBHOOKS: Final = ("standard-webhooks", "svix", "github", "fivetran", "stripe", "shopify", "hmac")
SECRETS_CHARS_MAX: Final = 16_384
"""LIMIT: above all secrets that a verifier may have, 8 of 512 characters."""

_WEBHOOK_FIELDS: Final = (
    "header",
    "prefix",
    "encoding",
    "algorithm",
    "signed",
    "timestamp_header",
    "id_header",
    "tolerance_s",
)
_AMOUNT: Final = re.compile(r"(\d{1,18})\s*([A-Za-z]*)")
_RETENTION: Final = {"limits": "limits", "ack": "interest", "workqueue": "workqueue"}


def _amount(
    units: dict[str, int], example: str
) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """Return what reads an option like "7d" or "10GiB", as a count of the smallest unit.

    The word "none" takes a bound away; it is read as 0.
    """

    def convert(_context: click.Context, _param: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        if value == NO_BOUND:
            return 0
        match = _AMOUNT.fullmatch(value.strip())
        if match is None or match[2] not in units or int(match[1]) == 0:
            known = ", ".join(filter(None, units))
            also = f"; the units are {known}" if known else ""
            raise click.BadParameter(f"{clip(value)!r} is no amount like {example}{also}.")
        return int(match[1]) * units[match[2]]

    return convert


_POLICY: Final = (
    click.option(
        "--headers",
        metavar="all|none|GLOB",
        multiple=True,
        help="Which request headers become message headers; globs are repeatable. [all]",
    ),
    click.option(
        "--allow-header",
        "header_allow",
        metavar="GLOB",
        multiple=True,
        help="A Nats-… header that producers may set, as Nats-TTL; repeatable.",
    ),
    click.option(
        "--schema",
        metavar="NAME[@VERSION]",
        help="What messages must satisfy; without a version the latest of now. none detaches.",
    ),
    click.option(
        "--dead-letter",
        metavar="STATION",
        help="Where refused messages go; none lets them go nowhere.",
    ),
    click.option(
        "--no-wait/--wait",
        "allow_no_wait",
        default=None,
        help="Whether ?wait=false is answered before the message is stored. [--wait]",
    ),
    click.option(
        "--suffix/--no-suffix",
        "allow_suffix",
        default=None,
        help="Whether producers may append to the subject. [--suffix]",
    ),
    click.option(
        "--message-bytes",
        "message_bytes_max",
        metavar="SIZE",
        callback=_amount(BYTES, "64KiB"),
        help="The largest message: 64KiB. [the broker's bound]",
    ),
    click.option(
        "--ack",
        type=click.Choice(["stored", "fsync"]),
        help="fsync: messages that come at once are stored and synced together, for a broker"
        " with sync_interval: always. [stored]",
    ),
    click.option(
        "--webhook",
        type=click.Choice(WEBHOOKS),
        help="Take requests that such a sender signed, without any other credential.",
    ),
    click.option(
        "--webhook-secret-stdin",
        is_flag=True,
        help="Read the sender's secret from standard input; two lines are two, to rotate.",
    ),
    click.option(
        "--webhook-secret-file",
        "webhook_secret_files",
        metavar="FILE",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False),
        help="Read the sender's secret from FILE; repeatable, to rotate.",
    ),
    click.option(
        "--webhook-field",
        "webhook_fields",
        metavar="KEY=VALUE",
        multiple=True,
        help="How the sender signs, for --webhook hmac: header=X-Sign, prefix, encoding=hex|base64,"
        " algorithm, signed=body|ts.body|id.ts.body, timestamp_header, id_header; for all:"
        " tolerance_s. Repeatable.",
    ),
    click.option("--no-webhook", is_flag=True, help="Take no signed requests any more."),
)
_STREAM: Final = (
    click.option("--storage", type=click.Choice(["file", "memory"]), help="Of the stream. [file]"),
    click.option("--replicas", type=click.IntRange(1, 5), help="Copies. [nats.replicas]"),
    click.option(
        "--retention",
        type=click.Choice([*_RETENTION]),
        help="limits: up to the bounds; ack: until every consumer group acknowledged, nothing"
        " while there is none; workqueue: until the one group acknowledged. [limits]",
    ),
    click.option(
        "--max-age",
        "max_age_s",
        metavar="AGE",
        callback=_amount(SECONDS, "7d"),
        help="How long the stream keeps messages: 90s, 30m, 12h, 7d. [for ever]",
    ),
    click.option(
        "--max-messages",
        metavar="COUNT",
        callback=_amount({"": 1}, "1000000"),
        help="The most that it keeps, then it drops the oldest. [all]",
    ),
    click.option(
        "--max-bytes",
        metavar="SIZE",
        callback=_amount(BYTES, "10GiB"),
        help="The most that it keeps, then it drops the oldest: 500MiB, 10GiB. [all]",
    ),
    click.option(
        "--duplicate-window",
        "duplicate_window_s",
        metavar="AGE",
        callback=_amount(SECONDS, "2m"),
        help="How long a repeated message id is stored once. [2m]",
    ),
)


def policy_options(command: F) -> F:
    """Give a command the options of the station itself."""
    for option in reversed(_POLICY):
        command = option(command)
    return command


def stream_options(command: F) -> F:
    """Give a command the options of the station's stream."""
    for option in reversed(_STREAM):
        command = option(command)
    return command


def read_settings(options: Mapping[str, Any]) -> StationSettings:
    """Return what the options ask for; an option that was not given asks for nothing."""
    options = dict(options)
    webhook = {key: options.pop(key) for key in [*options] if "webhook" in key}
    found = {key: value for key, value in options.items() if value is not None and value != ()}
    if webhook.pop("no_webhook", False):
        if any(webhook.values()):
            raise click.UsageError("--no-webhook stands alone.")
        found["verifier"] = None
    elif any(webhook.values()):
        found["verifier"] = read_verifier(**webhook)
    if "headers" in found:
        found["headers"] = take_headers(found["headers"])
    if "retention" in found:
        found["retention"] = _RETENTION[found["retention"]]
    for key in ("message_bytes_max", "max_messages", "max_bytes"):
        if found.get(key) == 0:
            found[key] = None
    if found.get("dead_letter") == NO_BOUND:
        found["dead_letter"] = None
    if "schema" in found:
        found |= read_schema(found["schema"])
    return cast("StationSettings", found)


def read_verifier(
    *,
    webhook: str | None,
    webhook_secret_stdin: bool,
    webhook_secret_files: Sequence[str],
    webhook_fields: Sequence[str],
) -> VerifierConfig:
    """Return how a station's requests are signed; the secrets are read here.

    Raises:
        UsageError: the options do not go together, or there is no secret.
        OSError: a file cannot be read.
    """
    import msgspec

    from fastgw.senders.signatures import VerifierConfig

    if webhook is None:
        raise click.UsageError("The options --webhook-… go with --webhook and its sender.")
    secrets = _secrets(sys.stdin.read(SECRETS_CHARS_MAX + 1)) if webhook_secret_stdin else []
    for path in webhook_secret_files:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            secrets += _secrets(file.read(SECRETS_CHARS_MAX + 1))
    if not secrets:
        raise click.UsageError(
            "--webhook needs the sender's secret: --webhook-secret-stdin or --webhook-secret-file."
        )
    fields: dict[str, Any] = {"preset": webhook, "secrets": secrets}
    for word in webhook_fields:
        key, equals, value = word.partition("=")
        if not equals or key not in _WEBHOOK_FIELDS:
            known = ", ".join(_WEBHOOK_FIELDS)
            raise click.UsageError(f"--webhook-field {clip(key)} is not one of {known}, with =.")
        fields[key] = value
    try:
        return msgspec.convert(fields, VerifierConfig, strict=False)
    except msgspec.ValidationError as error:
        # The text names type and field; no secret can be of a wrong type.
        raise click.UsageError(f"--webhook-field: {error}.") from error


def _secrets(text: str) -> list[str]:
    """Return the lines that hold something; the line's end is no part of a secret."""
    if len(text) > SECRETS_CHARS_MAX:
        raise click.UsageError(f"The webhook secrets exceed {SECRETS_CHARS_MAX} characters.")
    return [line for line in text.splitlines() if line]


def read_schema(word: str) -> dict[str, Any]:
    """Read "name", "name@3" or "none".

    Raises:
        UsageError: what stands behind the @ is no number.
    """
    if word == NO_BOUND:
        return {"schema": None}
    name, at, number = word.partition("@")
    if not at:
        return {"schema": name}
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise click.UsageError(f"{clip(word)!r} is no schema like orders or orders@3.")
    return {"schema": name, "schema_version": int(number)}


def take_headers(words: Sequence[str]) -> Literal["all", "none"] | list[str]:
    """Return "all", "none" or globs; the two words stand alone."""
    if "all" in words or "none" in words:
        if len(words) > 1:
            raise click.UsageError("--headers all and --headers none stand alone.")
        return "all" if words[0] == "all" else "none"
    return [*words]
