"""Heartbeats of a handler, and its cancellation, without a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stepflow import StepCancelled, StepUsageError
from stepflow.functions.step_tools import StepTools
from stepflow_engine.execution import Execution
from stepflow_engine.handler_control import HandlerControl
from stepflow_engine.limits import Limits
from stepflow_engine.step_attempt import attempt_step
from stepflow_engine.steps import RunRequest
from stepflow_engine.thread_pool import ThreadPool
from stepflow_engine.user_code import original


async def _no_code(_: Execution) -> None: ...


STEP = StepTools(Execution(_no_code), app_id="shop", event={}, limits=Limits())


async def attempt(handler: Callable[[], Any], control: HandlerControl, **options: Any) -> Any:
    request = RunRequest(handler, (), {}, **options)
    common: dict[str, Any] = {"function": "shop/f", "run_id": "run1", "attempt": 0, "limit_bytes": 1_000}
    return (await attempt_step("s", request, threads=ThreadPool(), control=control, **common)).data


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_handler_reads_the_last_heartbeat_and_reports_its_own(kind: str) -> None:
    seen: list[bytes] = []
    control = HandlerControl("s", "key", 7, lambda control: seen.append(control.detail))

    def work() -> Any:
        for number in range(STEP.last_heartbeat, 9):
            STEP.heartbeat({"part": number})
        STEP.heartbeat()
        return STEP.cancelled

    async def work_async() -> Any:
        return work()

    assert await attempt(work if kind == "sync" else work_async, control) is False
    assert seen == [b'{"part":7}', b'{"part":8}']


async def test_an_attempt_without_heartbeats_fails_and_one_with_heartbeats_may_take_longer() -> None:
    async def silent() -> None:
        await asyncio.Event().wait()

    async def alive() -> str:
        for _ in range(30):
            STEP.heartbeat()
            await asyncio.sleep(0.02)
        return "done"

    with pytest.raises(TimeoutError, match="the handler sent no heartbeat for 50ms"):
        await attempt(silent, HandlerControl("s"), heartbeat_timeout_ms=50)
    assert await attempt(alive, HandlerControl("s"), heartbeat_timeout_ms=400) == "done"


async def test_the_timeout_holds_beside_the_heartbeats() -> None:
    async def alive() -> None:
        while True:
            STEP.heartbeat()
            await asyncio.sleep(0.01)

    with pytest.raises(TimeoutError, match="the handler did not finish within 100ms"):
        await attempt(alive, HandlerControl("s"), timeout_ms=100, heartbeat_timeout_ms=60_000)


async def test_a_late_handler_in_a_thread_ends_at_its_next_heartbeat() -> None:
    go_on, ended = threading.Event(), threading.Event()

    def slow() -> None:
        try:
            go_on.wait(30)
            STEP.heartbeat()
        except Exception:
            return
        except StepCancelled:
            ended.set()
            raise

    with pytest.raises(TimeoutError):
        await attempt(slow, HandlerControl("s"), timeout_ms=20)
    go_on.set()
    assert await asyncio.to_thread(ended.wait, 30)


async def test_the_heartbeat_of_a_cancelled_handler_raises() -> None:
    control = HandlerControl("s")

    async def work() -> None:
        control.cancel("the run has ended")
        assert STEP.cancelled
        STEP.heartbeat(1)

    with pytest.raises(Exception) as raised:  # noqa: PT011
        await attempt(work, control)
    assert isinstance(original(raised.value), StepCancelled)
    assert str(original(raised.value)) == "the run has ended"


@pytest.mark.parametrize("options", [{}, {"timeout_ms": 60_000}])
async def test_a_coroutine_that_a_lambda_has_returned_can_be_cancelled(options: dict[str, int]) -> None:
    control, started = HandlerControl("s"), asyncio.Event()

    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(attempt(lambda: work(), control, **options))
    await started.wait()
    control.cancel("the run has ended")
    assert control.task is not None
    control.task.cancel()
    with pytest.raises(RuntimeError):
        await running


async def test_a_handler_in_a_thread_whose_worker_gives_up_the_step_ends_at_its_next_heartbeat() -> None:
    started, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go_on.wait(30)
        try:
            STEP.heartbeat()
        except StepCancelled:
            ended.set()
            raise

    running = asyncio.create_task(attempt(work, HandlerControl("s")))
    await asyncio.to_thread(started.wait, 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    go_on.set()
    assert await asyncio.to_thread(ended.wait, 30)


@pytest.mark.parametrize(
    ("detail", "message"),
    [
        (object(), "the heartbeat of step 's': detail must be JSON"),
        ("x" * 20_000, "the heartbeat of step 's': detail must be at most 16,384 bytes of JSON, got 20,002"),
    ],
)
async def test_a_detail_that_cannot_be_stored_is_refused(detail: Any, message: str) -> None:
    async def work() -> None:
        STEP.heartbeat(detail)

    with pytest.raises(StepUsageError, match=message):
        await attempt(work, HandlerControl("s"))


@pytest.mark.parametrize("name", ["last_heartbeat", "cancelled", "heartbeat", "idempotency_key"])
def test_outside_of_a_handler_they_are_refused(name: str) -> None:
    with pytest.raises(StepUsageError, match=f"{name}: there is none outside of the handler of a step"):
        _ = STEP.heartbeat() if name == "heartbeat" else getattr(STEP, name)


@pytest.mark.parametrize("value", ["soon", -1, 0, "400d"])
def test_a_heartbeat_timeout_of_another_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="heartbeat_timeout must"):
        STEP.with_options(heartbeat_timeout=value)
    with pytest.raises(ValueError, match=r"timeout must (be|not be) "):
        STEP.with_options(timeout=value)


def test_options_are_kept_by_further_options() -> None:
    tools = STEP.with_options(heartbeat_timeout="30s").with_options(timeout="1h")
    assert (tools._settings.heartbeat_timeout_ms, tools._settings.timeout_ms) == (30_000, 3_600_000)
