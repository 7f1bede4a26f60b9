"""Fetches GitHub's webhook examples, the real payloads of the demo.

What enters: nothing, or a folder where the package was unpacked before.
What leaves: the payloads as GitHub sends them, or `Missing` with the reason in a few words.
The package is fetched with npm into a folder that the caller deletes; nothing of it is kept.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from dataclasses import dataclass
from shutil import which
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE: Final = "@octokit/webhooks-examples"
FETCH_S_MAX: Final = 180.0


class Missing(Exception):
    """The examples cannot be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Example:
    """One webhook: the event's name and the body's bytes."""

    event: str
    body: bytes


def fetch(folder: Path) -> Path:
    """Fetch and unpack the package below `folder`; return where it lies.

    Raises:
        Missing: there is no npm, or it could not fetch.
    """
    npm = which("npm")
    if npm is None:
        raise Missing("npm is not installed")
    try:
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--loglevel=error"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=FETCH_S_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"npm did not fetch {PACKAGE} within {FETCH_S_MAX:g} s") from error
    archives = sorted(folder.glob("*.tgz"))
    if done.returncode != 0 or not archives:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm")]
        raise Missing(f"npm could not fetch {PACKAGE} ({lines[0][:200] if lines else 'no reason'})")
    with tarfile.open(archives[-1]) as archive:
        # WHY by attribute: the argument `filter` came with 3.11.4 only.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(folder)  # noqa: S202 - filtered, see above
    return folder / "package"


def read(package: Path) -> list[Example]:
    """Read every example of every GitHub version, compact as GitHub sends them.

    Raises:
        Missing: the folder holds no examples.
    """
    examples = []
    for path in sorted(package.glob("*/index.json")):
        for event in json.loads(path.read_bytes()):
            for payload in event["examples"]:
                text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
                examples.append(Example(event["name"], text.encode()))
    if not examples:
        raise Missing(f"{package} holds no examples")
    return examples
