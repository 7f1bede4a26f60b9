"""What a run measured, in words and numbers that a reader can trust.

What enters: a `Session` that has ended, or was interrupted. What leaves: a `Report`, which is what
`--json` writes, with warnings that say what makes its figures weaker.
It must never hold a credential, nor a percentile that leaves out requests nobody answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from fastgw.load.histogram import Histogram
from fastgw.load.session import Session

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
LAG_MS_MAX: Final = 5.0
"""LIMIT: sending later than this is felt in every percentile that a reader looks at."""
CPU_SHARE_MAX: Final = 0.9
"""LIMIT: a client with less rest than this delays what it measures."""
PACE_SHARE_MIN: Final = 0.99
WAITED_SHARE_MAX: Final = 0.01

K = TypeVar("K")


class Times(msgspec.Struct, frozen=True):
    """Percentiles in milliseconds."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Report(msgspec.Struct, frozen=True):
    """One run; every count is of requests, and leaves out the one that was sent beforehand.

    `latency` counts from the moment when a request was due, of all requests that were: of those
    without an answer, the time until they were given up. `service` counts from the sending, of
    those that were answered. `lag` is how late the client sent what it could have sent.
    """

    url: str
    station: str
    batch: int
    body_bytes: int
    connections: int
    rate_asked: float
    rate_answered: float
    messages_per_s: float
    seconds_asked: float
    seconds: float
    due: int
    sent: int
    answered: int
    succeeded: int
    unsent: int
    waited: int
    in_flight: int
    statuses: dict[str, int]
    error_codes: dict[str, int]
    failures: dict[str, int]
    reconnected: int
    latency: Times
    service: Times
    lag: Times
    bytes_sent: int
    bytes_received: int
    client_cpu_percent: float
    interrupted: bool
    warnings: list[str]


def build_report(session: Session) -> Report:
    """Build the report of a run that is over."""
    plan, seconds = session.plan, session.elapsed_s
    # WHY: the last answer comes before the last request's time is over, or long after it.
    span = max(seconds, 1e-9 if session.is_interrupted else plan.requests / plan.rate)
    succeeded = sum(count for status, count in session.statuses.items() if 200 <= status < 300)
    lag = build_times(session.lag)
    cpu = session.cpu_s / span
    return Report(
        url=plan.address.url,
        station=plan.station,
        batch=plan.batch,
        body_bytes=plan.body_bytes,
        connections=plan.connections,
        rate_asked=plan.rate,
        rate_answered=round(session.answered / span, 1),
        messages_per_s=round(succeeded * plan.messages / span, 1),
        seconds_asked=plan.seconds,
        seconds=round(seconds, 3),
        due=session.sent + session.unsent,
        sent=session.sent,
        answered=session.answered,
        succeeded=succeeded,
        unsent=session.unsent,
        waited=session.waited,
        in_flight=session.sent - session.answered - session.failures.total(),
        statuses={str(status): count for status, count in sorted(session.statuses.items())},
        error_codes=_by_count(session.codes),
        failures=_by_count(session.failures),
        reconnected=session.lost,
        latency=build_times(session.latency),
        service=build_times(session.service),
        lag=lag,
        bytes_sent=session.sent * len(plan.request),
        bytes_received=session.bytes_received,
        client_cpu_percent=round(100 * cpu, 1),
        interrupted=session.is_interrupted,
        warnings=_find_warnings(session, lag, cpu),
    )


def build_times(histogram: Histogram) -> Times:
    """Build the percentiles of a histogram."""
    p50, p90, p99, p999 = map(_to_ms, histogram.find_percentiles(PERCENTILES))
    return Times(_to_ms(histogram.mean), p50, p90, p99, p999, _to_ms(histogram.max))


def _to_ms(nanoseconds: float) -> float:
    return round(nanoseconds / 1e6, 4)


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _find_warnings(session: Session, lag: Times, cpu: float) -> list[str]:
    found = []
    if lag.p99_ms > LAG_MS_MAX:
        found.append(
            f"this client fell behind by itself: it sent 1 % of the requests more than"
            f" {lag.p99_ms:.1f} ms late; the latencies hold that delay"
        )
    if cpu > CPU_SHARE_MAX:
        found.append(
            f"this client used {cpu * 100:.0f} % of a core, all that it can; ask for a lower rate,"
            " or run several clients"
        )
    due = session.sent + session.unsent
    if session.waited > WAITED_SHARE_MAX * due:
        found.append(
            f"{session.waited} of {due} requests waited for a free connection: the answers came too"
            f" slowly for {session.plan.connections} connections (--connections)"
        )
    if session.unsent:
        found.append(
            f"{session.unsent} requests were due and never sent; they count in the latencies with"
            " the time that they had waited"
        )
    elif not session.is_interrupted and session.answered < PACE_SHARE_MIN * due:
        found.append(f"only {session.answered} of {due} requests were answered")
    return found
