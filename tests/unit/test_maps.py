"""``step.map``: its arguments, the digest of its items, and its result."""

from __future__ import annotations

from typing import Any

import pytest

from stepflow import (
    InvokeCancelledError,
    LimitError,
    MapFailedError,
    MapItemsError,
    MapResult,
    StepError,
    StepTools,
    StepUsageError,
)
from stepflow.functions import maps
from stepflow_engine.execution import Execution, Waiting
from stepflow_engine.failure import Failure
from stepflow_engine.ids import is_item_key, item_key, split_item_key, step_key
from stepflow_engine.limits import Limits
from stepflow_engine.memo import Memo
from stepflow_engine.retry import is_final
from stepflow_engine.steps import InvokeRequest, MapItems, MapRequest, RunRequest
from tests.support.replay import on_run_loop

ERROR = {"name": "ValueError", "message": "no", "traceback": "", "cause": None}


def request_of(*args: Any, step: Any = lambda tools: tools, **options: Any) -> MapRequest:
    """The request of a map. It raises what the call raises."""

    async def body(execution: Execution) -> object:
        tools = StepTools(execution, app_id="shop", event={"name": "e"}, limits=Limits())
        return await step(tools).map("x", *args, **options)

    async def main() -> MapRequest:
        execution = Execution(body)
        outcome = await execution.advance()
        if not isinstance(outcome, Waiting):
            raise outcome.error  # type: ignore[union-attr]
        request = outcome.fresh[0].request
        execution.close()
        assert isinstance(request, MapRequest)
        return request

    return on_run_loop(main())


def double(item: int) -> int:
    return item * 2


@pytest.mark.parametrize(
    ("tolerate", "count", "tolerated"),
    [
        (0, 9, 0),
        (3, 9, 3),
        (0.0, 9, 0),
        (0.05, 100, 5),
        (0.07, 100, 7),
        (0.5, 3, 1),
        (1.0, 9, 9),
        (1, 9, 1),
        (10**30, 3, 3),
    ],
)
def test_a_float_tolerates_a_share_of_the_items_and_an_integer_a_number(
    tolerate: float, count: int, tolerated: int
) -> None:
    assert request_of(double, range(count), tolerate=tolerate).tolerated == tolerated


@pytest.mark.parametrize("tolerate", [-1, -0.1, 1.5, 2.0, float("nan"), True, "5%", None])
def test_what_may_fail_is_an_integer_or_a_share(tolerate: Any) -> None:
    with pytest.raises(StepUsageError, match=r"an integer ≥ 0, or their share, a float from 0\.0 to 1\.0, got"):
        request_of(double, [1], tolerate=tolerate)


@pytest.mark.parametrize("at_once", [0, -1, 1_001, 1.5, True, "20"])
def test_at_once_is_an_integer_from_1_to_1000(at_once: Any) -> None:
    with pytest.raises(StepUsageError, match=r"step 'x': map: at_once must be an integer from 1 to 1,000, got"):
        request_of(double, [1], at_once=at_once)
    assert request_of(double, [1]).at_once == request_of(double, [1], at_once=1_000).at_once == 1_000


@pytest.mark.parametrize("items", ["text", b"bytes", {1, 2}, frozenset({1}), {"a": 1}, 5, None, {"a": 1}.keys()])
def test_items_have_an_order(items: Any) -> None:
    with pytest.raises(
        StepUsageError, match=r"items must be a list or another iterable with an order.*sorted\(items\)"
    ):
        request_of(double, items)


def test_items_may_come_from_any_iterable_and_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert request_of(double, (n for n in range(3))).items.values == [0, 1, 2]
    monkeypatch.setattr(maps, "MAX_ITEMS", 2)
    with pytest.raises(LimitError, match="items must be at most 2, got 3"):
        request_of(double, [1, 2, 3])


def test_a_handler_gets_the_item_with_the_options_of_the_step_tools() -> None:
    request = request_of(
        double, [5], step=lambda tools: tools.with_options(retries=2, timeout="1s", queue="other", slots=3)
    )
    of_item = request.request(5)
    assert isinstance(of_item, RunRequest)
    assert (of_item.handler, of_item.args, of_item.retries, of_item.timeout_ms) == (double, (5,), 2, 1_000)
    assert of_item.placement is not None
    assert (request.queue, of_item.placement.slots, request.function) == ("other", 3, "")


def test_a_function_gets_the_item_as_its_data() -> None:
    request = request_of("child", [{"n": 5}], timeout="1h")
    assert request.function == "shop/child"
    assert request.request({"n": 5}) == InvokeRequest("shop", "child", b'{"n":5}', 3_600_000)


@pytest.mark.parametrize(
    ("handler", "options", "step", "text"),
    [
        (40, {}, None, "handler must be callable, got int"),
        (double, {"timeout": "1h"}, None, r"timeout is for functions: use with_options\(timeout=...\)"),
        (double, {}, {"undo": print}, "is for step.run, not for step.map: remove undo"),
        ("child", {}, {"queue": "other"}, r"with_options\(queue=..., slots=...\) is for step.run"),
        ("child", {"timeout": "later"}, None, "map: timeout"),
        ("a/b/c", {}, None, ""),
    ],
)
def test_what_does_not_go_together_is_refused_at_the_call(handler: Any, options: Any, step: Any, text: str) -> None:
    if text:
        with pytest.raises(StepUsageError, match=text):
            request_of(handler, [1], step=lambda tools: tools.with_options(**step or {}), **options)


def test_the_digest_tells_items_their_order_and_their_number_apart() -> None:
    class Plain:
        """Without a JSON form."""

    lists: list[list[Any]] = [[], [1], [1, 2], [2, 1], ["1"], [{"a": 1}], [{"a": 2}], [Plain()], [Plain(), Plain()]]
    digests = [MapItems(values).digest for values in lists]
    assert len(set(digests)) == len(lists)
    assert all(len(digest) == 8 and int(digest, 16) >= 0 for digest in digests)
    assert MapItems([Plain()]).digest == MapItems([Plain()]).digest
    assert MapItems([1, 2]).digest == MapItems((1, 2)).digest


def test_the_key_of_an_item_has_its_parts() -> None:
    key = item_key(step_key("x"), "0a1b2c3d", 99_999)
    assert is_item_key(key)
    assert not is_item_key(step_key("x"))
    assert split_item_key(key) == (step_key("x"), "0a1b2c3d", 99_999)


def test_a_result_is_a_list_with_the_failures_beside_it() -> None:
    detail = {"kind": "map", "failures": [{"index": 1, "error": ERROR, "attempts": 2}]}
    result = maps.map_result("x", Memo("x", data=[0, None, 2], detail=detail), None)
    assert isinstance(result, list)
    assert (result, result.results) == ([0, None, 2], [0, 2])
    (failure,) = result.failures
    assert (failure.index, failure.run_id, type(failure.error)) == (1, "", StepError)
    assert str(failure.error) == "step 'x[1]' failed: ValueError: no"
    assert MapResult([1]).failures == ()


def test_the_error_of_a_map_has_all_failures_with_their_runs() -> None:
    of_child = {"index": 4, "error": ERROR, "outcome": "cancelled", "run_id": "r1", "function": "shop/child"}
    detail = {"kind": "map", "count": 9, "completed": 3, "failures": [{"index": 1, "error": ERROR}, of_child]}
    memo = Memo("x", failure=Failure("MapFailedError", "2 of 9 items failed"), detail=detail)
    with pytest.raises(MapFailedError, match="step 'x': 2 of 9 items failed") as caught:
        maps.map_result("x", memo, None)
    error = caught.value
    assert ([one.index for one in error.failures], error.count, error.completed) == ([1, 4], 9, 3)
    assert (error.failures[1].run_id, type(error.failures[1].error)) == ("r1", InvokeCancelledError)
    assert is_final(error)


def test_a_map_that_failed_as_a_whole_raises_a_step_error() -> None:
    with pytest.raises(StepError, match="LimitError: too large"):
        maps.map_result("x", Memo("x", failure=Failure("LimitError", "too large"), detail={"kind": "map"}), None)


def test_other_items_are_not_retried() -> None:
    assert "(3 then, 2 now)" in str(error := MapItemsError("x", began_with=3, has=2))
    assert "others, or the same in another order" in str(MapItemsError("x", began_with=2, has=2))
    assert is_final(error)


def test_the_memo_of_a_job_of_a_map_that_no_worker_could_execute_is_its_failure() -> None:
    async def code(execution: Execution) -> str:
        tools = StepTools(execution, app_id="shop", event={"name": "e"}, limits=Limits())
        try:
            await tools.map("x", double, [1])
        except StepError as error:
            return error.name
        return ""

    async def main() -> Any:
        execution = Execution(code)
        execution.add([(step_key("x"), Memo("x", failure=Failure("PoisonError", "3 workers died")))])
        return await execution.advance()

    assert on_run_loop(main()).value == "PoisonError"
