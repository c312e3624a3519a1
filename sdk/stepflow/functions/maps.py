"""``step.map``: checks its arguments, makes the requests of its items, and its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Any, Generic, TypeVar

from stepflow.functions.invocable import invoke_error
from stepflow_engine.codec import Restore, restore
from stepflow_engine.durations import show_value
from stepflow_engine.errors import LimitError, MapFailedError, StepError, StepUsageError
from stepflow_engine.failure import Failure
from stepflow_engine.item_failure import ItemFailure
from stepflow_engine.memo import Memo
from stepflow_engine.steps import InvokeRequest, MapItems, MapRequest, RunRequest

__all__ = ["MAX_AT_ONCE", "MAX_ITEMS", "MapResult", "item_requests", "map_request", "map_result"]

MAX_AT_ONCE = 1_000
"""How many items of a map may be open at once: the most, and the default."""
MAX_ITEMS = 1_000_000
R = TypeVar("R")


class MapResult(list[R], Generic[R]):
    """The results of ``step.map``: a list with the result of each item, in the order of the items.

    An item that failed within ``tolerate`` has ``None`` in its place.

    Attributes:
        failures: the items that failed, in their order; empty: none did.

    Example::

        sizes = await ctx.step.map("resize", resize, names, tolerate=0.05)
        total = sum(sizes.results)
        again = [names[one.index] for one in sizes.failures]
    """

    failures: tuple[ItemFailure, ...]

    def __init__(self, results: Iterable[R], failures: Iterable[ItemFailure] = ()) -> None:
        super().__init__(results)
        self.failures = tuple(failures)

    @property
    def results(self) -> list[R]:
        """The results of the items that did not fail, in their order."""
        failed = {one.index for one in self.failures}
        return [result for index, result in enumerate(self) if index not in failed]


def map_request(
    step_id: str,
    items: Any,
    request: Callable[[Any], RunRequest | InvokeRequest],
    *,
    function: str,
    queue: str,
    at_once: int | None = None,
    tolerate: float = 0,
) -> MapRequest:
    """The request of a map.

    Args:
        request: makes the request of an item.
        function: the function that is invoked, as ``app/id``; ``""``: a handler is called.
        queue: the queue of the jobs of the items; ``""``: that of the run.

    Raises:
        StepUsageError: an argument is invalid.
        LimitError: there are too many items.
    """
    what = f"step {step_id!r}: map:"
    if isinstance(items, str | bytes | Mapping | Set) or not isinstance(items, Iterable):
        raise StepUsageError(
            f"{what} items must be a list or another iterable with an order, got {type(items).__name__}: "
            "pass sorted(items) of a set, and list(items.items()) of a dict"
        )
    values = list(items)
    if len(values) > MAX_ITEMS:
        raise LimitError(f"{what} items must be at most {MAX_ITEMS:,}, got {len(values):,}: use several steps")
    most, tolerated = _at_once(what, at_once), _tolerated(what, tolerate, len(values))
    return MapRequest(MapItems(values), request, most, tolerated, function, queue)


def item_requests(request: RunRequest) -> tuple[Callable[[Any], RunRequest], Restore | None]:
    """Makes the requests of the items that call a handler, from the request of a call without arguments.

    Returns:
        The function that makes them, and the adapter that restores their results.
    """
    return lambda item: replace(request, args=(item,)), request.adapter


def _at_once(what: str, at_once: Any) -> int:
    if at_once is None:
        return MAX_AT_ONCE
    if isinstance(at_once, bool) or not isinstance(at_once, int) or not 1 <= at_once <= MAX_AT_ONCE:
        raise StepUsageError(f"{what} at_once must be an integer from 1 to {MAX_AT_ONCE:,}, got {show_value(at_once)}")
    return at_once


def _tolerated(what: str, tolerate: Any, count: int) -> int:
    """How many of the items may fail. A float is a share of them, rounded down."""
    if isinstance(tolerate, float) and 0 <= tolerate <= 1:
        return math.floor(tolerate * count + 1e-9)  # 0.07 * 100 is a little more than 7
    if isinstance(tolerate, bool) or not isinstance(tolerate, int) or tolerate < 0:
        raise StepUsageError(
            f"{what} tolerate must be how many items may fail, an integer ≥ 0, or their share, a float from 0.0 to "
            f"1.0, got {show_value(tolerate)}"
        )
    return min(tolerate, count)


def map_result(step_id: str, memo: Memo, adapter: Restore | None) -> MapResult[Any]:
    """The result of a map.

    Args:
        adapter: restores the result of an item; ``None``: plain JSON data.

    Raises:
        MapFailedError: too many items have failed.
        StepError: the step failed for another reason.
        StepOutputError: a result does not fit the declared type.
    """
    failures = list(_failures(step_id, memo))
    if memo.failure is not None:
        if not failures:
            raise StepError(step_id, memo.failure)
        counts = {name: int(memo.detail.get(name, 0)) for name in ("count", "completed")}
        raise MapFailedError(step_id, memo.failure, failures=failures, **counts)
    results = memo.data
    if adapter is not None:
        failed = {one.index for one in failures}
        results = [
            None if index in failed else restore(adapter, result, what=f"step {step_id!r}: item {index}")
            for index, result in enumerate(results)
        ]
    return MapResult(results, failures)


def _failures(step_id: str, memo: Memo) -> Iterator[ItemFailure]:
    for one in memo.detail.get("failures", ()):
        index, failure = one["index"], Failure.from_json(one["error"])
        item_id = f"{step_id}[{index}]"
        is_invoke = "outcome" in one
        error = invoke_error(item_id, Memo(item_id, failure=failure, detail=one)) if is_invoke else None
        yield ItemFailure(index, error or StepError(item_id, failure))
