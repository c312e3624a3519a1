"""Bulks: forks the runs of bulks, at their rate, for one worker. One worker at a time holds a bulk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from stepflow import Stepflow
from stepflow.client.fork_many import read_request
from stepflow.client.fork_request import ForkRequest
from stepflow.client.forks import fork_operation, fork_run_id
from stepflow.client.function_names import DeclaredFunctions
from stepflow_broker.protocol.command import command, in_chunks
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import arun_operation
from stepflow_broker.transitions.runs.bulks import (
    MOST_TAKEN,
    BulkRecord,
    Outcome,
    TakenRuns,
    read_bulk,
    read_live_bulks,
    settle_bulk_runs,
    take_bulk_runs,
)
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_engine.cipher import Cipher
from stepflow_engine.errors import BackendUnavailableError, CorruptDataError, RunNotFoundError, StepflowError
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.state_machine import RunStatus
from stepflow_workers.state.log_throttle import LogThrottle
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["Bulks"]

_log = logging.getLogger(WORKER_LOGGER)
_HOLD_MS = 1_000
"""For how long a worker holds a bulk, unless it extends the time: so much later another takes it over."""
_EXTEND_S = _HOLD_MS / 1000 / 4
_SHORTEST_S, _LONGEST_S = 0.05, 0.25
"""How soon after it has taken runs a worker takes the next ones."""
_LATEST_S = 0.1
"""Within this time, the workers that wait for a bulk look whether its worker has died, not all at once."""
_LEAST_READY, _READY_S = 50, 0.2
"""How many new runs may be ready in the queue of the function: so many, or as many as are forked in this time."""
_AT_ONCE = 10
"""How many runs are forked at once: their results are in memory meanwhile."""
_MOST_TEXT = 300


@dataclass(frozen=True, slots=True)
class _Context:
    """Where the worker creates forks of the runs of an app; see `ForkContext`."""

    partition: Partition
    declared: DeclaredFunctions
    cipher: Cipher
    actor: str


class Bulks:
    """Executes the bulks of the functions of one worker.

    Args:
        apps: the apps of the worker by id. Bulks of functions that they do not have are left to other workers.
    """

    def __init__(self, state: WorkerState, apps: Mapping[str, Stepflow]) -> None:
        self._state = state
        self._broker = state.broker
        self._partition = state.partition
        self._apps = apps
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving = asyncio.Event()
        self._interruption_log = LogThrottle()

    async def take_up(self) -> None:
        """Begin to execute the bulks that no worker holds. One command if there are no bulks."""
        live = await self._broker.execute(read_live_bulks(self._partition))
        waiting = [bulk_id for bulk_id in live if bulk_id not in self._tasks]
        records = await asyncio.gather(*[self._read(bulk_id) for bulk_id in waiting])
        for record in records:
            if record is not None and not self._leaving.is_set() and self._has_code(record):
                task = asyncio.get_running_loop().create_task(self._execute(record))
                self._tasks[record.id] = task
                task.add_done_callback(partial(self._drop, record.id))

    async def _read(self, bulk_id: str) -> BulkRecord | None:
        """A bulk; ``None``: there is none, or it is damaged, which keeps no other from being executed."""
        try:
            return await self._broker.execute(read_bulk(self._partition, bulk_id))
        except CorruptDataError as error:
            self._report_interruption(bulk_id, "", error)
            return None

    def _report_interruption(self, bulk_id: str, function: str, error: Exception) -> None:
        if self._interruption_log.allows(bulk_id):
            _log.warning("bulk_interrupted", extra={"bulk": bulk_id, "function": function, "error": str(error)})

    def _drop(self, bulk_id: str, _: asyncio.Task[None]) -> None:
        self._tasks.pop(bulk_id, None)

    async def leave(self) -> None:
        """Settle the runs that the worker has taken, and leave the bulks to other workers. The worker stops."""
        self._leaving.set()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=_HOLD_MS / 1000)

    def _has_code(self, record: BulkRecord) -> bool:
        app_id, _, function = record.function.partition("/")
        app = self._apps.get(app_id)
        return app is not None and app.backend.declared.find(app_id, function) is not None

    async def _execute(self, record: BulkRecord) -> None:
        """Execute a bulk as long as this worker holds it."""
        try:
            request = read_request(record.request, bulk_id=record.id, reason=record.reason)
            while not self._leaving.is_set():
                taken = await self._take(record, await self._room(record))
                if taken.is_first:
                    _report_start(record)
                match taken.status:
                    case ScriptStatus.DONE:
                        await self._execute_taken(record, request, taken)
                    case ScriptStatus.ALREADY:
                        await self._paused(taken.wait_ms / 1000 + random.uniform(0, _LATEST_S))
                    case _:
                        return
        except BackendUnavailableError as error:
            self._report_interruption(record.id, record.function, error)

    async def _room(self, record: BulkRecord) -> int:
        """How many runs the queue of the function has room for: a long queue would delay all other new runs.

        The forks would wait there anyway.
        """
        app_id, _, function = record.function.partition("/")
        declared = self._apps[app_id].backend.declared.find(app_id, function)
        queue = declared.config.queue if declared is not None else ""
        lengths = await self._broker.execute_all(
            [command(int, "LLEN", one.keys("RQ_QUEUE", queue)) for one in self._partition.all]
        )
        room = max(_LEAST_READY, round(record.per_second * _READY_S)) - sum(lengths)
        return max(0, min(room, MOST_TAKEN))

    async def _take(self, record: BulkRecord, most: int) -> TakenRuns:
        worker = self._state.worker
        return await self._broker.execute(
            take_bulk_runs(self._partition, record.id, worker=worker, hold_ms=_HOLD_MS, most=most)
        )

    async def _paused(self, wait_s: float) -> bool:
        """Pause, or until the worker leaves. Whether it does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._leaving.wait()
        return self._leaving.is_set()

    async def _execute_taken(self, record: BulkRecord, request: ForkRequest, taken: TakenRuns) -> None:
        """Fork and settle runs that this worker has taken, then pause until the rate allows more.

        The pause is short, because the worker must hold the bulk.
        """
        began = asyncio.get_running_loop().time()
        if taken.runs and not await self._fork_taken(record, request, taken):
            return
        period_s = min(max(taken.wait_ms / 1000, _SHORTEST_S), _LONGEST_S)
        if await self._paused(began + period_s - asyncio.get_running_loop().time()):
            await self._settle(record, [], settled=taken.settled + len(taken.runs), hold_ms=0)

    async def _fork_taken(self, record: BulkRecord, request: ForkRequest, taken: TakenRuns) -> bool:
        """Fork runs that this worker has taken, and settle them. Whether it still holds the bulk."""
        outcomes = list[Outcome]()
        extended = asyncio.get_running_loop().time()
        for part in in_chunks(taken.runs, _AT_ONCE):
            if (now := asyncio.get_running_loop().time()) > extended + _EXTEND_S:
                again, extended = await self._take(record, 0), now
                if (again.status, again.settled) != (ScriptStatus.DONE, taken.settled):
                    return False  # another worker has the runs
            outcomes += await asyncio.gather(*[self._fork(record, request, run_id) for run_id in part])
        status = await self._settle(record, outcomes, settled=taken.settled)
        if status is ScriptStatus.MORE:
            await self._report_end(record)
        return status is ScriptStatus.DONE

    async def _settle(
        self, record: BulkRecord, outcomes: Sequence[Outcome], *, settled: int, hold_ms: int = _HOLD_MS
    ) -> ScriptStatus:
        worker = self._state.worker
        call = settle_bulk_runs(self._partition, record.id, outcomes, worker=worker, hold_ms=hold_ms, settled=settled)
        return await self._broker.execute(call)

    async def _report_end(self, record: BulkRecord) -> None:
        ended = await self._broker.execute(read_bulk(self._partition, record.id))
        if ended is not None:
            _log.info(
                "bulk_ended",
                extra={
                    "bulk": ended.id,
                    "function": ended.function,
                    "state": ended.state,
                    "runs": ended.matched,
                    "done": ended.done,
                    "skipped": ended.skipped,
                    "refused": ended.refused,
                },
            )

    # -- one run -----------------------------------------------------------------

    async def _fork(self, record: BulkRecord, request: ForkRequest, run_id: str) -> Outcome:
        """Fork a run, whichever workers have tried it before."""
        fork_id = fork_run_id(run_id, record.function, request.id)
        try:
            status = await self._try(record, request, run_id)
        except StepflowError as error:
            if isinstance(error, BackendUnavailableError) and not isinstance(error, CorruptDataError):
                raise
            if (made := await self._made(fork_id, run_id)) is not None:  # by a worker that died
                return made
            if isinstance(error, RunNotFoundError):
                return Outcome("skipped", "the run was forgotten", run_id)
            if await self._executed_batch(run_id):
                return Outcome("skipped", "the run executed a batch: the runs of the batch are run again", run_id)
            return Outcome("refused", _text(error, run_id), run_id)
        match status:
            case ScriptStatus.ALREADY:
                return await self._made(fork_id, run_id) or Outcome("done")
            case ScriptStatus.RESOLVED:
                return _skipped_by_flow_control(run_id)
            case ScriptStatus.NO_RUN:
                return Outcome("skipped", "the run was forgotten", run_id)
            case ScriptStatus.FORKED:
                return Outcome("skipped", "the run was run again already", run_id)
            case _:
                return Outcome("done")

    async def _try(self, record: BulkRecord, request: ForkRequest, run_id: str) -> ScriptStatus:
        app = self._apps[record.function.partition("/")[0]]
        context = _Context(self._partition, app.backend.declared, app.backend.cipher, record.who)
        _, command = await arun_operation(self._broker, fork_operation(context, run_id, request))
        return await self._broker.execute(command)

    async def _executed_batch(self, run_id: str) -> bool:
        """Whether a run is that of a batch, which has the same function as the runs of the batch."""
        record = await self._broker.execute(read_run(self._partition, run_id))
        return record is not None and record.batch == run_id

    async def _made(self, fork_id: str, run_id: str) -> Outcome | None:
        """What became of a run whose fork exists; ``None``: it does not exist."""
        fork = await self._broker.execute(read_run(self._partition, fork_id))
        if fork is None:
            return None
        return _skipped_by_flow_control(run_id) if fork.status is RunStatus.SKIPPED else Outcome("done")


def _skipped_by_flow_control(run_id: str) -> Outcome:
    return Outcome("skipped", "the flow control of the function has skipped the new run", run_id)


def _text(error: Exception, run_id: str) -> str:
    """An error without what differs from run to run, so that equal ones can be counted."""
    text = " ".join(str(error).replace(run_id, "…").split())
    text = text.encode(errors="replace").decode()
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"


def _report_start(record: BulkRecord) -> None:
    _log.info(
        "bulk_started",
        extra={"bulk": record.id, "function": record.function, "runs": record.matched, "who": record.who},
    )
