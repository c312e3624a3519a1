"""Ends the attempt of a job that this worker cannot execute: an internal error, or a job that kills its workers.

Such a job fails like any other attempt: a planned step under the retries of its function, a continuation as an attempt
at the function. So it has an end, whatever its cause, and the error names the cause.
"""

from __future__ import annotations

import random

from stepflow import Function
from stepflow_broker.transitions.jobs import Lease, load_run
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.run_completion import fail_run
from stepflow_workers.execution.steps.job import failed_attempt, store_result
from stepflow_workers.state.poison import died_text

__all__ = ["fail_job", "fail_poisoned_job"]


async def fail_job(context: JobContext, lease: Lease, error: BaseException) -> None:
    """Record an internal error as a failed attempt of the job. It is retried like the error of a handler."""
    cause = Failure.of(error)
    text = f"the worker could not execute the job: {cause.name}: {cause.message}"
    await _fail(context, lease, Failure("InternalError", text, cause.traceback), is_final=False)


async def fail_poisoned_job(context: JobContext, lease: Lease) -> None:
    """Fail a job that has killed its workers, without loading its run."""
    what = "this step" if lease.key else "this run's code"
    await _fail(context, lease, Failure("PoisonError", died_text(lease.deaths, what)), is_final=True)


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
    record, _ = await state.broker.execute(load_run(state.partition, lease.run_id, 0))
    if record is None:
        return
    delay_ms = None
    if not is_final and attempt < function.config.retries:
        delay_ms = state.settings.backoff.delay_ms(attempt, random.random())
    await fail_run(context, function, lease, dumps(record.event), failure, delay_ms=delay_ms)
