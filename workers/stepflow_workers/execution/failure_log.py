"""The log lines of attempts that failed and of runs that ended."""

from __future__ import annotations

import logging

from stepflow_engine.durations import show_duration
from stepflow_engine.failure import Failure
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.terminal_text import one_line_failure
from stepflow_workers.state.run_cache import CachedRun

__all__ = ["log_failed_attempt", "log_run_ended"]

_log = logging.getLogger(WORKER_LOGGER)
_LONGEST_ERROR = 300


def log_failed_attempt(run: CachedRun, failure: Failure, *, step_id: str = "", attempt: int, delay_ms: int) -> None:
    """Log an attempt that failed and is tried again.

    Args:
        step_id: the step; ``""``: the code between steps.
        attempt: the number of the attempt, 1-based.
        delay_ms: when the next attempt is due.
    """
    _log.info(
        "attempt_failed",
        extra={
            "run_id": run.run_id,
            "function": run.function.name,
            "step_id": step_id,
            "attempt": attempt,
            "retry_in": show_duration(delay_ms),
            "error": _error(run, failure),
        },
    )


def log_run_ended(run: CachedRun, failure: Failure | None) -> None:
    """Log the end of a run: completed, or failed with this failure."""
    run_id, function = run.run_id, run.function.name
    if failure is None:
        _log.info("run_ended", extra={"run_id": run_id, "function": function, "status": "completed"})
    else:
        error = _error(run, failure)
        _log.warning("run_ended", extra={"run_id": run_id, "function": function, "status": "failed", "error": error})


def _error(run: CachedRun, failure: Failure) -> str:
    """Name and message of a failure; only the name if the app encrypts messages."""
    return failure.name if run.function.cipher.encrypts else one_line_failure(failure, _LONGEST_ERROR)
