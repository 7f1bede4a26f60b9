"""A wall clock that jumps, for one process and its children; the monotonic clock stays.

What enters: a folder. What leaves: the environment that has a process read such a clock, and a way
to move it. Called by `clock_faults`. The shim is compiled when it is asked for, preloaded, and told
the offset through a file that it maps. Nobody else's clock moves, the broker's neither: its program
asks the kernel without the C library.
"""

from __future__ import annotations

import struct
import subprocess
import time
from pathlib import Path
from shutil import which
from typing import Final

SOURCE: Final = Path(__file__).with_name("clock_shim.c")
COMPILE_S_MAX: Final = 60.0
HOUR_S: Final = 3600


def compiler() -> str | None:
    """Find a C compiler."""
    return which("cc")


class JumpingClock:
    """The clock of whoever is started with `env`.

    Args:
        folder: where the compiled shim and the offset are kept.

    Raises:
        RuntimeError: there is no C compiler, or it does not take the shim.
    """

    def __init__(self, folder: Path) -> None:
        program = compiler()
        if program is None:
            raise RuntimeError("no C compiler")
        folder.mkdir(parents=True, exist_ok=True)
        self._shim = folder / "clock_shim.so"
        self._offset = folder / "clock_offset"
        self.set(0)
        done = subprocess.run(
            [program, "-shared", "-fPIC", "-O2", "-o", str(self._shim), str(SOURCE)],
            capture_output=True,
            text=True,
            timeout=COMPILE_S_MAX,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the shim cannot be compiled: {done.stderr[:400]}")

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment."""
        return {"LD_PRELOAD": str(self._shim), "CLOCK_SHIM_FILE": str(self._offset)}

    def set(self, offset_s: int) -> None:
        """Have the clock be so far from the true time, from now on."""
        # WHY in place: processes have mapped this very file.
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("=q", offset_s))
        self.offset_s = offset_s

    def now_s(self) -> float:
        """What the clock shows."""
        return time.time() + self.offset_s
