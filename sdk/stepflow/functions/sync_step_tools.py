"""The step tools of plain ``def`` functions: the same steps, with calls that block the function's own thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, overload

from stepflow.event import Event
from stepflow.functions.invocable import Invocable
from stepflow.functions.requests import Match, When
from stepflow.functions.step_tools import StepTools
from stepflow_engine.durations import Duration
from stepflow_engine.threads import ThreadBridge

__all__ = ["SyncStepTools"]

P = ParamSpec("P")
R = TypeVar("R")
I = TypeVar("I")  # noqa: E741  input
O = TypeVar("O")  # noqa: E741  output


class SyncStepTools:
    """As `StepTools`, for a function that runs in a thread. Each method does what its twin there does."""

    def __init__(self, tools: StepTools, bridge: ThreadBridge) -> None:
        self._tools = tools
        self._bridge = bridge

    @overload
    def run(self, id: str, handler: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, id: str, handler: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, id: str, handler: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``handler(*args, **kwargs)`` as a step and return its result; see `StepTools.run`."""
        return self._bridge.call(lambda: self._tools.run(id, handler, *args, **kwargs))

    @overload
    def invoke(
        self,
        id: str,
        function: Invocable[I, O],
        data: I | Mapping[str, Any] | None = None,
        *,
        timeout: Duration | None = None,
    ) -> O: ...
    @overload
    def invoke(self, id: str, function: str, data: Any = None, *, timeout: Duration | None = None) -> Any: ...
    def invoke(self, id: str, function: Any, data: Any = None, *, timeout: Duration | None = None) -> Any:
        """Run another function as a run of its own and wait for its result; see `StepTools.invoke`."""
        return self._bridge.call(lambda: self._tools.invoke(id, function, data, timeout=timeout))

    def sleep(self, id: str, duration: Duration) -> None:
        """Go on after a time; see `StepTools.sleep`."""
        self._bridge.call(lambda: self._tools.sleep(id, duration))

    def sleep_until(self, id: str, when: When) -> None:
        """Go on at a time; see `StepTools.sleep_until`."""
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
        """Go on when an event comes, or with ``None`` after the time-out; see `StepTools.wait_for_event`."""
        return self._bridge.call(
            lambda: self._tools.wait_for_event(
                id, event=event, timeout=timeout, match=match, if_=if_, lookback=lookback
            )
        )

    def send_event(self, id: str, events: Event[Any] | Sequence[Event[Any]]) -> list[str]:
        """Send events, once; see `StepTools.send_event`."""
        return self._bridge.call(lambda: self._tools.send_event(id, events))

    def parallel(self, *bodies: Callable[[], Any]) -> list[Any]:
        """Run callables side by side, each of which may call steps, and return their results in order.

        Each body has a thread; they start in order, so the steps that they ask for are the same on every replay. All
        bodies are waited for; then the first error, in order, is raised.

        Example:
            ``a, b = ctx.step.parallel(lambda: ctx.step.run("a", f), lambda: ctx.step.run("b", g))``
        """
        return self._bridge.parallel(bodies)

    @property
    def idempotency_key(self) -> str:
        """In a step's handler: a key for calls to other systems; see `StepTools.idempotency_key`."""
        return self._tools.idempotency_key

    def with_options(self, *, retries: int | None = None, timeout: Duration | None = None) -> SyncStepTools:
        """The same tools with a policy for the next call; see `StepTools.with_options`."""
        return SyncStepTools(self._tools.with_options(retries=retries, timeout=timeout), self._bridge)
