"""``step.run``: call a handler as a step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, overload

from stepflow.functions.requests import checked_undo
from stepflow.functions.steps.calls import StepCalls
from stepflow_engine.codec import restore
from stepflow_engine.declared_types import plain_adapter, storable_adapter
from stepflow_engine.errors import StepError, StepUsageError
from stepflow_engine.isolation import check_importable
from stepflow_engine.step_cache import step_cache
from stepflow_engine.steps import RunRequest

__all__ = ["RunSteps"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVarTuple("A")


class RunSteps(StepCalls):
    """Steps that call a handler."""

    @overload
    async def run(self, id: str, handler: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, id: str, handler: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(
        self, id: str, handler: Callable[[*A], Awaitable[R]], /, *args: *A, undo: Callable[[R], Any]
    ) -> R: ...
    @overload
    async def run(self, id: str, handler: Callable[[*A], R], /, *args: *A, undo: Callable[[R], Any]) -> R: ...
    async def run(self, id: str, handler: Any, /, *args: object, **kwargs: Any) -> Any:
        """Call ``handler(*args, **kwargs)`` as a step and return its result.

        The result is converted to JSON and back, so the first pass and every replay return the same value. With a
        return annotation (a pydantic model, dataclass, TypedDict, datetime, UUID …) it has that type. A handler that
        is not ``async def`` runs in a thread. If the worker crashes while the handler runs, another worker runs it
        again; once the result is stored, the handler never runs again.

        Args:
            id: identifies the step in the run and finds its memo. Each repeat of an id is a separate step.
            handler: the callable; may be async or not.
            args, kwargs: passed to the handler; they are not stored.
            undo: undoes the step. If the run fails for good or is cancelled after the step has completed, ``undo`` is
                called with the result of the step, as a step of its own with retries. The undo handlers of a run are
                called one after the other, that of the step that completed last first. For type checkers, a call
                with ``undo`` takes positional arguments only; ``with_options(undo=…)`` takes all.

        Raises:
            StepError: the handler failed and no retries are left; with name, message, traceback and cause.
            StepUsageError: the handler is not callable, its return type has a secret, which cannot be stored, or
                values that do not come back, the handler is isolated and another process cannot import it, or the
                call is inside another step's handler.

        Example::

            urls = await ctx.step.run("copy-images", copy_images, ctx.event.data["urls"])
        """
        undo = kwargs.pop("undo", self._settings.undo) if kwargs else self._settings.undo
        request = self._run_request(id, handler, args, kwargs)
        if self._settings.cache is not None:
            if undo is not None:
                raise StepUsageError(
                    f"step {id!r}: a cached step cannot have an undo handler: its result may come from another run"
                )
            request = replace(request, cache=step_cache(id, self._settings.cache, args, kwargs))
        if undo is not None:
            request = replace(request, undo=checked_undo(id, handler, undo))
            self._execution.has_undo = True
        memo = await self._execution.request(id, request)
        if memo.failure is not None:
            raise StepError(id, memo.failure)
        adapter = request.adapter
        if adapter is None and "edited" not in memo.detail:
            return memo.data
        return restore(adapter or plain_adapter(handler), memo.data, what=f"step {id!r}")

    def _run_request(self, id: str, handler: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunRequest:
        if not callable(handler):
            raise StepUsageError(
                f"step {id!r}: handler must be callable, got {type(handler).__name__}: "
                "pass the function itself, and its arguments after it"
            )
        try:
            adapter = storable_adapter(handler)
        except ValueError as error:
            raise StepUsageError(f"step {id!r}: {error}") from None
        if self._settings.isolation is not None:
            check_importable(handler, what=f"step {id!r}: an isolated handler")
        settings = self._settings
        return RunRequest(
            handler,
            args,
            kwargs,
            settings.retries,
            settings.timeout_ms,
            settings.heartbeat_timeout_ms,
            adapter,
            isolation=settings.isolation,
            placement=settings.placement,
        )
