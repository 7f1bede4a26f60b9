"""Whether the process lives, and whether it can serve.

What enters: GET requests of probes and people, without credentials.
What leaves: small JSON bodies; `/readyz` alone looks at the broker and at the drain.
Called by `gateway`. It must never wait for anything: a probe that hangs is a probe that fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.errors import Fault
    from fastgw.handlers import Request

_OK: Final = b'{"status":"ok"}'


class Monitoring:
    """The routes of probes.

    Args:
        find_trouble: returns why no message can be stored now (broker away, draining), or None.
    """

    def __init__(self, find_trouble: Callable[[], Fault | None]) -> None:
        self._find_trouble = find_trouble

    def status(self, request: Request) -> None:
        """Answer `GET /monitoring/status`: the reference's words."""
        request.respond(200, _OK)

    def root(self, request: Request) -> None:
        """Answer `GET /`."""
        request.respond(200, _OK)

    def healthz(self, request: Request) -> None:
        """Answer `GET /healthz`: 200 for as long as the event loop turns."""
        request.respond(200, _OK)

    def readyz(self, request: Request) -> None:
        """Answer `GET /readyz`: 200 only while a message could be stored."""
        trouble = self._find_trouble()
        if trouble is None:
            request.respond(200, _OK)
        else:
            request.fail(trouble)
