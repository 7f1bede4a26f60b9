"""`python -m tests.faults`: every fault with real processes, the audit after each, and a table.

What enters: how much of what. What leaves: the table on standard output, JSON with `--json`, and
exit code 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Final

import fastgw
from tests.faults.outcome import Outcome, head, show
from tests.faults.registry import FAULTS, Fault
from tests.faults.scene import Plan

ROUNDS_MAX: Final = 1000
SECONDS_MAX: Final = 86_400
FAULT_S_MAX: Final = 1800
"""LIMIT: no fault runs longer than this beyond its load, whatever hangs."""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="faults whose name holds this")
    parser.add_argument("--rounds", type=int, help="of each fault, instead of its own number")
    parser.add_argument("--seconds", type=float, help="of load between two rounds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and data there")
    parser.add_argument("--list", action="store_true", help="name the faults")
    asked = parser.parse_args()
    if asked.rounds is not None and not 1 <= asked.rounds <= ROUNDS_MAX:
        parser.error("--rounds is out of range")
    if asked.seconds is not None and not 0 < asked.seconds <= SECONDS_MAX:
        parser.error("--seconds is out of range")
    return asked


def run_one(fault: Fault, asked: argparse.Namespace, folder: Path) -> Outcome:
    """Run one fault; what fails on the way is its result."""
    plan = Plan(folder, asked.rounds or fault.rounds, asked.seconds or fault.seconds)

    async def bounded() -> Outcome:
        async with asyncio.timeout(FAULT_S_MAX + plan.rounds * plan.seconds):
            return await fault.run(plan)

    started = time.monotonic()
    try:
        outcome = asyncio.run(bounded())
    except (AssertionError, OSError, RuntimeError, TimeoutError) as error:
        ours = [at for at in traceback.extract_tb(error.__traceback__) if "faults" in at.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        text = f"not done: {error!r} at {where}"
        outcome = Outcome(fault.name, plan.rounds, problems=[text])
    outcome.figures["took s"] = round(time.monotonic() - started, 1)
    return outcome


def run(asked: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run what was asked for, one after the other."""
    print(head(), flush=True)
    results = []
    for fault in FAULTS:
        if not (any(word in fault.name for word in asked.only) if asked.only else fault.is_usual):
            continue
        outcome = run_one(fault, asked, folder)
        print(show(outcome), flush=True)
        results.append(outcome.to_json())
    return results


def main() -> int:
    """Run, print, and write."""
    asked = parse_arguments()
    if asked.list:
        for fault in FAULTS:
            print(f"{fault.name:<26} {fault.rounds:>3} rounds  {fault.about}")
        return 0
    if asked.keep is not None:
        asked.keep.mkdir(parents=True, exist_ok=True)
        results = run(asked, asked.keep)
    else:
        with tempfile.TemporaryDirectory(prefix="fastgw-faults-") as folder:
            results = run(asked, Path(folder))
    if asked.json:
        machine = {"python": platform.python_version(), "machine": platform.platform()}
        told = {"fastgw": fastgw.__version__, **machine, "faults": results}
        asked.json.write_text(json.dumps(told, indent=2) + "\n")
    return int(any(result["problems"] for result in results) or not results)


if __name__ == "__main__":
    sys.exit(main())
