"""Every error that stepflow raises, in one tree.

::

    StepflowError
    ├─ NonRetriableError            raise it to stop retrying
    ├─ RetryAfterError              raise it to say when to try again
    ├─ StepError                    a step failed for good
    │  └─ InvokeError               an invoked function failed for good (also a NonRetriableError)
    │     ├─ FunctionNotFoundError
    │     ├─ InvokeTimeoutError
    │     ├─ InvokeSkippedError
    │     └─ InvokeCancelledError
    ├─ StepOutputError              a result is not JSON, or is over a limit
    ├─ StepUsageError               step tools used in a way that cannot work
    ├─ LimitError                   a run is over one of the limits
    ├─ EventError                   an event is not JSON, or is over a limit
    ├─ RunError                     the producer's side of a run
    │  ├─ RunFailedError
    │  ├─ RunCancelledError
    │  ├─ RunSkippedError
    │  ├─ RunNotFoundError
    │  └─ ResultTimeoutError
    ├─ DecryptionError              an encrypted payload cannot be opened
    │  └─ EncryptionKeyMissingError           this process has not its key
    ├─ ConfigurationError           names the setting and the fix
    │  └─ PermissionDeniedError         the server's user may not do this
    └─ BackendUnavailableError                  the Redis server cannot be used now
       ├─ CorruptDataError           what the server has was damaged, or was not written by stepflow
       └─ ReplicationError          it has what was sent, and no replica has confirmed it
"""

from __future__ import annotations

from datetime import UTC, datetime

from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.failure import Failure

__all__ = [
    "BackendUnavailableError",
    "ConfigurationError",
    "CorruptDataError",
    "DecryptionError",
    "EncryptionKeyMissingError",
    "EventError",
    "FunctionNotFoundError",
    "InvokeCancelledError",
    "InvokeError",
    "InvokeSkippedError",
    "InvokeTimeoutError",
    "LimitError",
    "NonRetriableError",
    "PermissionDeniedError",
    "ReplicationError",
    "ResultTimeoutError",
    "RetryAfterError",
    "RunCancelledError",
    "RunError",
    "RunFailedError",
    "RunNotFoundError",
    "RunSkippedError",
    "StepError",
    "StepOutputError",
    "StepUsageError",
    "StepflowError",
]


class StepflowError(Exception):
    """The root of the tree."""


class NonRetriableError(StepflowError):
    """Raise it in a step or a function to fail at once, whatever retries are left."""


class RetryAfterError(StepflowError):
    """Raise it in a step or a function to be tried again, but not before a given time.

    Args:
        message: what went wrong.
        retry_after: seconds, a duration, a timedelta, or a datetime (a naive one is UTC).

    Raises:
        ValueError: ``retry_after`` is neither a duration nor a datetime.
    """

    def __init__(self, message: str, retry_after: Duration | datetime) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        if not isinstance(retry_after, datetime):
            duration_ms(retry_after, name="retry_after")

    def delay_ms(self, now_ms: int) -> int:
        """How long to wait from ``now_ms`` (milliseconds since the epoch), in milliseconds."""
        if not isinstance(self.retry_after, datetime):
            return duration_ms(self.retry_after, name="retry_after")
        at = self.retry_after
        moment = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0, round(moment.timestamp() * 1000) - now_ms)


class StepError(StepflowError):
    """A step failed for good; raised at its ``await``, and memoised.

    Attributes:
        step_id: the id that was given to the step.
        name, message, traceback, cause: those of the error that the handler raised.
    """

    def __init__(self, step_id: str, failure: Failure) -> None:
        super().__init__(failure.message)
        self.step_id = step_id
        self.failure = failure
        self.name = failure.name
        self.message = failure.message
        self.traceback = failure.traceback
        self.cause = failure.cause

    def __str__(self) -> str:
        return f"step {self.step_id!r} failed: {self.name}: {self.message}"


class InvokeError(StepError, NonRetriableError):
    """An invoked function did not give a result.

    Attributes:
        function_id: the function that was invoked.
        run_id: the child's run; ``""`` when none was started.
    """

    def __init__(self, step_id: str, failure: Failure, *, function_id: str = "", run_id: str = "") -> None:
        super().__init__(step_id, failure)
        self.function_id = function_id
        self.run_id = run_id

    def __str__(self) -> str:
        return self.message


class FunctionNotFoundError(InvokeError):
    """No worker has registered the function that was invoked."""


class InvokeTimeoutError(InvokeError):
    """The invoked function did not finish in time; it keeps running."""


class InvokeSkippedError(InvokeError):
    """The invoked function was not run: rate limited, debounced away, skipped as a singleton, paused, or a duplicate.

    Attributes:
        reason: which of these.
    """

    def __init__(
        self, step_id: str, failure: Failure, *, function_id: str = "", run_id: str = "", reason: str = ""
    ) -> None:
        super().__init__(step_id, failure, function_id=function_id, run_id=run_id)
        self.reason = reason


class InvokeCancelledError(InvokeError):
    """The invoked run was cancelled."""


class StepOutputError(StepflowError):
    """A result cannot be kept: it is not JSON, or it is over a limit. It is not retried."""


class StepUsageError(StepflowError, ValueError):
    """Step tools were used in a way that cannot work, such as a step inside a step's handler. It is not retried."""


class LimitError(StepflowError):
    """A run is over one of the limits: steps per run, or the size of its state. It is not retried."""


class EventError(StepflowError):
    """An event cannot be sent: its data is not JSON, or it is over a limit. In a function, it is not retried."""


class RunError(StepflowError):
    """A run, seen from a producer, did not give a result.

    Attributes:
        run_id: the run.
        status: the run's status when this was raised.
        name, message: those of the error that ended the run, where there is one.
        failure: the whole error that ended the run, or ``None``.
    """

    def __init__(self, run_id: str, status: str, message: str, *, failure: Failure | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.status = status
        self.failure = failure
        self.name = failure.name if failure else type(self).__name__
        self.message = failure.message if failure else message


class RunFailedError(RunError):
    """The run failed."""


class RunCancelledError(RunError):
    """The run was cancelled."""


class RunSkippedError(RunError):
    """The run was not started: its function's flow control skipped it."""


class RunNotFoundError(RunError):
    """There is no such run: the id is wrong, or the run ended longer ago than the retention."""


class ResultTimeoutError(RunError):
    """The run had not ended when the time given to ``result`` was over. It goes on."""


class DecryptionError(StepflowError):
    """An encrypted payload cannot be opened: it belongs elsewhere, or was altered. The message has nothing of it.

    Attributes:
        key_id: of the key that it names; ``""``: it names none.
    """

    def __init__(self, message: str, *, key_id: str = "") -> None:
        super().__init__(message)
        self.key_id = key_id


class EncryptionKeyMissingError(DecryptionError):
    """An encrypted payload cannot be opened, because this process has not its key."""

    def __init__(self, key_id: str, what: str) -> None:
        super().__init__(
            f"the encrypted payload of {what} needs key {key_id[:40]!r}, which this process has not: add it to "
            "Encryption(keys=[…]) or to STEPFLOW_ENCRYPTION_KEYS",
            key_id=key_id,
        )


class ConfigurationError(StepflowError):
    """A setting is wrong; the message names it and the fix."""


class PermissionDeniedError(ConfigurationError):
    """The user of the Redis server may not do this; nothing was done.

    Attributes:
        user: the server's user.
        action: the transition, or the Redis command, that was refused.
        roles: the names of the roles that have the right to it.
    """

    def __init__(self, message: str, *, user: str, action: str, roles: list[str]) -> None:
        super().__init__(message)
        self.user = user
        self.action = action
        self.roles = roles


class BackendUnavailableError(StepflowError):
    """The Redis server cannot be reached, or refuses to work; the message says why and what to do."""


class CorruptDataError(BackendUnavailableError):
    """What the server has was damaged, or was not written by stepflow. The message has nothing of it."""

    def __init__(self, what: str, why: BaseException | str) -> None:
        reason = why if isinstance(why, str) else type(why).__name__
        super().__init__(f"{what} cannot be read ({reason}): it was damaged, or was not written by stepflow")


class ReplicationError(BackendUnavailableError):
    """The server has what was sent, but too few replicas have confirmed it in time: a fail-over may lose it.

    The same call with the same id may be repeated; it starts nothing twice.

    Attributes:
        confirmed: how many replicas have confirmed it.
        timeout_ms: how long they were waited for, in milliseconds.
    """

    def __init__(self, message: str, *, confirmed: int = 0, timeout_ms: int = 0) -> None:
        super().__init__(message)
        self.confirmed = confirmed
        self.timeout_ms = timeout_ms
