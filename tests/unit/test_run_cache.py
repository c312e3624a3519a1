"""The runs in memory: what they count of the memos."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stepflow import BackendUnavailableError, Context, Function
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_engine.limits import Limits
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.state.worker_state import WorkerState
from tests.support.plain import PLAIN
from tests.support.replay import data_memos, execution_of, on_run_loop

SIZE = 10


async def three(ctx: Context) -> list[object]:
    return [await ctx.step.run(name, lambda: 1) for name in ("a", "b", "c")]


def cached_run(**limits: int) -> CachedRun:
    function = cast(Function, SimpleNamespace(limits=Limits(**limits)))
    return CachedRun("run1", function, b"{}", execution_of(three), 0, "run1", deaths=("w1",))


@pytest.mark.parametrize("positions", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_a_memo_that_comes_by_several_ways_is_counted_once(positions: tuple[int, ...]) -> None:
    async def main() -> None:
        run = cached_run()
        memos = dict(enumerate(data_memos(a=1, b=2, c=3), 1))
        for position in positions:
            for _ in range(2):
                run.apply_memo(position, *memos[position], SIZE)
        for position, (key, memo) in memos.items():
            run.apply_memo(position, key, memo, SIZE)
        assert run.state_bytes == 3 * SIZE

    on_run_loop(main())


def test_a_memo_that_is_known_is_no_progress() -> None:
    async def main() -> None:
        run = cached_run()
        ((key, memo),) = data_memos(a=1)
        run.apply_memo(1, key, memo, SIZE)
        assert run.deaths == ()
        run.deaths = ("w2",)
        run.apply_memo(1, key, memo, SIZE)
        assert run.deaths == ("w2",)

    on_run_loop(main())


def test_the_result_of_a_step_is_counted_once_while_it_is_committed_and_after() -> None:
    async def main() -> None:
        run = cached_run(run_state_bytes=3 * SIZE)
        ((key, memo),) = data_memos(a=1)
        run.add_uncommitted(key, SIZE)
        assert run.has_room(2 * SIZE)
        assert not run.has_room(2 * SIZE + 1)
        run.apply_memo(1, key, memo, SIZE)
        assert run.has_room(2 * SIZE)
        assert not run.has_room(2 * SIZE + 1)

    on_run_loop(main())


class Outage:
    """A broker whose server is unavailable for some commands, and then answers with a status."""

    def __init__(self, failures: int, status: ScriptStatus) -> None:
        self.calls = 0
        self._failures = failures
        self._status = status

    async def execute(self, _call: object) -> ScriptStatus:
        self.calls += 1
        if self.calls <= self._failures:
            raise BackendUnavailableError("away")
        return self._status


@pytest.mark.parametrize(("status", "queued"), [(ScriptStatus.DONE, True), (ScriptStatus.NO_RUN, False)])
def test_a_parked_run_whose_code_continues_is_queued_however_long_the_server_is_away(
    monkeypatch: pytest.MonkeyPatch, status: ScriptStatus, *, queued: bool
) -> None:
    monkeypatch.setattr("stepflow_workers.state.worker_state._PAUSE_S", 0.0)

    async def main() -> None:
        broker, woken = Outage(3, status), list[str]()
        wakeups = SimpleNamespace(job_queued=woken.append, slot_freed=lambda: None)
        settings = WorkerSettings(redis_url="redis://127.0.0.1:1/0")
        state = WorkerState(cast(Any, broker), PLAIN, "w1", settings, "", cast(Any, wakeups))
        run = cached_run()
        state.cache.add(run)
        await run.execution.advance()
        state.watch_parked(run)
        run.execution.activity.touch()
        while broker.calls < 4:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert woken == (["run1"] if queued else [])
        assert run.execution.closed is not queued

    on_run_loop(main())
