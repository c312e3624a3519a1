"""A function of an app: its handler, its settings, and how one pass over its code is made."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

from pydantic import ValidationError
from typing_extensions import TypeVar

from stepflow.event import Event
from stepflow.functions.context import Context, SyncContext
from stepflow.functions.invocable import Invocable
from stepflow.functions.step_tools import StepTools
from stepflow.functions.sync_step_tools import SyncStepTools
from stepflow.options.mismatch import OnMismatch
from stepflow.options.queue import checked_queue
from stepflow_broker.registry.cancellation import CancellationConfig
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.flow_control import STEPS, FlowConfig
from stepflow_broker.registry.function_config import EventConfig, FunctionConfig
from stepflow_broker.registry.tags import TagConfig
from stepflow_engine.around_attempt import AroundAttempt
from stepflow_engine.callables import is_async_callable, undecorated
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import (
    Restore,
    adapter_for,
    dumps,
    dumps_event,
    loads,
    resolve_annotation,
    validation_message,
)
from stepflow_engine.declared_types import check_event_data, refuse_unreadable_type
from stepflow_engine.encryption_scopes import read_event
from stepflow_engine.errors import ConfigurationError, EventError, NonRetriableError, StepUsageError
from stepflow_engine.execution import Execution
from stepflow_engine.ids import StepKeys
from stepflow_engine.limits import Limits, check_id
from stepflow_engine.retry_policy import Retry, combined_retries
from stepflow_engine.rounds import ContinueAsNew
from stepflow_engine.thread_pool import ThreadPool
from stepflow_engine.threads import ThreadBridge

__all__ = ["Function", "FunctionDecorator", "check_input"]

I = TypeVar("I", default=Any)  # noqa: E741  input
O = TypeVar("O", default=Any)  # noqa: E741  output
E = TypeVar("E", bound=Execution, default=Execution)


@dataclass(frozen=True, slots=True, eq=False)
class Function(Invocable[I, O]):
    """A function of an app; made by `Stepflow.function`.

    Attributes:
        app_id: the id of its app.
        id: its id in the app.
        handler: the code.
        config: the settings, in the form in which the registry stores them.
        limits: the limits of its runs.
        is_async: whether the handler is ``async def``.
        input: the adapter that validates the event's data; ``None``: plain JSON data.
        output: the adapter that restores a result to the declared type; ``None``: plain JSON data.
        cipher: seals the payloads that its runs store.
        around: the context managers of its app around each attempt of a step.
        retry: its retry policy; ``None``: ``config.retries``, with the delays of the worker.
        on_mismatch: what becomes of a run whose history records other steps than the code requests.

    Example::

        run = app.start(import_images, {"urls": []})  # import_images was declared with @app.function
    """

    app_id: str
    id: str
    handler: Callable[..., Any]
    config: FunctionConfig
    limits: Limits
    is_async: bool
    input: Restore | None
    output: Restore | None
    cipher: Cipher
    around: AroundAttempt
    retry: Retry | None = None
    on_mismatch: OnMismatch = "warn"

    @property
    def name(self) -> str:
        """``app/id``."""
        return self.config.name

    @property
    def limits_steps(self) -> bool:
        """Whether it has a concurrency limit of steps."""
        return self.config.flow is not None and any(one.of == STEPS for one in self.config.flow.concurrency)

    @property
    def is_batched(self) -> bool:
        """Whether it executes batches of events."""
        return self.config.flow is not None and self.config.flow.batch is not None

    def __call__(self, ctx: Any) -> Any:
        """Call the handler directly, for example in a unit test with a fake context."""
        return self.handler(ctx)

    def execution(
        self,
        events_json: Sequence[bytes],
        *,
        run_id: str,
        attempt: int,
        threads: ThreadPool,
        started_ms: int,
        round: int = 0,
        kind: type[E] = Execution,  # type: ignore[assignment]
    ) -> E:
        """One pass over the code for a run, not started yet.

        Args:
            events_json: the JSON of the run's event, or of all events of a batch; with decrypted data.
            run_id: the id of the run.
            attempt: the 0-based attempt of the function.
            threads: where a plain ``def`` function runs.
            started_ms: the start of the round, in milliseconds since the epoch.
            round: how often the run has continued as new.
            kind: the class of the pass.
        """

        async def body(execution: Execution) -> Any:
            sent, *others = [read_event(text, f"the event of run {run_id}") for text in events_json]
            tools = StepTools(execution, app_id=self.app_id, event=sent, limits=self.limits)
            events = [self._read_event(event) for event in (sent, *others)]
            named: Any = {"run_id": run_id, "function": self.name, "attempt": attempt}
            named |= {"declared_tags": len(self.config.tags), "round": round, "next_data": self._next_data}
            if self.is_async:
                context = Context(execution, events, tools, **named)
                result = self.handler(context)
                return _checked_end(execution, await result if inspect.isawaitable(result) else result)
            bridge = ThreadBridge(execution, threads, self.name)
            step = SyncStepTools(tools, bridge)
            blocking = SyncContext(execution, events, step, **named)
            result = self._checked_result(await bridge.run(lambda: self.handler(blocking)))
            return _checked_end(execution, result)

        own_tasks, keys = 1 if self.is_async else 2, StepKeys(round)
        return kind(body, max_steps=self.limits.steps_per_run, own_tasks=own_tasks, started_ms=started_ms, keys=keys)

    def _next_data(self, data: Any) -> bytes:
        """The data of the next round of a run, as JSON text.

        Raises:
            EventError: it is not JSON, over the limit, or not what the function takes.
            StepUsageError: the function executes batches.
        """
        if self.is_batched:
            raise StepUsageError(
                f"ctx.continue_as_new: a run of {self.name} is a batch of events, which ends as one: start a run of "
                "another function"
            )
        text = dumps_event({} if data is None else data, limit_bytes=self.limits.event_bytes)
        check_event_data(self.input, data, limit_bytes=self.limits.event_bytes)
        check_input(self, loads(text))
        return text

    def _checked_result(self, result: Any) -> Any:
        """Refuse the coroutine of an ``async def`` that a decorator hides."""
        if not inspect.isawaitable(result):
            return result
        if inspect.iscoroutine(result):
            result.close()
        raise NonRetriableError(
            f"the handler of {self.name} is a plain def that returns a {type(result).__name__}: "
            "write its decorator with @functools.wraps, or its wrapper as async def"
        )

    def _read_event(self, value: dict[str, Any]) -> Event[Any]:
        data = value["data"] if self.input is None else _typed(self, self.input, value["data"])
        return Event(value["name"], data, value["id"], value["ts"])


def check_input(function: Function[Any, Any], data: Any) -> None:
    """Check that plain data of an event fits the declared input of a function.

    Raises:
        EventError: it does not.
    """
    try:
        if function.input is not None:
            _typed(function, function.input, data)
    except NonRetriableError as error:
        raise EventError(str(error)) from None


def _typed(function: Function[Any, Any], declared: Restore, data: Any) -> Any:
    try:
        return declared.validate_json(dumps(data), by_alias=True, by_name=True)
    except ValidationError as error:
        raise NonRetriableError(
            f"event data does not fit the input of {function.name}: {validation_message(error)}"
        ) from None


def _checked_end(execution: Execution, result: Any) -> Any:
    """Refuse an end of code that has called for the next round, and returns something else."""
    if execution.has_continued and not isinstance(result, ContinueAsNew):
        raise StepUsageError(
            f"the code has called ctx.continue_as_new and returns {type(result).__name__}: "
            "write return ctx.continue_as_new(data)"
        )
    return result


class FunctionDecorator(Protocol):
    """The decorator that `Stepflow.function` returns. It keeps the types of the handler."""

    @overload
    def __call__(self, handler: Callable[[Context[I]], Coroutine[Any, Any, O]], /) -> Function[I, O]: ...
    @overload
    def __call__(self, handler: Callable[[SyncContext[I]], O], /) -> Function[I, O]: ...


def make_function(
    handler: Callable[..., Any],
    *,
    app_id: str,
    id: str,
    events: tuple[EventConfig, ...],
    crons: tuple[CronConfig, ...],
    retries: int | Retry,
    queue: str,
    flow: FlowConfig | None,
    cancellation: CancellationConfig | None,
    tags: tuple[TagConfig, ...],
    pinned: bool,
    retention_ms: int,
    limits: Limits,
    namespace: Mapping[str, Any],
    cipher: Cipher,
    around: AroundAttempt,
    on_mismatch: OnMismatch,
) -> Function[Any, Any]:
    """Check the settings of a function and make it.

    Args:
        namespace: the local names where the function is declared, for the evaluation of annotations.

    Raises:
        ConfigurationError: a setting is wrong; the message names it.
    """
    what = f"function {id!r}"
    if not callable(handler):
        raise ConfigurationError(
            f"{what}: handler must be callable, got {type(handler).__name__}: put the decorator on a def"
        )
    try:
        check_id(id, "id")
        checked_queue(queue)
        combined_retries(None, retries)
    except ValueError as error:
        raise ConfigurationError(f"{what}: {error}") from None
    if "/" in id:
        raise ConfigurationError(f"{what}: id must not contain '/', which separates the app id from the function id")
    input_adapter, output_adapter = _adapters(handler, what, namespace)
    return Function(
        app_id=app_id,
        id=id,
        handler=handler,
        config=FunctionConfig(
            app_id,
            id,
            queue,
            events,
            retries.retries if isinstance(retries, Retry) else retries,
            flow,
            retention_ms,
            crons,
            cancellation,
            tags,
            pinned=pinned,
        ),
        retry=retries if isinstance(retries, Retry) else None,
        limits=limits,
        is_async=is_async_callable(handler) or is_async_callable(undecorated(handler)),
        input=input_adapter,
        output=output_adapter,
        cipher=cipher,
        around=around,
        on_mismatch=on_mismatch,
    )


def _adapters(
    handler: Callable[..., Any], what: str, namespace: Mapping[str, Any]
) -> tuple[Restore | None, Restore | None]:
    """The adapters for ``T`` of ``Context[T]``, the annotation of the first parameter, and for the result.

    Raises:
        ConfigurationError: one of the two annotations cannot be resolved.
    """
    function = undecorated(handler)
    parameters = list(inspect.signature(handler).parameters)
    names = {"Context": Context, "SyncContext": SyncContext, **namespace}
    try:
        first = resolve_annotation(function, parameters[0], names) if parameters else None
        result = resolve_annotation(function, "return", names)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise ConfigurationError(
            f"{what}: an annotation of {getattr(function, '__qualname__', function)} cannot be resolved ({error}), "
            "so its data would have no type: import the name outside of TYPE_CHECKING, at the top of the module"
        ) from None
    try:
        refuse_unreadable_type(result)
    except ValueError as error:
        raise ConfigurationError(f"{what}: {error}") from None
    is_typed = typing.get_origin(first) in (Context, SyncContext)
    return adapter_for(typing.get_args(first)[0]) if is_typed else None, adapter_for(result)


def local_names(depth: int) -> dict[str, Any]:
    """The local names of the frame ``depth`` calls above the caller."""
    frame: types.FrameType | None = sys._getframe(depth + 1)
    return dict(frame.f_locals) if frame is not None else {}
