"""What the core serves: station records become stations with compiled validators, swapped in whole.

What enters: changes of records, as the control plane sees them, and requests whose station is being
made. What leaves: `Ingress.put_station` and `drop_station`, and those requests resumed in order.
The gateway calls it. A message must never be judged by half of a change: until the validator of a
new record is compiled, the old station serves on; a station whose schema cannot be compiled refuses
what it cannot judge.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, cast

from fastgw import _core
from fastgw.errors import ClientFault, Fault, UpstreamFault
from fastgw.schema.base import LongValidator
from fastgw.senders.signatures import make_verifier

if TYPE_CHECKING:
    from fastgw.control.schemas import Schemas
    from fastgw.control.station_config import StationRecord
    from fastgw.schema.base import Validator, Verdict
    from fastgw.senders.signatures import Verifier

log: Final = logging.getLogger("fastgw.stations")

LONG_MAX: Final = 64
"""LIMIT: long messages that wait for the judging thread, each up to the body's bound."""

RETRY_S: Final = 1.0
"""How soon a compilation is tried again that the broker's absence has failed."""

Check = Callable[[bytes, bytes | None], "Verdict | Awaitable[Verdict]"]


class StationTable:
    """The stations in force in this worker.

    Args:
        ingress: the core.
        schemas: compiles the versions that records name.
    """

    def __init__(self, ingress: _core.Ingress, schemas: Schemas) -> None:
        self._ingress = ingress
        self._schemas = schemas
        self._wanted: dict[str, StationRecord] = {}
        self._served: dict[str, _core.Station] = {}
        self._compiling: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, list[_core.Request]] = {}
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="fastgw-judge")
        self._long_count = 0

    def put(self, name: str, record: StationRecord | None) -> None:
        """Bring a record into force, or take the station out with None."""
        running = self._compiling.pop(name, None)
        if running is not None:
            running.cancel()
        if record is None:
            self._wanted.pop(name, None)
            self._served.pop(name, None)
            self._ingress.drop_station(name)
            return
        self._wanted[name] = record
        if record.schema is None:
            self._serve(record, None)
            return
        validator = self._schemas.find_compiled(record.schema, record.schema_version)
        if validator is not None:
            self._serve(record, self._check_of(validator), getattr(validator, "accepts", None))
            return
        task = asyncio.get_running_loop().create_task(self._compile(record))
        self._compiling[name] = task
        task.add_done_callback(lambda done: self._on_compiled(name, done))

    def find(self, name: str) -> _core.Station | None:
        """Return the station that is served under this name."""
        return self._served.get(name)

    async def settle(self) -> None:
        """Return when every record seen so far is in force."""
        while self._compiling:
            await asyncio.wait(list(self._compiling.values()))

    def close(self) -> None:
        """End the compilations, and the thread that judges long messages."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for task in self._compiling.values():
            task.cancel()

    # --- requests whose station is being made ---------------------------------------------------

    def wait_for(self, name: str, request: _core.Request) -> bool:
        """Keep `request` until the station is served. Returns whether it is the first to wait."""
        waiting = self._waiting.setdefault(name, [])
        waiting.append(request)
        return len(waiting) == 1

    def fail_waiting(self, name: str, fault: Fault) -> None:
        """Tell those that wait that the station could not be made."""
        for request in self._waiting.pop(name, []):
            request.fail(fault)

    # --- swapping in ----------------------------------------------------------------------------

    async def _compile(self, record: StationRecord) -> None:
        """Compile the schema of a record and bring it into force, unless a newer one has come."""
        assert record.schema is not None
        while True:
            try:
                validator = await self._schemas.compile(record.schema, record.schema_version)
            except Fault as fault:
                log.error("station %s: its schema is not usable: %s", record.name, fault.text)
                if record.name not in self._served or not fault.kind.retryable:
                    self._serve(record, _refuse_with(fault))
                if not fault.kind.retryable:
                    return
                await asyncio.sleep(RETRY_S)
                continue
            self._serve(record, self._check_of(validator), getattr(validator, "accepts", None))
            return

    def _check_of(self, validator: Validator) -> Check:
        """Return the check of a validator; what would stall the loop is judged in a thread."""
        if not isinstance(validator, LongValidator):
            return validator.check
        loop, check, is_long = asyncio.get_running_loop(), validator.check, validator.is_long

        def check_aside(message: bytes, content_type: bytes | None) -> Verdict | Awaitable[Verdict]:
            if not is_long(message, content_type):
                return check(message, content_type)
            if self._long_count >= LONG_MAX:
                raise UpstreamFault("overloaded", f"{LONG_MAX} long messages are being judged")
            self._long_count += 1
            verdict = loop.run_in_executor(self._threads, check, message, content_type)
            verdict.add_done_callback(self._on_judged)
            return cast("Awaitable[Verdict]", verdict)

        return check_aside

    def _on_judged(self, done: object) -> None:
        self._long_count -= 1

    def _on_compiled(self, name: str, done: asyncio.Task[None]) -> None:
        if self._compiling.get(name) is done:
            del self._compiling[name]
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("station %s: its schema could not be compiled", name, exc_info=error)

    def _serve(
        self,
        record: StationRecord,
        check: Check | None,
        accepts: _core.JsonWalker | None = None,
    ) -> None:
        if self._wanted.get(record.name) != record:
            return
        headers = record.headers if isinstance(record.headers, str) else tuple(record.headers)
        station = _core.Station(
            record.name,
            record.stream,
            record.subject,
            headers=headers,
            header_allow=tuple(record.header_allow),
            record=record,
            check=check,
            accepts=accepts,
            message_bytes_max=record.message_bytes_max or 0,
            allow_suffix=record.allow_suffix,
            allow_no_wait=record.allow_no_wait,
            keeps_refused=record.dead_letter is not None,
            verifier=_find_verifier(record),
            ack_fsync=record.ack == "fsync",
        )
        self._served[record.name] = station
        self._ingress.put_station(station)
        # WHY: in the same step as the route, so that no later request overtakes these.
        for request in self._waiting.pop(record.name, []):
            request.resume()


class _Nobody:
    """Takes no signature, because the station's own verifier cannot be made."""

    header_names: frozenset[bytes] = frozenset()

    def verify(self, headers: Mapping[bytes, bytes], body: bytes, now: float) -> None:
        raise ClientFault("unauthorized", "this station's verifier is damaged")


def _find_verifier(record: StationRecord) -> Verifier | None:
    if record.verifier is None:
        return None
    try:
        return make_verifier(record.verifier)
    except Fault as fault:
        log.error("the webhook verifier of %s cannot be used: %s", record.name, fault.text)
        return _Nobody()


def _refuse_with(fault: Fault) -> Check:
    """Return a check that lets nothing in, because nothing can be judged."""
    text = f"the station's schema is not usable: {fault.text}"

    def check(message: bytes, content_type: bytes | None) -> Verdict:
        raise UpstreamFault("overloaded", text)

    return check
