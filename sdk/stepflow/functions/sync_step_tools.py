"""The step tools of plain ``def`` functions: the same steps, with calls that block the function's own thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, Unpack, overload

from stepflow.event import Event
from stepflow.functions.child_handle import SyncChildHandle
from stepflow.functions.invocable import Invocable
from stepflow.functions.maps import MapResult
from stepflow.functions.requests import Close, Match, When
from stepflow.functions.step_tools import StepTools
from stepflow.options.start import RunOptions
from stepflow.options.step import MapOptions, StepOptions
from stepflow.signals import Signal
from stepflow_engine.durations import Duration
from stepflow_engine.threads import ThreadBridge

__all__ = ["SyncStepTools"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVarTuple("A")
I = TypeVar("I")  # noqa: E741  input
O = TypeVar("O")  # noqa: E741  output


class SyncStepTools:
    """``ctx.step`` of a plain ``def`` function, which runs in a thread: the blocking twins of `StepTools`.

    Example::

        urls = ctx.step.run("copy", copy_images, ctx.event.data["urls"])
        ctx.step.sleep("pause", "1m")
    """

    def __init__(self, tools: StepTools, bridge: ThreadBridge) -> None:
        self._tools = tools
        self._bridge = bridge

    @overload
    def run(self, id: str, handler: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, id: str, handler: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, id: str, handler: Callable[[*A], Awaitable[R]], /, *args: *A, undo: Callable[[R], Any]) -> R: ...
    @overload
    def run(self, id: str, handler: Callable[[*A], R], /, *args: *A, undo: Callable[[R], Any]) -> R: ...
    def run(self, id: str, handler: Any, /, *args: object, **kwargs: Any) -> Any:
        """Call ``handler(*args, **kwargs)`` as a step and return its result; see `StepTools.run`."""
        return self._bridge.call(lambda: self._tools.run(id, handler, *args, **kwargs))

    @overload
    def map(
        self,
        id: str,
        handler: Invocable[I, O],
        items: Iterable[I | Mapping[str, Any]],
        *,
        timeout: Duration | None = None,
        **options: Unpack[MapOptions],
    ) -> MapResult[O]: ...
    @overload
    def map(
        self,
        id: str,
        handler: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        **options: Unpack[MapOptions],
    ) -> MapResult[R]: ...
    @overload
    def map(
        self,
        id: str,
        handler: Callable[[T], R],
        items: Iterable[T],
        **options: Unpack[MapOptions],
    ) -> MapResult[R]: ...
    @overload
    def map(
        self,
        id: str,
        handler: str,
        items: Iterable[Any],
        *,
        timeout: Duration | None = None,
        **options: Unpack[MapOptions],
    ) -> MapResult[Any]: ...
    def map(
        self,
        id: str,
        handler: Any,
        items: Iterable[Any],
        *,
        timeout: Duration | None = None,
        **options: Unpack[MapOptions],
    ) -> MapResult[Any]:
        """Call a handler, or invoke a function, for each item, and return the results in order; see `StepTools.map`."""
        return self._bridge.call(lambda: self._tools.map(id, handler, items, timeout=timeout, **options))

    @overload
    def invoke(
        self,
        id: str,
        function: Invocable[I, O],
        data: I | Mapping[str, Any] | None = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> O: ...
    @overload
    def invoke(
        self,
        id: str,
        function: str,
        data: Any = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> Any: ...
    def invoke(
        self,
        id: str,
        function: Any,
        data: Any = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> Any:
        """Start a run of another function and wait for its result; see `StepTools.invoke`."""
        return self._bridge.call(lambda: self._tools.invoke(id, function, data, timeout=timeout, **options))

    @overload
    def start_child(
        self,
        id: str,
        function: Invocable[I, O],
        data: I | Mapping[str, Any] | None = None,
        *,
        parent_close: Close = "cancel",
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> SyncChildHandle[O]: ...
    @overload
    def start_child(
        self,
        id: str,
        function: str,
        data: Any = None,
        *,
        parent_close: Close = "cancel",
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> SyncChildHandle[Any]: ...
    def start_child(
        self,
        id: str,
        function: Any,
        data: Any = None,
        *,
        parent_close: Close = "cancel",
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> SyncChildHandle[Any]:
        """Start a run of another function, and continue; see `StepTools.start_child`."""
        child = self._bridge.call(
            lambda: self._tools.start_child(
                id,
                function,
                data,
                parent_close=parent_close,
                timeout=timeout,
                **options,
            )
        )
        return SyncChildHandle(child, self._bridge)

    def sleep(self, id: str, duration: Duration) -> None:
        """Wait for a duration; see `StepTools.sleep`."""
        self._bridge.call(lambda: self._tools.sleep(id, duration))

    def sleep_until(self, id: str, when: When) -> None:
        """Wait until a time; see `StepTools.sleep_until`."""
        self._bridge.call(lambda: self._tools.sleep_until(id, when))

    def wait_for_event(
        self,
        id: str,
        *,
        event: str,
        timeout: Duration,
        match: Match | None = None,
        if_: str | None = None,
        lookback: Duration | None = None,
    ) -> Event[Any] | None:
        """Wait for a matching event; ``None`` after the timeout; see `StepTools.wait_for_event`."""
        return self._bridge.call(
            lambda: self._tools.wait_for_event(
                id, event=event, timeout=timeout, match=match, if_=if_, lookback=lookback
            )
        )

    def wait_for_signal(self, id: str, name: str, *, timeout: Duration | None = None) -> Signal | None:
        """Wait for a signal to this run; ``None`` after the timeout; see `StepTools.wait_for_signal`."""
        return self._bridge.call(lambda: self._tools.wait_for_signal(id, name, timeout=timeout))

    @overload
    def ask(self, id: str, *, schema: type[R], to: str | None = None, timeout: Duration) -> R | None: ...
    @overload
    def ask(self, id: str, *, schema: Any, to: str | None = None, timeout: Duration) -> Any: ...
    def ask(self, id: str, *, schema: Any, to: str | None = None, timeout: Duration) -> Any:
        """Ask a person and wait for the answer; ``None`` after the timeout; see `StepTools.ask`."""
        return self._bridge.call(lambda: self._tools.ask(id, schema=schema, to=to, timeout=timeout))

    def send_event(self, id: str, events: Event[Any] | Sequence[Event[Any]]) -> list[str]:
        """Send events exactly once; see `StepTools.send_event`."""
        return self._bridge.call(lambda: self._tools.send_event(id, events))

    def parallel(self, *bodies: Callable[[], Any]) -> list[Any]:
        """Run callables in parallel and return their results in order. Each callable may call steps.

        Each callable has its own thread. The threads start in order, so they reach the same steps on every replay. If
        callables raise, the first error in order is raised after all callables have ended.

        Example::

            a, b = ctx.step.parallel(lambda: ctx.step.run("a", f), lambda: ctx.step.run("b", g))
        """
        return self._bridge.parallel(bodies)

    @property
    def idempotency_key(self) -> str:
        """In a step's handler: an idempotency key for calls to other systems; see `StepTools.idempotency_key`."""
        return self._tools.idempotency_key

    def heartbeat(self, detail: Any = None) -> None:
        """In a step's handler: report that it still works, and how far it is; see `StepTools.heartbeat`."""
        self._tools.heartbeat(detail)

    @property
    def last_heartbeat(self) -> Any:
        """In a step's handler: the detail of the last heartbeat before; see `StepTools.last_heartbeat`."""
        return self._tools.last_heartbeat

    @property
    def cancelled(self) -> bool:
        """In a step's handler: whether nobody needs its result any more; see `StepTools.cancelled`."""
        return self._tools.cancelled

    def with_options(self, **options: Unpack[StepOptions]) -> SyncStepTools:
        """The same step tools with other options; see `StepTools.with_options`."""
        return SyncStepTools(self._tools.with_options(**options), self._bridge)
