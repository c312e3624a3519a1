"""The base class of what can be invoked, the requests of an invoke and of a start, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic

from typing_extensions import TypeVar

from stepflow.options.start import RunOptions, run_overrides
from stepflow_engine.codec import Restore, dumps_event
from stepflow_engine.declared_types import check_event_data
from stepflow_engine.durations import MAX_DURATION_MS, Duration, duration_ms, show_value
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
from stepflow_engine.run_overrides import RunOverrides
from stepflow_engine.steps import InvokeRequest, ParentClose, StartRequest

__all__ = [
    "Invocable",
    "invoke_error",
    "invoke_request",
    "invoke_requests",
    "invoke_timeout_ms",
    "start_request",
]

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
    timeout: Duration | None,
    options: RunOptions,
) -> tuple[InvokeRequest, Restore | None]:
    """The request of an invoke, and the adapter that restores its result to the declared type.

    Raises:
        TypeError: there is no such option.
        StepUsageError: the function, the timeout or an option is invalid.
        EventError: the data is not JSON, over the limit, or would come back as other data.
    """
    called = _called("invoke", function, data, app_id=app_id, event_bytes=event_bytes)
    timeout_ms = invoke_timeout_ms(timeout, "invoke: timeout")
    return InvokeRequest(*called, timeout_ms, _overrides("invoke", options)), getattr(function, "output", None)


def start_request(
    function: Any,
    data: Any,
    *,
    app_id: str,
    event_bytes: int,
    parent_close: str,
    timeout: Duration | None,
    options: RunOptions,
) -> tuple[StartRequest, Restore | None]:
    """The request of a start of a child, and the adapter that restores its result to the declared type.

    Raises:
        TypeError: there is no such option.
        StepUsageError: the function, the timeout, ``parent_close`` or an option is invalid.
        EventError: the data is not JSON, over the limit, or would come back as other data.
    """
    called = _called("start_child", function, data, app_id=app_id, event_bytes=event_bytes)
    timeout_ms = invoke_timeout_ms(timeout, "start_child: timeout")
    try:
        close = ParentClose(parent_close)
    except ValueError:
        allowed = ", ".join(repr(one.value) for one in ParentClose)
        raise StepUsageError(
            f"start_child: parent_close must be one of {allowed}, got {show_value(parent_close)}"
        ) from None
    request = StartRequest(*called, timeout_ms, close, _overrides("start_child", options))
    return request, getattr(function, "output", None)


def _called(call: str, function: Any, data: Any, *, app_id: str, event_bytes: int) -> tuple[str, str, bytes]:
    """The app id and the function id of what is called, and the JSON text of its data."""
    app, name = _name(call, function, app_id)
    text = dumps_event({} if data is None else data, limit_bytes=event_bytes)
    check_event_data(getattr(function, "input", None), data, limit_bytes=event_bytes)
    return app, name, text


def invoke_requests(
    function: Any, timeout: Duration | None, *, app_id: str, event_bytes: int
) -> tuple[str, Callable[[Any], InvokeRequest]]:
    """The name of a function, as ``app/id``, and what makes the requests of a map that invokes it from their data.

    Raises:
        StepUsageError: the function or the timeout is invalid.
    """
    app, name = _name("map", function, app_id)
    timeout_ms = invoke_timeout_ms(timeout, "map: timeout")

    def request(data: Any) -> InvokeRequest:
        called = _called("map", function, data, app_id=app_id, event_bytes=event_bytes)
        return InvokeRequest(*called, timeout_ms)

    return f"{app}/{name}", request


def _overrides(call: str, options: Mapping[str, Any]) -> RunOverrides | None:
    try:
        return run_overrides(call, options, RunOptions)
    except EventError as error:
        raise StepUsageError(str(error)) from None


def _name(call: str, function: Any, app_id: str) -> tuple[str, str]:
    """The app id and the function id of a function, a reference, or an id."""
    if isinstance(function, Invocable):
        return function.app_id or app_id, function.id
    if not isinstance(function, str):
        raise StepUsageError(
            f"{call}: function must be a function of @app.function, a reference_function or an id, "
            f"got {type(function).__name__}"
        )
    app, slash, name = function.partition("/")
    app, name = (app, name) if slash else (app_id, function)
    try:
        return check_id(app, f"{call}: app id"), check_id(name, f"{call}: function id")
    except ValueError as error:
        raise StepUsageError(str(error)) from None


def invoke_timeout_ms(timeout: Duration | None, name: str) -> int:
    """The longest wait for a child, in milliseconds.

    Raises:
        StepUsageError: the timeout is invalid.
    """
    if timeout is None:
        return MAX_DURATION_MS
    try:
        return duration_ms(timeout, name=name, least_ms=1)
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
