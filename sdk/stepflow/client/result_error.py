"""The error of a client that waits for a run that gives it no result."""

from __future__ import annotations

from stepflow_broker.transitions.runs.run_record import RunRecord
from stepflow_engine.cipher import Cipher
from stepflow_engine.durations import show_duration
from stepflow_engine.encryption_scopes import end_scopes, open_failure
from stepflow_engine.errors import ResultTimeoutError, RunCancelledError, RunError, RunFailedError, RunSkippedError
from stepflow_engine.failure import Failure
from stepflow_engine.state_machine import RunStatus

__all__ = ["result_error"]


def result_error(run: RunRecord, cipher: Cipher, timeout_ms: int | None) -> RunError:
    """Why a run that has not completed gives no result.

    Args:
        timeout_ms: how long the client has waited, if the run has not ended.

    Raises:
        DecryptionError: the failure of the run cannot be opened.
    """
    match run.status:
        case RunStatus.FAILED:
            failure = run.failure or Failure("Error", "unknown")
            failure = open_failure(cipher, failure, *end_scopes(run.id, run.name, failed=True))
            text = f"run {run.id} of {run.name} failed: {failure.name}: {failure.message}"
            return RunFailedError(run.id, "failed", text, failure=failure)
        case RunStatus.CANCELLED:
            failure = run.failure or Failure("RunCancelledError", "the run was cancelled")
            text = f"run {run.id} of {run.name} was cancelled: {failure.message}"
            return RunCancelledError(run.id, "cancelled", text, failure=failure)
        case RunStatus.SKIPPED:
            text = f"run {run.id} of {run.name} was skipped: {run.reason}"
            return RunSkippedError(run.id, "skipped", text, failure=run.failure)
        case _:
            after = show_duration(timeout_ms or 0)
            text = f"run {run.id} of {run.name} has not ended after {after}; it is {run.status} and continues"
            return ResultTimeoutError(run.id, run.status, text)
