"""The first minute: the admin of a fresh gateway, and commands that a newcomer can paste.

What enters: the users' table and the configuration. What leaves: a user, and text on stdout.
The first worker makes the user, the others wait for it. The password is shown once and stored only
as a hash.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from fastgw import __version__
from fastgw.config import mask_urls
from fastgw.errors import ClientFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastgw.config import Config
    from fastgw.config_types import ListenerConfig
    from fastgw.control.users import Users

log: Final = logging.getLogger("fastgw.welcome")

ADMIN_S_MAX: Final = 10.0
"""LIMIT: for the user that the first worker makes at the first start: a hash and a write. Who has
waited so long serves without; a login there is 401 until the user is known."""

DEFAULT_NAME: Final = "admin"

PASSWORD_BYTES: Final = 15
"""LIMIT: 120 bits, twenty characters; out of reach of guessing."""


class Admin(NamedTuple):
    """A user that was made just now; `password` is None when the operator chose it."""

    name: str
    password: str | None


async def make_admin(users: Users, config: Config) -> Admin | None:
    """Make the first user: the configured admin, or with the embedded broker one of our own.

    Returns:
        The user when it was made now; None when there is nothing to make.
    """
    if not _is_admin_due(users, config):
        return None
    name, password = config.auth.admin_user, config.auth.admin_password
    shown: str | None = None
    if name is None or password is None:
        name, password = DEFAULT_NAME, secrets.token_urlsafe(PASSWORD_BYTES)
        shown = password
    try:
        await users.add(name, password, ["produce", "consume", "admin"], ["*"])
    except ClientFault:
        # WHY: another gateway on the same broker was first; its user is as good as ours.
        return None
    return Admin(name, shown)


async def wait_admin(users: Users, config: Config) -> None:
    """Wait until the user that another worker makes is known here, too.

    WHY: whoever is told by any worker that we are ready may log in at once.
    """
    if not _is_admin_due(users, config):
        return
    changed = asyncio.Event()
    users.on_change(lambda _: changed.set())
    try:
        async with asyncio.timeout(ADMIN_S_MAX):
            while _is_admin_due(users, config):
                changed.clear()
                await changed.wait()
    except TimeoutError:
        log.warning("the first user is not known after %g s; serving without", ADMIN_S_MAX)


def _is_admin_due(users: Users, config: Config) -> bool:
    """Whether the first user is still to be made."""
    name = config.auth.admin_user
    if name is not None and config.auth.admin_password is not None:
        return users.find(name) is None
    if not config.embedded or config.auth.mode == "none":
        return False
    return not _has_admin(users) and users.find(DEFAULT_NAME) is None


def _has_admin(users: Users) -> bool:
    return any("admin" in record.permissions for record in users.records.values())


def say_ready(
    config: Config, urls: Sequence[str], admin: Admin | None, *, known_users: int
) -> None:
    """Print where the gateway listens; on the first start also what to paste.

    Args:
        urls: of every listener, the main one first.
        known_users: how many users there are.
    """
    broker = f"embedded broker, data in {config.data}"
    if not config.embedded:
        broker = f"broker {mask_urls(config.nats.url[0])}"
    lines = [f"fastgw {__version__} is ready at {', '.join(urls)}  ({broker})"]
    main = config.all_listeners()[0]
    url = "http://localhost" if urls[0].startswith("unix:") else urls[0]
    curl = _curl(main)
    if admin is not None and admin.password is not None:
        lines += _first_steps(url, curl, admin)
    elif config.auth.mode == "none":
        lines.append(
            "Anyone who can reach this address may produce, consume and administer: auth.mode is none."
        )
    else:
        through = "" if curl == "curl" else f" ({curl})"
        lines.append(f"For a token POST username and password to {url}/auth/authenticate{through}.")
        if not known_users:
            lines.append(
                "There is no user yet: make one with `fastgw user add NAME --permission admin"
                f"{_to_broker(config)}`."
            )
    print("\n".join(lines), flush=True)


def _to_broker(config: Config) -> str:
    """Return the option that leads a command to this gateway's broker, without a password."""
    if config.embedded:
        return f" --data {shlex.quote(str(config.data))}"
    return f" --nats {shlex.quote(mask_urls(config.nats.url[0]))}"


def _curl(listener: ListenerConfig) -> str:
    """Return curl with what this listener needs: the socket, the certificate to trust, or one."""
    words = ["curl"]
    address = listener.address()
    if isinstance(address, str):
        words += ["--unix-socket", shlex.quote(address)]
    if listener.tls.cert_file is not None:
        # WHY: it may be self-signed; where a public authority signed it, the option is needless.
        words += ["--cacert", shlex.quote(listener.tls.cert_file)]
    if listener.tls.client_cert == "required":
        words += ["--cert", "YOURS.pem", "--key", "YOURS.key"]
    if listener.proxy_from:
        words.append("--haproxy-protocol")
    return " ".join(words)


def _first_steps(url: str, curl: str, admin: Admin) -> list[str]:
    body = f'{{"username":"{admin.name}","password":"{admin.password}"}}'
    bearer = '-H "Authorization: Bearer $TOKEN"'
    station = f"{url}/stations/hello"
    colour = sys.stdout.isatty()
    bold, plain = ("\033[1m", "\033[0m") if colour else ("", "")
    return [
        "",
        f"  user      {bold}{admin.name}{plain}",
        f"  password  {bold}{admin.password}{plain}   (shown only now; fastgw user passwd changes it)",
        "",
        "Paste into another terminal:",
        "",
        "  # a token",
        f'  TOKEN=$(echo \'{body}\' | {curl} -s {url}/auth/authenticate -d @- | sed \'s/.*"jwt":"\\([^"]*\\)".*/\\1/\')',
        "",
        "  # one message: the answer comes when it is stored",
        f"  {curl} {station}/produce/single {bearer} -d 'hello, world'",
        "",
        "  # many messages in one request",
        f"  {curl} {station}/produce/batch {bearer} -H 'Content-Type: application/json' -d '[{{\"n\":1}},{{\"n\":2}}]'",
        "",
        "  # read them back",
        f'  {curl} {station}/consume/batch {bearer} -H \'Content-Type: application/json\' -d \'{{"consumer_name":"me","batch_size":10,"batch_max_wait_time_ms":1000}}\'',
        "",
        "Ctrl-C stops it; the next start keeps users, stations and messages.",
    ]
