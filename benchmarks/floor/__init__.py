"""The floor: a C program of the least possible work, and its build.

What enters: nothing but the source beside this file. What leaves: the path of the binary, built by
the harness at each change of the source. It must never be built into the project's package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.programs import BUILD_DIR, build_program

SOURCE_FILE: Final = Path(__file__).with_name("floor.c")


def build_floor(folder: Path = BUILD_DIR) -> Path:
    """Compile the floor into `folder`; see `build_program`."""
    return build_program(SOURCE_FILE, folder)
