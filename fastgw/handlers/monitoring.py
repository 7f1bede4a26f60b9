"""Whether the process lives, whether it can serve, and what it has counted.

What enters: GET requests of probes, of Prometheus, and of people.
What leaves: small JSON bodies, of which `/readyz` alone looks at the broker and at the drain; the
counters of all workers as text, to whom the configuration lets read them.
Called by `gateway`. It must never wait for anything but a credential's check: a probe that hangs is
a probe that fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from fastgw._core import ADMIN
from fastgw.config_types import is_loopback
from fastgw.errors import ClientFault
from fastgw.handlers import encode_json
from fastgw.observe import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastgw._core import Request as CoreRequest
    from fastgw.config import Config
    from fastgw.errors import Fault
    from fastgw.handlers import Header, Request

_OK: Final = b'{"status":"ok"}'
_NO_STORE: Final[tuple[Header, ...]] = ((b"Cache-Control", b"no-store"),)

METRICS_PATH: Final = "/metrics"
RESOURCES_PATH: Final = "/monitoring/getResourcesUtilization"

_PASSED_ON: Final = (b"origin", b"forwarded", b"x-forwarded-for")
"""What a web page's request carries, or one that a proxy took from elsewhere."""

AdminHandler = Callable[["Request"], Awaitable[None]]
Handler = Callable[["CoreRequest"], Awaitable[None] | None]


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


def are_metrics_open(config: Config) -> bool:
    """Tell whether a listener for everything lets local processes read metrics without a name.

    By default it does when only this machine can reach any such listener; a listener for
    administration always does.
    """
    if config.metrics.auth != "auto":
        return config.metrics.auth == "none"
    return all(one.is_local for one in config.all_listeners() if one.serves == "all")


class Metrics:
    """The routes that tell figures.

    Args:
        config: whether they are served, and to whom.
        render: returns the metrics of all workers, this worker's as they are now.
        utilization: returns what the workers use of processors and memory.
        for_admin: puts a handler behind the question who asks.
    """

    def __init__(
        self,
        config: Config,
        render: Callable[[], bytes],
        utilization: Callable[[], Mapping[str, float]],
        for_admin: Callable[[AdminHandler], Handler],
    ) -> None:
        self._config = config.metrics
        self._is_open = are_metrics_open(config)
        self._render = render
        self._utilization = utilization
        self._ask_and_answer = for_admin(self._answer_admin)

    def table(self) -> dict[str, dict[str, Handler]]:
        """Return the handlers by path and method; none for what is not enabled."""
        table: dict[str, dict[str, Handler]] = {}
        if self._config.enabled:
            table[METRICS_PATH] = {"GET": self.metrics}
        if self._config.resources:
            table[RESOURCES_PATH] = {"GET": self.resources}
        return table

    def metrics(self, request: CoreRequest) -> Awaitable[None] | None:
        """Answer `GET /metrics`."""
        if not self._may_be_nameless(request):
            return self._ask_and_answer(request)
        self._answer(request)
        return None

    def resources(self, request: CoreRequest) -> None:
        """Answer `GET /monitoring/getResourcesUtilization`: the reference's fields, in percent."""
        request.respond(200, encode_json(self._utilization()), _NO_STORE)

    def _may_be_nameless(self, request: CoreRequest) -> bool:
        """Tell whether nobody needs to ask who sends `request`."""
        if self._config.auth != "auto":
            return self._is_open
        # WHY: every answer carries the CORS headers, and a page could read the figures of a gateway
        # that only its reader's machine can reach; a proxy there could show them to everyone.
        if any(request.header(name) is not None for name in _PASSED_ON):
            return False
        return request.serves == "admin" or (self._is_open and _is_for_this_machine(request))

    async def _answer_admin(self, request: Request) -> None:
        """Answer an administrator, be it one of no station: a reader of metrics needs no more."""
        principal = request.principal
        if principal is None or not principal.permissions & ADMIN:
            raise ClientFault("forbidden", "metrics are for administrators")
        self._answer(request)

    def _answer(self, request: Request) -> None:
        request.respond(200, self._render(), _NO_STORE, CONTENT_TYPE)


def _is_for_this_machine(request: Request) -> bool:
    """Tell whether `Host` names this machine, which a page's own name never does.

    WHY: a name on the web can be made to resolve to the loopback address.
    """
    if request.client == "unix":
        return True
    host = (request.header(b"host") or b"").decode("latin-1").lower()
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return is_loopback(name.removeprefix("[").removesuffix("]"))
