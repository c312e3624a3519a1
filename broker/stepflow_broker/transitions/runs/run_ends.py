"""The end of a run: its output or its error, and the end of its undo handlers."""

from __future__ import annotations

from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_engine.error_group import FailedLike
from stepflow_engine.state_machine import RunStatus

__all__ = ["end_undo", "finish_run"]


def finish_run(
    partition: Partition,
    *,
    run_id: str,
    fence: int,
    status: RunStatus,
    payload: bytes,
    retention_ms: int,
    failed_event: tuple[bytes, str] = (b"", ""),
    version: str | None = None,
    failed_like: FailedLike | None = None,
) -> Command[ScriptStatus]:
    """End a run with its output or its error. DONE, MORE (it undoes its steps first), ALREADY, NO_RUN or STALE_FENCE.

    Args:
        partition: any partition of the server.
        run_id: the run.
        fence: the fence of its continuation.
        status: completed or failed.
        payload: the output or the failure, as JSON text.
        retention_ms: how long the ended run is kept, in milliseconds.
        failed_event: text and id of the event ``stepflow/function.failed``; empty: the run has not failed.
        version: the version of the code that ends it; ``None``: that of the run.
        failed_like: the group of the failure; ``None``: it belongs to none.
    """
    like = failed_like or FailedLike("", "", "", "")
    field = "output" if status is RunStatus.COMPLETED else "error"
    return run_script(
        "finish_run",
        ScriptStatus,
        (partition.run_key("RUN", run_id), partition.of(run_id).keys("EVENTS")),
        partition.clock.script_ms(),
        run_id,
        fence,
        status.value,
        field,
        payload,
        retention_ms,
        *failed_event,
        version or "",
        like.group,
        like.step,
        like.name,
        like.message,
    )


def end_undo(
    partition: Partition,
    *,
    run_id: str,
    fence: int,
    retention_ms: int,
    version: str | None = None,
    undo_failed_event: tuple[bytes, str] = (b"", ""),
) -> Command[ScriptStatus]:
    """End a run whose undo handlers were executed, as it has stored. DONE, ALREADY, NO_RUN or STALE_FENCE.

    Args:
        partition: any partition of the server.
        run_id: the run.
        fence: the fence of its continuation.
        retention_ms: how long the ended run is kept, in milliseconds.
        version: the version of the code that ends it; ``None``: that of the run.
        undo_failed_event: text and id of the event ``stepflow/function.undo_failed``; empty: none has failed.
    """
    return run_script(
        "end_undo",
        ScriptStatus,
        (
            partition.run_key("RUN", run_id),
            partition.of(run_id).keys("EVENTS"),
            partition.of(run_id).keys("UNDO_FAILURES"),
        ),
        partition.clock.script_ms(),
        run_id,
        fence,
        retention_ms,
        version or "",
        *undo_failed_event,
    )
