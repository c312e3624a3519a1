"""The end of a run: its output, its failure, or another attempt at the function."""

from __future__ import annotations

import logging
import random

from stepflow.event import FAILED
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs import Lease, finish_run, retry_run
from stepflow_broker.transitions.outbox import RemoteChildFinished
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps, dumps_output
from stepflow_engine.encryption_scopes import end_scope, event_scope, open_event_text, seal_failure
from stepflow_engine.errors import StepOutputError
from stepflow_engine.execution import Raised, Returned
from stepflow_engine.failure import Failure
from stepflow_engine.ids import run_id_for
from stepflow_engine.retry import retry_delay_ms
from stepflow_engine.states import RunStatus
from stepflow_engine.steps import event_text
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.poison import died_text
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["RunEnding"]

_log = logging.getLogger("stepflow.worker")


class RunEnding:
    """Ends runs whose code has come to its end."""

    def __init__(self, worker_state: WorkerState, completions: CompletionConsumer) -> None:
        self._worker_state = worker_state
        self._completions = completions

    async def end(self, held: CachedRun, lease: Lease, outcome: Returned | Raised) -> None:
        """Store the output, or the failure, or have the function run again from its memos."""
        match outcome:
            case Returned(value):
                await self._complete(held, lease, value)
            case Raised(error):
                await self._fail(held, lease, error)

    async def poison(self, held: CachedRun, lease: Lease) -> None:
        """Fail a run whose code, outside of any step, has killed its workers."""
        await self._finish(held, lease, Failure("PoisonError", died_text(lease.deaths, "this run's code")))

    async def _complete(self, held: CachedRun, lease: Lease, value: object) -> None:
        limit = held.function.limits.step_output_bytes
        try:
            text = dumps_output(value, what=f"function {held.function.name!r}", limit_bytes=limit)
        except StepOutputError as error:
            await self._fail(held, lease, error)
        else:
            await self._finish(held, lease, text)

    async def _fail(self, held: CachedRun, lease: Lease, error: BaseException) -> None:
        worker_state, failure = self._worker_state, Failure.of(error)
        delay_ms = retry_delay_ms(
            error,
            attempt=lease.attempt,
            retries=held.function.config.retries,
            backoff=worker_state.settings.backoff,
            jitter=random.random(),
            now_ms=now_ms(),
        )
        if delay_ms is None:
            await self._finish(held, lease, failure)
            return
        worker_state.failed_jobs += 1
        worker_state.held.drop(held)
        await worker_state.broker.execute(
            retry_run(
                worker_state.keys,
                run_id=held.run_id,
                fence=lease.fence,
                attempts=lease.attempt + 1,
                error=_sealed(held, failure),
                delay_ms=delay_ms,
            )
        )
        worker_state.timer_set(held.run_id, delay_ms)

    async def _finish(self, held: CachedRun, lease: Lease, end: bytes | Failure) -> None:
        """End the run with its output, as JSON text, or with its failure."""
        worker_state, failed_event = self._worker_state, (b"", "")
        status = RunStatus.COMPLETED if isinstance(end, bytes) else RunStatus.FAILED
        if isinstance(end, Failure):
            failed_event = _failed_event(held, end, worker_state.cipher)
        ended = worker_state.broker.submit(
            finish_run(
                worker_state.keys,
                run_id=held.run_id,
                fence=lease.fence,
                status=status,
                payload=_sealed(held, end),
                retention_ms=held.function.config.retention_ms,
                failed_event=failed_event,
            )
        )
        if lease.parent:  # in the same round trip; were it lost, the finished event would still be on the stream
            await self._tell_parent(lease)
        elif held.function.is_batched:
            await self._completions.end_batch(held.run_id)
        code = await ended
        worker_state.held.drop(held)
        if code is ScriptStatus.DONE:
            worker_state.finished_jobs += 1
            level = logging.INFO if status is RunStatus.COMPLETED else logging.WARNING
            fields = {"run_id": held.run_id, "function": held.function.name, "status": status.value}
            _log.log(level, "run_ended", extra=fields)

    async def _tell_parent(self, lease: Lease) -> None:
        keys, child = self._worker_state.keys.of(lease.run_id), lease.run_id
        if self._worker_state.keys.of(lease.parent) is keys:
            await self._completions.wake(child)
        else:
            await self._completions.deliver(keys, [RemoteChildFinished(child)])


def _sealed(held: CachedRun, end: bytes | Failure) -> bytes:
    """What is stored of a run's end."""
    function, failed = held.function, isinstance(end, Failure)
    place = end_scope(held.run_id, function.name, failed=failed, batched=function.is_batched)
    return seal_failure(function.cipher, end, place) if isinstance(end, Failure) else function.cipher.seal(end, place)


def _failed_event(held: CachedRun, failure: Failure, cipher: Cipher) -> tuple[bytes, str]:
    """The event that tells of a failed run, and its id."""
    event_id = run_id_for(held.run_id, FAILED)
    told = {"function": held.function.name, "run_id": held.run_id, "error": failure.to_json()}
    data = dumps(told)[:-1] + b',"event":' + open_event_text(cipher, held.event) + b"}"
    sealed = held.function.cipher.seal(data, event_scope(event_id))
    return event_text(FAILED, id=event_id, ts=now_ms(), data=sealed), event_id
