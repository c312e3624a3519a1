"""Steps that call handlers: plan them as jobs, store their memos, and delay their next attempts."""

from __future__ import annotations

from collections.abc import Sequence

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus

__all__ = ["commit_planned_step", "commit_step", "fail_attempt", "plan_steps"]


def commit_step(
    partition: Partition, *, run_id: str, fence: int, key: str, memo: bytes
) -> Command[tuple[ScriptStatus, int]]:
    """Store the memo of a step that the continuation has executed. Returns a status and the position of the memo.

    DONE, ALREADY, NO_RUN or STALE_FENCE. The worker keeps the lease of the continuation.
    """
    return run_script(
        "commit_step",
        replies.status_and_number,
        partition.run_keys(run_id, "RUN", "MEMOS", "MEMO_ORDER"),
        fence,
        key,
        memo,
    )


def commit_planned_step(
    partition: Partition, *, run_id: str, key: str, fence: int, memo: bytes, worker: str
) -> Command[tuple[ScriptStatus, int]]:
    """Store the memo of a planned step, and end its job. DONE, ALREADY, NO_RUN or STALE_FENCE, and the position."""
    return run_script(
        "commit_planned_step",
        replies.status_and_number,
        partition.run_keys(run_id, "RUN", "MEMOS", "MEMO_ORDER"),
        partition.clock.script_ms(),
        run_id,
        key,
        fence,
        memo,
        worker,
    )


def plan_steps(
    partition: Partition, *, run_id: str, fence: int, steps: Sequence[tuple[str, str]], queue: str = ""
) -> Command[ScriptStatus]:
    """Queue a job for each of the steps (key, id). DONE, NO_RUN or STALE_FENCE.

    Args:
        queue: the queue of the jobs; ``""``: that of the run.
    """
    args = [part for step in ([("queue", queue), *steps] if queue else steps) for part in step]
    return run_script(
        "plan_steps",
        ScriptStatus,
        partition.run_keys(run_id, "RUN", "MEMOS", "STEPS"),
        partition.clock.script_ms(),
        run_id,
        fence,
        *args,
    )


def fail_attempt(
    partition: Partition,
    *,
    run_id: str,
    job_key: str,
    fence: int,
    key: str,
    step_id: str,
    attempts: int,
    error: bytes,
    delay_ms: int,
    longest_delay_ms: int = 0,
    attempt: bytes = b"",
) -> Command[ScriptStatus]:
    """Record that a step has failed ``attempts`` times, and delay its next attempt.

    DONE, ALREADY, NO_RUN or STALE_FENCE.

    Args:
        partition: any partition of the server.
        run_id: the run.
        job_key: the key of the step whose job was claimed; ``""``: the continuation has executed the step.
        fence: the fence of that job.
        key, step_id: the step.
        attempts: how many attempts have failed. A worker that leaves the step to others does not change the number.
        error: the failure of the last attempt, as JSON text.
        delay_ms: the delay before the next attempt, in milliseconds.
        attempt: the failed attempt, for the history of the run; see `attempt_detail`. ``b""``: there was none.
        longest_delay_ms: the delay doubles with each such call in a row, up to this, in milliseconds; 0: it does not.
    """
    return run_script(
        "fail_attempt",
        ScriptStatus,
        partition.run_keys(run_id, "RUN", "STEPS"),
        partition.clock.script_ms(),
        run_id,
        job_key,
        fence,
        key,
        step_id,
        attempts,
        error,
        delay_ms,
        longest_delay_ms,
        attempt,
    )
