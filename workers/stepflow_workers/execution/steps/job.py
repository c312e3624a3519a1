"""A planned step: a job of its own, for which any worker replays the code up to the step and calls its handler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs import Lease, commit_planned_step
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.steps import RunRequest, StepCall
from stepflow_workers.execution.attempt import StepAttempt
from stepflow_workers.execution.context import JobContext
from stepflow_workers.execution.steps.run import StepFinished, StepRetry, failed_step
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.run_cache import CachedRun

__all__ = ["StepJob"]

_log = logging.getLogger("stepflow.worker")
_ASK_S = 5.0
"""How long to wait until code that another job of this worker advances asks for the step."""


class StepJob:
    """The job of one planned step."""

    def __init__(self, context: JobContext, run: CachedRun, lease: Lease) -> None:
        self._state = context.state
        self._run = run
        self._lease = lease

    def exclusive(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Other jobs of the run are executed at the same time."""
        return contextlib.nullcontext()

    async def replay(self) -> StepAttempt | None:
        """Run the code up to the step. ``None``: it does not ask for the step, and the job has been dealt with."""
        call = await self._find()
        if self._run.execution.closed:
            await self._state.release([self._lease])
            return None
        if call is None:
            await self._settle(self._not_found())
            return None
        if not isinstance(call.request, RunRequest):
            raise TypeError(f"job {self._lease.job} is for a step that is not a step.run")
        return StepAttempt(
            self._run, self._lease, call, call.request, self._lease.step_attempt, tuple(self._lease.deaths)
        )

    async def commit(self, attempt: StepAttempt, result: StepFinished | StepRetry) -> bool:  # noqa: ARG002
        """Store the memo, or plan the next attempt; always false: the job is done."""
        await self._settle(result)
        return False

    async def _find(self) -> StepCall | None:
        """The step, if the code asks for it."""
        run, key = self._run, self._lease.key
        if not run.execution.was_asked(key):
            if run.lease is not None or run.lock.locked():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ASK_S):
                        await run.execution.asked(key)
            else:
                async with run.lock:
                    await run.execution.advance()
        return run.execution.pending(key)

    def _not_found(self) -> StepFinished | StepRetry:
        """The result of a step that the code does not wait for. No other step is executed in its place.

        Code that asked for the step and gave it up, such as the loser of a race, needs no other attempt. Code that does
        not ask for it is of another version: a worker with the right version may take the next attempt.
        """
        run, lease = self._run, self._lease
        found = ", ".join(repr(step_id) for step_id in run.execution.pending_ids()[:10]) or "none"
        failure = Failure(
            "StepNotFoundError",
            f"step {lease.step_id!r} was planned, but the code of {run.function.name} does not wait for it; "
            f"steps that it waits for: {found}; bring the step back, or cancel the run",
        )
        attempt, is_last = lease.step_attempt, lease.step_attempt >= run.function.config.retries
        was_asked = run.execution.was_asked(lease.key)
        if not was_asked:
            _log.warning("planned_step_not_found", extra={"run_id": lease.run_id, "step_id": lease.step_id})
        if was_asked or is_last:
            return failed_step(
                self._state, run, lease.key, lease.step_id, failure, attempt=attempt, started_at=now_ms()
            )
        delay_ms = self._state.settings.backoff.delay_ms(attempt, random.random())
        return StepRetry(attempt + 1, dumps(failure.to_json()), delay_ms)

    async def _settle(self, result: StepFinished | StepRetry) -> None:
        lease = self._lease
        match result:
            case StepFinished():
                await self._store(result)
            case StepRetry(attempts, error, delay_ms):
                self._state.failed_jobs += 1
                await self._state.fail_attempt(
                    lease, lease.key, lease.step_id, attempts=attempts, error=error, delay_ms=delay_ms
                )

    async def _store(self, result: StepFinished) -> None:
        state, lease = self._state, self._lease
        code, position = await state.broker.execute(
            commit_planned_step(
                state.keys,
                run_id=lease.run_id,
                key=lease.key,
                fence=lease.fence,
                memo=result.text,
                worker=state.worker,
            )
        )
        if code in (ScriptStatus.DONE, ScriptStatus.ALREADY):
            state.finished_jobs += 1
            self._run.apply_memo(position, lease.key, result.memo)
        elif code is ScriptStatus.NO_RUN:
            state.runs.drop(self._run)
