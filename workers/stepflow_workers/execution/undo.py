"""Finds the completed steps that a run undoes before it ends, and reports the undo handlers that failed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stepflow import Function
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import event_scope
from stepflow_engine.ids import run_id_for
from stepflow_engine.memo import Memo
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.run_events import UNDO_FAILED
from stepflow_engine.steps import event_text
from stepflow_engine.undo import UndoCollector, UndoFailure, UndoStep, collect, has_undo, undo_steps
from stepflow_workers.execution.failure_log import shown_failure

__all__ = ["log_undo_failures", "undo_failed_event", "undo_steps_of"]

_log = logging.getLogger(WORKER_LOGGER)


async def undo_steps_of(
    function: Function, lease: Lease, collector: UndoCollector, memos: Sequence[tuple[str, Memo]]
) -> list[UndoStep]:
    """The completed steps of a run that have an undo handler, the latest first.

    Args:
        collector: a new pass of the function.
        memos: all memos of the run by key, in their order.
    """
    collector.add(memos)
    why = await collect(collector, frozenset(key for key, memo in memos if has_undo(memo)))
    steps = undo_steps(memos, collector.requests, why)
    _log.info(
        "run_undoing",
        extra={"run_id": lease.run_id, "function": function.name, "status": lease.undoing, "count": len(steps)},
    )
    return steps


def undo_failed_event(
    function: Function, lease: Lease, event: bytes, failures: Sequence[UndoFailure], *, now_ms: int
) -> tuple[bytes, str]:
    """The event that reports undo handlers that failed, and its id.

    Args:
        event: the JSON text of the event of the run, with decrypted data.
    """
    if not failures:
        return b"", ""
    event_id = run_id_for(lease.run_id, UNDO_FAILED)
    steps = [failure.to_json() for failure in failures]
    fields = {"function": function.name, "run_id": lease.run_id, "status": lease.undoing, "steps": steps}
    data = dumps(fields)[:-1] + b',"event":' + event + b"}"
    sealed = function.cipher.seal(data, event_scope(event_id))
    return event_text(UNDO_FAILED, id=event_id, ts=now_ms, data=sealed), event_id


def log_undo_failures(function: Function, run_id: str, failures: Sequence[UndoFailure]) -> None:
    """Log each undo handler that failed for good."""
    for one in failures:
        error = shown_failure(function, one.failure)
        _log.error(
            "undo_failed",
            extra={"run_id": run_id, "function": function.name, "step_id": one.step_id, "error": error},
        )
