"""The end of a run: its output, its failure, or another attempt at the function."""

from __future__ import annotations

import logging
import random

from stepflow.event import FAILED
from stepflow_broker.codes import Code
from stepflow_broker.jobs import Lease, finish_run, retry_run
from stepflow_engine.codec import dumps, dumps_output
from stepflow_engine.errors import StepOutputError
from stepflow_engine.execution import Raised, Returned
from stepflow_engine.failure import Failure
from stepflow_engine.ids import run_id_for
from stepflow_engine.retry import retry_delay_ms
from stepflow_engine.states import RunStatus
from stepflow_engine.steps import event_text
from stepflow_workers.held import HeldRun
from stepflow_workers.performer import died_text, now_ms
from stepflow_workers.waker import Waker
from stepflow_workers.workbench import Workbench

__all__ = ["RunEnding"]

_log = logging.getLogger("stepflow.worker")


class RunEnding:
    """Ends runs whose code has come to its end."""

    def __init__(self, bench: Workbench, waker: Waker) -> None:
        self._bench = bench
        self._waker = waker

    async def end(self, held: HeldRun, lease: Lease, outcome: Returned | Raised) -> None:
        """Store the output, or the failure, or have the function run again from its memos."""
        match outcome:
            case Returned(value):
                await self._complete(held, lease, value)
            case Raised(error):
                await self._fail(held, lease, error)

    async def poison(self, held: HeldRun, lease: Lease) -> None:
        """Fail a run whose code, outside of any step, has killed its workers."""
        failure = Failure("PoisonError", died_text(lease.deaths, "this run's code"))
        await self._finish(held, lease, RunStatus.FAILED, dumps(failure.to_json()))

    async def _complete(self, held: HeldRun, lease: Lease, value: object) -> None:
        limit = held.function.limits.step_output_bytes
        try:
            text = dumps_output(value, what=f"function {held.function.name!r}", limit_bytes=limit)
        except StepOutputError as error:
            await self._fail(held, lease, error)
        else:
            await self._finish(held, lease, RunStatus.COMPLETED, text)

    async def _fail(self, held: HeldRun, lease: Lease, error: BaseException) -> None:
        bench, payload = self._bench, dumps(Failure.of(error).to_json())
        delay_ms = retry_delay_ms(
            error,
            attempt=lease.attempt,
            retries=held.function.config.retries,
            backoff=bench.settings.backoff,
            jitter=random.random(),
            now_ms=now_ms(),
        )
        if delay_ms is None:
            await self._finish(held, lease, RunStatus.FAILED, payload)
            return
        bench.failed_jobs += 1
        bench.held.drop(held)
        await bench.broker.run(
            retry_run(
                bench.keys,
                run_id=held.run_id,
                fence=lease.fence,
                attempts=lease.attempt + 1,
                error=payload,
                delay_ms=delay_ms,
            )
        )
        bench.timer_set(delay_ms)

    async def _finish(self, held: HeldRun, lease: Lease, status: RunStatus, payload: bytes) -> None:
        bench = self._bench
        ended = bench.broker.submit(
            finish_run(
                bench.keys,
                run_id=held.run_id,
                fence=lease.fence,
                status=status,
                payload=payload,
                retention_ms=held.function.config.retention_ms,
                failed_event=_failed_event(held, payload) if status is RunStatus.FAILED else (b"", ""),
            )
        )
        if lease.parent:  # in the same round trip; were it lost, the finished event would still be on the stream
            await self._waker.wake(held.run_id)
        elif held.function.is_batched:
            await self._waker.end_batch(held.run_id)
        code = await ended
        bench.held.drop(held)
        if code is Code.DONE:
            bench.finished_jobs += 1
            level = logging.INFO if status is RunStatus.COMPLETED else logging.WARNING
            fields = {"run_id": held.run_id, "function": held.function.name, "status": status.value}
            _log.log(level, "run_ended", extra=fields)


def _failed_event(held: HeldRun, error: bytes) -> tuple[bytes, str]:
    """The event that tells of a failed run, and its id."""
    event_id = run_id_for(held.run_id, FAILED)
    head = dumps({"function": held.function.name, "run_id": held.run_id})[:-1]
    data = head + b',"error":' + error + b',"event":' + held.event + b"}"
    return event_text(FAILED, id=event_id, ts=now_ms(), data=data), event_id
