"""Assembly of one worker: Config -> tables -> Ingress; start, drain, stop.

What enters: a checked `Config` and the way to the broker; `server` brings the listeners.
What leaves: a gateway that answers. `server` calls it; it is the only room that knows all rooms.
It must never touch a produced message: those stay in the compiled core.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Final

from fastgw import _core
from fastgw.control.issuers import Issuers
from fastgw.control.keys import Keys
from fastgw.control.schemas import Schemas
from fastgw.control.stations import Stations, check_station_name
from fastgw.control.store import Store
from fastgw.control.tokens import Tokens
from fastgw.control.users import Users
from fastgw.door.descriptors import Descriptors
from fastgw.errors import ClientFault, Fault, InternalError, UpstreamFault, clip
from fastgw.handlers import encode_json
from fastgw.handlers.admin import Admin
from fastgw.handlers.admin_access import AdminAccess
from fastgw.handlers.auth import Auth
from fastgw.handlers.consume import Consume
from fastgw.handlers.docs import Docs
from fastgw.handlers.monitoring import METRICS_PATH, RESOURCES_PATH, Metrics, Monitoring
from fastgw.handlers.routes import Handler as AdminHandler
from fastgw.handlers.routes import Routes
from fastgw.inflate import inflate
from fastgw.nats.client import ControlClient, open_control
from fastgw.nats.connection import DataPlane
from fastgw.refusals import Refusals
from fastgw.station_table import StationTable

if TYPE_CHECKING:
    from fastgw.config import Config
    from fastgw.config_types import NatsConfig
    from fastgw.observe import Board

log: Final = logging.getLogger("fastgw.gateway")

SWEEP_S: Final = 0.1
"""How often deadlines are looked at; a timeout is at most this late."""

BEAT_S: Final = 1.0
"""How often the gauges of `/metrics` are renewed, for whichever worker is asked."""

REFRESH_PATH: Final = "/auth/refreshtoken"
"""Compared without case: deployed clients of the reference write it in several ways."""

DATA_PATHS: Final = frozenset({"/auth/authenticate", REFRESH_PATH})
ADMIN_PATHS: Final = frozenset({"/openapi.json", "/docs", METRICS_PATH, RESOURCES_PATH})
"""What only a listener for data, or for administration, serves; probes are served by each."""

HANDLERS_MAX: Final = 2048
"""LIMIT: requests that handlers work on at once, waiting consumers and logins among them."""

Handler = Callable[[_core.Request], Awaitable[None] | None]

_STATION_PATH: Final = re.compile(
    r"/stations/(?P<name>[^/]*)/(?P<what>produce/single|produce/batch|consume/batch)"
)


class Gateway:
    """One worker's gateway.

    Args:
        config: the configuration.
        nats: the broker's table of it, with the embedded broker's address when there is one.
        board: where this worker counts, beside the others.
        row: its row there.
    """

    def __init__(self, config: Config, nats: NatsConfig, board: Board, row: int) -> None:
        self.config: Final = config
        self._nats: Final = nats
        self._board: Final = board
        self._row: Final = row
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._descriptors = Descriptors()
        self._client: ControlClient
        self._store: Store
        self._data_plane: DataPlane
        self._sweeper: asyncio.TimerHandle
        self._beater: asyncio.TimerHandle
        self.users: Users
        self.keys: Keys
        self._issuers: Issuers
        self.schemas: Schemas
        self.stations: Stations
        self._station_table: StationTable
        self._refusals: Refusals
        self.ingress: _core.Ingress
        self._auth: Auth
        self._admin: Routes
        self._consume: Consume
        self._table: dict[str, dict[str, Handler]]

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect both planes and fill the tables; returns when messages can be stored.

        Raises:
            UpstreamFault: the broker cannot be reached in time.
            CredentialsError: a configured key file cannot be used.
        """
        loop = asyncio.get_running_loop()
        self._client = await open_control(self._nats)
        self._store = await Store.open(self._client, self._nats.replicas)
        self.users = Users(self._store)
        self.keys = Keys(self._store)
        self._issuers = Issuers(self.config.issuers)
        self.schemas = Schemas(self._store)
        self.stations = Stations(
            self._store,
            self._store.js,
            self._nats,
            self.schemas,
            self._nats.sync_interval if self.config.embedded else None,
        )
        self.ingress = _core.Ingress(
            loop,
            self.config.limits,
            self.config.rate,
            tokens_max=self.config.auth.tokens_cached_max,
            cors_origins=tuple(self.config.cors.origins) if self.config.cors.enabled else (),
            identify=self._identify,
            dispatch=self._dispatch,
            consume=self._on_consume,
            inflate=inflate,
            refused=self._on_refused,
            report=_report_defect,
            board=self._board.slots(self._row),
        )
        if self.config.auth.mode == "none":
            everything = _core.PRODUCE | _core.CONSUME | _core.ADMIN
            anonymous = _core.Principal("anonymous", 1, everything)
            self.ingress.allow_anonymous(anonymous, any_host=self.config.auth.insecure)
        self.users.on_change(self.ingress.forget_user)
        self.keys.on_change(lambda name: self.ingress.forget_user("key:" + name))
        self._issuers.on_removal(self.ingress.forget_everyone)
        self._station_table = StationTable(self.ingress, self.schemas)
        self._refusals = Refusals(self.ingress, self._station_table)
        self.stations.on_change(self._station_table.put)
        self._data_plane = DataPlane(
            loop, self._nats, self.ingress.make_link, self._on_live, lambda: None, self._on_barren
        )
        # WHY all at once: a broker that is far away is waited for a few times then, not fifteen.
        self._data_plane.start()
        tokens, *_ = await asyncio.gather(
            Tokens.open(self._store, self.config.auth),
            self.users.start(),
            self.keys.start(),
            self._issuers.start(),
            self.schemas.start(),
        )
        tokens.secrets.on_removal(self.ingress.forget_everyone)
        self._auth = Auth(self.config, self.users, self.keys, tokens, self._issuers)
        access = AdminAccess(self.users, self.keys, tokens.secrets)
        self._admin = Routes([*Admin(self.stations, self.schemas).routes(), *access.routes()])
        self._consume = Consume(self.config, self.stations, self.ingress)
        self._table = self._build_table(Monitoring(self.find_trouble))
        # WHY now: a station's schema is looked up among those that were read.
        await self.stations.start()
        await self._station_table.settle()
        self._sweep()
        self._board.begin(self._row)
        self._beat()
        await self._data_plane.wait_live(self._nats.connect_timeout_ms / 1000)

    def begin_drain(self, *, is_replaced: bool = False) -> None:
        """Have each answer end its connection; idle clients may stay for now.

        Args:
            is_replaced: another gateway serves the same addresses, so that readiness need not turn.
        """
        self._is_draining = self._is_draining or not is_replaced
        self.ingress.begin_drain(closes_idle=False)

    async def drain(self) -> None:
        """Answer what was accepted, within the grace period; the listeners take nobody any more."""
        self._is_draining = True
        self.ingress.begin_drain()
        deadline = asyncio.get_running_loop().time() + self.config.limits.drain_grace_ms / 1000
        while self.ingress.stats()["connections"]:
            if asyncio.get_running_loop().time() >= deadline:
                log.warning("grace period over with %s", self.ingress.stats())
                break
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Close both planes; whoever still waits is told."""
        for task in list(self._tasks):
            task.cancel()
        if hasattr(self, "_sweeper"):
            self._sweeper.cancel()
        if hasattr(self, "_beater"):
            self._beater.cancel()
        if hasattr(self, "_data_plane"):
            await self._data_plane.stop()
        if hasattr(self, "users"):
            self.users.close()
        if hasattr(self, "_issuers"):
            await self._issuers.close()
        if hasattr(self, "schemas"):
            self.schemas.close()
        if hasattr(self, "_station_table"):
            self._station_table.close()
        if hasattr(self, "_store"):
            await self._store.close()
        if hasattr(self, "_client"):
            await self._client.close()

    def find_trouble(self) -> Fault | None:
        """Say why no message can be stored now, or None."""
        if self._is_draining:
            return UpstreamFault("draining", "this gateway is stopping")
        if not self.ingress.is_broker_live:
            return UpstreamFault("broker-away", "the broker is away")
        return None

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        self.ingress.sweep()

    def _beat(self) -> None:
        self._beater = asyncio.get_running_loop().call_later(BEAT_S, self._beat)
        self._descriptors.look()
        self._refresh_gauges()
        self._board.beat(self._row)

    def _refresh_gauges(self) -> None:
        self.ingress.refresh_gauges(is_exhausted=self._descriptors.is_exhausted)

    def _render_metrics(self) -> bytes:
        self._refresh_gauges()
        return self._board.render()

    def _on_live(self, link: object) -> None:
        """Have messages sent again that the lost connection has left unanswered."""
        for stream in self.ingress.held_streams():
            self._start_task(self._find_window(stream))

    def _on_barren(self, server: str) -> None:
        """Leave with the control plane, too: that server may know of no change any more."""
        self._start_task(self._client.leave(server))

    async def _find_window(self, stream: str) -> None:
        """Tell the core the duplicate window of a stream; without it nothing is sent twice."""
        while stream in self.ingress.held_streams():
            try:
                window_s = await self.stations.read_duplicate_window_s(stream)
            except Fault as fault:
                # The control plane's own connection may come back a moment later.
                log.debug("the duplicate window of %s: %s", stream, fault.text)
                await asyncio.sleep(SWEEP_S)
            else:
                self.ingress.note_window(stream, round(window_s * 1000))
                return

    # --- what the core hands out ----------------------------------------------------------------

    def _identify(
        self, request: _core.Request
    ) -> _core.Principal | Awaitable[_core.Principal | None] | None:
        return self._auth.identify(request)

    def _dispatch(self, request: _core.Request) -> None:
        """Serve a path that is no known station's."""
        path = request.path
        if path.lower() == REFRESH_PATH:
            path = REFRESH_PATH
        handlers = self._table.get(path)
        if handlers is None and (found := self._admin.match(path)):
            handlers = {method: self._for_admin(handler) for method, handler in found.items()}
        if handlers is None or not self._is_served(request, path):
            self._run(request, self._serve_station_or_nothing(request, path))
            return
        method = "GET" if request.method == "HEAD" else request.method
        handler = handlers.get(method)
        if handler is None:
            _refuse_method(request, sorted(handlers))
            return
        self._run(request, handler(request))

    def _is_served(self, request: _core.Request, path: str) -> bool:
        """Tell whether a path that we know is one that the request's listener is for."""
        if request.serves == "data":
            return path in self._table and path not in ADMIN_PATHS
        return request.serves == "all" or path not in DATA_PATHS

    def _for_admin(self, handler: AdminHandler) -> Handler:
        """Return `handler` behind the question who asks."""

        async def handle(request: _core.Request) -> None:
            if await self._admit(request):
                await handler(request)

        return handle

    def _on_consume(self, request: _core.Request) -> None:
        self._run(request, self._consume.batch(request, request.record))

    def _on_refused(
        self, request: _core.Request, fields: bytes, message: bytes, reason: str
    ) -> None:
        self._refusals.keep(request, fields, message, reason)

    def _run(self, request: _core.Request, work: Awaitable[None] | None) -> None:
        """Have `work` finished on the loop; what it raises becomes the answer."""
        if work is None:
            return
        if len(self._tasks) >= HANDLERS_MAX:
            if asyncio.iscoroutine(work):
                work.close()
            request.fail(UpstreamFault("overloaded", f"{HANDLERS_MAX} requests are being handled"))
            return
        self._start_task(_guard(request, work))

    def _start_task(self, work: Coroutine[None, None, None]) -> None:
        """Have `work` done on the loop; `stop` ends it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _build_table(self, monitoring: Monitoring) -> dict[str, dict[str, Handler]]:
        """Build the handlers by path and method."""
        docs = Docs(self.config)
        metrics = Metrics(
            self.config, self._render_metrics, self._board.utilization, self._for_admin
        )
        return {
            **metrics.table(),
            "/": {"GET": monitoring.root},
            "/monitoring/status": {"GET": monitoring.status},
            "/healthz": {"GET": monitoring.healthz},
            "/readyz": {"GET": monitoring.readyz},
            "/openapi.json": {"GET": docs.openapi},
            "/docs": {"GET": docs.page},
            "/auth/authenticate": {"POST": self._auth.authenticate},
            REFRESH_PATH: {"POST": self._auth.refresh},
        }

    # --- stations -------------------------------------------------------------------------------

    async def _serve_station_or_nothing(self, request: _core.Request, path: str) -> None:
        """Create an unknown station and go on, or say 405, 401, 400, 403 or 404, in this order."""
        found = _STATION_PATH.fullmatch(path) if request.serves != "admin" else None
        if found is not None and request.method != "POST":
            _refuse_method(request, ["POST"])
            return
        principal = await self._admit(request)
        if principal is None:
            return
        if found is None:
            raise ClientFault("not-found", "no such path")
        name = found["name"]
        check_station_name(name)
        permission = _core.CONSUME if found["what"] == "consume/batch" else _core.PRODUCE
        if not principal.may(permission, name):
            raise ClientFault("forbidden", f"{principal.user} may not use station {name}")
        await self._wait_for_station(request, name)

    async def _wait_for_station(self, request: _core.Request, name: str) -> None:
        """Have `request` go on when its station is there; in the order of arrival."""
        if self.stations.find(name) is None and not self.config.auto_create:
            raise ClientFault("station-unknown", f"no station {name}")
        if not self._station_table.wait_for(name, request):
            return
        try:
            self._station_table.put(name, await self.stations.ensure(name))
        except Fault as fault:
            self._station_table.fail_waiting(name, fault)
        except BaseException:
            self._station_table.fail_waiting(name, InternalError("internal error"))
            raise

    async def _admit(self, request: _core.Request) -> _core.Principal | None:
        """Find out who asks and whether they may ask now; None when they have their refusal."""
        found = request.principal or self.ingress.find_principal(request)
        if found is not None and not isinstance(found, _core.Principal):
            found = await found
        if found is None:
            raise ClientFault("unauthorized", "no valid credential")
        return found if request.admit(found) else None


async def _guard(request: _core.Request, work: Awaitable[None]) -> None:
    try:
        await work
    except Fault as fault:
        request.fail(fault)
    except Exception as error:  # noqa: BLE001 - the last line of defence: the client must be told
        _report_defect("a handler failed", error)
        request.fail(Fault("internal", "internal error"))


def _refuse_method(request: _core.Request, allowed: list[str]) -> None:
    shown = ", ".join([*allowed, "HEAD", "OPTIONS"] if "GET" in allowed else [*allowed, "OPTIONS"])
    text = f"{clip(request.method)} is not served here; {shown} are"
    request.respond(
        405,
        encode_json({"error": text, "success": False}),
        ((b"Allow", shown.encode()), (b"Error-Code", b"method-not-allowed")),
    )


def _report_defect(text: str, error: BaseException | None) -> None:
    log.error("%s", text, exc_info=error)
