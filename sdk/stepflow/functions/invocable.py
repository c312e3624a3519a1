"""The base class of what can be invoked, the request of an invoke, and its errors."""

from __future__ import annotations

from typing import Any, Generic

from typing_extensions import TypeVar

from stepflow.options.start import start_options
from stepflow_engine.codec import Restore, dumps_event
from stepflow_engine.declared_types import check_event_data
from stepflow_engine.durations import MAX_DURATION_MS, Duration, duration_ms
from stepflow_engine.errors import (
    EventError,
    FunctionNotFoundError,
    InvokeCancelledError,
    InvokeError,
    InvokeSkippedError,
    InvokeTimeoutError,
    StepUsageError,
)
from stepflow_engine.failure import Failure
from stepflow_engine.limits import check_id
from stepflow_engine.memo import Memo
from stepflow_engine.steps import InvokeRequest

__all__ = ["Invocable", "invoke_error", "invoke_request"]

I = TypeVar("I", default=Any)  # noqa: E741  input
O = TypeVar("O", default=Any)  # noqa: E741  output


class Invocable(Generic[I, O]):
    """What ``step.invoke`` accepts beside an id: the base class of `Function` and `FunctionReference`.

    Type checkers take the type of the data from ``I`` and the type of the result from ``O``.

    Attributes:
        id: the function's id.
        app_id: the id of its app; ``None``: the app that uses it.
    """

    __slots__ = ()
    id: str
    app_id: Any  # a str in a function, a str | None in a reference


def invoke_request(
    function: Any,
    data: Any,
    *,
    app_id: str,
    event_bytes: int,
    timeout: Duration | None = None,
    priority: float | None = None,
    queue: str | None = None,
    retention: Duration | None = None,
) -> tuple[InvokeRequest, Restore | None]:
    """The request of an invoke, and the adapter that restores its result to the declared type.

    Raises:
        StepUsageError: the function, the timeout or an option is invalid.
        EventError: the data is not JSON, over the limit, or would come back as other data.
    """
    app, name = _name(function, app_id)
    text = dumps_event({} if data is None else data, limit_bytes=event_bytes)
    check_event_data(getattr(function, "input", None), data, limit_bytes=event_bytes)
    try:
        options = start_options("invoke", priority=priority, queue=queue, retention=retention)
    except EventError as error:
        raise StepUsageError(str(error)) from None
    return InvokeRequest(app, name, text, _timeout_ms(timeout), options), getattr(function, "output", None)


def _name(function: Any, app_id: str) -> tuple[str, str]:
    """The app id and the function id of a function, a reference, or an id."""
    if isinstance(function, Invocable):
        return function.app_id or app_id, function.id
    if not isinstance(function, str):
        raise StepUsageError(
            "invoke: function must be a function of @app.function, a reference_function or an id, "
            f"got {type(function).__name__}"
        )
    app, slash, name = function.partition("/")
    app, name = (app, name) if slash else (app_id, function)
    try:
        return check_id(app, "invoke: app id"), check_id(name, "invoke: function id")
    except ValueError as error:
        raise StepUsageError(str(error)) from None


def _timeout_ms(timeout: Duration | None) -> int:
    if timeout is None:
        return MAX_DURATION_MS
    try:
        return duration_ms(timeout, name="invoke: timeout")
    except ValueError as error:
        raise StepUsageError(str(error)) from None


def invoke_error(step_id: str, memo: Memo) -> InvokeError:
    """The error for the failed memo of an invoke."""
    failure, detail = memo.failure or Failure("Error", ""), memo.detail
    known = {"function_id": str(detail.get("function", "")), "run_id": str(detail.get("run_id", ""))}
    match detail.get("outcome"):
        case "not_found":
            return FunctionNotFoundError(step_id, failure, function_id=known["function_id"])
        case "timeout":
            return InvokeTimeoutError(step_id, failure, **known)
        case "skipped":
            return InvokeSkippedError(step_id, failure, reason=str(detail.get("reason", "")), **known)
        case "cancelled":
            return InvokeCancelledError(step_id, failure, **known)
        case _:
            return InvokeError(step_id, failure, **known)
