"""A fork ends as a run does in which the steps before the cut had returned the same: random flows, each cut."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepflow import Context, Encryption, Run, RunFailedError, StepError, Stepflow
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.runs import read_memos, read_run
from stepflow_engine.encryption_scopes import open_memo
from stepflow_engine.ids import step_key
from stepflow_engine.memo import Memo, read_memo

Stage = tuple[str, Sequence[str]]
"""A kind (``step``, ``gather``, ``invoke`` or ``sleep``), and the ids of its steps."""
NAMES = st.sampled_from(["a", "b", "fail"])
STAGES = st.one_of(
    st.tuples(st.just("step"), NAMES.map(lambda name: [name])),
    st.tuples(st.just("gather"), st.lists(NAMES, min_size=2, max_size=3)),
    st.tuples(st.just("invoke"), st.just(["child"])),
    st.tuples(st.just("sleep"), st.just(["nap"])),
)
FLOWS = st.lists(STAGES, min_size=1, max_size=4)
TIMEOUT_S = 60


@dataclass
class World:
    """An app whose handlers return other values whenever `turn` says so.

    Attributes:
        turn: is part of each new result. In the first, flows that say so fail at their end.
        given: results that handlers return in place of their own, by step key; of a failure, its message.
        calls: the keys of the steps that were executed.
    """

    app: Stepflow
    turn: int = 1
    given: dict[str, Memo] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        @self.app.function("child", retries=0)
        async def child(ctx: Context) -> str:
            return await self.handle("child", ctx.event.data["key"], ctx.event.data["before"])

        @self.app.function("flow", retries=0)
        async def flow(ctx: Context) -> list[Any]:
            results: list[Any] = []
            asked: Counter[str] = Counter()
            for kind, names in ctx.event.data["stages"]:
                keys = []
                for name in names:
                    keys.append(step_key(name, asked[name]))
                    asked[name] += 1
                results.append(await self.stage(ctx, kind, list(zip(names, keys, strict=True)), results[-1:]))
            if ctx.event.data["fails"] and self.turn == 1:  # after the last step, so each cut is possible
                raise ValueError(repr(results))
            return results

        self.child, self.flow = child, flow

    async def stage(self, ctx: Context, kind: str, steps: list[tuple[str, str]], before: list[Any]) -> Any:
        """Execute a stage of a flow."""
        match kind:
            case "sleep":
                return await ctx.step.sleep("nap", 0.001)
            case "invoke":
                data = {"key": steps[0][1], "before": before}
                return await ctx.step.invoke("child", function=self.child, data=data)
            case _:
                return await asyncio.gather(*[self.step(ctx, name, key, before) for name, key in steps])

    async def step(self, ctx: Context, name: str, key: str, before: list[Any]) -> str:
        try:
            return await ctx.step.with_options(retries=0).run(name, partial(self.handle, name, key, before))
        except StepError as error:
            return f"failed: {error.message}"

    async def handle(self, name: str, key: str, before: list[Any]) -> str:
        """What all handlers do: their result tells the turn, and what came before."""
        self.calls[key] += 1
        if (given := self.given.get(key)) is not None:
            if given.failure is not None:
                raise ValueError(given.failure.message)
            return str(given.data)
        result = f"{name} in turn {self.turn} after {crc32(repr(before).encode())}"
        if name == "fail":
            raise ValueError(result)
        return result

    def end(self, run: Run[Any]) -> Any:
        """The result of a run, or the message of its failure."""
        try:
            return run.result(TIMEOUT_S)
        except RunFailedError as error:
            return error.failure.message if error.failure else str(error)

    def memos(self, run_id: str) -> list[tuple[str, Memo]]:
        """The memos of a run in their order, decrypted."""
        backend = self.app.backend
        found = backend.broker.execute(read_memos(backend.partition, run_id))
        return [(key, open_memo(backend.cipher, run_id, key, read_memo(text))) for key, text in found]

    def expected(self, stages: Sequence[Stage], given: Sequence[tuple[str, Memo]]) -> tuple[Any, dict[str, Any]]:
        """How a run ends in which the handlers of some steps return what they are given."""
        self.given = {key: memo for key, memo in given if memo.data is not None or memo.failure is not None}
        control = self.app.start(self.flow, {"stages": stages, "fails": False})
        try:
            return self.end(control), self.contents(control.id)
        finally:
            self.given = {}
            self.calls.clear()

    def contents(self, run_id: str) -> dict[str, Any]:
        """What the memos of a run say, by their keys, without times and names of children."""
        return {
            key: (memo.id, memo.data, memo.failure and memo.failure.message, memo.detail.get("kind"))
            for key, memo in self.memos(run_id)
        }

    def check_fork(self, source: Run[Any], stages: Sequence[Stage], number: int | None) -> Run[Any]:
        """Fork before a step, or from the failure, and compare with a run that had the same results before."""
        memos = self.memos(source.id)
        self.turn += 1
        kept = memos[:number] if number is not None else [one for one in memos if one[1].failure is None]
        result, contents = self.expected(stages, kept)
        if number is None:
            fork = self.app.fork(source, failed=True)
        else:
            fork = self.app.fork(source, before=_name_of(memos, number))
        assert self.end(fork) == result
        assert self.contents(fork.id) == contents
        executed = {key for key, memo in self.memos(fork.id) if memo.detail.get("kind") != "sleep"}
        assert self.calls == Counter(executed - {key for key, _ in kept}), "each of the other steps once, and no more"
        self.calls.clear()
        return fork


def _name_of(memos: Sequence[tuple[str, Memo]], number: int) -> str:
    """A step as `before` names it: ``a#2`` is the second with the id ``a``."""
    key, memo = memos[number]
    repeats = (n for n in range(len(memos)) if step_key(memo.id, n) == key)
    nth = next(repeats)
    return f"{memo.id}#{nth + 1}" if nth else memo.id


@pytest.fixture
def world(url: str, run_worker: Callable[..., Any], encryption: Encryption | None) -> World:
    world = World(Stepflow("shop", redis_url=url, encryption=encryption))
    run_worker(world.app)
    return world


@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
@pytest.mark.parametrize("encryption", [None, Encryption(keys=[b"k" * 32])], ids=["plain", "encrypted"])
def test_a_fork_is_the_run_that_had_the_same_results_before_the_cut(world: World, partitions: int) -> None:
    @settings(max_examples=4 * int(os.environ.get("STEPFLOW_EXAMPLES", "1")))
    @given(stages=FLOWS, fails=st.booleans(), data=st.data())
    def check(stages: Sequence[Stage], fails: bool, data: st.DataObject) -> None:
        world.turn = 1
        source = world.app.start(world.flow, {"stages": stages, "fails": fails})
        world.end(source)
        world.calls.clear()
        count = len(world.memos(source.id))
        cuts: list[int | None] = [*range(count), *([None] if fails else [])]
        for cut in cuts:
            fork = world.check_fork(source, stages, cut)
        world.check_fork(fork, stages, data.draw(st.integers(0, count - 1), label="cut of the fork"))

    check()


class CrashError(Exception):
    """The caller dies."""


class Crash:
    """Ends the caller at one of its round trips, before or after the server has executed the commands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: tuple[int, bool] | None = None
        self.count = 0
        self.broker = Broker.execute_all
        crash = self

        def execute_all(self: Broker, calls: Any) -> Any:
            return crash.execute(self, calls)

        monkeypatch.setattr(Broker, "execute_all", execute_all)

    def execute(self, broker: Broker, calls: Any) -> Any:
        number, self.count = self.count, self.count + 1
        if self.at == (number, False):
            raise CrashError
        answers = self.broker(broker, calls)
        if self.at == (number, True):
            raise CrashError
        return answers


@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
@pytest.mark.parametrize("encryption", [None, Encryption(keys=[b"k" * 32])], ids=["plain", "encrypted"])
def test_a_caller_that_dies_at_any_round_trip_and_calls_again_has_one_whole_fork(
    world: World, partitions: int, encryption: Encryption | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[Stage] = [("step", ["a"]), ("gather", ["a", "b"]), ("step", ["a"])]
    source = world.app.start(world.flow, {"stages": stages, "fails": False})
    world.end(source)
    crash, forks = Crash(monkeypatch), set[str]()

    def fork(name: str) -> Run[Any]:
        """As another process does, which does not declare the function."""
        return Stepflow("other", redis_url=world.app.backend.url, encryption=encryption).fork(
            source.id, before="a#3", id=name
        )

    fork("not counted")
    for number, executed in itertools.product(range(crash.count), (False, True)):
        crash.at, crash.count = (number, executed), 0
        with pytest.raises(CrashError):
            fork(f"{number} {executed}")
        crash.at = None
        again = fork(f"{number} {executed}")
        assert world.app.run(again.id).result(TIMEOUT_S) == source.result(TIMEOUT_S)
        assert world.contents(again.id) == world.contents(source.id)
        forks.add(again.id)
    assert len(forks) >= 2 * 3, "it reads the run, reads the function, and creates the fork"
    record = world.app.backend.broker.execute(read_run(world.app.backend.partition, source.id))
    assert record is not None
    assert len(record.forks) == len(forks) + 1, "each is created once"
