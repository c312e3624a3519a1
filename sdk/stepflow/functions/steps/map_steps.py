"""``step.map``: call a handler, or invoke a function, for each item, as one step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar, Unpack, overload

from stepflow.functions.invocable import Invocable, invoke_requests
from stepflow.functions.maps import MapResult, item_requests, map_request, map_result
from stepflow.functions.steps.run_steps import RunSteps
from stepflow.options.keywords import check_keywords
from stepflow.options.step import MapOptions
from stepflow_engine.durations import Duration
from stepflow_engine.errors import StepUsageError
from stepflow_engine.steps import InvokeRequest, RunRequest

__all__ = ["MapSteps"]

R = TypeVar("R")
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741  input
O = TypeVar("O")  # noqa: E741  output


class MapSteps(RunSteps):
    """Steps of many items."""

    @overload
    async def map(
        self,
        id: str,
        handler: Invocable[I, O],
        items: Iterable[I | Mapping[str, Any]],
        *,
        timeout: Duration | None = None,
        **options: Unpack[MapOptions],
    ) -> MapResult[O]: ...
    @overload
    async def map(
        self,
        id: str,
        handler: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        **options: Unpack[MapOptions],
    ) -> MapResult[R]: ...
    @overload
    async def map(
        self,
        id: str,
        handler: Callable[[T], R],
        items: Iterable[T],
        **options: Unpack[MapOptions],
    ) -> MapResult[R]: ...
    @overload
    async def map(
        self,
        id: str,
        handler: str,
        items: Iterable[Any],
        *,
        timeout: Duration | None = None,
        **options: Unpack[MapOptions],
    ) -> MapResult[Any]: ...
    async def map(
        self,
        id: str,
        handler: Any,
        items: Iterable[Any],
        *,
        timeout: Duration | None = None,
        **options: Unpack[MapOptions],
    ) -> MapResult[Any]:
        """Call a handler, or invoke a function, for each item, on all workers, and return the results in order.

        It is one step. Each item is executed, stored and retried on its own, and is never executed again once its
        result is stored. Only as many items have a job as may be open at once, so a map of 100,000 items needs little
        memory. All results together count to the limit of a run's state, 32 MiB.

        Args:
            id: identifies the step in the run.
            handler: called with the item as its one argument, as by ``run``; or a function, a `reference_function` or
                the id of a function, invoked with the item as its data, as by ``invoke``.
            items: at most 1,000,000 items. Each replay must make the same items in the same order.
            timeout: of a function: the longest wait for each child, a duration or seconds; by default, and at most,
                366 days. For a handler, use ``with_options(timeout=…)``.
            options: how many items are open at once, and how many may fail: `MapOptions`.

        Returns:
            A list with the result of each item. An item that failed has ``None`` in its place, and is in ``failures``.

        Raises:
            MapFailedError: more items failed than may fail. It has all of their errors, and the runs of functions.
            MapItemsError: the items are not those with which the step began.
            StepUsageError: an argument is invalid.
            LimitError: there are more than 1,000,000 items.

        Example::

            counts = await ctx.step.map("count", count, names, at_once=20, tolerate=0.05)
        """
        self._refuse_undo("map")
        self._refuse_cache("map")
        make: Callable[[Any], RunRequest | InvokeRequest]
        function = ""
        if isinstance(handler, Invocable | str):
            self._refuse_handler_options("map with a function")
            limit = self._limits.event_bytes
            function, make = invoke_requests(handler, timeout, app_id=self._app_id, event_bytes=limit)
            adapter = getattr(handler, "output", None)
        elif timeout is not None:
            raise StepUsageError(f"step {id!r}: map: timeout is for functions: use with_options(timeout=...)")
        else:
            make, adapter = item_requests(self._run_request(id, handler, (), {}))
        check_keywords("map", options, MapOptions)
        placement = self._settings.placement
        queue = placement.queue if placement else ""
        request = map_request(id, items, make, function=function, queue=queue, **options)
        memo = await self._execution.request(id, request)
        return map_result(id, memo, adapter)
