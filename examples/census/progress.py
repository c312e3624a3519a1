"""The progress of a census, read from the memos of its run and of its child runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from examples.census.flow import LIST_MODULES, LIST_PACKAGES
from examples.census.listing import Package, cut_package
from stepflow_broker.protocol.command import Command
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.partitions import partition_for
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import RunRecord, read_run
from stepflow_broker.transitions.runs.run_state import read_status
from stepflow_broker.transitions.steps.step_record import StepRecord, read_steps
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.memo import Memo, read_memo

__all__ = ["Crash", "Progress", "format_progress"]

_CENSUS = "census"
_BAR = 30
_ALWAYS = 3  # two steps list, one reports


@dataclass(frozen=True, slots=True)
class Crash:
    """A crash of a worker. Times are in milliseconds since the epoch.

    Attributes:
        worker: the name of the worker.
        at_ms: the time of the crash.
        in_hand: what it was executing: ids of steps, and names of runs whose code it executed.
        reclaimed_at_ms: when other workers could execute all of it; ``None``: not yet.
    """

    worker: str
    at_ms: int
    in_hand: tuple[str, ...]
    reclaimed_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A finished step.

    Attributes:
        run: the name of its run: ``census``, or the id of the step that invoked it, such as ``count json``.
        memo: its result.
    """

    run: str
    memo: Memo


class Progress:
    """The progress of one census; `refresh` reads it from the server.

    Args:
        broker: the connection to the server.
        run_id: the run of the census.

    Attributes:
        steps: the finished steps of all runs.
        runs: the names of all runs, by their ids.
    """

    def __init__(self, broker: Broker, run_id: str) -> None:
        self.steps: list[Done] = []
        self.runs: dict[str, str] = {run_id: _CENSUS}
        self._broker = broker
        self._partition = partition_for(self._broker.url, NO_ENCRYPTION)
        self._run_id = run_id
        self._read = Counter[str]()
        self._ended: set[str] = set()

    def refresh(self) -> None:
        """Read new memos: of the census, then of its child runs."""
        waiting = self._broker.execute(read_steps(self._partition, self._run_id))
        self.runs |= {step.child: step.id for step in waiting if step.child}
        invokes = self._read_new([self._run_id])
        ended = {memo.detail["run_id"]: memo.id for memo in invokes if "run_id" in memo.detail}
        self.runs |= ended
        self._read_new([run_id for run_id in self.runs if run_id not in self._ended | {self._run_id}])
        self._ended |= set(ended)

    def _read_new(self, run_ids: list[str]) -> list[Memo]:
        """Read the new memos of runs; return the memos of invokes, which no worker executes."""
        answers = self._broker.execute_all(
            [read_memos(self._partition, run_id, self._read[run_id]) for run_id in run_ids]
        )
        invokes = []
        for run_id, answer in zip(run_ids, answers, strict=True):
            self._read[run_id] += len(answer)
            for memo in [read_memo(text) for _, text in answer]:
                if memo.detail.get("kind") == "invoke":
                    invokes.append(memo)
                else:
                    self.steps.append(Done(self.runs[run_id], memo))
        return invokes

    @property
    def ended(self) -> bool:
        """Whether the census has ended."""
        status = self._broker.execute(read_status(self._partition, self._run_id))
        return status is not None and status.ended

    @property
    def done(self) -> int:
        """The number of finished steps."""
        return len(self.steps)

    @property
    def total(self) -> int | None:
        """The number of all steps; ``None`` until all packages are listed."""
        memos = [done.memo for done in self.steps if done.run == _CENSUS]
        lists = [memo.data for memo in memos if memo.id in (LIST_PACKAGES, LIST_MODULES) and not memo.failure]
        if len(lists) < 2:
            return None
        return sum(len(cut_package(Package(**package))) for found in lists for package in found) + _ALWAYS

    @property
    def by_worker(self) -> Counter[str]:
        """The number of steps that each worker executed."""
        return Counter(done.memo.detail["worker"] for done in self.steps)

    def in_hand(self, worker: str) -> tuple[str, ...]:
        """What a worker has leased. The leases of a crashed worker remain until they expire."""
        run_ids = [run_id for run_id in self.runs if run_id not in self._ended]
        reads = ((read_run(self._partition, run_id), read_steps(self._partition, run_id)) for run_id in run_ids)
        calls: list[Command[Any]] = [call for pair in reads for call in pair]
        answers = iter(self._broker.execute_all(calls))
        return tuple(name for run_id in run_ids for name in self._held(run_id, next(answers), next(answers), worker))

    def _held(self, run_id: str, run: RunRecord | None, steps: list[StepRecord], worker: str) -> Iterator[str]:
        """The leased steps of a run, and the run's code, which may be executing a step itself."""
        yield from (step.id for step in steps if step.state == "leased" and step.owner == worker)
        if run is not None and run.continuation == "leased" and run.owner == worker:
            begun = bool(steps) or self._read[run_id] > 0
            yield f"the code of {self.runs[run_id]}" if begun else self.runs[run_id]

    def started_again_at_ms(self, crash: Crash) -> int | None:
        """When another worker started the last step that the crashed worker was executing."""
        lost = [done.memo for done in self.steps if done.memo.id in crash.in_hand or done.run in crash.in_hand]
        again = [memo.detail["started_at"] for memo in lost if memo.detail["worker"] != crash.worker]
        return max(again, default=None)


def format_progress(progress: Progress, workers: list[str]) -> str:
    """One line: a bar, the finished steps of all, and the number of steps of each worker."""
    total = progress.total or 0
    filled = _BAR * progress.done // total if total else 0
    shares = "   ".join(f"{name} {progress.by_worker[name]:>3}" for name in workers)
    return f"[{'#' * filled}{'-' * (_BAR - filled)}] {progress.done:>3} of {total or '?':>3} steps   {shares}"
