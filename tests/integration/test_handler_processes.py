"""The processes of isolated handlers, without a server: when one is used again, and what a call cannot do."""

from __future__ import annotations

import asyncio
import os
import sys
import types
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from stepflow import HandlerProcessError
from stepflow_engine.around_attempt import Attempt
from stepflow_engine.handler_control import HandlerControl
from stepflow_engine.isolation import Isolation
from stepflow_engine.steps import RunRequest
from stepflow_workers.handler_process import processes as module
from stepflow_workers.handler_process.attempt import attempt_in_process
from stepflow_workers.handler_process.pickled_call import HandlerCall
from stepflow_workers.handler_process.processes import HandlerProcesses


@pytest.fixture
async def processes() -> AsyncIterator[HandlerProcesses]:
    """At most one process at a time."""
    processes = HandlerProcesses(1)
    yield processes
    processes.close()


async def _result(processes: HandlerProcesses, handler: Callable[..., Any], *args: Any, memory_bytes: int = 0) -> Any:
    control = HandlerControl("s")
    call = HandlerCall(Attempt("shop/f", "run1", "s", 0), handler, args, {}, [], "key", None, 1_000)
    request = RunRequest(handler, args, {}, isolation=Isolation(memory_bytes))
    return (await attempt_in_process(processes, request, call, control, cancel_grace_s=1.0)).data


_KEPT: list[bytes] = []


def _pid(kept_bytes: int = 0) -> int:
    _KEPT.append(b"x" * kept_bytes)
    return os.getpid()


async def test_a_process_is_replaced_after_its_number_of_handlers(
    processes: HandlerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_CALLS", 2)
    first, second, third = [await _result(processes, _pid) for _ in range(3)]
    assert first == second != third


async def test_a_process_that_keeps_much_of_the_memory_limit_is_replaced(processes: HandlerProcesses) -> None:
    first = await _result(processes, _pid, 150 * 1024**2)
    assert await _result(processes, _pid) == first
    assert await _result(processes, _pid, memory_bytes=200 * 1024**2) != first


async def test_a_waiting_handler_is_not_executed_when_it_is_cancelled(processes: HandlerProcesses) -> None:
    control = HandlerControl("s")
    async with processes.one(HandlerControl("other")):
        control.cancel("enough")
        with pytest.raises(RuntimeError, match="enough"):
            await asyncio.wait_for(_wait(processes, control), 30)
    async with processes.one(HandlerControl("next")) as process:  # the permit was not lost
        assert process.is_alive


async def _wait(processes: HandlerProcesses, control: HandlerControl) -> None:
    async with processes.one(control):
        raise AssertionError("there is no free process")


async def test_a_handler_that_the_process_cannot_import_fails_with_the_reason(
    processes: HandlerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = types.ModuleType("made_up")
    exec("def handler(): ...", made_up.__dict__)
    monkeypatch.setitem(sys.modules, "made_up", made_up)
    with pytest.raises(HandlerProcessError, match="cannot load the handler: ModuleNotFoundError: No module named"):
        await _result(processes, made_up.handler)


async def test_a_process_that_cannot_start_is_an_error_of_the_attempt(
    processes: HandlerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(HandlerProcessError, match="the process of the handler cannot start: "):
        await _result(processes, _pid)
