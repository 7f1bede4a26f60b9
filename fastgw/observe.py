"""Counters of all workers in memory that they share, and their text for Prometheus.

What enters: the list of the core's counters, and how many workers there are; each worker adds to a
row of its own, so that nobody waits for anybody. What leaves: one text, from whichever worker is
asked. `server` makes the board before it forks; `supervisor` clears the row of a worker that ended.
A row outlives its worker: counts go on where the one before it stopped. It must never grow while it
runs, nor hold a name of a station or a user: what it shows is as long as the list of counters.
"""

from __future__ import annotations

import mmap
import os
import resource
import sys
import time
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

from fastgw import __version__
from fastgw.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Label = tuple[str, str]
Metric = tuple[str, tuple[Label, ...], str]
"""Name, labels, and "counter", "gauge", "bucket", "sum" or "count"; one for each slot of a row."""

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
"""SOURCE: Prometheus' text-based exposition format, version 0.0.4."""

BEAT_S_MAX: Final = 5.0
"""LIMIT: a worker beats once a second; one that was silent for this long does not serve."""

WORKERS_MAX: Final = 256
"""LIMIT: as the configuration's `workers`."""

_CACHE_LINE: Final = 8
"""Slots of a cache line: no two workers write to the same one."""

_HEAD: Final = _CACHE_LINE
_STARTS, _BEAT_MS, _CPU_US, _RESIDENT_BYTES = range(4)
"""The board's own slots, in front of those of the core."""

_IN_HISTOGRAM: Final = ("bucket", "sum", "count")
_INFINITE: Final = "+Inf"
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

HELP: Final = {
    "fastgw_requests_total": "Requests answered, by route and status.",
    "fastgw_request_bytes_total": "Bytes received from clients: heads and bodies.",
    "fastgw_response_bytes_total": "Bytes sent to clients: heads and bodies.",
    "fastgw_publishes_total": "Messages sent to the broker.",
    "fastgw_publish_bytes_total": "Payload bytes of the messages sent to the broker.",
    "fastgw_acks_total": "Messages that the broker confirmed: stored, or known as a duplicate.",
    "fastgw_errors_total": "Answers with an error, by the word in their Error-Code.",
    "fastgw_defects_total": "Failures that are the gateway's own fault; each is in its log.",
    "fastgw_connections_total": "Client connections accepted.",
    "fastgw_connections_refused_total": "Client connections closed at once, by the bound reached.",
    "fastgw_deliveries_total": "Messages handed to consumers.",
    "fastgw_broker_links_total": "Broker connections that became ready to publish on.",
    "fastgw_broker_links_lost_total": "Broker connections that were lost after they were ready.",
    "fastgw_replays_total": "Messages sent again after a broker connection was lost.",
    "fastgw_connections": "Client connections that are open.",
    "fastgw_publishes_in_flight": "Messages sent to the broker and not yet confirmed.",
    "fastgw_waiting_bytes": "Bytes of bodies that wait for their rest, a verdict or the broker.",
    "fastgw_unread_bytes": "Bytes of answers that clients have not read.",
    "fastgw_descriptors_exhausted": "Workers that can accept nobody, for want of descriptors.",
    "fastgw_tokens_cached": "Credentials whose check is remembered.",
    "fastgw_broker_live": "Workers whose broker connection is ready to publish on.",
    "fastgw_draining": "Workers that answer what they accepted and then end.",
    "fastgw_request_duration_seconds": "From a request's first byte to its answer's handing over.",
    "fastgw_ack_duration_seconds": "From a message's sending to the broker's confirmation.",
}
"""What each of the core's counters means; one without a text stops the start."""

OWN_HELP: Final = {
    "fastgw_build_info": "The version that runs; always 1.",
    "fastgw_workers": "Workers that are meant to run.",
    "fastgw_workers_up": "Workers whose event loop turned within the last 5 seconds.",
    "fastgw_worker_starts_total": "How often a worker was started, replacements included.",
    "process_start_time_seconds": "When the gateway was started, as a unix time.",
    "process_cpu_seconds_total": "Processor time of all workers, user and system.",
    "process_resident_memory_bytes": "Memory of all workers; what they share counts for each.",
}


class Board:
    """Rows of counters in memory that is shared with every process forked afterwards.

    There are twice as many rows as workers, because a worker that leaves and its successor count
    side by side: each takes a row that no other living process has. The numbers are 64-bit and
    unsigned, each written by one process only.

    Args:
        workers_count: how many workers are meant to run, 1 to 256.
        metrics: what the slots of a row are; those of one name stand together.

    Raises:
        InternalError: a metric has no text, or an unknown kind, or its slots are not together.
    """

    def __init__(self, workers_count: int, metrics: Sequence[Metric]) -> None:
        if not 1 <= workers_count <= WORKERS_MAX:
            raise InternalError(f"{workers_count} workers; 1 to {WORKERS_MAX} have rows")
        self.workers_count: Final = workers_count
        self.rows_count: Final = 2 * workers_count
        self._slots_count: Final = len(metrics)
        self._families: Final = _plan(metrics)
        self._gauges: Final = [at for at, metric in enumerate(metrics) if metric[2] == "gauge"]
        whole = -(-(_HEAD + len(metrics)) // _CACHE_LINE) * _CACHE_LINE
        # WHY no close: the memory is freed when the last view of it is gone.
        cells = memoryview(mmap.mmap(-1, self.rows_count * whole * 8)).cast("Q")
        self._rows: Final = [
            cells[start : start + _HEAD + len(metrics)]
            for start in range(0, self.rows_count * whole, whole)
        ]
        self._started_at: Final = time.time()
        self._started: Final = time.monotonic()
        self._cpu_us_before = [0] * self.rows_count

    # --- what a worker does ---------------------------------------------------------------------

    def slots(self, row: int) -> memoryview[int]:
        """Return the slots of a row, one for each metric, for its worker to write to."""
        return self._rows[row][_HEAD:]

    def begin(self, row: int) -> None:
        """Take a row over; called once in the process that will write to it."""
        cells = self._rows[row]
        self.reset_gauges(row)
        cells[_STARTS] += 1
        # WHY: a forked process counts its time from nought, and the sum must never go back.
        self._cpu_us_before[row] = cells[_CPU_US]
        self.beat(row)

    def beat(self, row: int) -> None:
        """Say that the row's worker lives, and what it uses; called once a second."""
        cells = self._rows[row]
        cells[_BEAT_MS] = _monotonic_ms()
        cells[_CPU_US] = self._cpu_us_before[row] + int(time.process_time() * 1e6)
        cells[_RESIDENT_BYTES] = _resident_bytes()

    # --- what the supervisor does ---------------------------------------------------------------

    def reset_gauges(self, row: int) -> None:
        """Forget what no longer holds of a worker that ended; what it counted stays."""
        cells = self._rows[row]
        cells[_BEAT_MS] = 0
        cells[_RESIDENT_BYTES] = 0
        for at in self._gauges:
            cells[_HEAD + at] = 0

    def silent_s(self, row: int) -> float | None:
        """Return for how long the row's worker has not beaten; None when it has no worker."""
        beaten_ms = self._rows[row][_BEAT_MS]
        return max(0.0, (_monotonic_ms() - beaten_ms) / 1000) if beaten_ms else None

    # --- what whoever is asked does -------------------------------------------------------------

    def render(self) -> bytes:
        """Return everything as Prometheus' text, counters and gauges summed over the workers."""
        rows = self._used_rows()
        totals = [sum(column) for column in zip(*rows, strict=True)][_HEAD:]
        parts: list[bytes] = []
        for family in self._families:
            parts.append(family.head)
            for series in family.series:
                series.put(parts, totals or [0] * self._slots_count)
        parts += self._put_own(rows)
        return b"".join(parts)

    def utilization(self) -> dict[str, float]:
        """Return what share of a processor and of this machine's memory the workers use.

        Returns:
            "cpu": processor time in percent of the time since the start, over 100 with more than
            one worker; "memory": resident bytes in percent of the machine's; "storage": 0.
        """
        rows = self._used_rows()
        spent_s = max(time.monotonic() - self._started, 1.0)
        cpu = sum(row[_CPU_US] for row in rows) / 1e6 / spent_s
        memory = sum(row[_RESIDENT_BYTES] for row in rows) / _PAGE_BYTES
        return {
            "cpu": round(100 * cpu, 1),
            "memory": round(100 * memory / os.sysconf("SC_PHYS_PAGES"), 1),
            "storage": 0,
        }

    def _used_rows(self) -> list[list[int]]:
        """Copy the rows that had a worker."""
        return [row.tolist() for row in self._rows if row[_STARTS]]

    def _put_own(self, rows: list[list[int]]) -> Iterable[bytes]:
        """Give the metrics that are no slots of the core."""
        version = _put_labels((("version", __version__),))
        cpu_us = sum(row[_CPU_US] for row in rows)
        resident_bytes = sum(row[_RESIDENT_BYTES] for row in rows)
        yield _put_one("fastgw_build_info", "gauge", "1", version)
        yield _put_one("fastgw_workers", "gauge", str(self.workers_count))
        silent = [self.silent_s(row) for row in range(self.rows_count)]
        up = sum(each is not None and each < BEAT_S_MAX for each in silent)
        yield _put_one("fastgw_workers_up", "gauge", str(up))
        starts = sum(row[_STARTS] for row in rows)
        yield _put_one("fastgw_worker_starts_total", "counter", str(starts))
        yield _put_one("process_start_time_seconds", "gauge", f"{self._started_at:.3f}")
        yield _put_one("process_cpu_seconds_total", "counter", _seconds(cpu_us))
        yield _put_one("process_resident_memory_bytes", "gauge", str(resident_bytes))


# --- the text, prepared -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Single:
    """A counter or gauge with its labels."""

    name: bytes
    slot: int

    def put(self, parts: list[bytes], totals: list[int]) -> None:
        """Append its line."""
        parts.append(b"%b %d\n" % (self.name, totals[self.slot]))


@dataclass(frozen=True, slots=True)
class _Histogram:
    """A histogram with its labels; the slots count each bucket alone, the text adds them up."""

    buckets: tuple[tuple[bytes, int], ...]
    rest: bytes
    rest_slot: int | None
    sum_name: bytes
    sum_slot: int
    count_name: bytes
    count_slot: int

    def put(self, parts: list[bytes], totals: list[int]) -> None:
        """Append its lines."""
        count = 0
        for name, slot in self.buckets:
            count += totals[slot]
            parts.append(b"%b %d\n" % (name, count))
        # WHY: a worker may be between two of its slots, and the last bucket must be the count.
        if self.rest_slot is None:
            count = max(count, totals[self.count_slot])
        else:
            count += totals[self.rest_slot]
        parts.append(b"%b %d\n" % (self.rest, count))
        parts.append(b"%b %b\n" % (self.sum_name, _seconds(totals[self.sum_slot]).encode()))
        parts.append(b"%b %d\n" % (self.count_name, count))


@dataclass(frozen=True, slots=True)
class _Family:
    """All series of one name, behind the two lines that tell what they are."""

    head: bytes
    series: tuple[_Single | _Histogram, ...]


def _plan(metrics: Sequence[Metric]) -> tuple[_Family, ...]:
    """Prepare the lines of every slot."""
    families = []
    seen: set[str] = set()
    for name, group in groupby(enumerate(metrics), lambda one: one[1][0]):
        slots = list(group)
        if name in seen:
            raise InternalError(f"the slots of {name} are not together")
        seen.add(name)
        kinds = {kind for _, (_, _, kind) in slots}
        if kinds == set(_IN_HISTOGRAM):
            head = _put_head(name, "histogram", HELP)
            families.append(_Family(head, tuple(_plan_histograms(name, slots))))
        elif kinds in ({"counter"}, {"gauge"}):
            series = tuple(
                _Single(name.encode() + _put_labels(labels), at) for at, (_, labels, _) in slots
            )
            families.append(_Family(_put_head(name, kinds.pop(), HELP), series))
        else:
            raise InternalError(f"{name} has slots of the kinds {sorted(kinds)}")
    return tuple(families)


def _plan_histograms(name: str, slots: list[tuple[int, Metric]]) -> Iterable[_Histogram]:
    """Prepare the histograms of a name, one for each set of labels."""

    def without_bound(one: tuple[int, Metric]) -> tuple[Label, ...]:
        return tuple(label for label in one[1][1] if label[0] != "le")

    for labels, group in groupby(slots, without_bound):
        bounds: list[tuple[str, int]] = []
        ends: dict[str, int] = {}
        for at, (_, own, kind) in group:
            if kind == "bucket":
                bounds.append((dict(own)["le"], at))
            else:
                ends[kind] = at
        finite = [(bound, at) for bound, at in bounds if bound != _INFINITE]
        if ends.keys() != {"sum", "count"} or finite != sorted(finite, key=lambda b: float(b[0])):
            raise InternalError(f"the buckets of {name} are out of order, or lack sum or count")

        def put(suffix: str, *more: Label, labels: tuple[Label, ...] = labels) -> bytes:
            return f"{name}_{suffix}".encode() + _put_labels((*labels, *more))

        yield _Histogram(
            buckets=tuple((put("bucket", ("le", bound)), at) for bound, at in finite),
            rest=put("bucket", ("le", _INFINITE)),
            rest_slot=dict(bounds).get(_INFINITE),
            sum_name=put("sum"),
            sum_slot=ends["sum"],
            count_name=put("count"),
            count_slot=ends["count"],
        )


def _put_head(name: str, kind: str, texts: dict[str, str]) -> bytes:
    """Build the HELP and TYPE lines of a name."""
    if name not in texts:
        raise InternalError(f"{name} has no text that tells what it means")
    text = texts[name].replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()


def _put_labels(labels: Sequence[Label]) -> bytes:
    """Build the labels of a series, with what would end a value escaped."""
    if not labels:
        return b""
    shown = (
        name + '="' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        for name, value in labels
    )
    return f"{{{','.join(shown)}}}".encode()


def _put_one(name: str, kind: str, value: str, labels: bytes = b"") -> bytes:
    """Build a metric of the board's own that has one value."""
    return _put_head(name, kind, OWN_HELP) + b"%b%b %b\n" % (name.encode(), labels, value.encode())


def _seconds(microseconds: int) -> str:
    """Write microseconds as seconds, exactly."""
    return f"{microseconds // 1_000_000}.{microseconds % 1_000_000:06d}"


def _monotonic_ms() -> int:
    """Return the clock that all processes of this machine share and that is never set."""
    return int(time.monotonic() * 1000)


def _resident_bytes() -> int:
    """Return how much memory this process occupies; its peak where /proc does not tell."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(256).split()[1]) * _PAGE_BYTES
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
