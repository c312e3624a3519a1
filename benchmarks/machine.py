"""What a run cost: processor time and memory of processes, read from /proc, and the time that the host took away."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_s", "rss_mb", "steal_s"]

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def rss_mb(pid: int) -> float:
    """Memory that a process has now, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def steal_s() -> float:
    """Time that the host gave to others while this machine wanted it, in seconds, summed over the cores."""
    return int(Path("/proc/stat").read_text().splitlines()[0].split()[8]) / _TICK
