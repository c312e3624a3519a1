"""The continuation of a run: drives the code from step to step, in the worker that holds its lease.

A single step is executed here, under the continuation's own lease. Several steps at once become jobs of their own,
which any worker may claim, and invokes become children. Meanwhile the code stays suspended in memory, with the lease
but without a slot, and receives the memos as they are stored. When no memo arrives for a while, the run is parked: the
lease is given up, and the next memo queues the continuation again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs import Lease, commit_step, park_run, yield_run
from stepflow_broker.transitions.runs import forget_deaths, read_steps
from stepflow_engine.execution import Outcome, Waiting
from stepflow_engine.steps import RunRequest, StepCall, WaitRequest
from stepflow_workers.execution.attempt import StepAttempt
from stepflow_workers.execution.context import JobContext
from stepflow_workers.execution.run_completion import end_run
from stepflow_workers.execution.run_loader import catch_up
from stepflow_workers.execution.step_planner import plan_requests
from stepflow_workers.execution.steps.run import StepFinished, StepRetry
from stepflow_workers.state.run_cache import IDLE_HOLD_S, CachedRun

__all__ = ["Continuation"]


class Continuation:
    """The continuation job of one run."""

    def __init__(self, context: JobContext, run: CachedRun, lease: Lease) -> None:
        self._context = context
        self._state = context.state
        self._run = run
        self._lease = lease
        self._budget = context.state.settings.sticky
        self._may_be_planned = lease.planned
        run.lease, run.deaths = lease, lease.deaths

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Begin; no other job advances the code until the end."""
        async with self._run.lock:
            self._run.execution.ask_again()
            yield

    async def replay(self) -> StepAttempt | None:
        """Run the code up to the next step that is executed here; plan, wait for or finish everything else.

        Returns:
            The step's first attempt. ``None`` if the job is over: the run has ended, is parked, or is in its queue.
        """
        run, lease, going_on = self._run, self._lease, True
        while going_on:
            outcome = await self._advance()
            if run.execution.closed:  # evicted meanwhile: the lease is lost, the run has ended, or the worker stops
                await self._state.release([lease])
                return None
            if not isinstance(outcome, Waiting):
                await end_run(self._context, run, lease, outcome)
                return None
            if self._state.pauses.hold(run):
                await self._yield()
                return None
            fresh = [call for call in outcome.fresh if call.key not in run.planned]
            if fresh and outcome.alone and self._may_be_planned:
                await self._read_planned()
                self._may_be_planned = False
            elif fresh and outcome.alone and isinstance(request := fresh[0].request, RunRequest):
                return StepAttempt(run, lease, fresh[0], request, 0, run.deaths)
            elif fresh:
                going_on = await plan_requests(self._context, run, lease, fresh)
            elif outcome.blocked:
                going_on = await self._wait()
        return None

    async def _advance(self) -> Outcome:
        """Advance the code. While it waits for steps that have jobs, whatever else it waits for, it needs no slot."""
        if not self._run.planned:
            return await self._run.execution.advance()
        with self._state.slots.given_back():
            return await self._run.execution.advance()

    async def _read_planned(self) -> None:
        """Read which steps an earlier holder of the run has planned, and the memos of those that have ended since."""
        run = self._run
        steps = await self._state.broker.execute(read_steps(self._state.keys, run.run_id))
        run.planned.update(step.key for step in steps if step.state and not _looks_back(run, step.key))
        await catch_up(self._state, run)
        run.execution.ask_again()

    async def _yield(self) -> None:
        """Return the run to its queue."""
        await self._state.broker.execute(yield_run(self._state.keys, run_id=self._run.run_id, fence=self._lease.fence))

    # -- commit ------------------------------------------------------------------

    async def commit(self, attempt: StepAttempt, result: StepFinished | StepRetry) -> bool:
        """Store the memo, or plan the next attempt as a job; true if the run goes on here."""
        match result:
            case StepFinished():
                return await self._store(attempt.call, result)
            case StepRetry():
                return await self._retry(attempt.call, result)

    async def _store(self, call: StepCall, result: StepFinished) -> bool:
        state, run, lease = self._state, self._run, self._lease
        self._budget -= 1
        keep = self._budget > 0 and not state.stopping and not state.suspended
        code, position = await state.broker.execute(
            commit_step(state.keys, run_id=run.run_id, fence=lease.fence, key=call.key, memo=result.text)
        )
        if not state.accepted(run, code):
            return False
        state.finished_jobs += 1
        run.apply_memo(position, call.key, result.memo)
        if not keep:  # only after the reply: the run must not return to its queue before its memo is stored
            await self._yield()
            if not state.settings.sticky:
                state.runs.drop(run)
        return keep

    async def _retry(self, call: StepCall, retry: StepRetry) -> bool:
        self._budget -= 1
        self._state.failed_jobs += 1
        code = await self._state.fail_attempt(
            self._lease, call.key, call.id, attempts=retry.attempts, error=retry.error, delay_ms=retry.delay_ms
        )
        self._run.planned.add(call.key)
        return self._state.accepted(self._run, code)

    # -- waiting -----------------------------------------------------------------

    async def _wait(self) -> bool:
        """Wait for memos with the code in memory but without a slot; park the run when none arrives soon.

        The run is parked with the number of memos that the code has seen. The server refuses if there are more, because
        nothing would queue the run for those again.
        """
        state, run, seen = self._state, self._run, self._run.execution.applied
        await self._forget_deaths()
        if self._may_hold() and not run.planned <= run.distant_waits:
            with state.slots.given_back():
                if await self._memo_arrives():
                    return True
        if run.execution.applied > seen:
            return True
        code = await state.broker.execute(
            park_run(state.keys, run_id=run.run_id, fence=self._lease.fence, applied=seen)
        )
        if code is ScriptStatus.MORE:
            await catch_up(state, run)
            return True
        if code is ScriptStatus.ALREADY:  # the server has lost what this run waits for
            state.runs.drop(run)
            await state.release([self._lease])
            return False
        state.accepted(run, code)
        if not state.settings.sticky:
            state.runs.drop(run)
        return False

    def _may_hold(self) -> bool:
        """Whether the lease may be kept while the code waits."""
        state = self._state
        return (
            bool(state.settings.sticky)
            and not state.stopping
            and len(state.runs) <= state.settings.cached_runs
            and not self._run.function.has_gates  # the lease has a concurrency slot that other jobs wait for
        )

    async def _memo_arrives(self) -> bool:
        try:
            async with asyncio.timeout(IDLE_HOLD_S):
                await self._run.execution.activity.changed()
        except TimeoutError:
            return False
        return not self._state.stopping

    async def _forget_deaths(self) -> None:
        """The code has reached a wait, so it is not what killed earlier workers."""
        if self._run.deaths:
            self._run.deaths = ()
            await self._state.broker.execute(forget_deaths(self._state.keys, self._run.run_id))


def _looks_back(run: CachedRun, key: str) -> bool:
    """Whether a step is a wait with a look-back: the worker that began it may have died before it looked back."""
    call = run.execution.pending(key)
    return call is not None and isinstance(call.request, WaitRequest) and bool(call.request.lookback_ms)
