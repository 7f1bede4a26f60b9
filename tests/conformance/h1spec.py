"""The two public h1spec suites, run as they are from a checkout.

What enters: a server, a checkout. What leaves: a `Score` read from what the suite prints.
Called by `__main__`. Their code runs in a process of its own and is never part of this project.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.conformance.score import Score

if TYPE_CHECKING:
    from tests.conformance.servers import Server

TIMEOUT_S: Final = 300
"""LIMIT: the longest run of one suite."""
CASES_MIN: Final = 30
"""LIMIT: both have 33; with fewer, what they print was not understood."""
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_LINE: Final = re.compile(r"^\s*(?P<mark>[\u2713\u2717\u2705\u274c])\s*(?:\d+\.\s*)?(?P<name>.+)$")
_GOOD: Final = "\u2713\u2705"


def run_dropseed(server: Server, checkout: Path) -> Score:
    """Run dropseed/h1spec with its strict cases."""
    host, port = server.address
    argv = [sys.executable, "-m", "h1spec", "--strict", f"{host}:{port}"]
    if not (checkout / "h1spec" / "__main__.py").exists():
        code = "import sys; from h1spec import main; sys.argv[0] = 'h1spec'; main()"
        argv[1:3] = ["-c", code]
    env = os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    return _run("h1spec of dropseed", server, argv, env, checkout)


def run_unetworking(server: Server, checkout: Path, deno: Path, scratch: Path) -> Score:
    """Run uNetworking/h1spec with Deno; it may use the network for loopback alone."""
    host, port = server.address
    argv = [str(deno), "run", "--no-check", "--no-remote", "--no-config", f"--allow-net={host}"]
    argv += [str(checkout / "http_test.ts"), host, str(port)]
    env = os.environ | {"DENO_DIR": str(scratch / "deno-cache"), "DENO_NO_UPDATE_CHECK": "1"}
    return _run("h1spec of uNetworking", server, argv, env, scratch)


def _run(name: str, server: Server, argv: list[str], env: dict[str, str], cwd: Path) -> Score:
    score = Score(name, server.name)
    done = subprocess.run(
        argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    for line in _COLOUR.sub("", done.stdout + done.stderr).splitlines():
        if match := _LINE.match(line):
            is_good = match["mark"] in _GOOD
            title, _, detail = match["name"].partition(": ")
            score.note(title, None if is_good else detail or "failed")
    if score.count < CASES_MIN:
        told = (done.stderr or done.stdout)[-300:]
        score.note("the suite itself", f"{score.count} cases seen; it said {told!r}")
    return score
