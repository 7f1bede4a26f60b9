"""Where the public suites come from: a checkout that is named, or a package client.

What enters: `--suite NAME=DIR` and a scratch folder. What leaves: folders, or why there is none.
Called by `__main__`. Nothing of a suite is kept: the scratch folder is removed at the end.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path


def find_gunicorn(named: Path | None, scratch: Path) -> Path | None:
    """Find `tests/requests` of gunicorn: in a checkout, else in its source package."""
    if named is not None:
        return _existing(named / "tests" / "requests")
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    argv += ["--no-deps", "--no-build-isolation", "--no-binary", "gunicorn"]
    argv += ["--dest", str(scratch), "gunicorn"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    archives = sorted(scratch.glob("gunicorn-*.tar.gz"))
    if done.returncode or not archives:
        return None
    with tarfile.open(archives[-1]) as archive:
        # WHY by attribute: the argument `filter` came with 3.11.4 only.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(scratch)  # noqa: S202 - filtered, see above
    return next(iter(scratch.glob("gunicorn-*/tests/requests")), None)


def find_deno(scratch: Path) -> Path | None:
    """Install Deno, which the suite of uNetworking is written for, from PyPI into the folder."""
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    argv += ["--no-deps", "--target", str(scratch / "deno"), "deno"]
    subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    return next((p for p in (scratch / "deno").glob("**/bin/deno") if p.is_file()), None)


def _existing(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None
