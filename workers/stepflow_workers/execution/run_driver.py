"""The continuation of a run: drives the code from step to step, by the worker that holds its lease.

One step at a time is executed right here, under the continuation's own lease. Several at once become jobs of their
own, which any worker may take, and invokes become children; meanwhile the holder keeps the code suspended, with the
lease but without a slot, and is told of their memos. When none comes for a while, the run is parked: the lease is
given up, and the next memo queues the continuation again.
"""

from __future__ import annotations

import asyncio

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs import Lease, commit_step, park_run, yield_run
from stepflow_broker.transitions.runs import forget_deaths, read_steps
from stepflow_engine.execution import Outcome, Waiting
from stepflow_engine.steps import RunRequest, StepCall, WaitRequest
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.execution.run_completion import RunEnding
from stepflow_workers.execution.run_loader import Loader
from stepflow_workers.execution.step_planner import Planner
from stepflow_workers.execution.steps.run import StepFinished, StepRetry
from stepflow_workers.state.poison import POISON_DEATHS
from stepflow_workers.state.run_cache import IDLE_HOLD_S, CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["RunDriver"]


class RunDriver:
    """Does the continuation jobs of one worker."""

    def __init__(
        self, worker_state: WorkerState, loader: Loader, planner: Planner, completions: CompletionConsumer
    ) -> None:
        self._worker_state = worker_state
        self._loader = loader
        self._planner = planner
        self._ending = RunEnding(worker_state, completions)

    async def do(self, held: CachedRun, lease: Lease) -> None:
        """Drive the run until it ends, is parked, or goes back to its queue."""
        held.lease, held.deaths = lease, lease.deaths
        if len(lease.deaths) > POISON_DEATHS:
            await self._ending.poison(held, lease)
            return
        async with held.lock:
            held.execution.ask_again()
            await self._drive(held, lease)

    async def _drive(self, held: CachedRun, lease: Lease) -> None:
        budget, unsure = self._worker_state.settings.sticky, lease.planned
        going_on = True
        while going_on:
            outcome = await self._advance(held)
            if held.execution.closed:  # let go of meanwhile: the lease is lost, the run has ended, or this stops
                await self._worker_state.release([lease])
                return
            if not isinstance(outcome, Waiting):
                await self._ending.end(held, lease, outcome)
                return
            if self._worker_state.pauses.hold(held):
                await self._worker_state.broker.execute(
                    yield_run(self._worker_state.keys, run_id=held.run_id, fence=lease.fence)
                )
                return
            fresh = [call for call in outcome.fresh if call.key not in held.planned]
            if fresh and outcome.alone and unsure:
                await self._learn_planned(held)
                unsure = False
            elif fresh and outcome.alone and isinstance(request := fresh[0].request, RunRequest):
                budget -= 1
                going_on = await self._step_here(held, lease, fresh[0], request, keep=budget > 0)
            elif fresh:
                going_on = await self._planner.plan(held, lease, fresh)
            elif outcome.blocked:
                going_on = await self._wait(held, lease)

    async def _advance(self, held: CachedRun) -> Outcome:
        """Let the code go on. While it waits for steps that have jobs, whatever else it waits for, it needs no slot."""
        if not held.planned:
            return await held.execution.advance()
        with self._worker_state.slots.given_back():
            return await held.execution.advance()

    async def _learn_planned(self, held: CachedRun) -> None:
        """Learn which steps have jobs from an earlier holder of the run, and then the memos of those that had them."""
        steps = await self._worker_state.broker.execute(read_steps(self._worker_state.keys, held.run_id))
        held.planned.update(step.key for step in steps if step.state and not _looks_back(held, step.key))
        await self._loader.catch_up(held)
        held.execution.ask_again()

    # -- one step ----------------------------------------------------------------

    async def _step_here(
        self, held: CachedRun, lease: Lease, call: StepCall, request: RunRequest, *, keep: bool
    ) -> bool:
        """Execute the one step that the code waits for; true if the run goes on here."""
        done = await self._worker_state.performer.perform(held, call, request, attempt=0, deaths=held.deaths)
        match done:
            case StepFinished():
                keep = keep and not self._worker_state.stopping and not self._worker_state.suspended
                return await self._commit(held, lease, call, done, keep=keep)
            case StepRetry():
                return await self._put_off(held, lease, call, done)

    async def _commit(self, held: CachedRun, lease: Lease, call: StepCall, done: StepFinished, *, keep: bool) -> bool:
        worker_state = self._worker_state
        code, position = await worker_state.broker.execute(
            commit_step(worker_state.keys, run_id=held.run_id, fence=lease.fence, key=call.key, memo=done.text)
        )
        if not worker_state.accepted(held, code):
            return False
        worker_state.finished_jobs += 1
        held.apply_memo(position, call.key, done.memo)
        if not keep:  # after the answer: were the memo refused for a while, the run would go back without it
            await worker_state.broker.execute(yield_run(worker_state.keys, run_id=held.run_id, fence=lease.fence))
            if not worker_state.settings.sticky:
                worker_state.held.drop(held)
        return keep

    async def _put_off(self, held: CachedRun, lease: Lease, call: StepCall, retry: StepRetry) -> bool:
        """Have the next attempt of a step that failed done as a job of its own."""
        self._worker_state.failed_jobs += 1
        code = await self._worker_state.plan_retry(
            lease, call.key, call.id, attempts=retry.attempts, error=retry.error, delay_ms=retry.delay_ms
        )
        held.planned.add(call.key)
        return self._worker_state.accepted(held, code)

    async def _forget_deaths(self, held: CachedRun) -> None:
        """The code has come to rest: it is not what killed its workers."""
        if held.deaths:
            held.deaths = ()
            await self._worker_state.broker.execute(forget_deaths(self._worker_state.keys, held.run_id))

    # -- waiting -----------------------------------------------------------------

    async def _wait(self, held: CachedRun, lease: Lease) -> bool:
        """Wait for memos with the code in memory, but without a slot; park it when none comes, or will for long.

        It is parked with the memos that the code has seen. One that comes meanwhile is seen first: nobody would queue
        the run for it again.
        """
        worker_state, seen = self._worker_state, held.execution.applied
        await self._forget_deaths(held)
        kept = (
            worker_state.settings.sticky
            and not worker_state.stopping
            and len(worker_state.held) <= worker_state.settings.cached_runs
        )
        kept = kept and not held.function.has_gates  # the lease has a slot that others wait for
        if kept and not held.planned <= held.distant_waits:
            with worker_state.slots.given_back():
                if await self._memo_comes(held):
                    return True
        if held.execution.applied > seen:
            return True
        code = await worker_state.broker.execute(
            park_run(worker_state.keys, run_id=held.run_id, fence=lease.fence, applied=seen)
        )
        if code is ScriptStatus.MORE:
            await self._loader.catch_up(held)
            return True
        if code is ScriptStatus.ALREADY:  # the server has lost what this pass waits for
            worker_state.held.drop(held)
            await worker_state.release([lease])
            return False
        worker_state.accepted(held, code)
        if not worker_state.settings.sticky:
            worker_state.held.drop(held)
        return False

    async def _memo_comes(self, held: CachedRun) -> bool:
        try:
            async with asyncio.timeout(IDLE_HOLD_S):
                await held.execution.activity.changed()
        except TimeoutError:
            return False
        return not self._worker_state.stopping


def _looks_back(held: CachedRun, key: str) -> bool:
    """Whether a step is a wait that looks back: who began it may have died before it had looked."""
    call = held.execution.pending(key)
    return call is not None and isinstance(call.request, WaitRequest) and bool(call.request.lookback_ms)
