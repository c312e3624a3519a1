"""A fork ends as a run does in which the steps before the cut had returned the same: random flows, each cut."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepflow import Context, Encryption, Event, RateLimit, Run, RunFailedError, StepError, Stepflow
from stepflow_broker.redis_client.blocking_client import BlockingClient
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_engine.encryption_scopes import open_memo
from stepflow_engine.ids import idempotency_key, step_key
from stepflow_engine.memo import Memo, read_memo
from stepflow_engine.steps import StepKind, stored_kind
from tests.support.dying_caller import DyingCaller

Stage = tuple[str, Sequence[str]]
"""A kind (``step``, ``gather``, ``invoke``, ``sleep``, ``send`` or ``wait``), and the ids of its steps."""
NAMES = st.sampled_from(["a", "b", "fail"])
STAGES = st.one_of(
    st.tuples(st.just("step"), NAMES.map(lambda name: [name])),
    st.tuples(st.just("gather"), st.lists(NAMES, min_size=2, max_size=3)),
    st.tuples(st.just("invoke"), st.sampled_from([["child"], ["far"]])),
    st.tuples(st.sampled_from(["sleep", "send", "wait"]), st.just([])).map(lambda stage: (stage[0], [stage[0]])),
)
FLOWS = st.lists(STAGES, min_size=1, max_size=4)
KEYS = st.sampled_from(["auto", "keep", "new"])
TIMEOUT_S = 60
both_layouts = pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
with_secrecy = pytest.mark.parametrize("encryption", [None, Encryption(keys=[b"k" * 32])], ids=["plain", "encrypted"])


@dataclass(frozen=True)
class Cut:
    """How to fork.

    Attributes:
        at: before which memo; ``None``: from the failure.
        edited: the memos, by number, that get another result.
        keys: whose idempotency keys the fork uses.
    """

    at: int | None
    edited: frozenset[int] = frozenset()
    keys: Any = "auto"


@dataclass
class World:
    """An app whose handlers return other values whenever `turn` says so.

    Attributes:
        turn: is part of each new result. In the first, flows that say so fail at their end.
        given: results that handlers return in place of their own, by step key; of a failure, its message.
        calls: the keys of the steps that were executed.
        used: the idempotency keys of the steps that were executed, but for those of children.
        keys_of: the run whose idempotency keys a fork uses.
    """

    app: Stepflow
    turn: int = 1
    given: dict[str, Memo] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    used: set[str] = field(default_factory=set)
    keys_of: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        @self.app.function("child", retries=0)
        async def child(ctx: Context) -> str:
            return await self.handle("child", ctx.event.data["key"], ctx.event.data["before"])

        @self.app.function("far", retries=0, rate_limit=RateLimit(1_000_000, "1h"))  # in a partition of its own
        async def far(ctx: Context) -> str:
            return await self.handle("far", ctx.event.data["key"], ctx.event.data["before"])

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

        self.flow, self.functions = flow, {"child": child, "far": far}

    async def stage(self, ctx: Context, kind: str, steps: list[tuple[str, str]], before: list[Any]) -> Any:
        """Execute a stage of a flow."""
        name, key = steps[0]
        match kind:
            case "sleep":
                return await ctx.step.sleep(name, 0.001)
            case "send":
                return len(await ctx.step.send_event(name, Event("nobody", {"before": before})))
            case "wait":
                return await self.wait(ctx, name, key)
            case "invoke":
                return await ctx.step.invoke(name, self.functions[name], {"key": key, "before": before})
            case _:
                return await asyncio.gather(*[self.step(ctx, name, key, before) for name, key in steps])

    async def wait(self, ctx: Context, name: str, key: str) -> int:
        """Wait for an event, which tells the turn. It comes too early, and may come again: that makes no difference."""
        data = {"to": ctx.run_id, "key": key, "turn": self.turn_of(key)}
        await self.app.asend("signal", data)
        match = {"data.to": ctx.run_id, "data.key": key}
        event = await ctx.step.wait_for_event(name, event="signal", timeout="1h", match=match)
        assert event is not None
        return int(event.data["turn"])

    def turn_of(self, key: str) -> int:
        """The turn that an event for a wait tells."""
        given = self.given.get(key)
        return self.turn if given is None else int(given.data["data"]["turn"])

    async def step(self, ctx: Context, name: str, key: str, before: list[Any]) -> str:
        def handler() -> str:
            self.used.add(ctx.step.idempotency_key)
            return self.result_of(name, key, before)

        try:
            return await ctx.step.with_options(retries=0).run(name, handler)
        except StepError as error:
            return f"failed: {error.message}"

    async def handle(self, name: str, key: str, before: list[Any]) -> str:
        """What children do."""
        return self.result_of(name, key, before)

    def result_of(self, name: str, key: str, before: list[Any]) -> str:
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

    def expected(self, stages: Sequence[Stage], given: Mapping[str, Memo]) -> tuple[Any, dict[str, Any]]:
        """How a run ends in which the handlers of some steps return what they are given."""
        self.given = {key: memo for key, memo in given.items() if memo.data is not None or memo.failure is not None}
        control = self.app.start(self.flow, {"stages": stages, "fails": False})
        try:
            return self.end(control), self.contents(control.id)
        finally:
            self.given = {}
            self.calls.clear()
            self.used.clear()

    def contents(self, run_id: str) -> dict[str, Any]:
        """What the memos of a run say, by their keys, without times, names of children and ids of events."""
        return {
            key: (memo.id, _data_of(memo), memo.failure and memo.failure.message, memo.detail.get("kind"))
            for key, memo in self.memos(run_id)
        }

    def check_fork(self, source: Run[Any], stages: Sequence[Stage], cut: Cut) -> Run[Any]:
        """Fork before a step, or from the failure, and compare with a run that had the same results before."""
        memos = self.memos(source.id)
        self.turn += 1
        edits = {memos[n][0]: Memo(memos[n][1].id, data=f"edited in turn {self.turn}") for n in cut.edited}
        kept = [
            (key, edits.get(key, memo))
            for n, (key, memo) in enumerate(memos)
            if (n < cut.at if cut.at is not None else memo.failure is None or key in edits)
        ]
        given = dict(kept) | edits
        result, contents = self.expected(stages, given)
        fork = self.app.fork(
            source,
            before=None if cut.at is None else _name_of(memos, cut.at),
            failed=cut.at is None,
            results={_name_of(memos, n): edits[memos[n][0]].data for n in cut.edited},
            keys=cut.keys,
        )
        assert self.end(fork) == result
        assert self.contents(fork.id) == contents
        record = self.app.backend.broker.execute(read_run(self.app.backend.partition, fork.id))
        assert record is not None
        assert record.mismatch is None, "its code is that of its source"
        self.check_order(fork, stages, [key for key, _ in kept], given.keys())
        self.check_executed(source, fork, given, keeps=cut.keys == "keep" or (cut.keys == "auto" and cut.at is None))
        self.calls.clear()
        self.used.clear()
        return fork

    def check_order(self, fork: Run[Any], stages: Sequence[Stage], kept: list[str], given: Collection[str]) -> None:
        """Memos that are kept come first, in their order, and those that are executed follow by the stages."""
        order = [key for key, _ in self.memos(fork.id)]
        assert order[: len(kept)] == kept
        asked: Counter[str] = Counter()
        stage_of: dict[str, int] = {}
        for number, (_, names) in enumerate(stages):
            for name in names:
                stage_of[step_key(name, asked[name])] = number
                asked[name] += 1
        executed = [stage_of[key] for key in order if key not in given]
        assert executed == sorted(executed)

    def check_executed(self, source: Run[Any], fork: Run[Any], given: Collection[str], *, keeps: bool) -> None:
        """Each of the other steps is executed once, and no more, with the idempotency keys that were wanted."""
        memos = [(key, stored_kind(memo.detail)) for key, memo in self.memos(fork.id) if key not in given]
        assert self.calls == Counter(key for key, kind in memos if kind in (StepKind.RUN, StepKind.INVOKE))
        self.keys_of[fork.id] = self.keys_of.get(source.id, source.id) if keeps else fork.id
        assert self.used == {idempotency_key(self.keys_of[fork.id], key) for key, kind in memos if kind == StepKind.RUN}


def _data_of(memo: Memo) -> Any:
    match stored_kind(memo.detail):
        case StepKind.SEND:
            return len(memo.data)
        case StepKind.WAIT:
            return memo.data["data"]["turn"]
        case _:
            return memo.data


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


@both_layouts
@with_secrecy
def test_a_fork_is_the_run_that_had_the_same_results_before_the_cut(world: World, partitions: int) -> None:
    @settings(max_examples=4 * int(os.environ.get("STEPFLOW_EXAMPLES", "1")))
    @given(stages=FLOWS, fails=st.booleans(), data=st.data())
    def check(stages: Sequence[Stage], fails: bool, data: st.DataObject) -> None:
        world.turn = 1
        source = world.app.start(world.flow, {"stages": stages, "fails": fails})
        world.end(source)
        world.calls.clear()
        world.used.clear()
        memos = world.memos(source.id)
        assert len(memos) == sum(len(names) for _, names in stages)
        can_be_edited = [n for n, (_, memo) in enumerate(memos) if stored_kind(memo.detail) in ("run", "invoke")]
        edits = st.frozensets(st.sampled_from(can_be_edited), max_size=2) if can_be_edited else st.just(frozenset())
        for at in [*range(len(memos)), *([None] if fails else [])]:
            cut = Cut(at, data.draw(edits, label="edited"), data.draw(KEYS, label="keys"))
            fork = world.check_fork(source, stages, cut)
        again = Cut(data.draw(st.integers(0, len(memos) - 1), label="cut of the fork"), keys="keep")
        world.check_fork(world.check_fork(fork, stages, again), stages, Cut(0, keys="keep"))

    check()


@both_layouts
@with_secrecy
def test_a_caller_that_dies_at_any_round_trip_and_calls_again_has_one_whole_fork(
    world: World, partitions: int, encryption: Encryption | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[Stage] = [("step", ["a"]), ("gather", ["a", "b"]), ("step", ["a"])]
    source = world.app.start(world.flow, {"stages": stages, "fails": False})
    world.end(source)
    forks = set[str]()

    def fork(name: str) -> Run[Any]:
        """As another process does, which does not declare the function."""
        return Stepflow("other", redis_url=world.app.backend.url, encryption=encryption).fork(
            source.id, before="a#3", id=name
        )

    for name in DyingCaller(monkeypatch).deaths(fork):
        again = fork(name)
        assert world.app.run(again.id).result(TIMEOUT_S) == source.result(TIMEOUT_S)
        assert world.contents(again.id) == world.contents(source.id)
        forks.add(again.id)
    assert len(forks) >= 2 * 3, "it reads the run, reads the function, and creates the fork"
    record = world.app.backend.broker.execute(read_run(world.app.backend.partition, source.id))
    assert record is not None
    assert len(record.forks) == len(forks) + 1, "each is created once"


@both_layouts
@with_secrecy
def test_a_fork_of_which_any_reply_is_lost_is_sent_again_and_created_once(
    world: World, partitions: int, encryption: Encryption | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[Stage] = [("gather", ["a", "b"]), ("step", ["a"])]
    source = world.app.start(world.flow, {"stages": stages, "fails": False})
    world.end(source)
    sends, lost, forks = [0], [0], list[Run[Any]]()
    send = BlockingClient._send

    def lossy(self: BlockingClient, commands: Any) -> Any:
        replies = send(self, commands)
        sends[0] += 1
        if sends[0] == lost[0]:
            raise ConnectionError("the server has executed the commands, and its reply does not come")
        return replies

    monkeypatch.setattr(BlockingClient, "_send", lossy)
    while lost[0] <= sends[0]:  # the last of them loses none
        lost[0], sends[0] = lost[0] + 1, 0
        forks.append(world.app.fork(source.id, before="a#2"))
    monkeypatch.undo()
    assert len(forks) >= 3, "a reply to the reads is lost, one to the fork, and none"
    for fork in forks:
        assert world.end(fork) == source.result(TIMEOUT_S)
        assert world.contents(fork.id) == world.contents(source.id)
    record = world.app.backend.broker.execute(read_run(world.app.backend.partition, source.id))
    assert record is not None
    assert sorted(record.forks) == sorted(fork.id for fork in forks), "none is half, and none is double"
