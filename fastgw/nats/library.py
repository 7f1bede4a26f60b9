"""nats-py, loaded without aiohttp: every room that needs it at run time takes its parts from here.

What leaves: its client, its errors and JetStream's records. WHY: wherever aiohttp is installed,
nats-py loads it for websockets, which are no broker's address here; that would be a quarter of a
worker's start and 9 MB of its memory. nats-py does without, as in an installation of ours alone.
It must never keep aiohttp from anybody who asks for it later.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Client", "Server", "Srv", "api", "js_errors", "nats_errors"]


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Have an import of `package` fail as if it were not installed, unless it is loaded already."""
    if package in sys.modules:
        yield
        return
    # SOURCE: the language reference, "The module cache": None makes an import fail.
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


with _without("aiohttp"):
    from nats import errors as nats_errors
    from nats.aio.client import Client, Server, Srv
    from nats.js import api
    from nats.js import errors as js_errors
