"""One run of the pacer: requests in a file in, counted answers and a histogram out.

What enters: requests, a port, how many connections, and a rate (or none, for a closed loop).
What leaves: `Paced`. The pacer measures from when a request was due, whatever came before it, so
that a server which stands still is charged for everything that would have come meanwhile.
It must never hide an answer outside 2xx, a lost connection, or its own lateness.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.load.histogram import Histogram
from benchmarks.processes import Cores, Failed, open_dialogue
from benchmarks.programs import build_program
from benchmarks.workloads import Request

SOURCE_FILE: Final = Path(__file__).with_name("pace.c")
RUN_GRACE_S: Final = 20.0
"""LIMIT: how much longer than asked it may take: connecting, the last answers, the print."""
LAG_US_MAX: Final = 500.0
"""LIMIT: if one request in a hundred left later than this, the load was not what it says."""
DEPTH_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Pace:
    """How to load.

    Args:
        connections: kept open throughout.
        core: where the pacer runs.
        seconds: measured time, after the warm-up.
        rate: requests a second over all connections; 0 sends as fast as answers come.
        warm_up_s: time before it that is loaded alike and not measured.
        depth: requests in flight on each connection of a closed loop.
        count: stop after so many requests; 0 for no such bound.
    """

    connections: int
    core: Cores
    seconds: float = 2.0
    rate: float = 0.0
    warm_up_s: float = 0.5
    depth: int = 1
    count: int = 0


@dataclass(frozen=True, slots=True)
class Paced:
    """What the pacer counted.

    Args:
        answers: all of them, those of the warm-up and the last moments included.
        timed: those that came in the measured time, of `window_s` seconds.
        refused: answers outside 2xx.
        errors: requests that were out when their connection was lost.
        unanswered: requests that were due and had no answer at the end; they count with their age.
        bytes: of all bodies that came.
    """

    answers: int
    timed: int
    refused: int
    errors: int
    unanswered: int
    bytes: int
    window_s: float
    latency: Histogram
    lag: Histogram

    @property
    def rate(self) -> float:
        """Answers per second of the measured time."""
        return self.timed / self.window_s if self.window_s > 0 else 0.0

    @property
    def problem(self) -> str:
        """Why this run does not count; empty when it does."""
        if self.refused:
            return f"{self.refused} of {self.answers} answers were not 2xx"
        if self.errors:
            return f"{self.errors} requests were lost with their connections"
        if not self.answers:
            return "no request was answered"
        return ""

    @property
    def is_late(self) -> bool:
        """Whether the pacer itself sent too late to be believed."""
        return self.lag.percentile_us(99) > LAG_US_MAX


def build_bytes(request: Request, method: str = "POST") -> bytes:
    """Build the bytes of one HTTP request, as the pacer repeats them."""
    lines = [f"{method} {request.path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    lines.append(f"Content-Length: {len(request.body)}")
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + request.body


def write_requests(requests: Iterable[bytes], path: Path) -> Path:
    """Write requests in the pacer's form, each behind a line with its length."""
    with path.open("wb") as file:
        for request in requests:
            file.write(b"%d\n%b" % (len(request), request))
    return path


def parse_output(text: str) -> Paced:
    """Parse the line that the pacer prints.

    Raises:
        Failed: it printed something else.
    """
    try:
        found: dict[str, Any] = json.loads(text)
        latency, lag = Histogram(found.pop("latency")), Histogram(found.pop("lag"))
        window_s = found.pop("window_ns") / 1e9
        return Paced(**found, window_s=window_s, latency=latency, lag=lag)
    except (ValueError, TypeError, KeyError) as error:
        raise Failed(f"the pacer printed no result: {text.strip()[:200]}") from error


def run_pace(
    requests: Path, port: int, pace: Pace, mark: Callable[[], None] = lambda: None
) -> Paced:
    """Load one server on 127.0.0.1 and return what was counted.

    Args:
        requests: a file of `write_requests`.
        port: where the server listens.
        pace: how.
        mark: called when all is connected and again when all is answered, so that what the server
            spends on accepting and closing falls outside.

    Raises:
        Failed: the pacer failed, or did not end in time.
    """
    argv = [str(build_program(SOURCE_FILE)), str(port), str(pace.connections), f"{pace.rate:.3f}"]
    argv += [f"{pace.warm_up_s * 1000:.0f}", f"{pace.seconds * 1000:.0f}", str(pace.depth)]
    argv += [str(pace.count), str(requests)]
    timeout_s = pace.warm_up_s + pace.seconds + RUN_GRACE_S
    with open_dialogue(argv, pace.core, timeout_s) as pacer:
        if pacer.read_line() != "ready":
            raise Failed("the pacer did not say that it is ready")
        mark()
        pacer.say("go")
        line = pacer.read_line()
        mark()
    return parse_output(line)
