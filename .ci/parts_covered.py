"""Fail when a part of the compiled core is missing from the coverage report.

What enters: the path of coverage's JSON report, as the one argument; the working directory is the
tree that was measured. A part without executable code (constants alone) is not expected.
Called by `make coverage`. A part can vanish silently, when the plugin does not find its source.
"""

import json
import re
import sys
from pathlib import Path

CODE = re.compile(r"^\s*(?:return|if|for|while|raise|self\.\w+\s*[+-]?=)\b", re.MULTILINE)


def main() -> int:
    """Compare the parts on disk with those in the report."""
    report = json.loads(Path(sys.argv[1]).read_text())
    measured = {
        Path(name).name
        for name, file in report["files"].items()
        if file["summary"]["num_statements"]
    }
    parts = sorted(Path("fastgw/_core").glob("*.pxi"))
    missing = [
        str(path) for path in parts if CODE.search(path.read_text()) and path.name not in measured
    ]
    if not parts or "_core.pyx" not in measured:
        missing.append("fastgw/_core.pyx")
    for name in missing:
        print(f"{name} is missing from the coverage report")
    print(f"{len(parts) - len(missing)} of {len(parts)} parts are in the coverage report")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
