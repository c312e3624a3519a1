"""Forks of runs that ended before the runs that they had invoked: what completed meanwhile is taken over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from stepflow import (
    Context,
    Encryption,
    ForkError,
    InvokeError,
    RateLimit,
    Run,
    RunFailedError,
    RunStatus,
    Stepflow,
)
from stepflow_broker.transitions.runs.run_record import read_run
from tests.support.dying_caller import DyingCaller
from tests.support.processes import until

layouts = pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
secrecy = pytest.mark.parametrize("encryption", [None, Encryption(keys=[b"k" * 32])], ids=["plain", "encrypted"])


class Family:
    """Parents whose child waits for the event ``go``; the child lives in a partition of its own, if there are several.

    Attributes:
        calls: how often children began, and how often the parent's own step was executed.
        broken: whether that step fails.
        held: whether it does not end.
    """

    def __init__(self, app: Stepflow) -> None:
        self.app, self.calls, self.broken, self.held = app, Counter[str](), True, False

        @app.function("child", retries=0, rate_limit=RateLimit(1000, "1h"))
        async def child(ctx: Context) -> int:
            await ctx.step.run("begin", self.note, "child")
            event = await ctx.step.wait_for_event("go", event="go", timeout="1h", match={"data.to": ctx.run_id})
            assert event is not None
            if event.data["fails"]:
                raise ValueError("the child has failed")
            return int(event.data["n"])

        @app.function("both", retries=0)
        async def both(ctx: Context) -> list[int]:
            step = ctx.step.with_options(retries=0)
            return await asyncio.gather(step.invoke("stock", child), step.run("own", self.own))

        @app.function("impatient", retries=0)
        async def impatient(ctx: Context) -> int:
            return await ctx.step.invoke("stock", child, timeout="1s" if self.broken else "1h") + 1

        self.child, self.both, self.impatient = child, both, impatient

    def note(self, name: str) -> None:
        self.calls[name] += 1

    async def own(self) -> int:
        self.note("own")
        if self.broken:
            await asyncio.to_thread(until, lambda: self.calls["child"] and not self.held)
            raise ValueError("the step is broken")
        return 1

    def left(self, run: Run[Any]) -> Run[Any]:
        """The child that a parent has left behind."""
        (child,) = run.children()
        until(lambda: child.status() is RunStatus.WAITING)
        return child

    def go(self, child: Run[Any], n: int = 5, *, fails: bool = False) -> None:
        """Let a child end."""
        self.app.send("go", {"to": child.id, "n": n, "fails": fails})
        until(lambda: child.status().ended)

    def failed(self, function: Any) -> Run[Any]:
        """A parent that has failed while its child lives."""
        run = self.app.start(function)
        with pytest.raises((RunFailedError, InvokeError)):
            run.result(30)
        self.broken = False
        return run


@pytest.fixture
def encryption() -> Encryption | None:
    return None


@pytest.fixture
def family(url: str, run_worker: Callable[..., Any], encryption: Encryption | None) -> Family:
    family = Family(Stepflow("shop", redis_url=url, encryption=encryption))
    run_worker(family.app)
    return family


@layouts
@secrecy
def test_a_child_that_completed_after_its_parent_had_failed_is_not_run_again(
    family: Family, partitions: int, encryption: Encryption | None
) -> None:
    run = family.failed(family.both)
    family.go(family.left(run))
    again = run.retry()
    assert again.result(30) == [5, 1]
    assert family.calls == {"child": 1, "own": 2}
    assert [(step.id, step.state) for step in again.steps()] == [("stock", "done"), ("own", "done")]
    assert [child.id for child in again.children()] == [child.id for child in run.children()]


@layouts
def test_a_child_that_completed_after_the_timeout_of_its_invoke_is_not_run_again(
    family: Family, partitions: int
) -> None:
    run = family.failed(family.impatient)
    family.go(family.left(run))
    assert run.retry().result(30) == 6
    assert family.calls == {"child": 1}


@layouts
def test_a_child_that_outlived_a_cancelled_parent_is_taken_over_by_a_fork_before_another_step(
    family: Family, partitions: int
) -> None:
    family.held = True
    run = family.app.start(family.both)
    until(lambda: family.calls == {"child": 1, "own": 1})
    run.cancel(children=False)
    family.go(family.left(run))
    family.broken = family.held = False
    assert family.app.fork(run, before="own").result(30) == [5, 1]
    assert family.calls["child"] == 1


@pytest.mark.parametrize("becomes", ["lives", "failed", "gone"])
def test_a_child_without_a_result_is_invoked_again(family: Family, becomes: str, client: Any) -> None:
    run = family.failed(family.both)
    child = family.left(run)
    if becomes != "lives":
        family.go(child, fails=becomes == "failed")
    if becomes == "gone":
        client.delete(family.app.backend.partition.run_key("RUN", child.id))
    again = run.retry()
    until(lambda: family.calls["child"] == 2)
    (other,) = again.children()
    assert other.id != child.id
    family.go(other, 7)
    assert again.result(30) == [7, 1]
    if becomes == "lives":
        assert child.status() is RunStatus.WAITING, "the first child has its own life"


def test_a_fork_that_executes_the_invoke_itself_starts_another_child(family: Family) -> None:
    run = family.failed(family.both)
    family.go(family.left(run))
    before = family.app.fork(run, before="stock", results={"own": 2})
    again = family.app.fork(run, failed=True, children="again")
    until(lambda: family.calls["child"] == 3)
    for fork, n in ((before, 7), (again, 8)):
        family.go(family.left(fork), n)
    assert (before.result(30), again.result(30)) == ([7, 2], [8, 1])


def test_the_result_of_a_child_that_has_not_ended_can_be_given(family: Family) -> None:
    run = family.failed(family.both)
    family.left(run)
    assert family.app.fork(run, failed=True, results={"stock": 9}).result(30) == [9, 1]
    assert family.calls["child"] == 1


def test_a_child_of_another_run_is_not_taken_over(family: Family, client: Any) -> None:
    """As after somebody has changed what is stored."""
    first = family.failed(family.both)
    family.broken = True
    second = family.failed(family.both)
    mine, other = family.left(first), family.left(second)
    family.go(other, 666)
    kept = family.app.backend.partition.run_key("ATTEMPTS", first.id)
    for field, text in client.hgetall(kept).items():
        client.hset(kept, field, text.replace(mine.id, other.id))
    again = first.retry()
    until(lambda: family.calls["child"] == 3)
    family.go(family.left(again), 7)
    assert again.result(30) == [7, 1]


def test_a_fork_of_a_child_has_no_parent(family: Family) -> None:
    run = family.failed(family.both)
    child = family.left(run)
    family.go(child, fails=True)
    again = family.app.fork(child, before="go")
    until(lambda: again.status() is RunStatus.WAITING)
    family.go(again, 7)
    record = family.app.backend.broker.execute(read_run(family.app.backend.partition, again.id))
    assert record is not None
    assert record.parent == ""
    assert run.status() is RunStatus.FAILED


@layouts
def test_a_caller_that_dies_while_it_reads_children_has_one_whole_fork(
    family: Family, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = family.failed(family.both)
    family.go(family.left(run))

    def retry(name: str) -> Run[Any]:
        return Stepflow("other", redis_url=family.app.backend.url).run(run.id).retry(id=name)

    forks = set[str]()
    for name in DyingCaller(monkeypatch).deaths(retry):
        again = retry(name)
        assert again.result(30) == [5, 1]
        forks.add(again.id)
    assert len(forks) >= 2 * 4, "it reads the run, the function and the child, and creates the fork"
    assert family.calls["child"] == 1
    record = family.app.backend.broker.execute(read_run(family.app.backend.partition, run.id))
    assert record is not None
    assert len(record.forks) == len(forks) + 1


def test_a_step_that_a_cancelled_run_has_left_can_be_the_cut(family: Family) -> None:
    run = family.app.start(family.child)
    until(lambda: run.status() is RunStatus.WAITING)
    run.cancel()
    fork = family.app.fork(run, before="go")
    until(lambda: fork.status() is RunStatus.WAITING)
    family.go(fork)
    assert fork.result(30) == 5
    assert family.calls["child"] == 1
    with pytest.raises(ForkError, match="has no step 'stop'; its steps: 'begin', 'go'"):
        family.app.fork(run, before="stop")
