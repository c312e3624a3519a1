"""The pipeline of a job: claim → load → replay → perform → commit.

A continuation is driven by the worker that holds its lease. One step at a time is executed right there, under the
continuation's own lease. Several steps at once become jobs of their own, which any worker may take; meanwhile the
holder keeps the code suspended, with the lease but without a slot, and is told of their memos. When nothing but
waiting is left, the run is parked: the lease is given up, and the next memo queues the continuation again.

What a crash leaves behind, at every point: a job with a lease that runs out, memos for what is done. Another worker
reclaims the job and replays the code over the memos.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any, assert_never

from stepflow import Function
from stepflow_broker.async_broker import AsyncBroker
from stepflow_broker.jobs import (
    Lease,
    commit_planned_step,
    commit_step,
    fail_attempt,
    finish_run,
    load_run,
    park_run,
    plan_steps,
    release_jobs,
    retry_run,
    yield_run,
)
from stepflow_broker.keys import Keys
from stepflow_broker.runs import Code, forget_deaths, read_steps
from stepflow_engine.codec import dumps, dumps_output
from stepflow_engine.errors import StepOutputError
from stepflow_engine.execution import Outcome, Raised, Returned, Waiting
from stepflow_engine.failure import Failure
from stepflow_engine.memo import read_memo
from stepflow_engine.retry import retry_delay_ms
from stepflow_engine.states import RunStatus
from stepflow_engine.steps import InvokeRequest, RunRequest, StepCall
from stepflow_workers.held import HeldRun, HeldRuns
from stepflow_workers.invoker import Invoker
from stepflow_workers.performer import POISON_DEATHS, Done, Performer, now_ms
from stepflow_workers.registry import Registry
from stepflow_workers.settings import WorkerSettings
from stepflow_workers.slots import Slots
from stepflow_workers.waker import Waker

__all__ = ["Runner"]

_log = logging.getLogger("stepflow.worker")
_HOLD_S = 5.0
"""How long the code of a run is held with its lease while no memo of its steps comes."""
_PLAN_CHUNK = 250
_MISSING_CODE_MS = (1_000, 30_000)


class Runner:
    """Does the jobs that a worker has claimed.

    Args:
        worker: the worker's name.
        functions: the functions of this process by ``app/id``.
        registry: the functions of all processes.
    """

    def __init__(
        self,
        *,
        broker: AsyncBroker,
        keys: Keys,
        worker: str,
        functions: dict[str, Function],
        registry: Registry,
        settings: WorkerSettings,
        slots: Slots,
    ) -> None:
        self._broker = broker
        self._keys = keys
        self._worker = worker
        self._functions = functions
        self._settings = settings
        self._slots = slots
        self.held = HeldRuns(settings.cached_runs)
        self.waker = Waker(broker, keys, worker, self.held)
        self._invoker = Invoker(broker, keys, registry)
        self._performer = Performer(worker, backoff=settings.backoff)
        self.stopping = False
        self.suspended = False
        self.timer_set: Callable[[int], object] = int
        self.finished_jobs = 0
        self.failed_jobs = 0

    async def do(self, lease: Lease) -> None:
        """Do one job, from its claim to its commit or its return to the queue."""
        held = await self._load(lease)
        if held is None:
            return
        held.users += 1
        try:
            if lease.key:
                await self._do_step(held, lease)
            else:
                await self._do_run(held, lease)
        finally:
            if held.lease is lease:
                held.lease = None
            self.held.leave(held)

    # -- load --------------------------------------------------------------------

    async def _load(self, lease: Lease) -> HeldRun | None:
        """The code of a job's run, from memory or made anew, with all memos that the claim knew of."""
        function = self._functions.get(f"{lease.app}/{lease.function}")
        if function is None:
            await self._put_off(lease)
            return None
        held = self.held.get(lease.run_id)
        if held is not None and held.attempt != lease.attempt:
            self.held.drop(held)
            held = None
        if held is not None:
            if held.execution.applied < lease.applied and not (lease.key and held.lease):
                await self._catch_up(held)
            return held
        return await self._load_anew(lease, function)

    async def _load_anew(self, lease: Lease, function: Function) -> HeldRun | None:
        event = lease.event
        memos: list[tuple[str, bytes]] = []
        if event is None or lease.applied:
            record, memos = await self._broker.run(load_run(self._keys, lease.run_id, 0))
            if record is None:
                return None
            event = dumps(record.event)
        raced = self.held.get(lease.run_id)
        if raced is not None and raced.attempt == lease.attempt:
            return raced
        execution = function.execution(event, run_id=lease.run_id, attempt=lease.attempt)
        execution.add((key, read_memo(text)) for key, text in memos)
        held = HeldRun(
            lease.run_id, function, execution, lease.attempt, state_bytes=sum(len(text) for _, text in memos)
        )
        self.held.put(held)
        return held

    async def _catch_up(self, held: HeldRun) -> None:
        """Read the memos that this pass has not been given."""
        applied = held.execution.applied
        _, memos = await self._broker.run(load_run(self._keys, held.run_id, applied))
        for position, (key, text) in enumerate(memos, applied + 1):
            held.learn(position, key, read_memo(text), len(text))

    async def _put_off(self, lease: Lease) -> None:
        """Hand a job back whose function's code is not here; nothing is lost, another worker may have it."""
        reason = (
            f"the code of function {lease.app}/{lease.function} is not in worker {self._worker}: "
            "start a worker with it, or cancel the run"
        )
        _log.warning("code_missing", extra={"run_id": lease.run_id, "function": f"{lease.app}/{lease.function}"})
        delay_ms = random.randint(*_MISSING_CODE_MS)
        if lease.key:
            await self._broker.run(
                fail_attempt(
                    self._keys,
                    run_id=lease.run_id,
                    job_key=lease.key,
                    fence=lease.fence,
                    key=lease.key,
                    step_id=lease.step_id,
                    attempts=lease.step_attempt,
                    error=dumps(Failure("CodeMissing", reason).to_json()),
                    delay_ms=delay_ms,
                )
            )
        else:
            await self._broker.run(
                retry_run(
                    self._keys,
                    run_id=lease.run_id,
                    fence=lease.fence,
                    attempts=lease.attempt,
                    error=b"",
                    delay_ms=delay_ms,
                    reason=reason,
                )
            )

    # -- a continuation ----------------------------------------------------------

    async def _do_run(self, held: HeldRun, lease: Lease) -> None:
        held.lease = lease
        held.deaths = lease.deaths
        if lease.deaths > POISON_DEATHS:
            failure = Failure("PoisonError", f"{lease.deaths} workers died while they executed this run's code")
            await self._finish(held, lease, RunStatus.FAILED, dumps(failure.to_json()))
            return
        async with held.turn:
            held.execution.ask_again()
            budget, unsure = self._settings.sticky, lease.planned
            while True:
                outcome = await self._advance(held)
                if held.execution.closed:  # let go of meanwhile: the lease is lost, the run has ended, or this stops
                    await self.hand_back([lease])
                    return
                if not isinstance(outcome, Waiting):
                    await self._end(held, lease, outcome)
                    return
                fresh = [call for call in outcome.fresh if call.key not in held.planned]
                if fresh and outcome.alone and unsure:
                    unsure = False
                    fresh = await self._not_planned(held, fresh)
                if fresh and outcome.alone and isinstance(request := fresh[0].request, RunRequest):
                    budget -= 1
                    keep = budget > 0 and not self.stopping and not self.suspended
                    going_on = await self._step_here(held, lease, fresh[0], request, keep=keep)
                elif fresh:
                    going_on = await self._plan(held, lease, fresh)
                else:
                    going_on = not outcome.blocked or await self._wait(held, lease)
                if not going_on:
                    return

    async def _advance(self, held: HeldRun) -> Outcome:
        """Let the code go on. While it waits for steps that have jobs, whatever else it waits for, it needs no slot."""
        if not held.planned:
            return await held.execution.advance()
        with self._slots.given_back():
            return await held.execution.advance()

    async def _not_planned(self, held: HeldRun, fresh: list[StepCall]) -> list[StepCall]:
        """Those steps that have no job yet from an earlier holder of the run, whose worker may have died."""
        steps = await self._broker.run(read_steps(self._keys, held.run_id))
        held.planned.update(step.key for step in steps if step.state)
        return [call for call in fresh if call.key not in held.planned]

    async def _step_here(self, held: HeldRun, lease: Lease, call: StepCall, request: RunRequest, *, keep: bool) -> bool:
        """Execute the one step that the code waits for; true if the run goes on here."""
        done = await self._performer.perform(held, call, request, attempt=0, deaths=held.deaths)
        if not isinstance(done, Done):
            self.failed_jobs += 1
            code = await self._broker.run(
                fail_attempt(
                    self._keys,
                    run_id=held.run_id,
                    job_key="",
                    fence=lease.fence,
                    key=call.key,
                    step_id=call.id,
                    attempts=done.attempts,
                    error=done.error,
                    delay_ms=done.delay_ms,
                )
            )
            held.planned.add(call.key)
            self.timer_set(done.delay_ms)
            return self._accepted(held, code)
        keep = keep and not self.stopping
        committed = self._broker.submit(
            commit_step(self._keys, run_id=held.run_id, fence=lease.fence, key=call.key, memo=done.text)
        )
        if not keep:  # in the same round trip
            await self._broker.run(yield_run(self._keys, run_id=held.run_id, fence=lease.fence))
        code, position = await committed
        if not self._accepted(held, code):
            return False
        self.finished_jobs += 1
        if held.deaths:
            await self._broker.run(forget_deaths(self._keys, held.run_id))
        held.learn(position, call.key, done.memo)
        if not keep and not self._settings.sticky:
            self.held.drop(held)
        return keep

    async def _plan(self, held: HeldRun, lease: Lease, fresh: list[StepCall]) -> bool:
        """Give each step a job, or a child, of its own; true if the run goes on here."""
        steps: list[tuple[str, str]] = []
        invokes: list[tuple[StepCall, InvokeRequest]] = []
        for call in fresh:
            match call.request:
                case RunRequest():
                    steps.append((call.key, call.id))
                case InvokeRequest() as request:
                    invokes.append((call, request))
                case other:
                    assert_never(other)
        held.planned.update(call.key for call in fresh)
        return await self._plan_jobs(held, lease, steps) and await self._plan_children(held, lease, invokes)

    async def _plan_jobs(self, held: HeldRun, lease: Lease, steps: list[tuple[str, str]]) -> bool:
        for first in range(0, len(steps), _PLAN_CHUNK):
            part = steps[first : first + _PLAN_CHUNK]
            code = await self._broker.run(plan_steps(self._keys, run_id=held.run_id, fence=lease.fence, steps=part))
            if not self._accepted(held, code):
                return False
        return True

    async def _plan_children(self, held: HeldRun, lease: Lease, invokes: list[tuple[StepCall, InvokeRequest]]) -> bool:
        if not invokes:
            return True
        code, resolved = await self._invoker.invoke(lease, invokes)
        for one in resolved:
            self.waker.hand_over(one)
        return self._accepted(held, code)

    async def _wait(self, held: HeldRun, lease: Lease) -> bool:
        """Wait for memos with the code in memory, but without a slot; park the run when none comes."""
        if held.deaths:
            held.deaths = 0  # the code came to rest: it is not what killed its workers
            await self._broker.run(forget_deaths(self._keys, held.run_id))
        if self._settings.sticky and not self.stopping and len(self.held) <= self._settings.cached_runs:
            with self._slots.given_back():
                if await self._memo_comes(held):
                    return True
        code = await self._broker.run(
            park_run(self._keys, run_id=held.run_id, fence=lease.fence, applied=held.execution.applied)
        )
        if code is Code.MORE:
            await self._catch_up(held)
            return True
        self._accepted(held, code)
        if not self._settings.sticky:
            self.held.drop(held)
        return False

    async def _memo_comes(self, held: HeldRun) -> bool:
        try:
            async with asyncio.timeout(_HOLD_S):
                await held.execution.activity.changed()
        except TimeoutError:
            return False
        return not self.stopping

    # -- a planned step ----------------------------------------------------------

    async def _do_step(self, held: HeldRun, lease: Lease) -> None:
        call = await self._find(held, lease)
        if call is None:
            return
        if not isinstance(call.request, RunRequest):
            raise TypeError(f"job {lease.job} is for a step that is not a step.run")
        done = await self._performer.perform(held, call, call.request, attempt=lease.step_attempt, deaths=lease.deaths)
        if not isinstance(done, Done):
            self.failed_jobs += 1
            await self._retry_step(lease, attempts=done.attempts, error=done.error, delay_ms=done.delay_ms)
            return
        await self._commit_planned(held, lease, done)

    async def _commit_planned(self, held: HeldRun, lease: Lease, done: Done) -> None:
        code, position = await self._broker.run(
            commit_planned_step(
                self._keys,
                run_id=lease.run_id,
                key=lease.key,
                fence=lease.fence,
                memo=done.text,
                worker=self._worker,
            )
        )
        if code in (Code.DONE, Code.ALREADY):
            self.finished_jobs += 1
            held.learn(position, lease.key, done.memo)
        elif code is Code.NO_RUN:
            self.held.drop(held)

    async def _find(self, held: HeldRun, lease: Lease) -> StepCall | None:
        """The step that a job is for, found by replaying the code; fails the attempt if the code has no such step."""
        execution = held.execution
        if not execution.was_asked(lease.key):
            await self._replay_to(held, lease.key)
        call = execution.pending(lease.key)
        if call is not None or execution.closed:
            return call
        found = ", ".join(repr(step_id) for step_id in execution.pending_ids()[:10]) or "none"
        message = (
            f"step {lease.step_id!r} was planned, but the code of {lease.app}/{lease.function} does not wait for it; "
            f"steps that it waits for: {found}; bring the step back, or cancel the run"
        )
        failure = Failure("StepNotFoundError", message)
        abandoned = execution.was_asked(lease.key)  # a task that lost a race and was cancelled
        if not abandoned:
            _log.warning("planned_step_not_found", extra={"run_id": lease.run_id, "step_id": lease.step_id})
        if not abandoned and lease.step_attempt < held.function.config.retries:
            delay_ms = self._settings.backoff.delay_ms(lease.step_attempt, random.random())
            error = dumps(failure.to_json())
            await self._retry_step(lease, attempts=lease.step_attempt + 1, error=error, delay_ms=delay_ms)
            return None
        done = self._performer.failed_for_good(lease.step_id, failure, lease.step_attempt, now_ms())
        await self._commit_planned(held, lease, done)
        return None

    async def _replay_to(self, held: HeldRun, key: str) -> None:
        """Let the code run until it asks for a step, or comes to rest without."""
        if held.lease is not None or held.turn.locked():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HOLD_S):
                    await held.execution.asked(key)
            return
        async with held.turn:
            await held.execution.advance()

    async def _retry_step(self, lease: Lease, *, attempts: int, error: bytes, delay_ms: int) -> None:
        await self._broker.run(
            fail_attempt(
                self._keys,
                run_id=lease.run_id,
                job_key=lease.key,
                fence=lease.fence,
                key=lease.key,
                step_id=lease.step_id,
                attempts=attempts,
                error=error,
                delay_ms=delay_ms,
            )
        )
        self.timer_set(delay_ms)

    # -- the end of a run --------------------------------------------------------

    async def _end(self, held: HeldRun, lease: Lease, outcome: Returned | Raised) -> None:
        if isinstance(outcome, Returned):
            limit = held.function.limits.step_output_bytes
            try:
                text = dumps_output(outcome.value, what=f"function {held.function.name!r}", limit_bytes=limit)
            except StepOutputError as error:
                await self._fail(held, lease, error)
            else:
                await self._finish(held, lease, RunStatus.COMPLETED, text)
        else:
            await self._fail(held, lease, outcome.error)

    async def _fail(self, held: HeldRun, lease: Lease, error: BaseException) -> None:
        payload = dumps(Failure.of(error).to_json())
        delay_ms = retry_delay_ms(
            error,
            attempt=lease.attempt,
            retries=held.function.config.retries,
            backoff=self._settings.backoff,
            jitter=random.random(),
            now_ms=now_ms(),
        )
        if delay_ms is None:
            await self._finish(held, lease, RunStatus.FAILED, payload)
            return
        self.failed_jobs += 1
        self.held.drop(held)
        await self._broker.run(
            retry_run(
                self._keys,
                run_id=held.run_id,
                fence=lease.fence,
                attempts=lease.attempt + 1,
                error=payload,
                delay_ms=delay_ms,
            )
        )
        self.timer_set(delay_ms)

    async def _finish(self, held: HeldRun, lease: Lease, status: RunStatus, payload: bytes) -> None:
        ended = self._broker.submit(
            finish_run(
                self._keys,
                run_id=held.run_id,
                fence=lease.fence,
                status=status,
                payload=payload,
                retention_ms=held.function.config.retention_ms,
            )
        )
        if lease.parent:  # in the same round trip; were it lost, the finished event would still be on the stream
            await self.waker.wake(held.run_id)
        code = await ended
        self.held.drop(held)
        if code is Code.DONE:
            self.finished_jobs += 1
            level = logging.INFO if status is RunStatus.COMPLETED else logging.WARNING
            fields: dict[str, Any] = {"run_id": held.run_id, "function": held.function.name, "status": status.value}
            _log.log(level, "run_ended", extra=fields)

    # -- losing a job ------------------------------------------------------------

    def _accepted(self, held: HeldRun, code: Code) -> bool:
        """Whether a transition was accepted; if not, the run is another's now, or has ended, and is let go of."""
        if code in (Code.DONE, Code.ALREADY):
            return True
        if code is Code.STALE_FENCE:
            _log.warning("lease_lost", extra={"run_id": held.run_id, "function": held.function.name})
        self.held.drop(held)
        return False

    async def hand_back(self, leases: list[Lease]) -> None:
        """Return jobs to their queues, for any worker to take at once."""
        if leases:
            await self._broker.run(release_jobs(self._keys, [(lease.job, lease.fence) for lease in leases]))

    def forget(self, run_id: str) -> None:
        """Let go of a run that has ended elsewhere, or whose lease is lost."""
        held = self.held.get(run_id)
        if held is not None:
            self.held.drop(held)
