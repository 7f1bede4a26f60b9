"""`fastgw secret`: what signs the gateway's tokens, and what still verifies them.

What enters: which secrets to rotate or to remove. What leaves: changed records in the broker's
store, which every gateway follows within a second, and a table or JSON. A secret itself is made
here or in a gateway, and never shown; a configured one is changed in the configuration.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import click

from fastgw.cli._common import (
    answer,
    answer_rows,
    broker_options,
    json_option,
    show_time,
)
from fastgw.cli._control import ControlPlane, run_with_control
from fastgw.config import Loaded

if TYPE_CHECKING:
    from fastgw.control.secrets import Secrets

USES: Final = ("access", "refresh")
ALGORITHMS: Final = ("HS256", "HS384", "HS512", "EdDSA")

Shown = list[dict[str, Any]]


@click.group("secret")
def command() -> None:
    """List, rotate and remove the secrets that sign tokens."""


@command.command("list")
@json_option
@broker_options
def list_(loaded: Loaded, as_json: bool) -> None:
    """List which secrets sign and verify; none is shown itself."""
    _, shown = _run(loaded)
    answer_rows(
        as_json,
        shown,
        ("KID", "USE", "ALGORITHM", "SINCE", "STATE"),
        (
            (one["kid"], one["use"], one["algorithm"], one["created_at"] or "-", _state(one))
            for one in shown
        ),
    )


@command.command()
@click.option("--use", type=click.Choice(USES), help="Of which tokens. [both]")
@click.option(
    "--algorithm", type=click.Choice(ALGORITHMS), help="Of the new secret. [auth.algorithm]"
)
@json_option
@broker_options
def rotate(loaded: Loaded, use: str | None, algorithm: str | None, as_json: bool) -> None:
    """Make a new secret, which signs in a few seconds; nobody is logged out.

    What the secrets before it signed goes on being accepted, until they are removed.
    """
    rotated, shown = _run(loaded, lambda secrets: secrets.rotate(use, algorithm))
    kids = {one.kid for one in rotated}
    made = [one for one in shown if one["kid"] in kids]
    lines = [
        f"Made secret {one['kid']} ({one['algorithm']}): it signs {one['use']} tokens as soon"
        " as every gateway knows it."
        for one in made
    ]
    lines.append("Tokens of before stay good; once they have expired: fastgw secret rm KID.")
    answer(as_json, made, "\n".join(lines))


@command.command()
@click.argument("kid")
@json_option
@broker_options
def rm(loaded: Loaded, kid: str, as_json: bool) -> None:
    """Remove the secret KID; the tokens that it signed stop working at once."""
    _run(loaded, lambda secrets: secrets.remove(kid))
    text = f"Removed secret {kid}; the tokens that it signed no longer work."
    answer(as_json, {"kid": kid, "removed": True}, text)


def _run(
    loaded: Loaded, change: Callable[[Secrets], Awaitable[Any]] | None = None
) -> tuple[Any, Shown]:
    """Do `change`, if any, and return its result and all secrets as they are shown then.

    WHY not a part of every command's control plane: reading the secrets makes the first ones, with
    the algorithm of this command's configuration.
    """

    async def work(plane: ControlPlane) -> tuple[Any, Shown]:
        from fastgw.control.secrets import Secrets
        from fastgw.handlers.admin_access import show_secrets

        secrets = Secrets(plane.store, loaded.config.auth)
        await secrets.start()
        result = await change(secrets) if change is not None else None
        shown = show_secrets(secrets)
        for one in shown:
            if one["created_at"] is not None:
                one["created_at"] = show_time(one["created_at"])
        return result, shown

    return run_with_control(loaded, work)


def _state(shown: dict[str, Any]) -> str:
    return f"{shown['state']}, from configuration" if shown["configured"] else str(shown["state"])
