"""Deferring a job: it returns to its queue after a delay, with the reason, and no attempt is spent."""

from __future__ import annotations

import random

from stepflow_broker.transitions.jobs import Lease, retry_run
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["MISSING_MS", "defer_job"]

MISSING_MS = (1_000, 30_000)
"""The delay of a job that needs what this worker does not have: code, or a key. Another worker may have it."""


async def defer_job(state: WorkerState, lease: Lease, kind: str, reason: str, *, delay_ms: tuple[int, int]) -> None:
    """Return a job to its queue after a random delay. `stepflow explain` shows the reason.

    Args:
        kind: names the reason, as the name of an error.
        delay_ms: the least and the greatest delay.
    """
    delay = random.randint(*delay_ms)
    if lease.key:
        error = dumps(Failure(kind, reason).to_json())
        await state.fail_attempt(
            lease, lease.key, lease.step_id, attempts=lease.step_attempt, error=error, delay_ms=delay
        )
        return
    await state.broker.execute(
        retry_run(
            state.keys,
            run_id=lease.run_id,
            fence=lease.fence,
            attempts=lease.attempt,
            error=b"",
            delay_ms=delay,
            reason=reason,
        )
    )
    state.signals.timer_set(lease.run_id, delay)
