"""Random flows with patches, begun by old code or by new code, with crashes between any two steps.

A model of a worker drives the code: it stores the memos of steps in a random order, gives up passes at random times,
and looks for planned steps with passes that do not drive the run. From a random time on, the code has the patches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stepflow import Context
from stepflow_engine.execution import Execution, Outcome, Raised, Returned, Waiting
from stepflow_engine.memo import Memo
from stepflow_engine.mismatch import find_mismatch, planned_mismatch
from stepflow_engine.patches import PatchDecision
from stepflow_engine.steps import StepKind
from tests.support.replay import execution_of, on_run_loop

MOST_TURNS = 400


@dataclass(frozen=True, slots=True)
class Program:
    """A flow as data.

    Attributes:
        kind: ``step``, ``patch``, ``sequence`` or ``gather``.
        parts: the programs inside.
    """

    kind: str
    parts: tuple[Program, ...] = ()


PROGRAMS = st.recursive(
    st.sampled_from(["step", "patch"]).map(Program),
    lambda inner: st.builds(
        Program, st.sampled_from(["sequence", "gather"]), st.lists(inner, min_size=1, max_size=4).map(tuple)
    ),
    max_leaves=10,
)

SEEDS = st.integers(0, 2**32)


async def handler() -> None: ...


def code_of(program: Program, *, has_patches: bool) -> Callable[[Context], Any]:
    """The old code of a program, or the new code."""

    async def run(ctx: Context, part: Program, name: str) -> None:
        match part.kind:
            case "step":
                await ctx.step.run(f"step{name}", handler)
            case "patch" if has_patches and ctx.patched(f"patch{name}"):
                await ctx.step.run(f"new{name}", handler)
                await ctx.step.run(f"newer{name}", handler)
            case "patch":
                await ctx.step.run(f"old{name}", handler)
            case "sequence":
                for n, one in enumerate(part.parts):
                    await run(ctx, one, f"{name}.{n}")
            case _:
                await asyncio.gather(*[run(ctx, one, f"{name}.{n}") for n, one in enumerate(part.parts)])

    async def function(ctx: Context) -> None:
        await run(ctx, program, "")

    return function


@dataclass
class Model:
    """A run as Redis has it, and a worker that drives it.

    Attributes:
        memos, planned, decisions: what is stored.
        open: the steps that the code has requested and that have not ended.
        requested: the keys that the present pass has requested.
    """

    random: Random
    memos: list[tuple[str, Memo]] = field(default_factory=list)
    planned: dict[str, str] = field(default_factory=dict)
    decisions: dict[str, PatchDecision] = field(default_factory=dict)

    async def drive(self, code: Callable[[Context], Any], *, until_done: bool) -> bool:
        """Drive the run by passes of the code until it ends, or for some steps; whether it has ended."""
        turns = MOST_TURNS if until_done else self.random.randrange(1, 8)
        while turns > 0:
            execution = self._pass(code, is_driven=True)
            is_kept = True
            while is_kept and turns > 0:
                turns -= 1
                outcome = await execution.advance()
                self._store(execution)
                self._compare(execution, outcome)
                if isinstance(outcome, Returned | Raised):
                    assert isinstance(outcome, Returned), outcome
                    assert all(execution.was_requested(key) for key, _ in self.memos), "memos of another way"
                    assert all(execution.was_requested(key) for key in self.planned), "steps of another way"
                    return True
                is_kept = self._perform(execution, outcome)
                await self._look_for_planned_steps(code)
            execution.close()
        assert not until_done
        return False

    def _pass(self, code: Callable[[Context], Any], *, is_driven: bool) -> Execution:
        execution = execution_of(code)
        execution.is_driven = is_driven
        execution.add(self.memos)
        execution.patches.load(self.decisions, frozenset(self.planned) if is_driven else None)
        return execution

    def _compare(self, execution: Execution, outcome: Outcome) -> None:
        """No run is said to differ: its code has the patch for all that is changed."""
        planned = [(key, step_id, StepKind.RUN) for key, step_id in self.planned.items()]
        assert find_mismatch(execution, outcome) is None
        assert planned_mismatch(execution, outcome, planned) is None

    def _store(self, execution: Execution) -> None:
        known = execution.patches.decisions
        assert {name: known[name] for name in self.decisions} == self.decisions
        self.decisions = dict(known)

    def _perform(self, execution: Execution, outcome: Waiting) -> bool:
        """Plan what is fresh, end some steps, and tell the pass of some; whether the pass goes on."""
        fresh = [call for call in outcome.fresh if call.key not in self.planned]
        if outcome.alone and fresh and self.random.random() < 0.8:
            if self.random.random() < 0.2:
                return False  # the worker dies before the memo is stored
            self._end(fresh[0].key, fresh[0].id)
        else:
            self.planned |= {call.key: call.id for call in fresh}
            for key in self.random.sample(sorted(self.planned), self.random.randint(0, len(self.planned))):
                self._end(key, self.planned.pop(key))
        if self.random.random() < 0.3:
            return False
        new = self.memos[execution.applied :]
        execution.add(new[: self.random.randint(min(1, len(new)), len(new))])
        if not new:
            execution.request_again()
        return True

    def _end(self, key: str, step_id: str) -> None:
        self.memos.append((key, Memo(step_id)))

    async def _look_for_planned_steps(self, code: Callable[[Context], Any]) -> None:
        for key in self.random.sample(sorted(self.planned), min(1, len(self.planned))):
            execution = self._pass(code, is_driven=False)
            await execution.advance()
            assert execution.pending(key) is not None, "a planned step is not found"
            execution.close()


@given(PROGRAMS, SEEDS)
def test_a_run_that_new_code_begins_takes_the_new_way_everywhere(program: Program, seed: int) -> None:
    model = Model(Random(seed))
    on_run_loop(model.drive(code_of(program, has_patches=True), until_done=True))
    assert all(decision.patched for decision in model.decisions.values())


@given(PROGRAMS, SEEDS)
def test_a_run_that_old_code_begins_stays_on_the_way_that_it_has_taken(program: Program, seed: int) -> None:
    async def main() -> None:
        model = Model(Random(seed))
        if not await model.drive(code_of(program, has_patches=False), until_done=False):
            await model.drive(code_of(program, has_patches=True), until_done=True)

    on_run_loop(main())
