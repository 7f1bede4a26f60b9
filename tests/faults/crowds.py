"""Crowds of clients that want nothing, or too much, beside good ones (R6).

What enters: a `Plan`; its seconds are how long the crowd stays. What leaves: an `Outcome` with the
good clients' latencies without and with the crowd, and the gateway's memory and descriptors.
Good clients run in a process of their own, so that the crowd's work is not in their figures.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.faults.outcome import Outcome
from tests.faults.scene import rss_bytes
from tests.slow.good import measure
from tests.slow.kinds import Crowd, SlowClient, kinds
from tests.wire.gateway import Gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.pool import Pool

    from tests.faults.scene import Plan

IDLE_COUNT: Final = 10_000
SLOW_COUNT: Final = 1_000
SPARE_FILES: Final = 200
"""LIMIT: descriptors that the suite needs beside those of the crowd."""

RATIO_MAX: Final = 2.0
"""SOURCE: target R6, p99 of good clients at most twice what it was."""

IDLE_BYTES_MAX: Final = 6 * 1024
"""SOURCE: target P9, memory of one idle connection."""

SLOW_BYTES_MAX: Final = 128 * 1024
"""LIMIT: what one read brings, and as much of answers; more is growth by a client's will."""

CAME_PART: Final = 0.9
"""LIMIT: some of those that stand may have been dropped already."""

CAME_S_MAX: Final = 30.0
CALM_S_MAX: Final = 10
CALM_WAIT_S_MAX: Final = 90
CALM_PART: Final = 0.3

BODY_BYTES: Final = 100_000
WAITING_BYTES: Final = 8 << 20
UNFINISHED_COUNT: Final = 3_000
SLACK_BYTES: Final = 40 << 20
"""LIMIT: what the allocator keeps, and 3,000 connections; it does not grow with their bodies."""

GET: Final = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
ANSWER_S: Final = 5.0
ROOM: Final = 20
NEWCOMERS: Final = 60
EXHAUSTED_S: Final = 2.0
ACCEPT_S: Final = 5.0
BUSY_MAX: Final = 0.5
"""LIMIT: half a core for a gateway that can accept nobody; more is a loop without a pause."""

LOG_LINES_MAX: Final = 10
EXHAUSTED: Final = "cannot accept new clients"
MIB: Final = 1 << 20


@contextmanager
def _gateway(folder: Path, env: dict[str, str] | None = None) -> Iterator[Gateway]:
    gateway = Gateway(folder / "data", env=env or {})
    try:
        gateway.start()
        gateway.produce("good", b"first")
        gateway.produce("slow", b"first")
        yield gateway
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.stop()


def _pid(gateway: Gateway) -> int:
    assert gateway.process is not None
    return gateway.process.pid


def _raise_limit() -> int:
    """Allow as many descriptors as may be had; return how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _beside(
    plan: Plan, name: str, gather: Callable[[Gateway, Outcome], Callable[[], None]]
) -> Outcome:
    """Measure good clients alone, beside a crowd, and alone again."""
    outcome = Outcome(name, plan.rounds)
    _raise_limit()
    folder = plan.folder / name.replace(" ", "-")
    spawn = multiprocessing.get_context("spawn")
    with _gateway(folder) as gateway, spawn.Pool(1) as pool:
        alone = [_measure(pool, gateway, plan.seconds) for _ in range(2)]
        beside = []
        for _ in range(plan.rounds):
            leave = gather(gateway, outcome)
            beside.append(_measure(pool, gateway, plan.seconds))
            leave()
        afterwards = [_measure(pool, gateway, plan.seconds)]
        _judge(outcome, {"alone": alone, "beside": beside, "afterwards": afterwards})
    return outcome


def _measure(pool: Pool, gateway: Gateway, seconds: float) -> dict[str, float]:
    return pool.apply(measure, (gateway.address, gateway.token(), seconds))


def _judge(outcome: Outcome, times: dict[str, list[dict[str, float]]]) -> None:
    """Compare the good clients' latencies beside and after the crowd with those before."""
    everything = [one for figures in times.values() for one in figures]
    outcome.figures["requests"] = sum(int(one["count"]) for one in everything)
    faults = sum(int(one["faults"]) for one in everything)
    if faults:
        outcome.problems.append(f"{faults} good requests were not answered 200")
    before_ms = max(one["p99_ms"] for one in times["alone"])
    for what, figures in times.items():
        told = "; ".join(
            f"p50 {one['p50_ms']} ms, p99 {one['p99_ms']} ms of {one['count']:.0f}"
            for one in figures
        )
        ratio = min(one["p99_ms"] for one in figures) / before_ms
        outcome.notes.append(f"good clients {what}: {told} (p99 x {ratio:.2f})")
        if ratio > RATIO_MAX:
            outcome.problems.append(f"p99 of good clients {what} is {ratio:.1f} times what it was")


async def idle(plan: Plan) -> Outcome:
    """R6: 10,000 connections that have asked once and stay, beside good clients."""

    def gather(gateway: Gateway, outcome: Outcome) -> Callable[[], None]:
        count = min(IDLE_COUNT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES)
        before = rss_bytes(_pid(gateway))
        sockets = [_open(gateway.address) for _ in range(count)]
        answered = sum(_has_answer(one) for one in sockets)
        each = (rss_bytes(_pid(gateway)) - before) / count
        outcome.notes.append(f"{answered} of {count} connections stand, {each:.0f} bytes each")
        if answered < count:
            outcome.problems.append(f"{count - answered} connections were not served")
        if each > IDLE_BYTES_MAX:
            outcome.problems.append(f"an idle connection costs {each:.0f} bytes")

        def leave() -> None:
            alive = 0
            for one in sockets:
                with suppress(OSError):
                    one.send(GET)
            for one in sockets:
                alive += _has_answer(one)
                one.close()
            outcome.notes.append(f"{alive} of them were served again afterwards")

        return leave

    return await asyncio.to_thread(_beside, plan, "idle connections", gather)


async def slowloris(plan: Plan) -> Outcome:
    """R6: 1,000 clients that send a byte of a head a second, beside good clients."""
    return await asyncio.to_thread(_slow, plan, "slowloris", "head, a byte a second")


async def slow_bodies(plan: Plan) -> Outcome:
    """R6: 1,000 clients that send a byte of a body a second, beside good clients."""
    return await asyncio.to_thread(_slow, plan, "slow bodies", "body, a byte a second")


async def stalled_readers(plan: Plan) -> Outcome:
    """R6: 1,000 clients that ask for much and read nothing, beside good clients."""
    return await asyncio.to_thread(_slow, plan, "stalled readers", "never reads")


def _slow(plan: Plan, name: str, kind_name: str) -> Outcome:
    spawn = multiprocessing.get_context("spawn")

    def gather(gateway: Gateway, outcome: Outcome) -> Callable[[], None]:
        before, files = rss_bytes(_pid(gateway)), _files(_pid(gateway))
        # WHY: from a process of its own, which neither good clients nor the suite wait for.
        crowd = spawn.Process(
            target=_drive, args=(gateway.address, gateway.token(), kind_name, plan.seconds)
        )
        crowd.start()
        # WHY: what is judged is the crowd that stands there; how it came is told beside it.
        wait_until(
            lambda: _files(_pid(gateway)) >= files + SLOW_COUNT * CAME_PART, CAME_S_MAX, "the crowd"
        )
        came_s = _wait_calm(_pid(gateway))
        outcome.notes.append(f"{name}: calm {came_s} s after they had come")
        if came_s > CALM_S_MAX:
            outcome.problems.append(f"busy for {came_s} s after the crowd had come")

        def leave() -> None:
            calm_s = _wait_calm(_pid(gateway))
            each = (rss_bytes(_pid(gateway)) - before) / SLOW_COUNT
            crowd.terminate()
            crowd.join()
            outcome.notes.append(
                f"{SLOW_COUNT} {name}: {each / 1024:.1f} KiB of memory each, calm after {calm_s} s"
            )
            if each > SLOW_BYTES_MAX:
                outcome.problems.append(f"a slow client costs {each / 1024:.0f} KiB")
            if calm_s > CALM_S_MAX:
                outcome.problems.append(f"busy for {calm_s} s with clients that read nothing")

        return leave

    return _beside(plan, name, gather)


def _drive(address: tuple[str, int], token: str, kind_name: str, seconds: float) -> None:
    """Keep the crowd complete: those that are dropped come again."""
    _raise_limit()
    (kind,) = (one for one in kinds(token) if one.name == kind_name)
    deadline = time.monotonic() + seconds + CALM_WAIT_S_MAX + ANSWER_S
    while time.monotonic() < deadline:
        clients = [SlowClient(kind, address) for _ in range(SLOW_COUNT)]
        Crowd(clients).run(deadline - time.monotonic())


async def unfinished_bodies(plan: Plan) -> Outcome:
    """R6: 3,000 clients that send most of a body and pause; what is held for them is bounded."""
    return await asyncio.to_thread(_unfinished_bodies, plan)


def _unfinished_bodies(plan: Plan) -> Outcome:
    outcome = Outcome("unfinished bodies", plan.rounds)
    _raise_limit()
    env = {"FASTGW_LIMITS_WAITING_BYTES_MAX": str(WAITING_BYTES)}
    with _gateway(plan.folder / "unfinished-bodies", env) as gateway:
        head = (
            "POST /stations/slow/produce/single HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {gateway.token()}\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
        ).encode()
        before = rss_bytes(_pid(gateway))
        clients = []
        for _ in range(UNFINISHED_COUNT):
            one = socket.create_connection(gateway.address, timeout=ANSWER_S)
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.send(head + b"x" * (BODY_BYTES * 9 // 10))
            clients.append(one)
        _wait_calm(_pid(gateway))
        grown = rss_bytes(_pid(gateway)) - before
        with _open(gateway.address) as good:
            if not _has_answer(good):
                outcome.problems.append("a good client is not answered")
        for one in clients:
            one.close()
    sent = UNFINISHED_COUNT * BODY_BYTES * 9 // 10
    outcome.notes.append(
        f"{sent / MIB:.0f} MiB of unfinished bodies, memory grew by {grown / MIB:.0f} MiB, "
        f"{WAITING_BYTES / MIB:.0f} MiB allowed to wait"
    )
    # LIMIT: past twice the bound who brings more is refused, and until then he is read no further.
    if grown > 2 * WAITING_BYTES + SLACK_BYTES:
        outcome.problems.append(f"memory grew by {grown / MIB:.0f} MiB")
    return outcome


def _wait_calm(pid: int) -> int:
    """Wait until a process uses little of a core; return how many seconds that took, at most."""
    for passed in range(CALM_WAIT_S_MAX):
        before = _cpu_s(pid)
        time.sleep(1)
        if _cpu_s(pid) - before < CALM_PART:
            return passed
    return CALM_WAIT_S_MAX


async def descriptor_limit(plan: Plan) -> Outcome:
    """R6: no descriptor is left; newcomers wait, old clients go on, and all are served later."""
    return await asyncio.to_thread(_descriptor_limit, plan)


def _descriptor_limit(plan: Plan) -> Outcome:
    outcome = Outcome("descriptor limit", plan.rounds)
    with _gateway(plan.folder / "descriptor-limit") as gateway:
        pid = _pid(gateway)
        old = [_open(gateway.address) for _ in range(4)]
        if not all(_has_answer(one) for one in old):
            outcome.problems.append("no answer before the limit")
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        for _ in range(plan.rounds):
            files = wait_until(lambda: _settled_files(pid), what="descriptors that stay")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (files + ROOM, limits[1]))
            _exhaust(gateway, old, outcome)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        if gateway.ask("/healthz", None, method="GET").status != 200:
            outcome.problems.append("no answer after the limit was raised")
        for one in old:
            one.close()
    return outcome


def _exhaust(gateway: Gateway, old: list[socket.socket], outcome: Outcome) -> None:
    """Fill what room there is, see how it goes meanwhile, and make room again."""
    lines, before = gateway.log_text().count("\n"), _files(_pid(gateway))
    newcomers = [_open(gateway.address) for _ in range(NEWCOMERS)]
    served = [one for one in newcomers if _has_answer(one, 0.1)]
    asked, failed, busy = _ask_on(gateway, old)
    for one in served:
        one.close()
    others = [one for one in newcomers if one not in served]
    turned_away = [one for one in others if _is_closed(one)]
    late, waiting = _let_in([one for one in others if one not in turned_away])
    wait_until(lambda: _files(_pid(gateway)) <= before, ANSWER_S, "descriptors to be given back")
    fresh = [_open(gateway.address) for _ in range(ROOM // 2)]
    again = sum(_has_answer(one) for one in fresh)
    for one in (*fresh, *turned_away):
        one.close()
    told = gateway.log_text().count("\n") - lines
    outcome.notes.append(
        f"{len(served)} of {NEWCOMERS} newcomers served, {len(turned_away)} turned away, {late} "
        f"served later; {asked} old requests answered meanwhile; {again} of {len(fresh)} served "
        f"when there was room again; {busy * 100:.0f} % of a core, {told} log lines"
    )
    broken = (
        (failed > 0, f"{failed} requests of old connections failed at the limit"),
        (len(served) > ROOM, f"{len(served)} newcomers within room for {ROOM}"),
        (waiting > 0, f"{waiting} newcomers were neither served nor turned away"),
        (again < len(fresh), f"{len(fresh) - again} were not served when there was room again"),
        (busy > BUSY_MAX, f"{busy * 100:.0f} % of a core while nobody can be accepted"),
        (told > LOG_LINES_MAX, f"{told} log lines while nobody can be accepted"),
        (EXHAUSTED not in gateway.log_text(), "no log line says that nobody can be accepted"),
    )
    outcome.problems.extend(text for is_broken, text in broken if is_broken)


def _ask_on(gateway: Gateway, old: list[socket.socket]) -> tuple[int, int, float]:
    """Ask on old connections for a while; return requests, failures, and the gateway's load."""
    cpu, started = _cpu_s(_pid(gateway)), time.monotonic()
    asked = failed = 0
    while time.monotonic() - started < EXHAUSTED_S:
        for one in old:
            one.send(GET)
            asked += 1
            failed += not _has_answer(one)
        # WHY: old clients ask now and then; the rest of the processor's time is the accept loop's.
        time.sleep(0.05)
    return asked, failed, (_cpu_s(_pid(gateway)) - cpu) / EXHAUSTED_S


def _let_in(waiting: list[socket.socket]) -> tuple[int, int]:
    """Each that is served makes room for one behind it; return how many were, and were not."""
    late = 0
    # WHY a limit since the last one: each may come when the gateway has just begun to pause.
    deadline = time.monotonic() + ACCEPT_S
    while waiting and time.monotonic() < deadline:
        ready = [one for one in waiting if _has_answer(one, 0.05)]
        if ready:
            late += len(ready)
            deadline = time.monotonic() + ACCEPT_S
        for one in ready:
            one.close()
        waiting = [one for one in waiting if one not in ready]
    for one in waiting:
        one.close()
    return late, len(waiting)


def _open(address: tuple[str, int]) -> socket.socket:
    """Connect and ask."""
    one = socket.create_connection(address, timeout=ANSWER_S)
    one.send(GET)
    return one


def _has_answer(one: socket.socket, timeout_s: float = ANSWER_S) -> bool:
    """Whether a 200 comes in time."""
    one.settimeout(timeout_s)
    data = b""
    with suppress(OSError):
        while b"\r\n\r\n" not in data:
            more = one.recv(4096)
            if not more:
                return False
            data += more
    return data.startswith(b"HTTP/1.1 200")


def _is_closed(one: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    one.setblocking(False)
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _files(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _settled_files(pid: int) -> int | None:
    """How many descriptors a process has, when they do not become fewer any more."""
    before = _files(pid)
    time.sleep(0.2)
    return before if _files(pid) == before else None


def _cpu_s(pid: int) -> float:
    """The processor time of a process so far."""
    fields: list[Any] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
