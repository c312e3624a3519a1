"""The errors of stepflow, in one tree.

::

    StepflowError
    ├─ NonRetriableError            raise it to stop retrying
    │  └─ HistoryMismatchError      the code requests other steps than the history of its run records
    ├─ RetryAfterError              raise it to set the time of the next attempt
    ├─ StepError                    a step failed for good
    │  ├─ MapFailedError            more items of a map failed than may fail
    │  └─ InvokeError               an invoked function gave no result (also a NonRetriableError)
    │     ├─ FunctionNotFoundError
    │     ├─ InvokeTimeoutError
    │     ├─ InvokeSkippedError
    │     └─ InvokeCancelledError
    ├─ HandlerProcessError          the process of an isolated handler has ended before the handler
    ├─ StepOutputError              a result is not JSON, or is over a limit
    ├─ StepUsageError               a step tool is used incorrectly (also a ValueError)
    │  ├─ StepKindError             the id of a step belongs to a step of another kind
    │  └─ MapItemsError             the items of a map are not those with which it began
    ├─ LimitError                   a run is over a limit
    ├─ EventError                   an event is not JSON, or is over a limit
    ├─ SignalError                  a signal is invalid, is not JSON, or is over a limit (also a ValueError)
    ├─ AnswerError                  an answer does not fit, or nothing waits for it (also a ValueError)
    ├─ ForkError                    a run cannot be run again as requested (also a ValueError)
    ├─ HistoryFileError             a file is not a history that can be replayed (also a ValueError)
    ├─ BulkNotFoundError            no bulk has this id
    ├─ RunError                     a client waits for a run that gives no result
    │  ├─ RunFailedError
    │  ├─ RunCancelledError
    │  ├─ RunSkippedError
    │  ├─ RunNotFoundError
    │  ├─ RunEndedError
    │  └─ ResultTimeoutError
    ├─ DecryptionError              an encrypted payload cannot be opened
    │  └─ EncryptionKeyMissingError
    ├─ ConfigurationError           names the setting and the fix
    │  ├─ FilterError               a filter of runs is invalid, or names what does not exist (also a ValueError)
    │  ├─ ScheduleNotFoundError     there is no such schedule
    │  └─ PermissionDeniedError     the Redis user does not have the right
    └─ BackendUnavailableError      the Redis server cannot be used now
       ├─ CorruptDataError          stored data is damaged, or was not written by stepflow
       └─ ReplicationError          no replica has confirmed what was sent
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.failure import Failure
from stepflow_engine.product import ENCRYPTION_KEYS, NAME

if TYPE_CHECKING:
    from stepflow_engine.item_failure import ItemFailure

__all__ = [
    "AnswerError",
    "BackendUnavailableError",
    "BulkNotFoundError",
    "ConfigurationError",
    "CorruptDataError",
    "DecryptionError",
    "EncryptionKeyMissingError",
    "EventError",
    "FilterError",
    "ForkError",
    "FunctionNotFoundError",
    "HandlerProcessError",
    "HistoryFileError",
    "HistoryMismatchError",
    "InvokeCancelledError",
    "InvokeError",
    "InvokeSkippedError",
    "InvokeTimeoutError",
    "LimitError",
    "MapFailedError",
    "MapItemsError",
    "NonRetriableError",
    "PermissionDeniedError",
    "ReplicationError",
    "ResultTimeoutError",
    "RetryAfterError",
    "RunCancelledError",
    "RunEndedError",
    "RunError",
    "RunFailedError",
    "RunNotFoundError",
    "RunSkippedError",
    "ScheduleNotFoundError",
    "SignalError",
    "StepError",
    "StepKindError",
    "StepOutputError",
    "StepUsageError",
    "StepflowError",
]


class StepflowError(Exception):
    """The root of the tree: catches every error of stepflow."""


class NonRetriableError(StepflowError):
    """Raise it in a step or a function to fail at once, without further attempts.

    Example::

        raise NonRetriableError(f"there is no order {order}")
    """


class RetryAfterError(StepflowError):
    """Raise it in a step or a function to set the earliest time of the next attempt.

    Args:
        message: the text of the error.
        retry_after: seconds, a duration, a timedelta, or a datetime (without a time zone it is UTC).

    Raises:
        ValueError: ``retry_after`` is neither a duration nor a datetime.

    Example::

        raise RetryAfterError("the API is rate limited", retry_after="30s")
    """

    def __init__(self, message: str, retry_after: Duration | datetime) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        if not isinstance(retry_after, datetime):
            duration_ms(retry_after, name="retry_after")

    def delay_ms(self, now_ms: int) -> int:
        """The delay from ``now_ms`` (in milliseconds since the epoch), in milliseconds."""
        if not isinstance(self.retry_after, datetime):
            return duration_ms(self.retry_after, name="retry_after")
        at = self.retry_after
        moment = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0, round(moment.timestamp() * 1000) - now_ms)


class StepError(StepflowError):
    """A step failed for good. It is raised at the call of the step, also on every replay, and is stored as its memo.

    Attributes:
        step_id: the id of the step.
        name, message, traceback, cause: those of the handler's error.
        failure: the handler's error.

    Example::

        try:
            await ctx.step.run("charge", charge, order)
        except StepError as error:
            await ctx.step.run("refuse", refuse, order, error.message)
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
    """An invoked function gave no result.

    Attributes:
        function_id: the function.
        run_id: the run of the child; ``""``: none was started.

    Example::

        try:
            await ctx.step.invoke("square", compute_square, data={"number": 4}, timeout="1h")
        except InvokeError as error:
            await ctx.step.run("report", report, error.name, error.run_id)
    """

    def __init__(self, step_id: str, failure: Failure, *, function_id: str = "", run_id: str = "") -> None:
        super().__init__(step_id, failure)
        self.function_id = function_id
        self.run_id = run_id

    def __str__(self) -> str:
        return self.message


class MapFailedError(StepError):
    """More items of ``step.map`` failed than may fail. It is raised at the call, also on every replay.

    Attributes:
        failures: all items that failed, in their order.
        count: how many items the map has.
        completed: how many of them have a result. The others were not executed.

    Example::

        try:
            await ctx.step.map("import", import_row, rows, tolerate=0.05)
        except MapFailedError as error:
            await ctx.step.run("report", report, [(one.index, one.error.message) for one in error.failures])
    """

    def __init__(
        self, step_id: str, failure: Failure, *, failures: Sequence[ItemFailure], count: int, completed: int
    ) -> None:
        super().__init__(step_id, failure)
        self.failures = tuple(failures)
        self.count = count
        self.completed = completed

    def __str__(self) -> str:
        return f"step {self.step_id!r}: {self.message}"


class FunctionNotFoundError(InvokeError):
    """No worker has registered the invoked function."""


class InvokeTimeoutError(InvokeError):
    """The invoked function did not finish in time. Its run continues, unless ``start_child`` has set the time."""


class InvokeSkippedError(InvokeError):
    """Flow control or a pause has skipped the invoked function.

    Attributes:
        reason: the cause: a rate limit, a debounce, a singleton, a pause, or a duplicate.
    """

    def __init__(
        self, step_id: str, failure: Failure, *, function_id: str = "", run_id: str = "", reason: str = ""
    ) -> None:
        super().__init__(step_id, failure, function_id=function_id, run_id=run_id)
        self.reason = reason


class InvokeCancelledError(InvokeError):
    """The invoked run was cancelled."""


class HandlerProcessError(StepflowError):
    """The process of an isolated handler has ended before the handler, or could not start. The step is retried.

    Attributes:
        exit_code: the exit code of the process; the negative number of a signal that has ended it; ``None``: unknown.

    Example::

        fragile = Retry(3, on=HandlerProcessError)
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StepOutputError(StepflowError):
    """A result cannot be stored: it is not JSON, or is over a limit. The step is not retried."""


class StepUsageError(StepflowError, ValueError):
    """A step tool is used incorrectly, such as a step inside the handler of another step. It is not retried."""


class StepKindError(StepUsageError):
    """The code requests a step whose id this run has given to a step of another kind. It is not retried.

    A new version of the code has changed the kind of the step, for example from ``step.run`` to ``step.sleep``.

    Attributes:
        step_id: the id of the step.
        stored: the kind of the step in the run.
        requested: the kind of the step in the code.
    """

    def __init__(self, step_id: str, *, stored: str, requested: str) -> None:
        super().__init__(
            f"step {step_id!r} is a step of kind '{stored}' in this run, but the code requests one of kind "
            f"'{requested}': give the new step another id"
        )
        self.step_id = step_id
        self.stored = stored
        self.requested = requested


class MapItemsError(StepUsageError):
    """The items of ``step.map`` are not those with which the step began. It is not retried.

    The code must make the same items, in the same order, on each replay: it must not read them outside of a step, and a
    new version of the code must not change them while a run executes them.

    Attributes:
        step_id: the id of the step.
        began_with, has: how many items there were, and are.
    """

    def __init__(self, step_id: str, *, began_with: int, has: int) -> None:
        counts = f"{began_with:,} then, {has:,} now" if began_with != has else "others, or the same in another order"
        super().__init__(
            f"step {step_id!r} began with other items ({counts}): make the items in a step, so that each replay has "
            "the same, or give the new step another id"
        )
        self.step_id = step_id
        self.began_with = began_with
        self.has = has


class HistoryFileError(StepflowError, ValueError):
    """A file is not a history of a run that can be replayed, or no such file can be written."""


class HistoryMismatchError(NonRetriableError):
    """The code requests other steps than the history of its run records, and its app has ``on_mismatch="fail"``.

    The message names the steps of both, with the file and the line of each new call.
    """


class LimitError(StepflowError):
    """A run is over a limit: the number of its steps, or the size of its memos. It is not retried."""


class EventError(StepflowError):
    """An event cannot be sent: it is invalid, is not JSON, or is over a limit. In a function, it is not retried."""


class SignalError(StepflowError, ValueError):
    """A signal cannot be sent: its name, its id or its data is invalid, or the run keeps too many. Nothing was stored.

    Attributes:
        run_id: the run.
        signal: the name of the signal.
    """

    def __init__(self, message: str, *, run_id: str, signal: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.signal = signal


class AnswerError(StepflowError, ValueError):
    """An answer is refused: it does not fit the schema, the step has its answer, or waits for none. Nothing was stored.

    Attributes:
        run_id, step_id: the step.
        paths: the parts of the answer that do not fit, such as ``$.amount``; empty: that is not the reason.
        answered_by: who has answered before; ``""``: that is not the reason.
        answered_at: when, in UTC.
    """

    def __init__(
        self,
        message: str,
        *,
        run_id: str,
        step_id: str,
        paths: tuple[str, ...] = (),
        answered_by: str = "",
        answered_at: datetime | None = None,
    ) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.step_id = step_id
        self.paths = paths
        self.answered_by = answered_by
        self.answered_at = answered_at


class ForkError(StepflowError, ValueError):
    """A run cannot be run again as requested: it has no such step, it has not ended, or an argument is invalid."""


class BulkNotFoundError(StepflowError):
    """No bulk has this id, or it ended over 7 days ago."""


class RunError(StepflowError):
    """A run gave no result to a client that waits for it.

    Attributes:
        run_id: the id of the run.
        status: the status of the run when the error was raised.
        name, message: those of the error that ended the run, if there was one.
        failure: the error that ended the run; ``None``: there was none.

    Example::

        try:
            app.start("import-images").result(timeout="30s")
        except RunError as error:
            print(error.run_id, error.status, error.message)
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
    """Flow control has skipped the run."""


class RunNotFoundError(RunError):
    """No run has this id, or its retention is over."""


class RunEndedError(RunError):
    """The run has ended or undoes its steps, so it receives no signal and no answer. ``status`` says how it ends."""


class ResultTimeoutError(RunError):
    """The run did not end within the timeout of ``result``. It continues."""


class DecryptionError(StepflowError):
    """An encrypted payload cannot be opened: it was moved or altered. The message contains nothing of the payload.

    Attributes:
        key_id: the id of the key that the payload names; ``""``: none.
        is_final: whether no other process can open it either. A newer version may know a form that this one does not.
    """

    def __init__(self, message: str, *, key_id: str = "", is_final: bool = True) -> None:
        super().__init__(message)
        self.key_id = key_id
        self.is_final = is_final


class EncryptionKeyMissingError(DecryptionError):
    """An encrypted payload cannot be opened, because this process does not have the key."""

    def __init__(self, key_id: str, what: str) -> None:
        super().__init__(
            f"encrypted payload of {what}: this process does not have its key {key_id[:40]!r}: "
            f"add it to Encryption(keys=[…]) or to {ENCRYPTION_KEYS}",
            key_id=key_id,
            is_final=False,
        )


class ConfigurationError(StepflowError):
    """A setting is invalid. The message names the setting and the fix."""


class FilterError(ConfigurationError, ValueError):
    """A filter of `Stepflow.runs` is invalid, or names what does not exist. Nothing was read.

    Attributes:
        parameter: the name of the parameter.
    """

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class ScheduleNotFoundError(ConfigurationError):
    """There is no schedule with this id: it was not created, or was deleted. Schedules in code have no id.

    Attributes:
        schedule: the schedule, as ``app/id``.
    """

    def __init__(self, schedule: str) -> None:
        super().__init__(f"there is no schedule {schedule!r}: `{NAME} schedules list` lists those that there are")
        self.schedule = schedule


class PermissionDeniedError(ConfigurationError):
    """The Redis user does not have the right to an action. Nothing was changed.

    Attributes:
        user: the Redis user.
        action: the refused transition or Redis command.
        roles: the names of the roles that have the right.
    """

    def __init__(self, message: str, *, user: str, action: str, roles: list[str]) -> None:
        super().__init__(message)
        self.user = user
        self.action = action
        self.roles = roles


class BackendUnavailableError(StepflowError):
    """The Redis server cannot be used now. The message says why, and what to do."""


class CorruptDataError(BackendUnavailableError):
    """Stored data is damaged, or was not written by stepflow. The message contains nothing of the data.

    Attributes:
        is_reply: whether it is a whole reply of the server, of which nobody knows what is damaged in it.
    """

    def __init__(self, what: str, why: BaseException | str, *, is_reply: bool = False) -> None:
        self.is_reply = is_reply
        reason = why if isinstance(why, str) else type(why).__name__
        super().__init__(
            f"{what} cannot be read ({reason}): it is damaged, or another program wrote it: run {NAME} doctor"
        )


class ReplicationError(BackendUnavailableError):
    """The server has the data, but too few replicas have confirmed it in time. A failover may lose it.

    The call can be repeated with the same id; it starts nothing twice.

    Attributes:
        confirmed: the number of replicas that have confirmed the data.
        timeout_ms: how long the call has waited for them, in milliseconds.
    """

    def __init__(self, message: str, *, confirmed: int = 0, timeout_ms: int = 0) -> None:
        super().__init__(message)
        self.confirmed = confirmed
        self.timeout_ms = timeout_ms
