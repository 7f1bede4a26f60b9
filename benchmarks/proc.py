"""What the kernel says of processes: CPU time and memory of a tree, busy time of a core.

What enters: process ids. What leaves: microseconds and kilobytes, read from `/proc`.
The harness calls it before and after a round; the parsing halves are pure and tested alone.
It must never count a process outside the tree that it was asked about.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICK_US: Final = 1_000_000 // os.sysconf("SC_CLK_TCK")
"""SOURCE: proc(5): utime and stime are counted in clock ticks (10 ms on Linux)."""


@dataclass(frozen=True, slots=True)
class Stat:
    """One process as `/proc/<pid>/stat` shows it; `cpu_us` is user and system time together."""

    pid: int
    parent: int
    cpu_us: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree in kilobytes: resident now, and at its peak."""

    rss_kb: int
    peak_kb: int


def parse_stat(text: str) -> Stat:
    """Parse one `/proc/<pid>/stat` line. SOURCE: proc(5), fields 1, 4, 14 and 15."""
    # WHY: the command name may hold spaces and parentheses; fields are counted from its end.
    pid, _, rest = text.partition(" (")
    fields = rest.rpartition(") ")[2].split()
    return Stat(int(pid), int(fields[1]), (int(fields[11]) + int(fields[12])) * TICK_US)


def parse_memory(text: str) -> Memory:
    """Parse `/proc/<pid>/status`. A kernel thread or zombie has no such lines: zeros."""
    found = {"VmRSS": 0, "VmHWM": 0}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0])
    return Memory(found["VmRSS"], found["VmHWM"])


def parse_core_busy_us(text: str, core: int) -> int:
    """Parse `/proc/stat` for the busy time of one core: all but idle and iowait."""
    for line in text.splitlines():
        name, _, numbers = line.partition(" ")
        if name == f"cpu{core}":
            # SOURCE: proc(5): user nice system idle iowait irq softirq steal; guest is in user.
            ticks = [int(number) for number in numbers.split()[:8]]
            return (sum(ticks) - ticks[3] - ticks[4]) * TICK_US
    raise ValueError(f"/proc/stat has no line for core {core}")


def parse_cpu_model(text: str) -> str:
    """Find the processor's name in `/proc/cpuinfo`; "unknown" where the kernel has none."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def _read_stats() -> dict[int, Stat]:
    stats: dict[int, Stat] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stats[int(entry.name)] = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # It ended while the folder was read.
    return stats


def find_tree(root: int) -> list[Stat]:
    """Find `root` and all its living descendants, the root first; empty when it is gone."""
    stats = _read_stats()
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    tree: list[Stat] = []
    waiting = [root] if root in stats else []
    while waiting:
        pid = waiting.pop()
        tree.append(stats[pid])
        waiting.extend(children.get(pid, []))
    return tree


def measure_cpu_us(root: int) -> int:
    """Sum the CPU time of a process tree since each of its processes began."""
    return sum(stat.cpu_us for stat in find_tree(root))


def parse_schedstat_us(text: str) -> int:
    """Parse a `schedstat` line. SOURCE: kernel, sched-stats: nanoseconds on the CPU come first."""
    return int(text.partition(" ")[0]) // 1000


def measure_cpu_us_finely(root: int) -> int:
    """Sum the CPU time of a process tree to the microsecond, over its living threads.

    WHY: a tick of 10 ms is a large part of a short round. Where the kernel keeps no such figure,
    ticks are counted.
    """
    total = 0
    for stat in find_tree(root):
        try:
            tasks = list(Path(f"/proc/{stat.pid}/task").iterdir())
            total += sum(parse_schedstat_us((task / "schedstat").read_text()) for task in tasks)
        except (FileNotFoundError, ProcessLookupError):
            total += stat.cpu_us  # No such file, or the process ended meanwhile.
    return total


def measure_memory(root: int) -> Memory:
    """Sum the memory of a process tree. Pages shared by two of its processes count twice."""
    rss_kb = peak_kb = 0
    for stat in find_tree(root):
        try:
            memory = parse_memory(Path(f"/proc/{stat.pid}/status").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
        rss_kb += memory.rss_kb
        peak_kb += memory.peak_kb
    return Memory(rss_kb, peak_kb)


def measure_core_busy_us(core: int) -> int:
    """Read how long a core was busy since boot, whoever kept it so."""
    return parse_core_busy_us(Path("/proc/stat").read_text(), core)
