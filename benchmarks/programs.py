"""The programs in C that the harness compiles for itself: floor, pacer, publisher.

What enters: the path of a source file. What leaves: the path of a binary, named after the source's
digest, so that it is built at each change and only then.
It must never be built into the project's package, nor depend on a library beyond libc.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from benchmarks.processes import ROOT, find_cores, run_bounded

BUILD_DIR: Final = ROOT / "benchmarks" / "build"
BUILD_TIMEOUT_S: Final = 60.0


def build_program(source: Path, folder: Path = BUILD_DIR) -> Path:
    """Compile one source file into `folder`, unless this very source was compiled before.

    Raises:
        Failed: the compiler failed; the text is what it said.
    """
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    binary = folder / f"{source.stem}-{digest}"
    if not binary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        argv = ["cc", "-O2", "-Wall", "-o", str(binary), str(source)]
        run_bounded(argv, find_cores()[1], BUILD_TIMEOUT_S, {})
    return binary
