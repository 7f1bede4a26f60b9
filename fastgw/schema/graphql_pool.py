"""One worker process for GraphQL per gateway worker, behind a bounded queue.

What enters: jobs, from any event loop. What leaves: the worker's answers, as futures. `graphql`
calls it. The process is started by the first job, again when it dies, and killed when a job takes
too long; a thread of this process talks to it, so that no loop ever waits. It must never queue
without a bound, nor let one document's failure become another's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import select
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import msgspec

from fastgw.config import child_environment
from fastgw.errors import UpstreamFault

CPU_S_MAX: Final = 2.0
"""LIMIT: 2,000 tokens that explode in field overlaps were seen to take 0.44 s."""

JOB_S_MAX: Final = 10.0
"""LIMIT: what a document may take by the clock. WHY: on a busy machine a good one can be late, so
it is not refused for that: its sender may try again."""

COMPILE_S_MAX: Final = 10.0
"""LIMIT: building a schema of 256 KiB takes about a second."""

START_S_MAX: Final = 20.0
ALARM_SLACK_S: Final = 5.0
JOBS_WAITING_MAX: Final = 256
BYTES_WAITING_MAX: Final = 16 << 20
END_S_MAX: Final = 1.0
KILL_S_MAX: Final = 5.0
RESTART_WAIT_S: Final = 1.0
"""LIMIT: how long jobs are refused at once after a start that failed."""

Job = dict[str, Any]
Answer = dict[str, Any]


class WorkerDied(Exception):
    """The process ended during a job."""


class WorkerSlow(Exception):
    """The job took longer than it may, and the process was killed."""


class Worker:
    """One process and the two pipes to it; used by one thread."""

    def __init__(self, job_s_max: float = JOB_S_MAX, cpu_s_max: float = CPU_S_MAX) -> None:
        script = Path(__file__).with_name("graphql_worker.py")
        # WHY: -P keeps this folder, which holds a module `json`, off the child's path.
        argv = [sys.executable, "-P", str(script), str(os.getpid())]
        argv += [str(cpu_s_max), str(job_s_max + ALARM_SLACK_S)]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env=child_environment(os.environ),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self.schemas: set[str] = set()
        try:
            self._take(time.monotonic() + START_S_MAX)
        except (WorkerDied, WorkerSlow):
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """What the process ended with, None while it runs."""
        return self._process.poll()

    def ask(self, job: Job, limit_s: float) -> Answer:
        """Do one job.

        Raises:
            WorkerDied: the process ended; it must be replaced.
            WorkerSlow: `limit_s` passed; the process was killed and must be replaced.
        """
        deadline = time.monotonic() + limit_s
        body = msgspec.json.encode(job)
        self._put(struct.pack("<I", len(body)) + body, deadline)
        answer: Answer = msgspec.json.decode(self._take(deadline))
        return answer

    def kill(self) -> None:
        """Kill the process; any thread may, and the one that waits for an answer sees it end."""
        self._process.kill()

    def close(self) -> None:
        """End the process: by the end of its stdin, or by force when it does not heed that."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        for wait_s in (END_S_MAX, KILL_S_MAX):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(wait_s)
                return
            self.kill()

    def _put(self, frame: bytes, deadline: float) -> None:
        left = memoryview(frame)
        while left:
            self._wait([], [self._in], deadline)
            try:
                left = left[os.write(self._in, left) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise WorkerDied from error

    def _take(self, deadline: float) -> bytes:
        (size,) = struct.unpack("<I", self._take_exactly(4, deadline))
        return self._take_exactly(size, deadline)

    def _take_exactly(self, size: int, deadline: float) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            self._wait([self._out], [], deadline)
            try:
                chunk = os.read(self._out, size - len(taken))
            except BlockingIOError:
                continue
            if not chunk:
                raise WorkerDied
            taken += chunk
        return bytes(taken)

    def _wait(self, readers: list[int], writers: list[int], deadline: float) -> None:
        poll = select.poll()
        for number in readers:
            poll.register(number, select.POLLIN)
        for number in writers:
            poll.register(number, select.POLLOUT)
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            self._process.kill()
            raise WorkerSlow


class Pool:
    """The queue before one worker process.

    Args:
        job_s_max: seconds one job may take by the clock.
        cpu_s_max: seconds of processor time one document may take.
        jobs_max: how many jobs may wait or run.
    """

    def __init__(
        self,
        *,
        job_s_max: float = JOB_S_MAX,
        cpu_s_max: float = CPU_S_MAX,
        jobs_max: int = JOBS_WAITING_MAX,
    ) -> None:
        self._job_s_max = job_s_max
        self._cpu_s_max = cpu_s_max
        self._jobs_max = jobs_max
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Job, str, int, Future[Answer]] | None]
        self._jobs = queue.SimpleQueue()
        self._jobs_count = 0
        self._bytes_count = 0
        self._thread: threading.Thread | None = None
        self._worker: Worker | None = None
        self._refused_until = 0.0
        self._closed = False

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id; None when it does not run."""
        worker = self._worker
        return worker.pid if worker is not None else None

    def submit(self, job: Job, sdl: str) -> Future[Answer]:
        """Queue one "judge" job; `sdl` goes before it when the worker lacks the schema.

        The future's answer has "reason", also when the worker died of the job; where the job took
        too long by the clock, the future raises as below.

        Raises:
            UpstreamFault: "overloaded", when too much waits already.
        """
        size = len(job["query"]) + len(job["variables"] or "")
        with self._lock:
            if (
                self._closed
                or self._jobs_count >= self._jobs_max
                or self._bytes_count + size > BYTES_WAITING_MAX
            ):
                raise UpstreamFault(
                    "overloaded", f"{self._jobs_count} GraphQL documents wait already; try again"
                )
            self._jobs_count += 1
            self._bytes_count += size
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="fastgw-graphql", daemon=True
                )
                self._thread.start()
        done: Future[Answer] = Future()
        self._jobs.put((job, sdl, size, done))
        return done

    def close(self) -> None:
        """End the thread and the process; jobs that wait are cancelled."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._jobs.put(None)
            worker = self._worker
            if worker is not None and self._jobs_count:
                worker.kill()
            thread.join(5.0)

    def _run(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, sdl, size, done = entry
            try:
                if not self._closed and done.set_running_or_notify_cancel():
                    done.set_result(self._do(job, sdl))
                else:
                    done.cancel()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any job
                done.set_exception(error)
            finally:
                with self._lock:
                    self._jobs_count -= 1
                    self._bytes_count -= size
        self._drop_worker()

    def _do(self, job: Job, sdl: str) -> Answer:
        # WHY: the process may have died of something else before; a second death is the job's.
        for _ in range(2):
            worker = self._start_worker()
            try:
                return self._ask(worker, job, sdl)
            except WorkerDied:
                self._drop_worker()
            except WorkerSlow as error:
                self._drop_worker()
                raise UpstreamFault(
                    "overloaded", f"validating took more than {self._job_s_max:g} s; try again"
                ) from error
        return {"reason": "validating needs too much memory or depth", "kinds": None}

    def _ask(self, worker: Worker, job: Job, sdl: str) -> Answer:
        for _ in range(2):
            if job["schema"] not in worker.schemas:
                # WHY: the schema is known to build in bounded time, which is not the document's.
                worker.ask({"do": "load", "schema": job["schema"], "sdl": sdl}, COMPILE_S_MAX)
                worker.schemas.add(job["schema"])
            answer = worker.ask(job, self._job_s_max)
            if "unknown" not in answer:
                return answer
            worker.schemas.discard(job["schema"])
        raise WorkerDied

    def _start_worker(self) -> Worker:
        worker = self._worker
        if worker is not None and worker.exit_code is None:
            return worker
        self._drop_worker()
        if time.monotonic() < self._refused_until:
            raise UpstreamFault("overloaded", "the GraphQL validator cannot start; try again")
        try:
            self._worker = worker = Worker(self._job_s_max + COMPILE_S_MAX, self._cpu_s_max)
        except (WorkerDied, WorkerSlow, OSError) as error:
            self._refused_until = time.monotonic() + RESTART_WAIT_S
            raise UpstreamFault(
                "overloaded", "the GraphQL validator cannot start; try again"
            ) from error
        return worker

    def _drop_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def compile_apart(sdl: str) -> Answer | None:
    """Compile SDL in a process of its own; None when the packages are missing.

    Raises:
        WorkerDied: it took too much memory.
        WorkerSlow: it took more than `COMPILE_S_MAX`.
    """
    import importlib.util

    if importlib.util.find_spec("graphql") is None:
        return None
    worker = Worker(COMPILE_S_MAX)
    try:
        return worker.ask({"do": "compile", "sdl": sdl}, COMPILE_S_MAX)
    finally:
        worker.close()


_pool: Pool | None = None
_pool_pid = 0
_pool_lock = threading.Lock()


def find_pool() -> Pool:
    """Return this process's pool; a forked child gets its own."""
    global _pool, _pool_pid
    with _pool_lock:
        if _pool is None or _pool_pid != os.getpid():
            _pool, _pool_pid = Pool(), os.getpid()
        return _pool


def close_pool() -> None:
    """End this process's pool, if it has one."""
    global _pool
    with _pool_lock:
        pool, _pool = _pool, None
        if pool is not None and _pool_pid == os.getpid():
            pool.close()


atexit.register(close_pool)
