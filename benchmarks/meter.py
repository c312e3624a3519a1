"""Notes of the time and of what processes have used; a sample is what is between two notes.

Standard library only. A worker notes its own times in a file, so that nobody has to ask it while it works.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import cpu_s, rss_mb, steal_s
from benchmarks.sample import Sample

__all__ = ["Note", "add_note", "between", "family", "read_notes", "take_note"]


@dataclass(frozen=True, slots=True)
class Note:
    """A moment.

    Attributes:
        at_s: of the monotonic clock, which all processes of a machine share.
        count: how many units were done.
        worker_cpu_s, server_cpu_s: processor time since the start of the processes, with that of their children that
            have ended.
        worker_rss_mb, server_rss_mb: memory now.
        steal_s: as in `Sample`, since the machine's start.
    """

    at_s: float
    count: int
    worker_cpu_s: float
    server_cpu_s: float
    worker_rss_mb: float
    server_rss_mb: float
    steal_s: float


def take_note(count: int, *, workers: Iterable[int], servers: Iterable[int]) -> Note:
    """The moment now, with the sums over the processes that are named by their ids."""
    at_s, workers, servers = time.monotonic(), list(workers), list(servers)
    return Note(
        at_s,
        count,
        sum(map(_used_s, workers)),
        sum(map(_used_s, servers)),
        sum(map(rss_mb, workers)),
        sum(map(rss_mb, servers)),
        steal_s(),
    )


def between(
    first: Note,
    last: Note,
    *,
    system: str,
    version: str,
    workload: str,
    in_flight: int,
    unit: str,
    settings: str,
    server: str,
) -> Sample:
    """The sample between two notes."""
    return Sample(
        system=system,
        version=version,
        workload=workload,
        in_flight=in_flight,
        unit=unit,
        count=last.count - first.count,
        seconds=last.at_s - first.at_s,
        worker_cpu_s=last.worker_cpu_s - first.worker_cpu_s,
        server_cpu_s=last.server_cpu_s - first.server_cpu_s,
        worker_rss_mb=last.worker_rss_mb,
        server_rss_mb=last.server_rss_mb,
        steal_s=last.steal_s - first.steal_s,
        settings=settings,
        server=server,
    )


def family(pid: int) -> list[int]:
    """A process and its descendants now."""
    found = [pid]
    for member in found:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def add_note(path: Path, note: Note) -> None:
    """Append a note to a file, in one write."""
    with path.open("a") as notes:
        notes.write(json.dumps(asdict(note)) + "\n")


def read_notes(path: Path) -> list[Note]:
    """The notes of a file by their counts, whichever thread wrote first; none when there is no such file yet."""
    if not path.exists():
        return []
    notes = [Note(**json.loads(line)) for line in path.read_text().splitlines()]
    return sorted(notes, key=lambda note: note.count)


def _used_s(pid: int) -> float:
    """Processor time of a process and of those children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return cpu_s(pid) + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
