"""step.invoke of functions whose runs are counted together, and so live in another partition than the parent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis

from stepflow import (
    Batch,
    Concurrency,
    Context,
    Debounce,
    Encryption,
    Function,
    InvokeCancelledError,
    InvokeError,
    InvokeSkippedError,
    InvokeTimeoutError,
    RateLimit,
    Run,
    RunStatus,
    Singleton,
    Stepflow,
)
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.registry.functions import register_functions, registry_version
from stepflow_broker.transitions.invokes.invokes import ChildStart
from stepflow_broker.transitions.invokes.outbox import StartChild
from stepflow_broker.transitions.invokes.remote_invokes import (
    invoke_remote_child,
    read_end,
    start_remote_child,
    wake_remote_parent,
)
from stepflow_broker.transitions.jobs.job_claims import claim_jobs, queue_lists
from stepflow_broker.transitions.pauses import pause
from stepflow_broker.transitions.runs.run_ends import finish_run
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import RunRecord, read_run
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_broker.transitions.steps.step_record import read_steps
from stepflow_engine.codec import dumps
from stepflow_engine.ids import run_id_for, step_key, with_partition_prefix
from tests.support.found_runs import ENDED, found_runs
from tests.support.plain import plain_partition
from tests.support.processes import until

PARTITIONS = 4
ALONE = Concurrency(limit=1)


@pytest.fixture
def url(url: str) -> str:
    return f"{url.partition('?')[0]}?partitions={PARTITIONS}"


@pytest.fixture
def partition(url: str) -> Partition:
    return plain_partition(url)


@pytest.fixture
def broker(url: str) -> Iterator[Broker]:
    found = Broker(url)
    yield found
    found.close()


def start_elsewhere(app: Stepflow, parent: Function[Any, Any], child: Function[Any, Any], data: Any = None) -> Run[Any]:
    """Start a parent in the partition after the one where the child's runs live."""
    partition = app.backend.partition
    home = partition.all.index(partition.of(child.config.pinned_partition))
    run_id = with_partition_prefix(f"{(home + 1) % PARTITIONS:04x}", run_id_for(parent.config.name, repr(data)))
    event = dumps({"name": "e", "id": run_id, "ts": 1, "data": data})
    app.backend.deliver([start_run(partition, parent.config, run_id=run_id, event=event, dedupe=False)])
    assert partition.of(run_id) is not partition.of(child.config.pinned_partition)
    return app.run(run_id)


def nothing_left(broker: Broker, partition: Partition) -> None:
    """Wait until nothing lives and no message is left in any partition."""
    for one in partition.all:
        _nothing_left_in(broker.client(one.keys), one)


def _nothing_left_in(client: redis.Redis, partition: Partition) -> None:
    until(lambda: client.xlen(partition.keys("FINISHED")) == 0, what=f"the delivery of all in {partition.tag}")
    for kind in ("LIVE", "LEASES", "TIMEOUTS"):
        until(lambda kind=kind: not client.exists(partition.keys(kind)), what=f"the end of {kind}")
    for key in client.scan_iter(partition.keys("RUN", "*")):
        until(lambda key=key: client.pttl(key) > 0, what=f"the expiry of {key}")


def child_of(broker: Broker, partition: Partition, parent: Run[Any]) -> str:
    """The child that a run waits for, as soon as it is there."""

    def found() -> list[str]:
        children = [step.child for step in broker.execute(read_steps(partition, parent.id)) if step.child]
        return [child for child in children if broker.execute(read_run(partition, child))]

    until(found, what=f"the child of {parent.id}")
    return found()[0]


def ended(broker: Broker, partition: Partition) -> list[RunRecord]:
    """All runs that have ended."""
    run_ids = [run.id for run in found_runs(broker, partition, statuses=ENDED)]
    return [record for run_id in run_ids if (record := broker.execute(read_run(partition, run_id)))]


def caller(app: Stepflow, child: Any, **options: Any) -> Function[Any, Any]:
    """A function that invokes a child, and says how that ended."""

    @app.function("caller")
    async def call(ctx: Context) -> list[Any]:
        try:
            return ["completed", await ctx.step.invoke("call", child, data=ctx.event.data, **options)]
        except InvokeError as error:
            return [type(error).__name__, error.message]

    return call


FLOWS: dict[str, dict[str, Any]] = {
    "concurrency": {"concurrency": ALONE},
    "of-the-app": {"concurrency": Concurrency(limit=5, scope="app")},
    "singleton": {"singleton": Singleton(mode="skip")},
    "debounce": {"debounce": Debounce(timedelta(milliseconds=50))},
    "batch": {"batch": Batch(max_size=2, timeout=timedelta(milliseconds=100))},
    "rate-limit": {"rate_limit": RateLimit(limit=5, period="1h")},
}


@pytest.mark.parametrize("sticky", [0, 100])
@pytest.mark.parametrize("flow", FLOWS)
def test_a_child_completes(
    app: Stepflow, run_worker, broker: Broker, partition: Partition, flow: str, sticky: int
) -> None:
    @app.function("child", **FLOWS[flow])
    async def child(ctx: Context) -> dict[str, Any]:
        return {"done": await ctx.step.run("work", lambda: len(ctx.events))}

    call = caller(app, child)
    run_worker(app, sticky=sticky)
    run = start_elsewhere(app, call, child, {"n": 1})
    assert run.result(30) == ["completed", {"done": 1}]
    nothing_left(broker, partition)


@pytest.mark.slow
def test_a_worker_that_leaves_when_nothing_is_left_leaves_nothing(
    app: Stepflow, run_worker, broker: Broker, partition: Partition
) -> None:
    @app.function("child", concurrency=ALONE)
    async def child(ctx: Context) -> Any:
        return ctx.event.data

    call = caller(app, child)
    register(broker, partition, call, child)
    run = start_elsewhere(app, call, child, 7)
    run_worker(app, burst=True).thread.join(20)
    assert run.result(1) == ["completed", 7]
    nothing_left(broker, partition)


def test_a_child_that_fails_raises_its_error_in_the_parent(
    app: Stepflow, run_worker, broker: Broker, partition: Partition
) -> None:
    @app.function("child", concurrency=ALONE, retries=1)
    async def child(ctx: Context) -> None:
        raise ValueError(f"attempt {ctx.attempt}")

    call = caller(app, child)
    run_worker(app)
    assert start_elsewhere(app, call, child).result(30) == ["InvokeError", "attempt 1"]
    nothing_left(broker, partition)


def test_a_child_that_its_rate_limit_skips_is_told(
    app: Stepflow, run_worker, broker: Broker, partition: Partition
) -> None:
    @app.function("child", rate_limit=RateLimit(limit=1, period="1h"))
    async def child(_: Context) -> str:
        return "done"

    @app.function("caller")
    async def call(ctx: Context) -> list[Any]:
        first = await ctx.step.invoke("call", child)
        try:
            await ctx.step.invoke("call", child)
        except InvokeSkippedError as error:
            return [first, error.reason]
        return [first, ""]

    run_worker(app)
    assert start_elsewhere(app, call, child).result(30) == ["done", "rate limited"]
    nothing_left(broker, partition)


def test_a_paused_function_skips_the_child(app: Stepflow, run_worker, broker: Broker, partition: Partition) -> None:
    @app.function("child", concurrency=ALONE)
    async def child(_: Context) -> None: ...

    call = caller(app, child)
    run_worker(app)
    broker.execute_all([pause(one, "function", "shop/child", reason="") for one in partition.all])
    name, text = start_elsewhere(app, call, child).result(30)
    assert name == InvokeSkippedError.__name__
    assert "paused" in text
    nothing_left(broker, partition)


def test_a_singleton_that_is_busy_skips_the_child(
    app: Stepflow, run_worker, broker: Broker, partition: Partition
) -> None:
    gate = threading.Event()

    @app.function("child", singleton=Singleton(mode="skip"))
    async def child(ctx: Context) -> None:
        await ctx.step.run("wait", asyncio.to_thread, gate.wait, 20)

    call = caller(app, child)
    run_worker(app)
    busy = app.start(child)
    until(lambda: busy.status() is RunStatus.RUNNING, what="the first run")
    assert start_elsewhere(app, call, child).result(30)[0] == InvokeSkippedError.__name__
    gate.set()
    busy.result(20)
    nothing_left(broker, partition)


def test_a_singleton_that_gives_way_is_told(app: Stepflow, run_worker, broker: Broker, partition: Partition) -> None:
    @app.function("child", singleton=Singleton(mode="cancel"))
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("long", "1h")

    call = caller(app, child)
    run_worker(app)
    first = start_elsewhere(app, call, child, 1)
    child_of(broker, partition, first)
    second = start_elsewhere(app, call, child, 2)
    assert first.result(30)[0] == InvokeCancelledError.__name__
    second.cancel()
    nothing_left(broker, partition)


def test_a_child_that_a_later_one_displaces_is_told(
    app: Stepflow, run_worker, broker: Broker, partition: Partition
) -> None:
    @app.function("child", debounce=Debounce(timedelta(seconds=2)))
    async def child(ctx: Context) -> Any:
        return ctx.event.data

    call = caller(app, child)
    run_worker(app)
    first = start_elsewhere(app, call, child, 1)
    child_of(broker, partition, first)
    second = start_elsewhere(app, call, child, 2)
    assert first.result(30)[0] == InvokeSkippedError.__name__
    assert second.result(30) == ["completed", 2]
    nothing_left(broker, partition)


def test_every_caller_of_a_batch_is_answered(app: Stepflow, run_worker, broker: Broker, partition: Partition) -> None:
    @app.function("child", batch=Batch(max_size=3, timeout=timedelta(seconds=30)))
    async def child(ctx: Context) -> list[int]:
        return sorted(event.data for event in ctx.events)

    call = caller(app, child)
    run_worker(app)
    runs = [start_elsewhere(app, call, child, n) for n in range(3)]
    assert [run.result(30) for run in runs] == [["completed", [0, 1, 2]]] * 3
    nothing_left(broker, partition)


def test_children_here_and_elsewhere_in_one_gather(
    app: Stepflow, run_worker, broker: Broker, partition: Partition
) -> None:
    @app.function("child", concurrency=Concurrency(limit=3))
    async def child(ctx: Context) -> int:
        return ctx.event.data

    @app.function("near")
    async def near(ctx: Context) -> int:
        return -ctx.event.data

    @app.function("caller")
    async def call(ctx: Context) -> list[int]:
        invokes = [ctx.step.invoke("call", which, data=n) for n in range(1, 20) for which in (child, near)]
        return await asyncio.gather(*invokes, ctx.step.run("here", lambda: 100))

    run_worker(app)
    expected = [sign * n for n in range(1, 20) for sign in (1, -1)]
    assert start_elsewhere(app, call, child).result(30) == [*expected, 100]
    nothing_left(broker, partition)


def test_the_wait_ends_at_its_timeout_and_the_child_keeps_running(
    app: Stepflow, run_worker, broker: Broker, partition: Partition
) -> None:
    gate = threading.Event()

    @app.function("child", concurrency=ALONE)
    async def child(ctx: Context) -> str:
        await ctx.step.run("wait", asyncio.to_thread, gate.wait, 20)
        return "late"

    call = caller(app, child, timeout=0.5)
    run_worker(app)
    run = start_elsewhere(app, call, child)
    child_id = child_of(broker, partition, run)
    assert run.result(30)[0] == InvokeTimeoutError.__name__
    gate.set()
    assert app.run(child_id).result(20) == "late"
    assert run.result(1)[0] == InvokeTimeoutError.__name__
    nothing_left(broker, partition)


def test_a_child_that_is_cancelled_is_told(app: Stepflow, run_worker, broker: Broker, partition: Partition) -> None:
    @app.function("child", concurrency=ALONE)
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("long", "1h")

    call = caller(app, child)
    run_worker(app)
    run = start_elsewhere(app, call, child)
    app.run(child_of(broker, partition, run)).cancel()
    assert run.result(30)[0] == InvokeCancelledError.__name__
    nothing_left(broker, partition)


def test_a_parent_that_is_cancelled_cancels_children_and_their_children_everywhere(
    app: Stepflow, run_worker, broker: Broker, partition: Partition
) -> None:
    @app.function("grandchild")
    async def grandchild(ctx: Context) -> None:
        await ctx.step.sleep("long", "1h")

    @app.function("child", concurrency=ALONE)
    async def child(ctx: Context) -> None:
        await ctx.step.invoke("further", grandchild)

    call = caller(app, child)
    run_worker(app)
    run = start_elsewhere(app, call, child)
    child_id = child_of(broker, partition, run)
    grandchild_id = child_of(broker, partition, app.run(child_id))
    run.cancel()
    for one in (child_id, grandchild_id):
        until(lambda one=one: app.run(one).status() is RunStatus.CANCELLED, what=f"the end of {one}")
    nothing_left(broker, partition)


def test_a_record_names_the_parent_wherever_it_lives(
    app: Stepflow, run_worker, broker: Broker, partition: Partition
) -> None:
    @app.function("child", concurrency=ALONE)
    async def child(_: Context) -> None: ...

    call = caller(app, child)
    run_worker(app)
    run = start_elsewhere(app, call, child)
    run.result(30)
    record = next(one for one in ended(broker, partition) if one.function == "child")
    assert record.parent == run.id


def test_what_is_encrypted_opens_in_the_parent(url: str, run_worker, broker: Broker, partition: Partition) -> None:
    app = Stepflow("shop", redis_url=url, encryption=Encryption(keys=[Encryption.generate_key()]))

    @app.function("child", concurrency=ALONE, retries=0)
    async def child(ctx: Context) -> str:
        if ctx.event.data == "fail":
            raise ValueError("swordfish")
        return "swordfish"

    call = caller(app, child)
    run_worker(app)
    assert start_elsewhere(app, call, child, "pass").result(30) == ["completed", "swordfish"]
    assert start_elsewhere(app, call, child, "fail").result(30) == ["InvokeError", "swordfish"]
    memos = [memo for one in ended(broker, partition) for _, memo in broker.execute(read_memos(partition, one.id))]
    assert len(memos) == 2
    assert b"swordfish" not in b"".join(memos)


# -- workers that die ----------------------------------------------------------------


def register(broker: Broker, partition: Partition, *functions: Function[Any, Any]) -> None:
    broker.execute_all(
        [register_functions(one.keys, [function.config for function in functions]) for one in partition.all]
    )


def dead_parent(
    app: Stepflow, broker: Broker, partition: Partition, call: Any, child: Any
) -> tuple[Run[Any], StartChild]:
    """A parent whose worker has recorded the wait for a child, and died before it had it started."""
    register(broker, partition, call, child)
    run = start_elsewhere(app, call, child, "data")
    here = partition.of(run.id)
    broker.execute(create_group(here.keys, "FINISHED"))
    claimed = broker.execute(claim_jobs(here, lists=queue_lists(["shop"]), worker="dead", limit=9, lease_ms=100))
    assert claimed
    (lease,) = claimed.leases
    key, name = step_key("call"), child.config.name
    child_id = with_partition_prefix(child.config.pinned_partition, run_id_for(run.id, key))
    start = ChildStart(
        key=key,
        step_id="call",
        child=child_id,
        event=dumps({"name": "stepflow/function.invoked", "id": child_id, "ts": 1, "data": "data"}),
        detail=dumps({"id": "call", "kind": "invoke", "function": name, "run_id": child_id})[1:],
        timeout_ms=60_000,
        timeout_memo=b"{}",
        refusal=b"",
        config=child.config,
        depth=1,
    )
    version = broker.execute(registry_version(here.keys))
    code, asked = broker.execute(
        invoke_remote_child(partition, start, run_id=run.id, fence=lease.fence, version=version)
    )
    assert code is ScriptStatus.DONE
    assert asked is not None
    return run, asked


def finish_by_hand(broker: Broker, partition: Partition, child: str) -> None:
    """End a child as its worker does that then dies."""
    there = partition.of(child)
    claimed = broker.execute(claim_jobs(there, lists=queue_lists(["shop"]), worker="dead", limit=9, lease_ms=9_000))
    assert claimed
    (lease,) = claimed.leases
    ending = finish_run(
        partition,
        run_id=child,
        fence=lease.fence,
        status=RunStatus.COMPLETED,
        payload=b'"by hand"',
        retention_ms=60_000,
    )
    assert broker.execute(ending) is ScriptStatus.DONE


@pytest.mark.slow
@pytest.mark.parametrize("died", ["before-the-start", "after-the-start", "after-the-end", "with-the-end-told"])
def test_a_worker_died_between_two_partitions(
    app: Stepflow, run_worker, broker: Broker, partition: Partition, died: str
) -> None:
    executed: list[str] = []

    @app.function("child", concurrency=ALONE)
    async def child(ctx: Context) -> str:
        return await ctx.step.run("work", lambda: executed.append(ctx.run_id) or "done")

    run, asked = dead_parent(app, broker, partition, caller(app, child), child)
    expected = "done"
    if died != "before-the-start":
        assert broker.execute(start_remote_child(partition, asked)) is ScriptStatus.DONE
    if died in ("after-the-end", "with-the-end-told"):
        finish_by_hand(broker, partition, asked.child)
        expected = "by hand"
    if died == "with-the-end-told":
        end = broker.execute(read_end(partition, asked.child))
        assert end is not None
        assert broker.execute(wake_remote_parent(partition, end, worker="dead")) is not None
    run_worker(app)
    assert run.result(30) == ["completed", expected]
    assert len(executed) == (1 if expected == "done" else 0)
    nothing_left(broker, partition)


def test_a_parent_is_cancelled_whose_child_nobody_has_started(
    app: Stepflow, run_worker, broker: Broker, partition: Partition
) -> None:
    @app.function("child", concurrency=ALONE)
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("long", "1h")

    run, asked = dead_parent(app, broker, partition, caller(app, child), child)
    run.cancel()
    run_worker(app)
    until(lambda: broker.execute(read_run(partition, asked.child)), what="the child")
    until(lambda: app.run(asked.child).status() is RunStatus.CANCELLED, what="the end of the child")
    nothing_left(broker, partition)
