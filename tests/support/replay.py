"""Functions played without a server: the memos are a list, and the test says which step ends next."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from stepflow import Limits, Stepflow
from stepflow_engine.codec import dumps
from stepflow_engine.execution import Execution, Outcome, Raised, Returned, Waiting
from stepflow_engine.failure import Failure
from stepflow_engine.ids import step_key
from stepflow_engine.memo import Memo
from stepflow_engine.mismatch import Mismatch, find_mismatch
from stepflow_engine.step_attempt import attempt_step
from stepflow_engine.steps import StepCall
from stepflow_engine.thread_pool import ThreadPool
from stepflow_workers.event_loop import WorkerLoop

__all__ = [
    "LOOP",
    "Pass",
    "data_memos",
    "execution_of",
    "first",
    "in_order",
    "last",
    "on_run_loop",
    "play",
    "playing",
    "replay",
]

T = TypeVar("T")
Memos = Sequence[tuple[str, Memo]]
Choose = Callable[[Sequence[StepCall]], int]
EVENT = dumps({"name": "test", "id": "e", "ts": 1, "data": {}})
_NUMBERS = itertools.count(1)
LOOP: ContextVar[type[asyncio.AbstractEventLoop]] = ContextVar("loop", default=WorkerLoop)
"""The kind of loop that `on_run_loop` makes."""


@dataclass(frozen=True, slots=True)
class Pass:
    """How a pass ended.

    Attributes:
        outcome: the last one.
        performed: ids of the steps that were executed, in the order of their ends.
        memos: those that were there before, and those of the steps performed.
        mismatches: where the code differed from the memos.
    """

    outcome: Outcome
    performed: list[str]
    memos: list[tuple[str, Memo]]
    mismatches: list[Mismatch]

    @property
    def value(self) -> Any:
        """What the code returned; raises what it raised."""
        match self.outcome:
            case Returned(value):
                return value
            case Raised(error):
                raise error
            case Waiting(fresh):
                raise AssertionError(f"the code waits for {[call.id for call in fresh]}")

    @property
    def error(self) -> BaseException:
        """What the code raised."""
        assert isinstance(self.outcome, Raised), f"the code did not raise: {self.outcome}"
        return self.outcome.error

    @property
    def fresh(self) -> list[str]:
        """Ids of the steps that the code waits for."""
        assert isinstance(self.outcome, Waiting), f"the code does not wait: {self.outcome}"
        return [call.id for call in self.outcome.fresh]


def first(calls: Sequence[StepCall]) -> int:
    """The step that was asked for first ends next."""
    return 0


def last(calls: Sequence[StepCall]) -> int:
    """The step that was asked for last ends next."""
    return -1


def in_order(*order: str) -> Choose:
    """Steps end in this order, by their ids or their keys; those that are not named end after them."""
    ranks = {name: rank for rank, name in enumerate(order)}

    def rank(call: StepCall) -> int:
        return min(ranks.get(call.id, len(ranks)), ranks.get(call.key, len(ranks)))

    return lambda calls: min(range(len(calls)), key=lambda n: rank(calls[n]))


def data_memos(**data: Any) -> list[tuple[str, Memo]]:
    """Memos of steps by their ids, in order."""
    return [(step_key(step_id), Memo(step_id, data=value)) for step_id, value in data.items()]


def on_run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop that runs are executed on: that of workers, unless a test sets another."""
    with asyncio.Runner(loop_factory=LOOP.get()) as runner:
        return runner.run(main)


def execution_of(
    handler: Callable[..., Any], *, max_steps: int = 10_000, threads: ThreadPool | None = None, attempt: int = 0
) -> Execution:
    """A pass over a function, not started yet."""
    app = Stepflow(f"unit{next(_NUMBERS)}", limits=Limits(steps_per_run=max_steps))
    return app.function("f")(handler).execution(
        [EVENT], run_id="run1", attempt=attempt, threads=threads or ThreadPool(), started_ms=0
    )


def play(handler: Callable[..., Any], memos: Memos = (), *, choose: Choose = first, most: int | None = None) -> Pass:
    """Run a function over its memos, and perform the steps that it asks for, one at a time.

    Args:
        choose: which of the steps that are waited for, in the order of asking, ends next.
        most: how many steps are performed before the pass is given up.
    """
    return on_run_loop(playing(handler, memos, choose=choose, most=most))


def replay(handler: Callable[..., Any], memos: Memos) -> Pass:
    """Run a function over its memos, and perform nothing."""
    return play(handler, memos, most=0)


async def playing(
    handler: Callable[..., Any], memos: Memos = (), *, choose: Choose = first, most: int | None = None
) -> Pass:
    """As `play`, on the running loop."""
    execution = execution_of(handler)
    execution.add(memos)
    player = _Player(execution, choose)
    try:
        outcome = await player.play(most)
    finally:
        execution.close()
    return Pass(outcome, player.performed, [*memos, *player.recorded], player.mismatches)


class _Player:
    def __init__(self, execution: Execution, choose: Choose) -> None:
        self._execution = execution
        self._choose = choose
        self._asked: list[StepCall] = []
        self.performed: list[str] = []
        self.recorded: list[tuple[str, Memo]] = []
        self.mismatches: list[Mismatch] = []

    async def play(self, most: int | None) -> Outcome:
        while True:
            outcome = await self._execution.advance()
            if (found := find_mismatch(self._execution, outcome)) is not None:
                self.mismatches.append(found)
            if not isinstance(outcome, Waiting):
                return outcome
            self._asked += outcome.fresh
            if not self._asked or (most is not None and len(self.performed) >= most):
                return outcome
            call = self._asked.pop(self._choose(self._asked))
            self._record(call, await self._perform(call))

    async def _perform(self, call: StepCall) -> Memo:
        try:
            result = await attempt_step(
                call.id,
                call.request,
                function="unit/f",
                run_id="run1",
                attempt=0,
                limit_bytes=1_000_000,
                threads=ThreadPool(),
            )
        except Exception as error:
            return Memo(call.id, failure=Failure.of(error))
        return Memo(call.id, data=result.data)

    def _record(self, call: StepCall, memo: Memo) -> None:
        self.performed.append(call.id)
        self.recorded.append((call.key, memo))
        self._execution.add([(call.key, memo)])
