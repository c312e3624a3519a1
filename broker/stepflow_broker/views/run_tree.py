"""The tree of a run: the run that invoked it, the runs that it invoked, and those below them.

The tree is read level by level: the steps of a run name its children, and a child names its parent. The number of
runs and of round trips is bounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.runs.attempts import read_attempts
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import RunRecord, read_run
from stepflow_broker.transitions.steps.step_record import StepRecord, read_steps
from stepflow_broker.views.invoke_view import InvokeView, ended_invoke, find_invokes, waiting_invoke
from stepflow_broker.views.listings import served_queues
from stepflow_broker.views.run_view import RunView, forgotten_run, view_run
from stepflow_broker.views.times import iso
from stepflow_engine.codec import dumps
from stepflow_engine.errors import BackendUnavailableError
from stepflow_engine.memo import read_memo
from stepflow_engine.steps import StepKind

__all__ = ["DEPTH", "MAX_CHILDREN", "RunTree", "read_run_tree"]

DEPTH = 5
"""How many levels of children are read."""

MAX_CHILDREN = 200
"""How many children are read, on all levels together."""

_JSON_FIELDS = (
    "step",
    "outcome",
    "waits_until",
    "run_id",
    "app",
    "function",
    "queue",
    "served",
    "status",
    "created_at",
    "started_at",
    "ended_at",
    "blocked",
    "reason",
    "error",
    "waits",
    "children",
    "children_not_shown",
)
_INVOKES = [b'"kind":' + dumps(kind) for kind in (StepKind.INVOKE, StepKind.START)]  # parts of memos that name children
_CHUNK = 25  # runs per round trip: their results may be large, and memory holds one chunk at a time


@dataclass(frozen=True, slots=True)
class RunTree:
    """A run with the runs that it invoked.

    Attributes:
        run: the run at the root of this tree.
        served: whether a live worker serves its queue; ``None``: the run has ended and needs no worker.
        invoke: the step of its parent that invoked it; ``None``: the run has no parent, or the parent is forgotten.
        children: the runs that it invoked, those that it waits for first.
        hidden: how many more runs it invoked.
        parent: the run that invoked it, without its other children; read for the run that was asked for only.
    """

    run: RunView
    served: bool | None = None
    invoke: InvokeView | None = None
    children: tuple[RunTree, ...] = ()
    hidden: int = 0
    parent: RunTree | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output: those of the step that invoked the run, the run, and its children."""
        fields = {
            **self.run.to_json(),
            "step": self.invoke.step_id if self.invoke else None,
            "outcome": self.invoke.outcome if self.invoke else None,
            "waits_until": iso(self.invoke.waits_until) if self.invoke else None,
            "served": self.served,
            "reason": self.run.reason or None,
            "children": [child.to_json() for child in self.children],
            "children_not_shown": self.hidden,
        }
        return {name: fields[name] for name in _JSON_FIELDS}

    def parent_json(self) -> dict[str, Any] | None:
        """The parent without its children, and its step that invoked this run."""
        if self.parent is None:
            return None
        parent, run = self.parent.to_json(), self.to_json()
        for name in ("children", "children_not_shown"):
            del parent[name]
        return {**parent, **{name: run[name] for name in ("step", "outcome", "waits_until")}}


def read_run_tree(
    broker: Broker,
    partition: Partition,
    run: RunRecord,
    invokes: Sequence[InvokeView],
    *,
    depth: int = DEPTH,
    limit: int = MAX_CHILDREN,
) -> RunTree:
    """The tree of a run.

    Args:
        run: the run, which was read before.
        invokes: its invoke steps, which were read before.
        depth: how many levels of children to read.
        limit: how many children to read at most, on all levels together, those of the upper levels first.
    """
    reader = _TreeReader(broker, partition)
    parent, invoke = reader.read_parent(run)
    reader.read_children(run.id, invokes, depth, limit)
    reader.add(run)
    return replace(reader.tree(run.id, run.name, invoke), parent=parent)


class _TreeReader:
    """Reads runs into memory, then builds the tree of them.

    Attributes:
        runs: the trees of the runs that were read, without children, by run id; ``None``: the run is forgotten.
        invokes: the invoke steps of each run.
    """

    def __init__(self, broker: Broker, partition: Partition) -> None:
        self._broker = broker
        self._partition = partition
        self._queues: frozenset[str] | None = None
        with contextlib.suppress(BackendUnavailableError):  # the node of a cluster that knows the workers is away
            self._queues = served_queues(broker, partition)
        self.runs: dict[str, RunTree | None] = {}
        self.invokes: dict[str, Sequence[InvokeView]] = {}

    def add(self, run: RunRecord, pending: Sequence[StepRecord] = ()) -> None:
        """Keep a run that was read."""
        self.runs[run.id] = self._node(run, pending)

    def _node(self, run: RunRecord, pending: Sequence[StepRecord]) -> RunTree:
        is_unknown = run.status.ended or self._queues is None
        return RunTree(view_run(run, pending=pending), None if is_unknown else run.queue in (self._queues or ()))

    def read_parent(self, run: RunRecord) -> tuple[RunTree | None, InvokeView | None]:
        """The run's parent, and the parent's step that invoked the run. One round trip."""
        if not run.parent:
            return None, None
        calls: list[Command[Any]] = [
            read_run(self._partition, run.parent),
            read_steps(self._partition, run.parent),
            command(replies.raw, "HGET", self._partition.run_key("MEMOS", run.parent), run.parent_step),
        ]
        record, pending, memo = self._broker.execute_all(calls)
        parent = self._node(record, pending) if record else RunTree(forgotten_run(run.parent, ""))
        return parent, _find_invoke(run.parent_step, pending, memo)

    def read_children(self, run_id: str, invokes: Sequence[InvokeView], depth: int, limit: int) -> None:
        """Read the runs below a run, level by level."""
        self.invokes[run_id] = invokes
        level = [run_id]
        for _ in range(depth):
            children = [invoke.run_id for parent in level for invoke in self.invokes[parent] if invoke.run_id]
            level = children[: limit - len(self.runs)]
            for first in range(0, len(level), _CHUNK):
                self._read(level[first : first + _CHUNK])

    def _read(self, run_ids: Sequence[str]) -> None:
        """Read runs and their invoke steps. One round trip."""
        calls: list[Command[Any]] = [call for run_id in run_ids for call in self._calls(run_id)]
        replies = iter(self._broker.execute_all(calls))
        for run_id in run_ids:
            record, pending, attempts, memos = next(replies), next(replies), next(replies), next(replies)
            self.runs[run_id] = self._node(record, pending) if record else None
            ended = ((key, read_memo(text)) for key, text in memos if any(part in text for part in _INVOKES))
            self.invokes[run_id] = find_invokes(ended, pending, attempts)

    def _calls(self, run_id: str) -> Iterator[Command[Any]]:
        """The reads of one run. Memos are read last, so that a step that ends in between is not missed."""
        yield read_run(self._partition, run_id)
        yield read_steps(self._partition, run_id)
        yield read_attempts(self._partition, run_id)
        yield read_memos(self._partition, run_id)

    def tree(self, run_id: str, name: str, invoke: InvokeView | None) -> RunTree:
        """A run with the runs below it that were read."""
        node = self.runs.get(run_id) or RunTree(forgotten_run(run_id, name))
        invokes = [invoke for invoke in self.invokes.get(run_id, ()) if invoke.run_id]
        read = [invoke for invoke in invokes if invoke.run_id in self.runs]
        children = tuple(self.tree(invoke.run_id, invoke.function, invoke) for invoke in read)
        return replace(node, invoke=invoke, children=children, hidden=len(invokes) - len(read))


def _find_invoke(key: str, pending: Sequence[StepRecord], memo: bytes | None) -> InvokeView | None:
    """The invoke step of a parent with this key."""
    if memo is not None:
        return ended_invoke(key, read_memo(memo))
    return next((waiting_invoke(step) for step in pending if step.key == key), None)
