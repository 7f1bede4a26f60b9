"""The floor: a C program of the least possible work, and its build.

What enters: nothing but the source beside this file. What leaves: the path of the binary, built by
the harness at each change of the source. It must never be built into the project's package.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from benchmarks.processes import ROOT, find_cores, run_bounded

SOURCE_FILE: Final = Path(__file__).with_name("floor.c")
BUILD_DIR: Final = ROOT / "benchmarks" / "build"
BUILD_TIMEOUT_S: Final = 60.0


def build_floor(folder: Path = BUILD_DIR) -> Path:
    """Compile the floor into `folder`, unless this very source was compiled before.

    Raises:
        Failed: the compiler failed; the text is what it said.
    """
    digest = hashlib.sha256(SOURCE_FILE.read_bytes()).hexdigest()[:12]
    binary = folder / f"floor-{digest}"
    if not binary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        argv = ["cc", "-O2", "-Wall", "-o", str(binary), str(SOURCE_FILE)]
        run_bounded(argv, find_cores()[1], BUILD_TIMEOUT_S, {})
    return binary
