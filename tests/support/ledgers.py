"""Ledgers of the fault tests: what was acknowledged and what was executed, in files outside Redis.

A line is one write to a file that is open for appending, so lines of several processes do not mix, and what a killed
process wrote stays.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["BEGIN", "END", "RAN", "Effect", "EffectLedger", "StartLedger", "whole_lines"]

RAN = "ran"
BEGIN = "begin"
END = "end"


def whole_lines(path: Path) -> list[str]:
    """The lines of a ledger, none if there is no file yet; without one that another process is writing just now."""
    written = path.read_text() if path.exists() else ""
    return written[: written.rfind("\n") + 1].splitlines()


class StartLedger:
    """The runs whose start was acknowledged to the producer: one line a run, on disk before the test goes on."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def acknowledge(self, *runs: str) -> None:
        """Write down runs that the server has accepted."""
        handle = _open(str(self.path))
        os.write(handle, "".join(f"{run}\n" for run in runs).encode())
        os.fsync(handle)

    def runs(self) -> list[str]:
        """The runs, in the order of their acknowledgement."""
        return whole_lines(self.path)


@dataclass(frozen=True, slots=True)
class Effect:
    """One line: a handler was executed, or it began or ended.

    Attributes:
        mark: RAN, or BEGIN and END of an execution whose length matters.
        run_id, step, attempt: of which step; the attempt as the handler's context tells it.
        pid: of the worker process.
        at_ns: `time.monotonic_ns`, which all processes of a machine share.
        note: what the handler adds, such as its key or its result.
    """

    mark: str
    run_id: str
    step: str
    attempt: int
    pid: int
    at_ns: int
    note: str


class EffectLedger:
    """The executions of handlers. Handlers write it, by the path that their event tells; tests read it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    # -- handlers ----------------------------------------------------------------

    def write(self, run_id: str, step: str, *, attempt: int = 0, mark: str = RAN, note: str = "") -> None:
        """Append a line."""
        line = json.dumps([mark, run_id, step, attempt, os.getpid(), time.monotonic_ns(), note])
        os.write(_open(str(self.path)), f"{line}\n".encode())

    @contextmanager
    def span(self, run_id: str, step: str, *, attempt: int = 0, note: str = "") -> Iterator[None]:
        """Append BEGIN and END; a process that is killed between them leaves a BEGIN alone."""
        self.write(run_id, step, attempt=attempt, mark=BEGIN, note=note)
        try:
            yield
        finally:
            self.write(run_id, step, attempt=attempt, mark=END, note=note)

    # -- tests -------------------------------------------------------------------

    def effects(self, mark: str | None = None) -> list[Effect]:
        """The lines in the order of their writing, all of them or those of one mark."""
        effects = [Effect(*json.loads(line)) for line in whole_lines(self.path)]
        return effects if mark is None else [effect for effect in effects if effect.mark == mark]

    def executions(self) -> Counter[tuple[str, str]]:
        """How often each step of each run was executed: (run, step) → times."""
        return Counter((effect.run_id, effect.step) for effect in self.effects() if effect.mark != END)

    def repeats(self) -> Counter[tuple[str, str]]:
        """How often each step was executed after its first time; steps that were executed once are left out."""
        return Counter({step: times - 1 for step, times in self.executions().items() if times > 1})

    def count(self, run_id: str | None = None, step: str | None = None) -> int:
        """How many executions there were: in all, of a run, of a step."""
        return sum(
            times for (run, name), times in self.executions().items() if run_id in (None, run) and step in (None, name)
        )


@cache
def _open(path: str) -> int:
    """The file, opened once a process."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
