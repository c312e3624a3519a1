"""Ends the attempt of a job that this worker cannot execute: an internal error, a deadly job, or damaged data.

Such a job fails like any other attempt: a planned step under the retries of its function, a continuation as an attempt
at the function. So it has an end, whatever its cause, and the error names the cause.
"""

from __future__ import annotations

import random

from stepflow import Function
from stepflow_broker.transitions.jobs.continuations import continue_run
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.run_state import read_run_event
from stepflow_engine.errors import CorruptDataError, DecryptionError
from stepflow_engine.failure import Failure
from stepflow_engine.product import NAME
from stepflow_workers.execution.children import cancel_children
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.run_completion import fail_run
from stepflow_workers.execution.steps.job import failed_attempt, store_result
from stepflow_workers.state.poison import died_text

__all__ = ["fail_job", "fail_poisoned_job", "fail_unreadable_run"]


async def fail_job(context: JobContext, lease: Lease, error: BaseException) -> None:
    """Record an internal error as a failed attempt of the job. It is retried like the error of a handler."""
    cause = Failure.of(error)
    text = f"the worker could not execute the job: {cause.name}: {cause.message}"
    await _fail(context, lease, Failure("InternalError", text, cause.traceback), is_final=False)


async def fail_poisoned_job(context: JobContext, lease: Lease) -> None:
    """Fail a job that has killed its workers, without loading its run."""
    what = "this step" if lease.key else "this run's code"
    await _fail(context, lease, Failure("PoisonError", died_text(lease.deaths, what)), is_final=True)


async def fail_unreadable_run(context: JobContext, lease: Lease, error: DecryptionError | CorruptDataError) -> bool:
    """Fail a run whose data is damaged. False: only its continuation can fail it, which now has a job.

    The memos stay as they are. Nothing of the run is executed with data that was not read.
    """
    if lease.key:
        await context.state.broker.execute(continue_run(context.state.partition, lease.run_id))
        context.state.wakeups.job_queued(lease.run_id)
        return False
    text = str(error)
    if isinstance(error, DecryptionError):
        text += f"; it is damaged, or was moved: run {NAME} doctor"
    await _fail(context, lease, Failure(type(error).__name__, text), is_final=True)
    return True


async def _fail(context: JobContext, lease: Lease, failure: Failure, *, is_final: bool) -> None:
    function = context.functions.get(f"{lease.app}/{lease.function}")
    if function is None:  # another worker has it
        await context.state.release([lease])
    elif lease.key:
        result = failed_attempt(context.state, function, lease, failure, is_final=is_final)
        await store_result(context.state, lease, result, context.state.cache.get(lease.run_id))
    else:
        await _fail_run(context, function, lease, failure, is_final=is_final)


async def _fail_run(context: JobContext, function: Function, lease: Lease, failure: Failure, *, is_final: bool) -> None:
    state, attempt = context.state, lease.attempt
    event = await state.broker.execute(read_run_event(state.partition, lease.run_id))
    if not event:
        return
    delay_ms = None
    if not is_final and attempt < function.config.retries:
        delay_ms = state.settings.backoff.delay_ms(attempt, random.random())
    if delay_ms is None and lease.planned:
        await cancel_children(state, lease, retention_ms=function.config.retention_ms)
    await fail_run(context, function, lease, event, failure, delay_ms=delay_ms)
