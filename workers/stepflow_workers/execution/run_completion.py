"""Ends a run with its output or its failure, or schedules another attempt at the function."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from stepflow import Function
from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.invokes.outbox import RemoteChildFinished
from stepflow_broker.transitions.jobs.continuations import continue_as_new, retry_run
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.attempts import attempt_detail
from stepflow_broker.transitions.runs.run_ends import end_undo, finish_run
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps, dumps_output, round_trip
from stepflow_engine.declared_types import check_value
from stepflow_engine.encryption_scopes import end_scope, event_scope, open_event_text, read_event, seal_failure
from stepflow_engine.error_group import FailedLike, error_group, failed_step
from stepflow_engine.errors import CorruptDataError, DecryptionError, StepOutputError
from stepflow_engine.execution import Raised, Returned
from stepflow_engine.failure import Failure
from stepflow_engine.ids import run_id_for
from stepflow_engine.rounds import ContinueAsNew
from stepflow_engine.run_events import FAILED
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.steps import event_text
from stepflow_engine.undo import UndoFailure
from stepflow_workers.execution.children import close_children
from stepflow_workers.execution.failure_log import (
    log_failed_attempt,
    log_next_round,
    log_run_ended,
    log_run_undoing,
    log_run_undone,
)
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.next_attempt import next_attempt_delay_ms
from stepflow_workers.execution.undo import log_undo_failures, undo_failed_event
from stepflow_workers.state.run_cache import CachedRun

__all__ = ["complete_run", "fail_run"]

_DIGEST_LENGTH = 16


async def complete_run(context: JobContext, run: CachedRun, lease: Lease, outcome: Returned | Raised) -> bool:
    """End a run whose code has returned or raised, or schedule another attempt at the function.

    False: the run must wait for children before it ends.
    """
    if run.undoing:
        if isinstance(outcome, Raised):
            raise outcome.error  # a fault of the pass that undoes, not of user code
        await _end_undo(context, run.function, lease, run.event, outcome.value)
        return True
    match outcome:
        case Returned(ContinueAsNew() as following):
            return await _continue_as_new(context, run, lease, following)
        case Returned(value):
            return await _complete(context, run, lease, value)
        case Raised(error):
            return await _fail(context, run, lease, error)


async def fail_run(
    context: JobContext,
    function: Function,
    lease: Lease,
    event: bytes,
    failure: Failure,
    *,
    delay_ms: int | None,
    step_id: str = "",
) -> None:
    """Record a failed attempt at a function: schedule another attempt, or fail the run.

    Args:
        event: the event of the run, as JSON text.
        delay_ms: the delay before the next attempt, in milliseconds; ``None``: there is no other attempt.
        step_id: the step whose failure the code has not caught; ``""``: the code itself failed.
    """
    state, run_id = context.state, lease.run_id
    if delay_ms is None and lease.undoing:
        await _end_undo(context, function, lease, event, [UndoFailure("", failure)])
        return
    if delay_ms is None:
        opened = _opened_event(state.partition.cipher, event)
        failed_event = _failed_event(function, lease, opened, failure, now_ms=state.clock.now_ms())
        like = error_group(function.name, step_id, failure, is_secret=function.cipher.encrypts)
        await _finish(context, function, lease, failure, failed_event=failed_event, failed_like=like)
        return
    state.failed_jobs += 1
    state.evict(run_id)
    await state.broker.execute(
        retry_run(
            state.partition,
            run_id=run_id,
            fence=lease.fence,
            attempts=lease.attempt + 1,
            error=_sealed(function, run_id, failure),
            delay_ms=delay_ms,
            attempt=attempt_detail(number=lease.attempt + 1, worker=state.worker, version=state.version_beside(lease)),
        )
    )
    state.wakeups.timer_set(run_id, delay_ms)
    log_failed_attempt(function, run_id, failure, attempt=lease.attempt + 1, delay_ms=delay_ms)


async def _complete(context: JobContext, run: CachedRun, lease: Lease, value: object) -> bool:
    limit, what = run.function.limits.step_output_bytes, f"function {run.function.name!r}"
    try:
        text = dumps_output(value, what=what, limit_bytes=limit)
        if (declared := run.function.output) is not None:
            check_value(declared, value, round_trip(value, text), what=what)
    except StepOutputError as error:
        return await _fail(context, run, lease, error)
    if not await _closed_children(context, run, lease, RunStatus.COMPLETED):
        return False
    await _finish(context, run.function, lease, text)
    return True


async def _continue_as_new(context: JobContext, run: CachedRun, lease: Lease, following: ContinueAsNew) -> bool:
    """End the round of a run. Its children are treated as at the end of the run."""
    if not await _closed_children(context, run, lease, RunStatus.COMPLETED):
        return False
    state, run_id, old = context.state, lease.run_id, read_event(run.event)
    event_id = run_id_for(run_id, "round", str(lease.round + 1))
    sealed = run.function.cipher.seal(following.data, event_scope(event_id))
    call = continue_as_new(
        state.partition,
        run_id=run_id,
        fence=lease.fence,
        round=lease.round,
        event=event_text(old["name"], id=event_id, ts=state.clock.now_ms(), data=sealed),
        digest=hashlib.sha256(run.event).hexdigest()[:_DIGEST_LENGTH],
        own_event="" if lease.round else old["id"],  # later rounds begin with events that nobody has sent
        keep_version=following.keep_version,
    )
    code = await state.broker.execute(call)
    state.evict(run_id)
    if code is ScriptStatus.DONE:
        state.finished_jobs += 1
        log_next_round(run.function, run_id, lease.round + 1)
    state.wakeups.job_queued(run_id)
    return True


async def _fail(context: JobContext, run: CachedRun, lease: Lease, error: BaseException) -> bool:
    delay_ms = await next_attempt_delay_ms(context.state, run.function, run.run_id, error, attempt=lease.attempt)
    # another attempt may need the children of this one, and the steps that it has cancelled because of its error
    if delay_ms is None and not await _closed_children(context, run, lease, RunStatus.FAILED):
        return False
    failure, step_id = Failure.of(error), failed_step(error)
    await fail_run(context, run.function, lease, run.event, failure, delay_ms=delay_ms, step_id=step_id)
    return True


async def _closed_children(context: JobContext, run: CachedRun, lease: Lease, status: RunStatus) -> bool:
    """Whether the run waits for no child before it ends. Its other children, and its cancelled steps, are dropped."""
    has_any = run.execution.children or run.execution.cancelled
    return not has_any or await close_children(context.state, run, lease, status)


async def _finish(
    context: JobContext,
    function: Function,
    lease: Lease,
    end: bytes | Failure,
    *,
    failed_event: tuple[bytes, str] = (b"", ""),
    failed_like: FailedLike | None = None,
) -> None:
    """End the run with its output, as JSON text, or with its failure."""
    state, run_id = context.state, lease.run_id
    status = RunStatus.COMPLETED if isinstance(end, bytes) else RunStatus.FAILED
    call = finish_run(
        state.partition,
        run_id=run_id,
        fence=lease.fence,
        status=status,
        payload=_sealed(function, run_id, end),
        retention_ms=function.config.retention_ms,
        failed_event=failed_event,
        version=state.version_beside(lease),
        failed_like=failed_like,
    )
    code = await _end(context, function, lease, call)
    failure = end if isinstance(end, Failure) else None
    if code is ScriptStatus.DONE:
        log_run_ended(function, run_id, failure)
    elif code is ScriptStatus.MORE and failure is not None:
        log_run_undoing(function, run_id, failure)
        state.wakeups.job_queued(run_id)


async def _end_undo(
    context: JobContext, function: Function, lease: Lease, event: bytes, failures: Sequence[UndoFailure]
) -> None:
    """End a run whose undo handlers have ended, as it has stored."""
    state, run_id = context.state, lease.run_id
    opened = _opened_event(state.partition.cipher, event) if failures else b""
    call = end_undo(
        state.partition,
        run_id=run_id,
        fence=lease.fence,
        retention_ms=function.config.retention_ms,
        version=state.version_beside(lease),
        undo_failed_event=undo_failed_event(function, lease, opened, failures, now_ms=state.clock.now_ms()),
    )
    if await _end(context, function, lease, call) is ScriptStatus.DONE:
        log_undo_failures(function, run_id, failures)
        log_run_undone(function, run_id, lease.undoing)


async def _end(context: JobContext, function: Function, lease: Lease, call: Command[ScriptStatus]) -> ScriptStatus:
    """End the run by a transition, and tell those that wait for it."""
    state, run_id = context.state, lease.run_id
    ended = state.broker.submit(call)
    if lease.parent:  # in the same round trip; if this is lost, the finished event is still on the stream
        await _wake_parent(context, lease)
    elif function.is_batched:
        await context.completions.end_batch(run_id)
    code = await ended
    state.evict(run_id)
    if code is ScriptStatus.DONE:
        state.finished_jobs += 1
    return code


async def _wake_parent(context: JobContext, lease: Lease) -> None:
    partition, child = context.state.partition.of(lease.run_id), lease.run_id
    if context.state.partition.of(lease.parent) is partition:
        await context.completions.wake(child)
    else:
        await context.completions.deliver(partition, [RemoteChildFinished(child)])


def _sealed(function: Function, run_id: str, end: bytes | Failure) -> bytes:
    """The stored form of the output or failure of a run."""
    scope = end_scope(run_id, function.name, failed=isinstance(end, Failure), batched=function.is_batched)
    return seal_failure(function.cipher, end, scope) if isinstance(end, Failure) else function.cipher.seal(end, scope)


def _opened_event(cipher: Cipher, event: bytes) -> bytes:
    """The event of a failed run with decrypted data; ``null`` if it is damaged.

    Raises:
        EncryptionKeyMissingError: another worker may have the key.
    """
    try:
        opened = open_event_text(cipher, event)
        read_event(opened)
    except DecryptionError as error:
        if not error.is_final:
            raise
        return b"null"
    except CorruptDataError:
        return b"null"
    return opened


def _failed_event(
    function: Function, lease: Lease, event: bytes, failure: Failure, *, now_ms: int
) -> tuple[bytes, str]:
    """The event that reports a failed run, and its id; ``event`` is the event of the run with decrypted data."""
    event_id = run_id_for(lease.run_id, FAILED)
    fields = {"function": function.name, "run_id": lease.run_id, "error": failure.to_json()}
    data = dumps(fields)[:-1] + b',"event":' + event + b"}"
    sealed = function.cipher.seal(data, event_scope(event_id))
    return event_text(FAILED, id=event_id, ts=now_ms, data=sealed), event_id
