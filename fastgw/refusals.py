"""Keeps messages that a schema has refused, as dead letters in the station that the record names.

What enters: from the core, a refused message with its request, header block and reason.
What leaves: a publish of our own over the data plane, whose end is only counted.
It must never delay, fail or change the answer of the request: that was given for the refusal.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from fastgw.control.dead_letters import build_block, build_headers
from fastgw.nats.quiet import QuietLog

if TYPE_CHECKING:
    from fastgw import _core
    from fastgw.station_table import StationTable

log: Final = logging.getLogger("fastgw.refusals")

_VERSION_LINE: Final = b"NATS/1.0\r\n"


class Refusals:
    """The way of refused messages to their dead-letter stations.

    Args:
        ingress: publishes them.
        table: finds the dead-letter station that is served.
    """

    def __init__(self, ingress: _core.Ingress, table: StationTable) -> None:
        self.kept_count = 0
        self.lost_count = 0
        self._ingress = ingress
        self._table = table
        self._quiet = QuietLog(log)

    def keep(self, request: _core.Request, fields: bytes, message: bytes, reason: str) -> None:
        """Publish one refused message as a dead letter; what cannot be kept is counted and logged.

        Args:
            request: whose message it was.
            fields: the header lines that the message would have had.
            message: its bytes.
            reason: why it was refused.
        """
        record = request.record
        station = self._table.find(record.dead_letter or "")
        if station is None:
            self._lose(record.name, f"there is no station {record.dead_letter}")
            return
        principal = request.principal
        headers = build_headers(
            record,
            reason,
            user="" if principal is None else principal.user,
            client=request.client,
            subject=request.subject,
            message_id=request.message_id,
            content_type=request.header(b"content-type"),
        )
        block = build_block(headers, fields)
        lines = block.removeprefix(_VERSION_LINE)[:-2]

        def on_done(is_stored: bool) -> None:
            if is_stored:
                self.kept_count += 1
            else:
                self._lose(record.name, f"station {record.dead_letter} did not store it")

        self._ingress.publish(station, lines, message, on_done)

    def _lose(self, name: str, why: str) -> None:
        self.lost_count += 1
        self._quiet.warning(f"a dead letter of station {name} is lost: {why}")
