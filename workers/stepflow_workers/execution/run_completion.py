"""Ends a run with its output or its failure, or schedules another attempt at the function."""

from __future__ import annotations

import random

from stepflow.event import FAILED
from stepflow_broker.protocol.clock import now_ms
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
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.steps import event_text
from stepflow_workers.execution.failure_log import log_failed_attempt, log_run_ended
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.state.poison import died_text
from stepflow_workers.state.run_cache import CachedRun

__all__ = ["complete_run", "fail_poisoned"]


async def complete_run(context: JobContext, run: CachedRun, lease: Lease, outcome: Returned | Raised) -> None:
    """End a run whose code has returned or raised, or schedule another attempt at the function."""
    match outcome:
        case Returned(value):
            await _complete(context, run, lease, value)
        case Raised(error):
            await _fail(context, run, lease, error)


async def fail_poisoned(context: JobContext, run: CachedRun, lease: Lease) -> None:
    """Fail a run whose code has killed its workers outside of any step."""
    await _finish(context, run, lease, Failure("PoisonError", died_text(lease.deaths, "this run's code")))


async def _complete(context: JobContext, run: CachedRun, lease: Lease, value: object) -> None:
    limit = run.function.limits.step_output_bytes
    try:
        text = dumps_output(value, what=f"function {run.function.name!r}", limit_bytes=limit)
    except StepOutputError as error:
        await _fail(context, run, lease, error)
    else:
        await _finish(context, run, lease, text)


async def _fail(context: JobContext, run: CachedRun, lease: Lease, error: BaseException) -> None:
    state, failure = context.state, Failure.of(error)
    delay_ms = retry_delay_ms(
        error,
        attempt=lease.attempt,
        retries=run.function.config.retries,
        backoff=state.settings.backoff,
        jitter=random.random(),
        now_ms=now_ms(),
    )
    if delay_ms is None:
        await _finish(context, run, lease, failure)
        return
    state.failed_jobs += 1
    state.cache.drop(run)
    await state.broker.execute(
        retry_run(
            state.partition,
            run_id=run.run_id,
            fence=lease.fence,
            attempts=lease.attempt + 1,
            error=_sealed(run, failure),
            delay_ms=delay_ms,
        )
    )
    state.wakeups.timer_set(run.run_id, delay_ms)
    log_failed_attempt(run, failure, attempt=lease.attempt + 1, delay_ms=delay_ms)


async def _finish(context: JobContext, run: CachedRun, lease: Lease, end: bytes | Failure) -> None:
    """End the run with its output, as JSON text, or with its failure."""
    state, failed_event = context.state, (b"", "")
    status = RunStatus.COMPLETED if isinstance(end, bytes) else RunStatus.FAILED
    if isinstance(end, Failure):
        failed_event = _failed_event(run, end, state.partition.cipher)
    ended = state.broker.submit(
        finish_run(
            state.partition,
            run_id=run.run_id,
            fence=lease.fence,
            status=status,
            payload=_sealed(run, end),
            retention_ms=run.function.config.retention_ms,
            failed_event=failed_event,
        )
    )
    if lease.parent:  # in the same round trip; if this is lost, the finished event is still on the stream
        await _wake_parent(context, lease)
    elif run.function.is_batched:
        await context.completions.end_batch(run.run_id)
    code = await ended
    state.cache.drop(run)
    if code is ScriptStatus.DONE:
        state.finished_jobs += 1
        log_run_ended(run, end if isinstance(end, Failure) else None)


async def _wake_parent(context: JobContext, lease: Lease) -> None:
    partition, child = context.state.partition.of(lease.run_id), lease.run_id
    if context.state.partition.of(lease.parent) is partition:
        await context.completions.wake(child)
    else:
        await context.completions.deliver(partition, [RemoteChildFinished(child)])


def _sealed(run: CachedRun, end: bytes | Failure) -> bytes:
    """The stored form of the output or failure of a run."""
    function, failed = run.function, isinstance(end, Failure)
    scope = end_scope(run.run_id, function.name, failed=failed, batched=function.is_batched)
    return seal_failure(function.cipher, end, scope) if isinstance(end, Failure) else function.cipher.seal(end, scope)


def _failed_event(run: CachedRun, failure: Failure, cipher: Cipher) -> tuple[bytes, str]:
    """The event that reports a failed run, and its id."""
    event_id = run_id_for(run.run_id, FAILED)
    fields = {"function": run.function.name, "run_id": run.run_id, "error": failure.to_json()}
    data = dumps(fields)[:-1] + b',"event":' + open_event_text(cipher, run.event) + b"}"
    sealed = run.function.cipher.seal(data, event_scope(event_id))
    return event_text(FAILED, id=event_id, ts=now_ms(), data=sealed), event_id
