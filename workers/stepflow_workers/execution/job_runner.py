"""The pipeline of a job: claim → load → replay → perform → commit.

A job is a continuation, which drives a run from step to step, or a planned step, which executes one. Both go through
`run_job`. At every point a crash leaves behind a job with a lease that expires, and memos of the steps that are done.
Another worker reclaims the job and replays the code over the memos.
"""

from __future__ import annotations

import logging

from stepflow_broker.transitions.jobs import Lease
from stepflow_engine.errors import CorruptDataError, DecryptionError
from stepflow_workers.execution.context import JobContext
from stepflow_workers.execution.continuation import Continuation
from stepflow_workers.execution.deferral import MISSING_MS, defer_job
from stepflow_workers.execution.run_completion import fail_poisoned
from stepflow_workers.execution.run_loader import load_run
from stepflow_workers.execution.steps.job import StepJob
from stepflow_workers.execution.steps.run import execute_step
from stepflow_workers.state.poison import POISON_DEATHS

__all__ = ["run_job"]

_log = logging.getLogger("stepflow.worker")


async def run_job(context: JobContext, lease: Lease) -> None:
    """Execute one job, from its claim to its commit or its return to the queue.

    Args:
        lease: the claim. The dispatcher has claimed the job, and the lease renewer keeps it.
    """
    try:
        run = await load_run(context, lease)  # load: from memory, or built anew and given its memos
        if run is None:
            return
        with context.state.runs.in_use(run, lease):
            if not lease.key and len(lease.deaths) > POISON_DEATHS:  # its code kills workers: it is not run again
                await fail_poisoned(context, run, lease)
                return
            job = StepJob(context, run, lease) if lease.key else Continuation(context, run, lease)
            async with job.exclusive():
                while (attempt := await job.replay()) is not None:  # replay: up to the next step to execute here
                    result = await execute_step(context.state, attempt)  # perform: call the handler
                    if not await job.commit(attempt, result):  # commit: store the memo, or plan a retry
                        return
    except (DecryptionError, CorruptDataError) as error:
        event = "run_corrupt" if isinstance(error, CorruptDataError) else "payload_decryption_failed"
        _log.warning(event, extra={"run_id": lease.run_id, "error": str(error)})
        context.state.evict(lease.run_id)
        await defer_job(context.state, lease, type(error).__name__, str(error), delay_ms=MISSING_MS)
