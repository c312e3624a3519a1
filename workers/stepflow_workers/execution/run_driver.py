"""RunDriver: a continuation job, which drives the code of a run from step to step.

It executes a single step itself, under its own lease. Several parallel steps become jobs of their own, which any worker
may take. Invokes become child runs. Meanwhile the driver keeps the code in memory, with the lease but without a slot,
and receives the memos. When no memo arrives for a while, it parks the run: it gives up the lease, and the next memo
queues the continuation again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Self

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.continuations import park_run, yield_run
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.run_notes import forget_deaths, note_patches, note_undo, set_values, tag_run
from stepflow_broker.transitions.steps.step_jobs import commit_step
from stepflow_broker.transitions.steps.step_record import StepRecord, read_steps
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import values_scope
from stepflow_engine.errors import MapItemsError, StepKindError, StepUsageError
from stepflow_engine.execution import Outcome, Raised, Returned, Waiting
from stepflow_engine.steps import MapRequest, RunRequest
from stepflow_workers.execution.cancelled_steps import drop_cancelled_steps
from stepflow_workers.execution.history_check import check_history, check_planned_steps
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.run_completion import complete_run
from stepflow_workers.execution.run_loader import catch_up
from stepflow_workers.execution.step_planner import start_steps
from stepflow_workers.execution.steps.run import StepFinished, StepRetry
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.state.run_cache import IDLE_HOLD_S, CachedRun

__all__ = ["RunDriver"]


class RunDriver:
    """One continuation job. As a context manager it has the run for itself."""

    def __init__(self, context: JobContext, run: CachedRun, lease: Lease) -> None:
        self._context = context
        self._state = context.state
        self._run = run
        self._lease = lease
        self._budget = context.state.settings.sticky
        self._may_be_planned = lease.planned

    async def __aenter__(self) -> Self:
        run, lease = self._run, self._lease
        run.lease, run.deaths = lease, lease.deaths
        await run.lock.acquire()
        run.execution.is_driven, run.execution.activity.on_touch = True, None
        run.execution.request_again()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._run.execution.is_driven = False
        self._run.lock.release()

    async def replay(self) -> StepAttempt[RunRequest] | None:
        """Advance the code to the next step that this job executes itself.

        ``None``: the run has ended, is parked, or is back in its queue.
        """
        run, lease = self._run, self._lease
        continues = True
        while continues:
            outcome = await self._advance()
            if run.execution.closed:  # dropped meanwhile: the lease is lost, the run has ended, or the worker stops
                await self._state.release([lease])
                return None
            if run.has_unstored and not await self._store_facts():
                return None
            if run.execution.may_differ:
                checked = await check_history(self._state, run, lease, outcome)
                if checked is None:
                    return None
                outcome = checked
            if not isinstance(outcome, Waiting):
                continues = await self._end(outcome)
                continue
            if self._state.pauses.is_paused(run):
                await self._yield()
                return None
            if run.execution.cancelled and not await drop_cancelled_steps(self._state, run, lease):
                return None
            fresh = [call for call in outcome.fresh if call.key not in run.planned]
            if fresh and self._may_be_planned:
                continues = await self._read_planned(outcome)
            elif (
                fresh
                and outcome.alone
                and isinstance(request := fresh[0].request, RunRequest)
                and (request.placement is None or not request.placement.queue)  # else it is a job of its own
            ):
                self._budget -= 1
                return StepAttempt(run, lease, fresh[0], request, deaths=run.deaths)
            elif fresh:
                continues = await start_steps(self._context, run, lease, fresh)
            elif outcome.blocked:
                continues = await self._wait()
        return None

    async def _end(self, outcome: Returned | Raised) -> bool:
        """End the run, or wait until its children have ended; true if it continues here."""
        run = self._run
        if self._may_be_planned and isinstance(outcome, Returned) and not run.execution.has_left_steps:
            return await self._read_planned(outcome)  # the code has not requested what is planned
        if await complete_run(self._context, run, self._lease, outcome):
            return False
        return await self._park(run.execution.applied)

    def commit(self, attempt: StepAttempt[RunRequest], result: StepFinished | StepRetry) -> Awaitable[bool]:
        """Store the result of the step; true if the run continues here."""
        match result:
            case StepFinished():
                return self._commit(attempt, result)
            case StepRetry():
                return self._plan_retry(attempt, result)

    # -- replay ------------------------------------------------------------------

    def _advance(self) -> Awaitable[Outcome]:
        """Let the code continue. While it waits for planned steps, the job does not occupy a slot."""
        return self._advance_without_slot() if self._run.planned else self._run.execution.advance()

    async def _advance_without_slot(self) -> Outcome:
        with self._state.slots.released():
            return await self._run.execution.advance()

    async def _store_facts(self) -> bool:
        """Store what the code has said of the run: patches, tags, values, undo; false if the lease is lost."""
        return (
            await self._store_patches()
            and await self._store_tags()
            and await self._store_values()
            and await self._note_undo()
        )

    async def _store_patches(self) -> bool:
        """Store what the code has decided at patches, if it is new; false if the lease is lost."""
        run, decisions = self._run, dict(self._run.execution.patches.decisions)
        if len(decisions) == run.stored_patches:
            return True
        code = await self._state.broker.execute(
            note_patches(self._state.partition, run_id=run.run_id, fence=self._lease.fence, patches=decisions)
        )
        run.stored_patches = len(decisions)
        return self._state.accepted(run, code)

    async def _store_tags(self) -> bool:
        """Store the tags that the code has given to the run, if they are new; false if the lease is lost."""
        run, tags = self._run, dict(self._run.execution.tags)
        if tags == run.stored_tags:
            return True
        code = await self._state.broker.execute(
            tag_run(self._state.partition, run_id=run.run_id, fence=self._lease.fence, tags=tags)
        )
        run.stored_tags = tags
        return self._state.accepted(run, code)

    async def _store_values(self) -> bool:
        """Store what the code has set, if it is new; false if the lease is lost."""
        run, values = self._run, dict(self._run.execution.values)
        if values == run.stored_values:
            return True
        text = b"{" + b",".join(dumps(key) + b":" + value for key, value in values.items()) + b"}"
        sealed = run.function.cipher.seal(text, values_scope(run.run_id))
        code = await self._state.broker.execute(
            set_values(self._state.partition, run_id=run.run_id, fence=self._lease.fence, values=sealed)
        )
        run.stored_values = values
        return self._state.accepted(run, code)

    async def _note_undo(self) -> bool:
        """Store that the code has requested a step with an undo handler; false if the lease is lost."""
        run = self._run
        if run.has_stored_undo or not run.execution.has_undo:
            return True
        code = await self._state.broker.execute(
            note_undo(self._state.partition, run_id=run.run_id, fence=self._lease.fence)
        )
        run.has_stored_undo = True
        return self._state.accepted(run, code)

    async def _read_planned(self, outcome: Outcome) -> bool:
        """Read which steps an earlier holder of the run has planned, and then the memos of those that have finished.

        The earlier holder may have had other code, in which the id of a step belonged to a step of another kind. False:
        the run is left to workers with such code, or set aside.
        """
        run, state = self._run, self._state
        steps = await state.broker.execute(read_steps(state.partition, run.run_id))
        errors = {step.key: error for step in steps if (error := self._other_code(step)) is not None}
        run.execution.has_other_kind = bool(errors)
        if not await check_planned_steps(state, run, self._lease, outcome, steps):
            return False
        for key, error in errors.items():
            run.execution.refuse(key, error)
        planned = (step for step in steps if step.state and not step.has_early_events and not step.is_item)
        run.planned.update(step.key for step in planned)
        await catch_up(state, run)
        run.execution.request_again()
        self._may_be_planned = False
        return True

    def _other_code(self, step: StepRecord) -> StepUsageError | None:
        """The error for a step that the code requests, if a step of another kind, or a map of others, has its id."""
        call = self._run.execution.pending(step.key)
        if call is None or not step.state:
            return None
        request = call.request
        if request.kind != step.kind:
            return StepKindError(call.id, stored=step.kind, requested=request.kind)
        if isinstance(request, MapRequest) and step.items is not None and step.items.digest != request.items.digest:
            return MapItemsError(call.id, began_with=step.items.count, has=len(request.items.values))
        return None

    # -- commit ------------------------------------------------------------------

    async def _commit(self, attempt: StepAttempt[RunRequest], result: StepFinished) -> bool:
        state, run, lease = self._state, self._run, self._lease
        continues = self._budget > 0 and not state.stopping and not state.suspended
        key = attempt.call.key
        code, position = await state.broker.execute(
            commit_step(state.partition, run_id=run.run_id, fence=lease.fence, key=key, memo=result.text)
        )
        if not state.accepted(run, code):
            return False
        state.finished_jobs += 1
        run.apply_memo(position, key, result.memo, len(result.text))
        if not continues:  # after the reply: if the server refused the memo, the run would be queued without it
            await self._yield()
            if not state.settings.sticky:
                state.cache.drop(run)
        return continues

    async def _plan_retry(self, attempt: StepAttempt[RunRequest], retry: StepRetry) -> bool:
        """Plan the next attempt of a step that failed, as a job of its own."""
        self._state.failed_jobs += 1
        code = await self._state.plan_retry(
            self._lease,
            attempt.key,
            attempt.id,
            attempts=retry.attempts,
            error=retry.error,
            delay_ms=retry.delay_ms,
            attempt=retry.attempt,
        )
        self._run.planned.add(attempt.key)
        return self._state.accepted(self._run, code)

    async def _yield(self) -> None:
        """Return the run to its queue."""
        state = self._state
        await state.broker.execute(yield_run(state.partition, run_id=self._run.run_id, fence=self._lease.fence))

    # -- waiting -----------------------------------------------------------------

    async def _wait(self) -> bool:
        """Wait for memos with the code in memory but without a slot, then park the run; true if the run continues here.

        The script parks the run only if the code has applied all stored memos. Otherwise nothing would queue the run
        for a memo that was stored in between.
        """
        state, run, applied = self._state, self._run, self._run.execution.applied
        await self._forget_deaths()
        if self._may_hold() and not run.planned <= run.distant_waits:
            with state.slots.released():
                if await self._memo_arrives():
                    return True
        if run.execution.applied > applied:
            return True
        return await self._park(applied)

    def _may_hold(self) -> bool:
        """Whether the code may stay in memory with its lease. A lease with a concurrency slot blocks other runs."""
        state = self._state
        return (
            bool(state.settings.sticky)
            and state.settings.holds_runs
            and not state.stopping
            and len(state.cache) <= state.settings.cached_runs
            and not self._run.function.limits_steps
        )

    async def _park(self, applied: int) -> bool:
        state, run = self._state, self._run
        code = await state.broker.execute(
            park_run(state.partition, run_id=run.run_id, fence=self._lease.fence, applied=applied)
        )
        if code is ScriptStatus.MORE:
            await catch_up(state, run)
            return True
        if code is ScriptStatus.ALREADY:  # the server has lost what this execution waits for
            state.cache.drop(run)
            await state.release([self._lease])
            return False
        state.accepted(run, code)
        if not state.settings.sticky:
            state.cache.drop(run)
        elif code is ScriptStatus.DONE and not run.execution.closed:
            state.watch_parked(run)
        return False

    async def _forget_deaths(self) -> None:
        """Clear the deaths: the code is suspended, so it is not what killed its workers."""
        if self._run.deaths:
            self._run.deaths = ()
            await self._state.broker.execute(forget_deaths(self._state.partition, self._run.run_id))

    async def _memo_arrives(self) -> bool:
        """Wait for a memo; false after `IDLE_HOLD_S` without one, or when the worker stops."""
        try:
            async with asyncio.timeout(IDLE_HOLD_S):
                await self._run.execution.activity.changed()
        except TimeoutError:
            return False
        return not self._state.stopping
