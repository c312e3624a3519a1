"""Harness: the asyncio twin of SyncHarness. Each call runs in a thread, so the event loop of the test goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal

from stepflow import Function, Run, Stepflow
from stepflow_engine.durations import Duration
from stepflow_workers.testing.clock import VirtualClock
from stepflow_workers.testing.history import HistoryRecord
from stepflow_workers.testing.stubs import MISSING, StepCallRecord, Stub
from stepflow_workers.testing.sync_harness import SyncHarness

__all__ = ["Harness"]


class Harness:
    """The asyncio twin of `SyncHarness`, with the same arguments. Enter it with ``async with``.

    Example::

        async with Harness(app) as h:
            run = await h.start(remind, {"order": 17})
            await h.advance("3d")
            assert await h.finish(run) == "reminded"
    """

    def __init__(
        self,
        *apps: Stepflow,
        server: str | None = None,
        start: datetime | None = None,
        frozen: bool = False,
        steps: Literal["run", "stub"] = "run",
        replay: Literal["normal", "always"] = "normal",
        idle_timeout: Duration = "30s",
    ) -> None:
        self._sync = SyncHarness(
            *apps, server=server, start=start, frozen=frozen, steps=steps, replay=replay, idle_timeout=idle_timeout
        )

    @property
    def clock(self) -> VirtualClock:
        """The time of the test."""
        return self._sync.clock

    async def __aenter__(self) -> Harness:
        await asyncio.to_thread(self._sync.__enter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._sync.__exit__, kind, error, trace)

    async def start(self, function: Function[Any, Any] | str, data: Any = None, **options: Any) -> Run[Any]:
        """See `SyncHarness.start`."""
        return await asyncio.to_thread(self._sync.start, function, data, **options)

    async def send(self, event: str, data: Any = None, *, id: str | None = None) -> list[Run[Any]]:
        """See `SyncHarness.send`."""
        return await asyncio.to_thread(self._sync.send, event, data, id=id)

    async def invoke(self, function: Function[Any, Any] | str, data: Any = None, *, max_skip: Duration = "366d") -> Any:
        """See `SyncHarness.invoke`."""
        return await asyncio.to_thread(self._sync.invoke, function, data, max_skip=max_skip)

    async def idle(self) -> None:
        """See `SyncHarness.idle`."""
        await asyncio.to_thread(self._sync.idle)

    async def advance(self, by: Duration) -> None:
        """See `SyncHarness.advance`."""
        await asyncio.to_thread(self._sync.advance, by)

    async def until(self, when: datetime | str | Callable[[], object], *, max_skip: Duration = "366d") -> None:
        """See `SyncHarness.until`. A condition is called in another thread."""
        await asyncio.to_thread(self._sync.until, when, max_skip=max_skip)

    async def finish(self, run: Run[Any], *, max_skip: Duration = "366d") -> Any:
        """See `SyncHarness.finish`."""
        return await asyncio.to_thread(self._sync.finish, run, max_skip=max_skip)

    async def history(self, run: Run[Any]) -> list[HistoryRecord]:
        """See `SyncHarness.history`."""
        return await asyncio.to_thread(self._sync.history, run)

    def stub(
        self,
        step: str | Callable[..., Any],
        *,
        returns: Any = MISSING,
        raises: BaseException | type[BaseException] = MISSING,
        calls: Callable[..., Any] = MISSING,
        each: Sequence[Any] = MISSING,
        function: Function[Any, Any] | str | None = None,
        times: int | None = None,
    ) -> Stub:
        """See `SyncHarness.stub`."""
        return self._sync.stub(
            step, returns=returns, raises=raises, calls=calls, each=each, function=function, times=times
        )

    def calls(self, step: str) -> list[StepCallRecord]:
        """See `SyncHarness.calls`."""
        return self._sync.calls(step)
