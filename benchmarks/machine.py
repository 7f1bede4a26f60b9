"""Where and of what a run is: the machine, the commit, and the console that tells of it.

What enters: nothing but this machine. What leaves: what every results file says of its origin.
It must never name a clean commit for files that differ from it.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.needs import first_line
from benchmarks.proc import parse_cpu_model
from benchmarks.processes import ROOT, find_cores
from benchmarks.results import Machine

PLAIN_COLUMNS: Final = 140
"""WHY: a log file has no width, and a table cut to 80 columns shows no figures."""
LOAD_AVERAGE_CALM: Final = 0.7
"""LIMIT: above this, something else ran in the minute before the run; the run says so."""


def open_console() -> Console:
    """Open the console; one without a terminal is made wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, PLAIN_COLUMNS))


def describe_machine() -> Machine:
    """Describe this machine as far as it matters to the figures."""
    server_core, load_core = find_cores()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cpu_model=parse_cpu_model(Path("/proc/cpuinfo").read_text()),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        memory_mb=memory // 1024**2,
        server_core=server_core,
        load_core=load_core,
        load_average=round(os.getloadavg()[0], 2),
    )


def warn(console: Console, machine: Machine) -> None:
    """Say what makes the figures of this run weaker than they could be."""
    if machine.server_core == machine.load_core:
        console.print("warning: one core only; the load generator shares it with the server")
    if machine.load_average > LOAD_AVERAGE_CALM:
        console.print(
            f"warning: the load average is {machine.load_average}; something else is running"
        )


def find_commit() -> str:
    """Find the short hash of the checkout, with "-dirty" when files differ from it."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    commit = first_line([*git, "rev-parse", "--short=10", "HEAD"])
    if not commit.isalnum() or commit == "unknown":
        return "uncommitted"
    changed = first_line([*git, "status", "--porcelain", "--untracked-files=no"])
    return commit if changed == "unknown" else f"{commit}-dirty"
