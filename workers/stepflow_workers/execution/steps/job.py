"""A planned step: a job of its own, for which any worker replays the code up to the step and calls its handler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from stepflow_broker.protocol.status import Code
from stepflow_broker.transitions.jobs import Lease, commit_planned_step
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.steps import RunRequest, StepCall
from stepflow_workers.execution.steps.run import Done, Retry
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.run_cache import HeldRun
from stepflow_workers.state.worker_state import Workbench

__all__ = ["do_planned_step"]

_log = logging.getLogger("stepflow.worker")
_ASK_S = 5.0
"""How long to wait until code that another job of this worker runs asks for the step."""


async def do_planned_step(bench: Workbench, held: HeldRun, lease: Lease) -> None:
    """Do the job of a planned step, from its replay to its commit."""
    call = await _find(held, lease.key)
    if held.execution.closed:
        await bench.hand_back([lease])
    elif call is None:
        await _settle(bench, held, lease, _not_found(bench, held, lease))
    elif isinstance(call.request, RunRequest):
        done = await bench.performer.perform(held, call, call.request, attempt=lease.step_attempt, deaths=lease.deaths)
        await _settle(bench, held, lease, done)
    else:
        raise TypeError(f"job {lease.job} is for a step that is not a step.run")


async def _find(held: HeldRun, key: str) -> StepCall | None:
    """The step with this key, if the code asks for it."""
    execution = held.execution
    if not execution.was_asked(key):
        if held.lease is not None or held.turn.locked():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_S):
                    await execution.asked(key)
        else:
            async with held.turn:
                await execution.advance()
    return execution.pending(key)


def _not_found(bench: Workbench, held: HeldRun, lease: Lease) -> Done | Retry:
    """What becomes of a step that the code does not wait for; nothing else is run in its place.

    Code that asked for it and gave it up, such as the loser of a race, wants no other attempt. Code that does not ask
    for it at all is of another version: a worker with the right one may take the next attempt.
    """
    execution = held.execution
    found = ", ".join(repr(step_id) for step_id in execution.pending_ids()[:10]) or "none"
    failure = Failure(
        "StepNotFoundError",
        f"step {lease.step_id!r} was planned, but the code of {held.function.name} does not wait for it; "
        f"steps that it waits for: {found}; bring the step back, or cancel the run",
    )
    attempt = lease.step_attempt
    if execution.was_asked(lease.key):
        return bench.performer.failed_for_good(
            held, lease.key, lease.step_id, failure, attempt=attempt, started_at=now_ms()
        )
    _log.warning("planned_step_not_found", extra={"run_id": lease.run_id, "step_id": lease.step_id})
    if attempt >= held.function.config.retries:
        return bench.performer.failed_for_good(
            held, lease.key, lease.step_id, failure, attempt=attempt, started_at=now_ms()
        )
    delay_ms = bench.settings.backoff.delay_ms(attempt, random.random())
    return Retry(attempt + 1, dumps(failure.to_json()), delay_ms)


async def _settle(bench: Workbench, held: HeldRun, lease: Lease, done: Done | Retry) -> None:
    match done:
        case Done():
            await _commit(bench, held, lease, done)
        case Retry(attempts, error, delay_ms):
            bench.failed_jobs += 1
            await bench.plan_retry(lease, lease.key, lease.step_id, attempts=attempts, error=error, delay_ms=delay_ms)


async def _commit(bench: Workbench, held: HeldRun, lease: Lease, done: Done) -> None:
    code, position = await bench.broker.run(
        commit_planned_step(
            bench.keys,
            run_id=lease.run_id,
            key=lease.key,
            fence=lease.fence,
            memo=done.text,
            worker=bench.worker,
        )
    )
    if code in (Code.DONE, Code.ALREADY):
        bench.finished_jobs += 1
        held.learn(position, lease.key, done.memo)
    elif code is Code.NO_RUN:
        bench.held.drop(held)
