"""Every fault by its name, with the number of rounds that the targets ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.faults import (
    broker_faults,
    clock_faults,
    cluster_faults,
    crowds,
    process_faults,
    rights_faults,
    soak,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.faults.outcome import Outcome
    from tests.faults.scene import Plan


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Args:
        name: what the table calls it.
        run: does it, and judges.
        rounds: how often, unless told otherwise.
        seconds: how long the load runs between two rounds, unless told otherwise.
        is_usual: whether it runs when no fault is named.
    """

    name: str
    run: Callable[[Plan], Awaitable[Outcome]]
    rounds: int
    seconds: float = 0.5
    is_usual: bool = True

    @property
    def about(self) -> str:
        """What it does, in a line."""
        return (self.run.__doc__ or "").partition("\n")[0]


FAULTS: Final = (
    Fault("broker kill -9", broker_faults.broker_kill, 20),
    Fault("broker kill -9, fsync", broker_faults.group_kill, 20),
    Fault("broker SIGSTOP", broker_faults.broker_freeze, 6),
    Fault("broker lame duck", broker_faults.lame_duck, 4),
    Fault("link cut", broker_faults.link_cut, 9),
    Fault("link black hole", broker_faults.link_blackhole, 6),
    Fault("link slow", broker_faults.link_slow, 4),
    Fault("stream full", broker_faults.stream_full, 4),
    Fault("queue full", broker_faults.queue_full, 4),
    Fault("queue full, fsync", broker_faults.group_queue_full, 4),
    Fault("overload", broker_faults.overload, 3),
    Fault("worker kill -9", process_faults.worker_kill, 20),
    Fault("SIGTERM under load", process_faults.end_under_load, 10),
    Fault("rolling restart", process_faults.rolling_restart, 5),
    Fault("leader kill -9", cluster_faults.leader_kill, 3),
    Fault("leader SIGSTOP", cluster_faults.leader_freeze, 3),
    Fault("leader cut off", cluster_faults.leader_cut_off, 3),
    Fault("leader without peers", cluster_faults.routes_cut, 3),
    Fault("lame ducks", cluster_faults.lame_ducks, 3),
    Fault("second address", cluster_faults.second_address, 3),
    Fault("idle connections", crowds.idle, 1, 8.0),
    Fault("slowloris", crowds.slowloris, 1, 8.0),
    Fault("slow bodies", crowds.slow_bodies, 1, 8.0),
    Fault("stalled readers", crowds.stalled_readers, 1, 8.0),
    Fault("unfinished bodies", crowds.unfinished_bodies, 1),
    Fault("descriptor limit", crowds.descriptor_limit, 3),
    Fault("credentials expire", rights_faults.credentials_expire, 5),
    Fault("permission lost", rights_faults.permission_lost, 10),
    Fault("permission lost, fsync", rights_faults.group_permission_lost, 10),
    Fault("clock jumps", clock_faults.clock_jumps, 6),
    Fault("soak", soak.soak, 1, 3600.0, is_usual=False),
)
