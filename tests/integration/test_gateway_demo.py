"""The demo itself: run on a few examples of our own, and its words when it cannot show any."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.wire.gateway import ROOT, clean_env

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        env=clean_env() | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(not (ROOT / "demo").is_dir(), reason="the demo is not installed")
def test_demo_sends_and_compares_examples(tmp_path: Path) -> None:
    examples = [{"n": n, "text": 'é "€" \\ 😀\n', "list": [[], {}]} for n in range(150)]
    folder = tmp_path / "api.github.com"
    folder.mkdir()
    events = [
        {"name": "push", "examples": examples[:140]},
        {"name": "x", "examples": examples[140:]},
    ]
    (folder / "index.json").write_text(json.dumps(events), "utf-8")
    done = run("--examples", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every byte came back." in done.stdout
    assert done.stdout.count("150 of 150") == 3


@pytest.mark.skipif(not (ROOT / "demo").is_dir(), reason="the demo is not installed")
def test_demo_without_npm_says_so(tmp_path: Path) -> None:
    done = run(PATH=str(tmp_path))
    assert done.returncode == 0
    assert "SKIPPED: npm is not installed" in done.stdout
