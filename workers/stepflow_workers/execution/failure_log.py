"""The log lines of attempts that failed and of runs that ended."""

from __future__ import annotations

import logging

from stepflow import Function
from stepflow_engine.durations import show_duration
from stepflow_engine.failure import Failure
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.terminal_text import one_line_failure

__all__ = [
    "log_failed_attempt",
    "log_next_round",
    "log_run_ended",
    "log_run_undoing",
    "log_run_undone",
    "shown_failure",
]

_log = logging.getLogger(WORKER_LOGGER)
_LONGEST_ERROR = 300


def log_failed_attempt(
    function: Function, run_id: str, failure: Failure, *, step_id: str = "", attempt: int, delay_ms: int
) -> None:
    """Log an attempt that failed and is tried again.

    Args:
        step_id: the step; ``""``: the code between steps.
        attempt: the number of the attempt, 1-based.
        delay_ms: when the next attempt is due.
    """
    _log.info(
        "attempt_failed",
        extra={
            "run_id": run_id,
            "function": function.name,
            "step_id": step_id,
            "attempt": attempt,
            "retry_in": show_duration(delay_ms),
            "error": shown_failure(function, failure),
        },
    )


def log_run_ended(function: Function, run_id: str, failure: Failure | None) -> None:
    """Log the end of a run: completed, or failed with this failure."""
    if failure is None:
        _log.info("run_ended", extra={"run_id": run_id, "function": function.name, "status": "completed"})
    else:
        error = shown_failure(function, failure)
        _log.warning(
            "run_ended", extra={"run_id": run_id, "function": function.name, "status": "failed", "error": error}
        )


def log_next_round(function: Function, run_id: str, number: int) -> None:
    """Log that a run has continued as new."""
    _log.info("run_continued", extra={"run_id": run_id, "function": function.name, "round": number})


def log_run_undoing(function: Function, run_id: str, failure: Failure) -> None:
    """Log that a run has failed for good, and undoes its steps before it ends."""
    _log.warning(
        "run_undo_started",
        extra={"run_id": run_id, "function": function.name, "error": shown_failure(function, failure)},
    )


def log_run_undone(function: Function, run_id: str, status: str) -> None:
    """Log the end of a run whose steps were undone."""
    _log.warning("run_ended", extra={"run_id": run_id, "function": function.name, "status": status})


def shown_failure(function: Function, failure: Failure) -> str:
    """Name and message of a failure; only the name if the app encrypts messages."""
    return failure.name if function.cipher.encrypts else one_line_failure(failure, _LONGEST_ERROR)
