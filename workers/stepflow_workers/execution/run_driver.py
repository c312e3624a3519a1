"""The continuation of a run: drives the code from step to step, by the worker that holds its lease.

One step at a time is executed right here, under the continuation's own lease. Several at once become jobs of their
own, which any worker may take, and invokes become children; meanwhile the holder keeps the code suspended, with the
lease but without a slot, and is told of their memos. When none comes for a while, the run is parked: the lease is
given up, and the next memo queues the continuation again.
"""

from __future__ import annotations

import asyncio

from stepflow_broker.protocol.status import Code
from stepflow_broker.transitions.jobs import Lease, commit_step, park_run, yield_run
from stepflow_broker.transitions.runs import forget_deaths, read_steps
from stepflow_engine.execution import Outcome, Waiting
from stepflow_engine.steps import RunRequest, StepCall, WaitRequest
from stepflow_workers.consumers.completions import Waker
from stepflow_workers.execution.run_completion import RunEnding
from stepflow_workers.execution.run_loader import Loader
from stepflow_workers.execution.step_planner import Planner
from stepflow_workers.execution.steps.run import Done, Retry
from stepflow_workers.state.poison import POISON_DEATHS
from stepflow_workers.state.run_cache import HOLD_S, HeldRun
from stepflow_workers.state.worker_state import Workbench

__all__ = ["Continuation"]


class Continuation:
    """Does the continuation jobs of one worker."""

    def __init__(self, bench: Workbench, loader: Loader, planner: Planner, waker: Waker) -> None:
        self._bench = bench
        self._loader = loader
        self._planner = planner
        self._ending = RunEnding(bench, waker)

    async def do(self, held: HeldRun, lease: Lease) -> None:
        """Drive the run until it ends, is parked, or goes back to its queue."""
        held.lease, held.deaths = lease, lease.deaths
        if len(lease.deaths) > POISON_DEATHS:
            await self._ending.poison(held, lease)
            return
        async with held.turn:
            held.execution.ask_again()
            await self._drive(held, lease)

    async def _drive(self, held: HeldRun, lease: Lease) -> None:
        budget, unsure = self._bench.settings.sticky, lease.planned
        going_on = True
        while going_on:
            outcome = await self._advance(held)
            if held.execution.closed:  # let go of meanwhile: the lease is lost, the run has ended, or this stops
                await self._bench.hand_back([lease])
                return
            if not isinstance(outcome, Waiting):
                await self._ending.end(held, lease, outcome)
                return
            if self._bench.pauses.hold(held):
                await self._bench.broker.run(yield_run(self._bench.keys, run_id=held.run_id, fence=lease.fence))
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

    async def _advance(self, held: HeldRun) -> Outcome:
        """Let the code go on. While it waits for steps that have jobs, whatever else it waits for, it needs no slot."""
        if not held.planned:
            return await held.execution.advance()
        with self._bench.slots.given_back():
            return await held.execution.advance()

    async def _learn_planned(self, held: HeldRun) -> None:
        """Learn which steps have jobs from an earlier holder of the run, and then the memos of those that had them."""
        steps = await self._bench.broker.run(read_steps(self._bench.keys, held.run_id))
        held.planned.update(step.key for step in steps if step.state and not _looks_back(held, step.key))
        await self._loader.catch_up(held)
        held.execution.ask_again()

    # -- one step ----------------------------------------------------------------

    async def _step_here(self, held: HeldRun, lease: Lease, call: StepCall, request: RunRequest, *, keep: bool) -> bool:
        """Execute the one step that the code waits for; true if the run goes on here."""
        done = await self._bench.performer.perform(held, call, request, attempt=0, deaths=held.deaths)
        match done:
            case Done():
                keep = keep and not self._bench.stopping and not self._bench.suspended
                return await self._commit(held, lease, call, done, keep=keep)
            case Retry():
                return await self._put_off(held, lease, call, done)

    async def _commit(self, held: HeldRun, lease: Lease, call: StepCall, done: Done, *, keep: bool) -> bool:
        bench = self._bench
        code, position = await bench.broker.run(
            commit_step(bench.keys, run_id=held.run_id, fence=lease.fence, key=call.key, memo=done.text)
        )
        if not bench.accepted(held, code):
            return False
        bench.finished_jobs += 1
        held.learn(position, call.key, done.memo)
        if not keep:  # after the answer: were the memo refused for a while, the run would go back without it
            await bench.broker.run(yield_run(bench.keys, run_id=held.run_id, fence=lease.fence))
            if not bench.settings.sticky:
                bench.held.drop(held)
        return keep

    async def _put_off(self, held: HeldRun, lease: Lease, call: StepCall, retry: Retry) -> bool:
        """Have the next attempt of a step that failed done as a job of its own."""
        self._bench.failed_jobs += 1
        code = await self._bench.plan_retry(
            lease, call.key, call.id, attempts=retry.attempts, error=retry.error, delay_ms=retry.delay_ms
        )
        held.planned.add(call.key)
        return self._bench.accepted(held, code)

    async def _forget_deaths(self, held: HeldRun) -> None:
        """The code has come to rest: it is not what killed its workers."""
        if held.deaths:
            held.deaths = ()
            await self._bench.broker.run(forget_deaths(self._bench.keys, held.run_id))

    # -- waiting -----------------------------------------------------------------

    async def _wait(self, held: HeldRun, lease: Lease) -> bool:
        """Wait for memos with the code in memory, but without a slot; park it when none comes, or will for long.

        It is parked with the memos that the code has seen. One that comes meanwhile is seen first: nobody would queue
        the run for it again.
        """
        bench, seen = self._bench, held.execution.applied
        await self._forget_deaths(held)
        kept = bench.settings.sticky and not bench.stopping and len(bench.held) <= bench.settings.cached_runs
        kept = kept and not held.function.has_gates  # the lease has a slot that others wait for
        if kept and not held.planned <= held.late:
            with bench.slots.given_back():
                if await self._memo_comes(held):
                    return True
        if held.execution.applied > seen:
            return True
        code = await bench.broker.run(park_run(bench.keys, run_id=held.run_id, fence=lease.fence, applied=seen))
        if code is Code.MORE:
            await self._loader.catch_up(held)
            return True
        if code is Code.ALREADY:  # the server has lost what this pass waits for
            bench.held.drop(held)
            await bench.hand_back([lease])
            return False
        bench.accepted(held, code)
        if not bench.settings.sticky:
            bench.held.drop(held)
        return False

    async def _memo_comes(self, held: HeldRun) -> bool:
        try:
            async with asyncio.timeout(HOLD_S):
                await held.execution.activity.changed()
        except TimeoutError:
            return False
        return not self._bench.stopping


def _looks_back(held: HeldRun, key: str) -> bool:
    """Whether a step is a wait that looks back: who began it may have died before it had looked."""
    call = held.execution.pending(key)
    return call is not None and isinstance(call.request, WaitRequest) and bool(call.request.lookback_ms)
