"""One run of the raw publisher: it fills streams, and it is the measure of what a broker takes.

What enters: a broker, a subject, how many messages or how long. What leaves: `Published`.
It must never count a message that was not acknowledged as stored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.broker import Broker
from benchmarks.processes import Failed, run_bounded
from benchmarks.programs import build_program
from benchmarks.workloads import MESSAGE_BYTES

SOURCE_FILE: Final = Path(__file__).with_name("publish.c")
WINDOW: Final = 500
"""WHY: the gateway and the floor keep as many in flight."""
FILL_MS_MAX: Final = 60_000
RUN_GRACE_S: Final = 15.0
COUNT_MAX: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Published:
    """What was acknowledged, what was refused, and how long it took."""

    stored: int
    refused: int
    elapsed_ns: int

    @property
    def rate(self) -> float:
        """Messages stored per second."""
        return self.stored * 1e9 / self.elapsed_ns


def publish_for(broker: Broker, subject: str, seconds: float, core: int) -> Published:
    """Publish messages of the workloads' size for so long."""
    return _publish(broker, subject, COUNT_MAX, int(seconds * 1000), core)


def fill(broker: Broker, subject: str, count: int, core: int) -> None:
    """Store so many messages of the workloads' size.

    Raises:
        Failed: not all were stored in time.
    """
    done = _publish(broker, subject, count, FILL_MS_MAX, core)
    if done.stored != count:
        raise Failed(f"only {done.stored} of {count} messages were stored ({done.refused} refused)")


def _publish(broker: Broker, subject: str, count: int, ms: int, core: int) -> Published:
    argv = [str(build_program(SOURCE_FILE)), str(broker.port), broker.user, broker.password]
    argv += [subject, str(MESSAGE_BYTES), str(WINDOW), str(count), str(ms)]
    return Published(**json.loads(run_bounded(argv, core, ms / 1000 + RUN_GRACE_S, {})))
