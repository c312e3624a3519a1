"""Loading: the code of a job's run, from memory, or made anew and given the run's memos."""

from __future__ import annotations

import logging
import random

from stepflow import Function
from stepflow_broker.transitions.batches import load_batch
from stepflow_broker.transitions.jobs import Lease, load_run, retry_run
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import open_event_text
from stepflow_engine.failure import Failure
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["Loader"]

_log = logging.getLogger("stepflow.worker")
_MISSING_MS = (1_000, 30_000)


class Loader:
    """Loads runs, for one worker.

    Args:
        functions: the functions of this process by ``app/id``.
    """

    def __init__(self, worker_state: WorkerState, functions: dict[str, Function]) -> None:
        self._worker_state = worker_state
        self._functions = functions

    async def load(self, lease: Lease) -> CachedRun | None:
        """A pass over the run's code that knows all memos that the claim knew of; ``None``: the job was put off."""
        name = f"{lease.app}/{lease.function}"
        function = self._functions.get(name)
        if function is None:
            _log.warning("code_missing", extra={"run_id": lease.run_id, "function": name})
            reason = f"the code of function {name} is not in worker {self._worker_state.worker}"
            await self.put_off(lease, "CodeMissing", f"{reason}: start a worker with it, or cancel the run")
            return None
        held = self._in_memory(lease)
        if held is None:
            return await self._make(lease, function)
        if held.execution.applied < lease.applied and not (lease.key and held.lease):
            await self.catch_up(held)
        return held

    async def catch_up(self, held: CachedRun) -> None:
        """Read the memos that this pass has not been given."""
        worker_state, applied = self._worker_state, held.execution.applied
        _, memos = await worker_state.broker.execute(load_run(worker_state.keys, held.run_id, applied))
        for position, (key, text) in enumerate(memos, applied + 1):
            held.apply_memo(position, key, worker_state.read_memo(held.run_id, key, text), len(text))

    def _in_memory(self, lease: Lease) -> CachedRun | None:
        held = self._worker_state.held.get(lease.run_id)
        if held is not None and held.attempt != lease.attempt:
            self._worker_state.held.drop(held)
            return None
        return held

    async def _make(self, lease: Lease, function: Function) -> CachedRun | None:
        event, memos = lease.event, list[tuple[str, bytes]]()
        if event is None or lease.applied:
            record, memos = await self._worker_state.broker.execute(load_run(self._worker_state.keys, lease.run_id, 0))
            if record is None:
                return None
            event = dumps(record.event)
        events = [event]
        if function.is_batched:
            events = await self._worker_state.broker.execute(load_batch(self._worker_state.keys, lease.run_id))
        if (raced := self._in_memory(lease)) is not None:
            return raced
        known = [(key, self._worker_state.read_memo(lease.run_id, key, text)) for key, text in memos]
        opened = [open_event_text(self._worker_state.cipher, text) for text in events]
        execution = function.execution(opened, run_id=lease.run_id, attempt=lease.attempt)
        execution.add(known)
        size = sum(len(text) for _, text in memos)
        held = CachedRun(lease.run_id, function, events[0], execution, lease.attempt, state_bytes=size)
        self._worker_state.held.put(held)
        return held

    async def put_off(self, lease: Lease, kind: str, reason: str) -> None:
        """Hand a job back that needs what is not here: code, or a key. Nothing is lost, another worker may have it.

        Args:
            kind: names what is missing.
        """
        worker_state = self._worker_state
        delay_ms = random.randint(*_MISSING_MS)
        if lease.key:
            error = dumps(Failure(kind, reason).to_json())
            await worker_state.plan_retry(
                lease, lease.key, lease.step_id, attempts=lease.step_attempt, error=error, delay_ms=delay_ms
            )
            return
        await worker_state.broker.execute(
            retry_run(
                worker_state.keys,
                run_id=lease.run_id,
                fence=lease.fence,
                attempts=lease.attempt,
                error=b"",
                delay_ms=delay_ms,
                reason=reason,
            )
        )
