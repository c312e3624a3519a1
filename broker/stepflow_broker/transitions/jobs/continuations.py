"""Continuations: the job of a run that replays its code. Queue it again, delay it, park it, begin the next round."""

from __future__ import annotations

from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.event_values import id_digest

__all__ = ["continue_as_new", "continue_run", "park_run", "retry_run", "yield_run"]


def yield_run(partition: Partition, *, run_id: str, fence: int) -> Command[ScriptStatus]:
    """Queue the continuation again and end its lease. DONE, NO_RUN or STALE_FENCE."""
    return run_script(
        "yield_run", ScriptStatus, partition.run_keys(run_id, "RUN"), partition.clock.script_ms(), run_id, fence
    )


def retry_run(
    partition: Partition,
    *,
    run_id: str,
    fence: int,
    attempts: int,
    error: bytes,
    delay_ms: int,
    reason: str = "",
    longest_delay_ms: int = 0,
    attempt: bytes = b"",
) -> Command[ScriptStatus]:
    """Delay the continuation, which then runs the function again. DONE, NO_RUN or STALE_FENCE.

    Args:
        partition: any partition of the server.
        run_id: the run.
        fence: the fence of its continuation.
        attempts: how many attempts of the function's own code have failed.
        error: the failure of the last of them, as JSON text; ``b""``: unchanged.
        delay_ms: the delay, in milliseconds.
        reason: why the worker cannot execute the run; ``""``: it can.
        attempt: the failed attempt, for the history of the run; see `attempt_detail`. ``b""``: there was none.
        longest_delay_ms: the delay doubles with each such call in a row, up to this, in milliseconds; 0: it does not.
    """
    return run_script(
        "retry_run",
        ScriptStatus,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        fence,
        attempts,
        error,
        delay_ms,
        reason,
        longest_delay_ms,
        attempt,
    )


def park_run(partition: Partition, *, run_id: str, fence: int, applied: int) -> Command[ScriptStatus]:
    """Store that a run waits, and end its lease. DONE, MORE (a memo has arrived: lease kept), NO_RUN or STALE_FENCE."""
    return run_script(
        "park_run",
        ScriptStatus,
        partition.run_keys(run_id, "RUN", "MEMO_ORDER"),
        partition.clock.script_ms(),
        run_id,
        fence,
        applied,
    )


def continue_as_new(
    partition: Partition,
    *,
    run_id: str,
    fence: int,
    round: int,
    event: bytes,
    digest: str,
    own_event: str,
    keep_version: bool = False,
) -> Command[ScriptStatus]:
    """End a round of a run and queue the run for the next one. DONE, ALREADY, NO_RUN or STALE_FENCE.

    Args:
        round: the round that ends.
        event: the event of the next round, as JSON text.
        digest: identifies the event of this round; see `stepflow_engine.rounds.PastRound`.
        own_event: the id of the event that has started the run, which ends no wait of the next round; ``""``: it is
            known already.
        keep_version: a pinned run stays with the version that it has.
    """
    kinds = ("RUN", "MEMOS", "MEMO_ORDER", "STEPS", "ATTEMPTS", "DELIVERED", "SIGNAL_IDS")
    return run_script(
        "continue_as_new",
        ScriptStatus,
        partition.run_keys(run_id, *kinds),
        partition.clock.script_ms(),
        run_id,
        fence,
        round,
        event,
        digest,
        id_digest(own_event),
        int(keep_version),
    )


def continue_run(partition: Partition, run_id: str) -> Command[ScriptStatus]:
    """Queue the continuation of a parked run whose code has continued. DONE, ALREADY (it has one) or NO_RUN."""
    return run_script(
        "continue_run", ScriptStatus, partition.run_keys(run_id, "RUN"), partition.clock.script_ms(), run_id
    )
