"""`python -m benchmarks.micro`: count instructions of the core, show them, check or store them.

What enters: `--check` (compare with `baseline.json`, +-2 %), `--store` (write it), part names.
What leaves: a table, and an exit code: 0 good, 1 a count moved or a part failed, 2 something is
missing. A baseline of other versions judges nothing: that is said, and is no failure. Each part
runs under callgrind with a count of N and of 2N, and the difference is divided: what both have in
common cancels out. A part that moved is counted again before it fails the check.
It must never compare counts of two interpreters or machines as if they were one.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.needs import find_missing, find_version, first_line
from benchmarks.processes import Failed, run_bounded

BASELINE_FILE: Final = Path(__file__).with_name("baseline.json")
TOLERANCE: Final = 0.02
RUN_TIMEOUT_S: Final = 600.0
"""LIMIT: all parts on one core; a calm machine needs a minute."""
RECOUNTS_MAX: Final = 2
"""LIMIT: how often a part that moved is counted again, each time with the heap laid out otherwise.
WHY: where a buffer lies decides how it is copied; one part has two counts, 1.6 % apart."""
LAYOUT_BYTES: Final = 1000
ENVIRONMENT: Final = {"PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc"}
COLLECTED: Final = re.compile(r"^==(\d+)== Collected : (\d+)", re.MULTILINE)
COUNTED: Final = re.compile(r"^counted (\w+) \d+ (\d+)$", re.MULTILINE)


class Baseline(msgspec.Struct, frozen=True):
    """Stored counts: instructions per unit of each part, and what they were taken with."""

    versions: dict[str, str]
    instructions: dict[str, float]


def read_versions() -> dict[str, str]:
    """Read the versions that move the counts when they move."""
    versions = {
        "python": platform.python_version(),
        "machine": read_machine(),
        "libc": " ".join(platform.libc_ver()),
        "cc": first_line(["cc", "--version"]),
    }
    for name in ("Cython", "httptools", "msgspec"):
        versions[name] = find_version(name) or "absent"
    return versions


def read_machine() -> str:
    """Read the kind of processor. WHY with AVX2: the C library copies and compares otherwise."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    return f"{platform.machine()} with avx2" if "avx2" in flags else platform.machine()


def parse_counts(text: str) -> dict[str, tuple[int, int]]:
    """Parse what callgrind counted for each part, with its count and with twice as much.

    Raises:
        Failed: it printed no count for a process of which a part has told.
    """
    collected = {int(process): int(count) for process, count in COLLECTED.findall(text)}
    found: dict[str, list[int]] = {}
    for name, process in COUNTED.findall(text):
        if int(process) not in collected:
            raise Failed(f"callgrind printed no count for {name}: {text.strip()[-300:]}")
        found.setdefault(name, []).append(collected[int(process)])
    return {name: (once, twice) for name, (once, twice) in found.items()}


def count_on(names: list[str], core: int, layout: int) -> dict[str, float]:
    """Count the instructions of one unit of each part, on one core."""
    from benchmarks.micro.parts import PARTS

    argv = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    argv += ["-m", "benchmarks.micro.parts", "--each", *names]
    # WHY: the environment is copied to the heap, and moves all that comes after it.
    env = {**ENVIRONMENT, "LAYOUT": "x" * (layout * LAYOUT_BYTES)}
    counted = parse_counts(run_bounded(argv, core, RUN_TIMEOUT_S, env))
    if missing := [name for name in names if name not in counted]:
        raise Failed(f"callgrind counted nothing for {', '.join(missing)}")
    units = {name: PARTS[name].counts * PARTS[name].per_count for name in names}
    return {n: round((twice - once) / units[n], 1) for n, (once, twice) in counted.items()}


def count_all(names: list[str], layout: int = 0) -> dict[str, float]:
    """Count every part, some on each core; `layout` moves the heap."""
    from benchmarks.micro.parts import PARTS

    # WHY: this compiles Python files, and fails in a second where valgrind needs twenty.
    cores = sorted(os.sched_getaffinity(0))
    run_bounded(
        [sys.executable, "-m", "benchmarks.micro.parts", names[0], "1"], cores[0], RUN_TIMEOUT_S, {}
    )
    shares = [names[start :: len(cores)] for start in range(min(len(cores), len(names)))]
    with ThreadPoolExecutor(len(shares)) as pool:
        found = list(pool.map(count_on, shares, cores, [layout] * len(shares)))
    merged = {name: count for share in found for name, count in share.items()}
    return {name: merged[name] for name in PARTS if name in merged}


def recount(counts: dict[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """Count the parts that moved again, and keep of each the count nearest to the baseline.

    WHY the nearest: a change of the code moves the count wherever the heap lies.
    """
    for layout in range(1, RECOUNTS_MAX + 1):
        moved = [name for name in counts if name in baseline and has_moved(counts, baseline, name)]
        if not moved:
            break
        print(f"moved, counted again: {', '.join(moved)}")
        for name, count in count_all(moved, layout).items():
            counts[name] = min(counts[name], count, key=lambda one: abs(one - baseline[name]))
    return counts


def has_moved(counts: Mapping[str, float], baseline: Mapping[str, float], name: str) -> bool:
    """Tell whether the count of a part that is judged is further from the baseline than may be."""
    from benchmarks.micro.parts import PARTS

    return PARTS[name].is_judged and abs(counts[name] / baseline[name] - 1) > TOLERANCE


def derive(counts: Mapping[str, float]) -> dict[str, float]:
    """Make the differences of parts that can be made."""
    from benchmarks.micro.parts import DERIVED

    return {
        name: round(counts[whole] - counts[less], 1)
        for name, (whole, less) in DERIVED.items()
        if whole in counts and less in counts
    }


def find_moved(counts: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """Say which counted parts moved by more than the tolerance, or have no baseline.

    WHY: differences of two parts are shown but not judged; their errors add up.
    """
    from benchmarks.micro.parts import PARTS

    moved: list[str] = []
    for name in PARTS:
        if name not in counts:
            continue
        if name not in baseline:
            moved.append(f"{name} has no baseline")
        elif has_moved(counts, baseline, name):
            change = counts[name] / baseline[name] - 1
            moved.append(f"{name} moved by {change:+.1%}, from {baseline[name]} to {counts[name]}")
    return moved


def show(counts: Mapping[str, float], baseline: Mapping[str, float]) -> None:
    """Print the counts beside the baseline."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks.micro.parts import DERIVED, PARTS

    table = Table(title="instructions of the core", title_justify="left")
    for heading in ("part", "instructions", "per", "baseline", "change"):
        table.add_column(heading, justify="left" if heading in ("part", "per") else "right")
    for name, count in counts.items():
        unit = PARTS[name].unit if name in PARTS else PARTS[DERIVED[name][0]].unit
        old = baseline.get(name)
        change = f"{count / old - 1:+.2%}" if old else "-"
        table.add_row(name, f"{count:,.1f}", unit, f"{old:,.1f}" if old else "-", change)
    Console().print(table)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; the names of parts are checked later, when they can be loaded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="fail when a count moved by 2 %%")
    action.add_argument("--store", action="store_true", help="write the counts as the baseline")
    parser.add_argument("parts", nargs="*", help="names of parts; default: all")
    return parser.parse_args()


def main() -> int:
    """Count, show, and check or store."""
    given = parse_arguments()
    missing = find_missing(("valgrind",), ("fastgw", "rich", "msgspec"))
    if missing:
        print("cannot count instructions:", *missing, sep="\n- ", file=sys.stderr)
        return 2
    from benchmarks.micro.parts import PARTS

    unknown = [name for name in given.parts if name not in PARTS]
    if unknown:
        print(f"unknown parts {unknown}; known are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    baseline = read_baseline()
    versions = read_versions()
    if given.check and baseline is None:
        print("there is no baseline; --store writes it", file=sys.stderr)
        return 2
    if given.check and (differing := find_differing(versions, baseline)):
        print(f"not judged: the baseline is of other versions ({differing}); --store renews it")
        return 0
    known = baseline.instructions if baseline else {}
    try:
        counts = count_all(given.parts or list(PARTS))
        if given.check:
            counts = recount(counts, known)
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    counts |= derive(counts)
    show(counts, known)
    if given.store:
        kept = known if baseline and baseline.versions == versions else {}
        store_baseline(Baseline(versions, {**kept, **counts}))
    moved = find_moved(counts, known) if given.check else []
    print(*moved, sep="\n", end="\n" if moved else "", file=sys.stderr)
    return 1 if moved else 0


def find_differing(versions: Mapping[str, str], baseline: Baseline | None) -> str:
    """Say why the stored counts are of another world than this one; empty when they are not."""
    if baseline is None:
        return ""
    names = dict.fromkeys([*versions, *baseline.versions])
    return "; ".join(
        f"{name} was {baseline.versions.get(name, 'not told')}, is {versions.get(name, 'not told')}"
        for name in names
        if baseline.versions.get(name) != versions.get(name)
    )


def read_baseline() -> Baseline | None:
    """Read the stored counts; None when none were stored yet."""
    if not BASELINE_FILE.exists():
        return None
    return msgspec.json.decode(BASELINE_FILE.read_bytes(), type=Baseline)


def store_baseline(baseline: Baseline) -> None:
    """Write the counts, one a line, so that a change of one is a change of one line."""
    text = msgspec.json.format(msgspec.json.encode(baseline, order="sorted"), indent=2)
    BASELINE_FILE.write_bytes(text + b"\n")


if __name__ == "__main__":
    sys.exit(main())
