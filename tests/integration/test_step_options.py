"""The queue and the slots of a step, with real workers."""

from __future__ import annotations

import asyncio
import threading

import pytest

from stepflow import Context, NonRetriableError, RunFailedError, Stepflow, SyncContext
from tests.support.processes import until

pytestmark = pytest.mark.roles("producer", "operator")


@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
def test_a_step_is_executed_retried_and_undone_by_workers_of_its_queue(app: Stepflow, run_worker) -> None:
    @app.function("train")
    async def train(ctx: Context) -> list[str]:
        gpu = ctx.step.with_options(queue="gpu", retries=1)
        first = await ctx.step.run("prepare", lambda: "prepared")
        fitted = await gpu.run("fit", fit, undo=lambda _: None)
        both = await asyncio.gather(gpu.run("a", lambda: "a"), ctx.step.run("b", lambda: "b"))
        if ctx.event.data["fails"]:
            raise NonRetriableError("no")
        return [first, fitted, *both]

    calls: list[int] = []

    def fit() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("once")
        return "fit"

    run_worker(app, queues=["shop"], name="cpu-worker")
    run = app.start(train, {"fails": False})
    until(lambda: "no live worker serves queue gpu: start one" in str(run.explain().to_json()))
    assert calls == []
    run_worker(app, queues=["gpu"], name="gpu-worker")
    assert run.result(30) == ["prepared", "fit", "a", "b"]
    undone = app.start(train, {"fails": True})
    with pytest.raises(RunFailedError):
        undone.result(30)
    for one in (run, undone):
        workers = {step.id: step.worker for step in one.steps()}
        for step_id, worker in workers.items():
            assert worker == ("cpu-worker" if step_id in ("prepare", "b") else "gpu-worker"), step_id
        assert len(workers) == (4 if one is run else 5)


def test_steps_with_several_slots_share_a_worker_only_as_far_as_they_fit(app: Stepflow, run_worker) -> None:
    lock, used, most = threading.Lock(), [0], [0]

    def work(slots: int) -> int:
        with lock:
            used[0] += slots
            most[0] = max(most[0], used[0])
        threading.Event().wait(0.02)
        with lock:
            used[0] -= slots
        return slots

    @app.function("mixed")
    def mixed(ctx: SyncContext) -> int:
        slots = ctx.event.data
        return ctx.step.with_options(slots=slots).run("work", work, min(slots, 4))

    run_worker(app, concurrency=4)
    sizes = [3, 1, 2, 1, 100, 1, 3, 2, 1, 1, 4, 1]
    runs = app.start_many(mixed, sizes)
    assert [run.result(30) for run in runs] == [min(size, 4) for size in sizes]
    assert most[0] == 4
