"""The peers in Go and Rust: their builds, their environment, and the versions they are pinned to.

What enters: a peer's name. What leaves: the path of its binary, built by its own package client
from the lock file beside the source, at each change of either. `subjects` starts it.
It must never be imported for its third-party code: there is none here, and none is committed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import Failed, clean_environment, last_lines
from benchmarks.programs import BUILD_DIR
from benchmarks.workloads import WORKLOADS

BUILD_TIMEOUT_S: Final = 1200.0
"""LIMIT: the Rust peer links everything into one unit; two slow cores need five minutes."""
PEERS_DIR: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that is compiled.

    Args:
        name: of the subject, and of the folder beside this file.
        toolchain: the command that builds it.
        version: the command that tells the toolchain's version.
        sources: everything that the binary depends on, inside the folder.
        build: the command, given the place where its own files may lie; run in the folder.
        product: where it leaves the binary, inside that place.
        build_env: variables of the build.
        run_env: variables of the server: one core is all it has.
    """

    name: str
    toolchain: str
    version: tuple[str, ...]
    sources: tuple[str, ...]
    build: tuple[str, ...]
    product: str
    build_env: Mapping[str, str]
    run_env: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """The folder of its sources."""
        return PEERS_DIR / self.name


GO: Final = Peer(
    name="go",
    toolchain="go",
    version=("go", "version"),
    sources=("main.go", "go.mod", "go.sum"),
    build=("go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", "{place}/peer"),
    product="peer",
    # WHY: the standard library's second JSON package splits a batch without copying it.
    build_env={"GOEXPERIMENT": "jsonv2"},
    # WHY no GOGC: a larger heap made batches cheaper and single messages dearer, both by a tenth.
    run_env={"GOMAXPROCS": "1"},
)
RUST: Final = Peer(
    name="rust",
    toolchain="cargo",
    version=("rustc", "--version"),
    sources=("src/main.rs", "Cargo.toml", "Cargo.lock"),
    build=("cargo", "build", "--release", "--locked", "--quiet", "--target-dir", "{place}"),
    product="release/peer",
    build_env={},
    run_env={},
)
PEERS: Final = {peer.name: peer for peer in (GO, RUST)}


def find_binary(peer: Peer, build_dir: Path = BUILD_DIR) -> Path:
    """Find where the binary of these very sources is, or will be."""
    digest = hashlib.sha256()
    for name in peer.sources:
        digest.update((peer.folder / name).read_bytes())
    digest.update(repr((peer.build, sorted(peer.build_env.items()))).encode())
    return build_dir / f"{peer.name}-{digest.hexdigest()[:12]}"


def build_peer(peer: Peer, build_dir: Path = BUILD_DIR) -> Path:
    """Build a peer, unless these very sources were built before; return the binary's path.

    Raises:
        Failed: the build failed; the text is what it said.
    """
    binary = find_binary(peer, build_dir)
    if not binary.exists():
        place = build_dir / peer.name
        place.mkdir(parents=True, exist_ok=True)
        argv = [part.format(place=place) for part in peer.build]
        _run(argv, peer.folder, peer.build_env)
        # WHY twice: a copy that was cut short must not look like a binary.
        unfinished = shutil.copy2(place / peer.product, binary.with_suffix(".part"))
        os.replace(unfinished, binary)
    return binary


def _run(argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            env=clean_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise Failed(f"{argv[0]} cannot run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{argv[0]} did not end within {BUILD_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise Failed(f"{argv[0]} ended with {done.returncode}: {last_lines(done.stdout)}")


def describe_routes() -> str:
    """Describe the paths of the workloads, for a peer that cannot import them."""
    routes = [
        {
            "path": workload.path,
            "subject": workload.station,
            "batch": workload.messages > 1,
            "forwards": workload.forwards,
            "schema": workload.has_schema,
        }
        for workload in WORKLOADS.values()
    ]
    return json.dumps(routes)


def read_pinned(peer: Peer) -> dict[str, str]:
    """Read the versions that its build is pinned to, of what the project itself asks for."""
    if peer is RUST:
        asked = tomllib.loads((peer.folder / "Cargo.toml").read_text())["dependencies"]
        return {
            name: (entry if isinstance(entry, str) else entry["version"]).lstrip("=")
            for name, entry in asked.items()
        }
    text = (peer.folder / "go.mod").read_text()
    found = re.findall(r"^\t\S*?([^/\s]+(?:/v\d+)?) v(\S+)$", text, re.MULTILINE)
    return dict(found)
