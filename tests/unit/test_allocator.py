"""Large blocks go back to the system when they are freed."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

CHECK = """
import hashlib, threading
from pathlib import Path
{setting}

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def check():
    hashlib.scrypt(b"x", salt=b"x" * 16, n=2**14, r=8, p=1, maxmem=64 << 20)

check()
before = resident()
threads = [threading.Thread(target=check) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no mallopt here")
def test_return_large_blocks_keeps_no_memory_of_password_checks() -> None:
    grown = {}
    settings = ("", "from fastgw.allocator import return_large_blocks; return_large_blocks()")
    for setting in settings:
        done = subprocess.run(
            [sys.executable, "-c", CHECK.format(setting=setting)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        grown[setting] = int(done.stdout)
    assert grown[settings[1]] < 8 << 20
