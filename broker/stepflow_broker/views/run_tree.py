"""The family of a run: the run that invoked it, and the runs that it invoked, and theirs.

It is read level by level, in few round trips, and no more than a bounded number of runs: the steps of a run name its
children, and a child names its parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.runs import RunRecord, StepRecord, read_memos, read_run, read_steps
from stepflow_broker.views.invoke_view import Invoke, ended_invoke, find_invokes, waiting_invoke
from stepflow_broker.views.listings import served_queues
from stepflow_broker.views.run_node import RunNode, forgotten_node, node_of
from stepflow_engine.memo import read_memo

__all__ = ["DEPTH", "MOST", "RunTree", "read_run_tree"]

DEPTH = 5
"""How many levels of children are read."""

MOST = 200
"""How many children are read, on all levels together."""

_CHUNK = 25  # runs to a round trip: their results may be large, and are let go of after each


@dataclass(frozen=True, slots=True)
class RunTree:
    """A run between the run that invoked it and those that it invoked.

    Attributes:
        parent: the run that invoked it, without its other children; ``None``: none did.
        run: the run itself, with its children.
    """

    parent: RunNode | None
    run: RunNode


def read_run_tree(
    broker: Broker, keys: Keys, run: RunRecord, invokes: Sequence[Invoke], *, depth: int = DEPTH, most: int = MOST
) -> RunTree:
    """The family of a run.

    Args:
        run: the run.
        invokes: its own, as they are known already.
        depth: how many levels of children are read.
        most: how many children are read at most, on all levels together, those of the upper levels first.
    """
    found = _Reading(broker, keys)
    parent, invoke = found.read_parent(run)
    found.read_children(run.id, invokes, depth, most)
    return RunTree(parent, found.member(run.id, run.name, invoke, known=node_of(run, found.queues)))


class _Reading:
    """What was read so far.

    Attributes:
        queues: those that live workers serve.
        runs: by id; ``None`` for one that is forgotten.
        invokes: of each run.
    """

    def __init__(self, broker: Broker, keys: Keys) -> None:
        self._broker = broker
        self._keys = keys
        self.queues = served_queues(broker, keys)
        self.runs: dict[str, RunNode | None] = {}
        self.invokes: dict[str, Sequence[Invoke]] = {}

    def read_parent(self, run: RunRecord) -> tuple[RunNode | None, Invoke | None]:
        """The run's parent, and the step there that invoked the run. One round trip."""
        if not run.parent:
            return None, None
        calls: list[Command[Any]] = [
            read_run(self._keys, run.parent),
            read_steps(self._keys, run.parent),
            command(lambda reply: reply, "HGET", self._keys.of(run.parent)("MEMOS", run.parent), run.parent_step),
        ]
        record, pending, memo = self._broker.execute_all(calls)
        parent = node_of(record, self.queues, pending) if record else forgotten_node(run.parent, "")
        return parent, _find_invoke(run.parent_step, pending, memo)

    def read_children(self, run_id: str, invokes: Sequence[Invoke], depth: int, most: int) -> None:
        """Read the runs below a run, level by level."""
        self.invokes[run_id] = invokes
        level = [run_id]
        for _ in range(depth):
            children = [invoke.run_id for parent in level for invoke in self.invokes[parent] if invoke.run_id]
            level = children[: most - len(self.runs)]
            for first in range(0, len(level), _CHUNK):
                self._read(level[first : first + _CHUNK])

    def _read(self, run_ids: Sequence[str]) -> None:
        """Read some runs and their invokes. One round trip."""
        calls: list[Command[Any]] = [call for run_id in run_ids for call in self._calls(run_id)]
        answers = iter(self._broker.execute_all(calls))
        for run_id in run_ids:
            record, pending, memos = next(answers), next(answers), next(answers)
            self.runs[run_id] = node_of(record, self.queues, pending) if record else None
            told = ((key, read_memo(text)) for key, text in memos if b'"kind":"invoke"' in text)
            self.invokes[run_id] = find_invokes(told, pending)

    def _calls(self, run_id: str) -> Iterator[Command[Any]]:
        """What is read of a run; its memos last, so that a step that ends meanwhile is not missed."""
        yield read_run(self._keys, run_id)
        yield read_steps(self._keys, run_id)
        yield read_memos(self._keys, run_id)

    def member(self, run_id: str, name: str, invoke: Invoke | None, *, known: RunNode | None = None) -> RunNode:
        """A run with those below it, as far as they were read."""
        run = known or self.runs.get(run_id) or forgotten_node(run_id, name)
        invokes = [invoke for invoke in self.invokes.get(run_id, ()) if invoke.run_id]
        shown = [invoke for invoke in invokes if invoke.run_id in self.runs]
        children = tuple(self.member(invoke.run_id, invoke.function, invoke) for invoke in shown)
        return replace(run, invoke=invoke, children=children, hidden=len(invokes) - len(shown))


def _find_invoke(key: str, pending: Sequence[StepRecord], memo: bytes | None) -> Invoke | None:
    """The invoke with this key among the steps of a parent."""
    if memo is not None:
        return ended_invoke(key, read_memo(memo))
    return next((waiting_invoke(step) for step in pending if step.key == key), None)
