"""A supervisor over workers that are no gateways, in a process of its own: `python -m … FOLDER`.

What enters: a folder, whose files say how the workers behave. What leaves: lines in its `events`,
each "WORD INDEX PID PLAN", in the order in which they happened, and the supervisor's exit code.
The tests of the supervisor run it; each worker here is a few lines without an event loop.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

from fastgw import supervisor
from fastgw.crew import Times, Voice

SILENCE_S: Final = 2.0
"""Twenty beats, so that a worker which a busy machine lets wait is not one that hangs."""

BEAT_S: Final = 0.1
DEAF_GRACE_S: Final = 0.2
GRACE_S: Final = 10.0
"""Who hears that it is to end does so at once; on a busy machine that may take a while."""


class ToyCrew:
    """Workers that only tell what happens to them.

    Files: `dies-INDEX` or `dies-PLAN` (it ends at once, with the code in the file), `mute-INDEX`
    (its loop stands still), `deaf` (it does not end), `patient` (it may take
    long to), `stays` (it ends when this is gone), `plan` (what a reload finds; "bad" is bad).
    """

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder
        self._events: Final = os.open(folder / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tell(self, *words: object) -> None:
        os.write(self._events, (" ".join(map(str, words)) + "\n").encode())

    def has(self, name: str) -> bool:
        return (self._folder / name).exists()

    def times(self, plan: str) -> Times:
        grace_s = DEAF_GRACE_S if self.has("deaf") else GRACE_S
        return Times(0.0, 60.0 if self.has("patient") else grace_s, SILENCE_S)

    def open(self, index: int) -> None:
        self.tell("open", index, os.getpid(), "-")

    def forget(self, index: int) -> None:
        self.tell("forget", index, os.getpid(), "-")

    def left(self, seat: int) -> None:
        self.tell("left", seat, os.getpid(), "-")

    def read_again(self, plan: str) -> str | None:
        found = (self._folder / "plan").read_text()
        self.tell("read", "-", os.getpid(), found)
        return {"bad": None, plan: plan}.get(found, found)

    def close_sockets(self) -> None:
        self.tell("close-sockets", "-", os.getpid(), "-")

    def close_files(self) -> None:
        self.tell("close-files", "-", os.getpid(), "-")

    def run(self, index: int, plan: str, voice: Voice) -> int:
        wanted = {signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
        self.tell("seat", voice.seat, os.getpid(), plan)
        self.tell("first" if voice.is_first else "later", index, os.getpid(), plan)
        for name in (f"dies-{index}", f"dies-{plan}"):
            if self.has(name):
                return int((self._folder / name).read_text() or 3)
        parent = os.getppid()
        # In this order, so that what its parent does about it is told after it.
        self.tell("ready", index, os.getpid(), plan)
        voice.say_ready()
        is_leaving = False
        while not is_leaving or self.has("stays"):
            if not self.has(f"mute-{index}"):
                voice.beat()
            found = signal.sigtimedwait(wanted, BEAT_S)
            if os.getppid() != parent:
                return 0
            if found is None:
                continue
            name = signal.Signals(found.si_signo).name
            self.tell(name, index, os.getpid(), plan)
            if found.si_signo != signal.SIGHUP and not self.has("deaf"):
                is_leaving = True
        return 0


def main() -> int:
    """Supervise two workers."""
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
    # The bounds of a real gateway are seconds; what is tested here is that they hold.
    supervisor.END_MARGIN_S = 0.3  # type: ignore[misc]
    supervisor.READY_S_MAX = 5.0  # type: ignore[misc]
    supervisor.ASLEEP_S = 1.0  # type: ignore[misc]
    return supervisor.Supervisor(2, ToyCrew(Path(sys.argv[1])), "one").run()


if __name__ == "__main__":
    sys.exit(main())
