"""The plan of a fork: what a new run gets of the run that it repeats, its source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stepflow.client.fork_request import SAME_DATA, ForkRequest
from stepflow.client.function_names import DeclaredFunctions
from stepflow.event import Event, encode_event, read_event
from stepflow.functions.function import Function, check_input
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.runs.attempts import AttemptRecord
from stepflow_broker.transitions.runs.run_record import RunRecord, read_run
from stepflow_broker.transitions.steps.step_record import StepRecord
from stepflow_broker.views.step_view import executing_step
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps, dumps_event, dumps_output, loads, restore
from stepflow_engine.encryption_scopes import end_scopes, reseal_memo, result_scope
from stepflow_engine.errors import ForkError
from stepflow_engine.ids import is_item_key, numbered_keys, run_id_for, undo_key, with_partition_prefix
from stepflow_engine.memo import Memo, memo_of_data, read_memo
from stepflow_engine.patches import PatchDecision
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.steps import StepKind, stored_kind

__all__ = ["ForkContext", "ForkPlan", "SourceStep", "source_steps"]

_SHOWN_STEPS = 20
_CHILDREN_AT_ONCE = 100
_INVOKE_FACTS = ("kind", "function", "started_at", "run_id")


class ForkContext(Protocol):
    """Where forks are created: a `Backend`, or a worker."""

    @property
    def partition(self) -> Partition:
        """The first partition of the server."""
        ...

    @property
    def declared(self) -> DeclaredFunctions:
        """The functions that the process has declared."""
        ...

    @property
    def cipher(self) -> Cipher:
        """Opens and seals the memos."""
        ...

    @property
    def actor(self) -> str:
        """Who forks, for the record."""
        ...


@dataclass(frozen=True, slots=True)
class SourceStep:
    """A step of the source.

    Attributes:
        text, memo: its memo, stored and read; ``b""`` and ``None``: it has none.
        invoke: of an invoke: the facts of its memo that do not depend on its outcome.
        starts: of a step that has started a child: the key of the step that waits for its end. The fork keeps both, or
            starts a child again.
    """

    key: str
    id: str
    kind: str
    text: bytes = b""
    memo: Memo | None = None
    invoke: Mapping[str, Any] = field(default_factory=dict)
    starts: str = ""


def source_steps(
    record: RunRecord,
    memos: Sequence[tuple[str, bytes]],
    pending: Sequence[StepRecord],
    attempts: Sequence[AttemptRecord],
) -> dict[str, SourceStep]:
    """The steps of a run by key: those with memos in the order of the memos, then the others. No items of maps.

    Args:
        attempts: the attempts that gave no result. They name the steps that a cancelled or failed run has left.
    """
    steps: dict[str, SourceStep] = {}
    for key, text in memos:
        memo = read_memo(text)
        starts = str(memo.detail.get("end_key", ""))
        steps[key] = SourceStep(key, memo.id, stored_kind(memo.detail), text, memo, _invoke_facts(memo.detail), starts)
    for step in pending:
        if step.is_item:
            continue
        detail = loads(b"{" + step.detail) if step.kind == StepKind.INVOKE else {}
        steps.setdefault(step.key, SourceStep(step.key, step.id, step.kind, invoke=_invoke_facts(detail)))
    if (executing := executing_step(record, set(steps))) is not None:
        key, step_id, _ = executing
        steps[key] = SourceStep(key, step_id, StepKind.RUN)
    for one in attempts:
        if one.key and not is_item_key(one.key):
            left = SourceStep(one.key, one.step_id, stored_kind(one.detail), invoke=_invoke_facts(one.detail))
            steps.setdefault(one.key, left)
    return steps


def _invoke_facts(detail: Mapping[str, Any]) -> dict[str, Any]:
    if detail.get("kind") != StepKind.INVOKE:
        return {}
    return {name: detail[name] for name in _INVOKE_FACTS if name in detail}


@dataclass(frozen=True, slots=True)
class ForkPlan:
    """What a fork gets of its source.

    Attributes:
        record, steps: the source, and its steps by key.
        request: what to fork.
        fork_id: the id of the fork.
    """

    context: ForkContext
    record: RunRecord
    steps: Mapping[str, SourceStep]
    request: ForkRequest
    fork_id: str

    def event(self, function: Function[Any, Any] | None) -> bytes:
        """The event of the fork, as it is stored.

        Raises:
            EventError: the new data is not JSON, over the limit, or not what the function takes.
        """
        data, old = self.request.data, read_event(self.record.event)
        if data is SAME_DATA:
            return dumps(self.record.event)
        text = encode_event(
            Event(old.name, data, old.id, old.ts),
            event_id=old.id,
            now_ms=self.context.partition.clock.now_ms(),
            limit_bytes=self.context.declared.limits.event_bytes,
            cipher=self.context.cipher,
        )
        if function is not None:
            check_input(function, loads(dumps_event(data, limit_bytes=self.context.declared.limits.event_bytes)))
        return text

    def read_memos(self) -> Operation[list[tuple[str, bytes]]]:
        """Key and text of each memo of the fork, as `ForkStart.memos` has them.

        No round trip, unless invokes may have got a result since: then one for a hundred children.

        Raises:
            ForkError: the request names a step that the run does not have, or that cannot have a result.
            StepOutputError: a result is not JSON, over the limit, or not what the invoked function returns.
            DecryptionError: a result is encrypted, and this process does not have the key.
        """
        edited = {key: self._edited(key, value) for key, value in self._results()}
        retained = [step for step in self._before_the_cut() if step.key in edited or not self._is_repeated(step)]
        late = yield from self._read_late_results({step.key for step in retained} | edited.keys())
        ends = {step.key for step in retained} | {key for key, _ in late}
        retained = [step for step in retained if not step.starts or step.starts in ends]
        memos = [(step.key, edited.pop(step.key, b"") or self._retained(step)) for step in retained]
        return [*memos, *late, *edited.items()]

    def patches(self, memos: Sequence[tuple[str, bytes]]) -> dict[str, PatchDecision]:
        """What the source has decided at those patches that a memo of the fork follows. The others it decides anew.

        Args:
            memos: see `read_memos`.
        """
        ended = [step.key for step in self.steps.values() if step.memo is not None]
        before = self.request.before
        cut = self._key_of(before) if before is not None else ""
        last = ended.index(cut) if cut in ended else len(ended)
        followed = [ended.index(key) + 1 if key in ended else len(ended) + 1 for key, _ in memos]
        numbers = {
            patch_id: sum(position <= decision.after for position in followed)
            for patch_id, decision in self.record.patches.items()
            if decision.after <= last
        }
        return {
            patch_id: PatchDecision(self.record.patches[patch_id].patched, after)
            for patch_id, after in numbers.items()
            if after < len(memos)
        }

    def unchecked(self, memos: Sequence[tuple[str, bytes]]) -> int:
        """How many of the memos are not compared with the code of the fork: those whose steps it may not request.

        The code that made them requests all steps again if they are the first of the source. With another event, other
        results, or without some steps, it may take another way.

        Args:
            memos: see `read_memos`.
        """
        request = self.request
        first = [step.key for step in self.steps.values() if step.memo is not None][: len(memos)]
        is_same = request.data is SAME_DATA and not request.results and first == [key for key, _ in memos]
        return min(self.record.unchecked_memos, len(memos)) if is_same else len(memos)

    def _results(self) -> Iterator[tuple[str, Any]]:
        for step_id, value in self.request.results.items():
            yield self._key_of(step_id), value

    # -- what the source had when it was cut -------------------------------------

    def _before_the_cut(self) -> list[SourceStep]:
        """The steps with memos that the fork may keep, in the order of the memos: none that the source has undone."""
        ended = [step for step in self.steps.values() if step.memo is not None]
        if self.request.before is not None:
            cut = self._key_of(self.request.before)
            ended = ended[: next((number for number, step in enumerate(ended) if step.key == cut), len(ended))]
        elif not self.request.failed:
            return []
        left_out = self._undone | {undo_key(key) for key in self._undone}
        return [step for step in ended if step.key not in left_out]

    @property
    def _undone(self) -> frozenset[str]:
        """The keys of the steps that the source has undone, or tried to undo."""
        steps = self.steps if self.record.has_undo else ()
        return frozenset(key for key in steps if undo_key(key) in steps)

    @property
    def keeps_keys(self) -> bool:
        """Whether the fork uses the idempotency keys of its source.

        By itself it does not if it executes steps again that were undone: to another system, they are new requests.
        """
        request = self.request
        return request.keys == "keep" or (request.keys == "auto" and request.failed and not self._undone)

    def _is_repeated(self, step: SourceStep) -> bool:
        """Whether the fork executes a step again although its memo was stored before the cut."""
        has_failed = step.memo is not None and step.memo.failure is not None
        if self.request.failed and has_failed:
            return True
        return self.request.children == "again" and step.kind == StepKind.INVOKE

    def _key_of(self, step_id: str) -> str:
        """The key of a step by its id; ``charge#2`` is the second step with the id ``charge``.

        Raises:
            ForkError: the run has no such step; the message names those that it has.
        """
        known = next((key for key in numbered_keys(step_id, self.record.round) if key in self.steps), None)
        if known is None:
            ids = Counter(step.id for step in self.steps.values())
            shown = list(ids.items())[:_SHOWN_STEPS]
            times = {one: "" if count == 1 else f" ({count} times)" for one, count in shown}
            names = ", ".join(f"{one!r:.100}{times[one]}" for one in times) or "none"
            more = f" and {len(ids) - _SHOWN_STEPS} more" if len(ids) > _SHOWN_STEPS else ""
            raise ForkError(
                f"{self.request.action}: run {self.record.id} of {self.record.name} has no step {step_id!r:.100}; "
                f"its steps: {names}{more}"
            )
        return known

    def _retained(self, step: SourceStep) -> bytes:
        """The memo of a step for the fork. It tells the version of the code, which is that of the source else."""
        text = reseal_memo(self.context.cipher, step.text, step.key, of=self.record.id, to=self.fork_id)
        detail = step.memo.detail if step.memo is not None else {}
        if "worker" not in detail or "version" in detail:
            return text
        more = b"," + dumps({"version": self.record.version})[1:-1]
        return text[:-1] + more + b"}" if text else more

    # -- results that the source does not have -----------------------------------

    def _read_late_results(self, known: set[str]) -> Operation[list[tuple[str, bytes]]]:
        """The memos of invokes whose children completed after the source had given them up, in the order of their ends.

        Args:
            known: the steps that have a memo in the fork.
        """
        steps = [step for step in self._open_invokes() if step.key not in known]
        late: list[tuple[int, str, bytes]] = []
        for first in range(0, len(steps), _CHILDREN_AT_ONCE):
            some = steps[first : first + _CHILDREN_AT_ONCE]
            children = yield [read_run(self.context.partition, step.invoke["run_id"]) for step in some]
            for step, child in zip(some, children, strict=True):
                if child is not None and child.status is RunStatus.COMPLETED:
                    late.append((child.ended_at or 0, step.key, self._late(step, child)))
        return [(key, text) for _, key, text in sorted(late)]

    def _open_invokes(self) -> Iterator[SourceStep]:
        """The invokes before the cut that have no result: their run has ended before their child, or did not wait."""
        request = self.request
        cut = self._key_of(request.before) if request.before is not None else ""
        has_all = self.steps[cut].memo is None if cut else request.failed
        if request.children == "again" or not has_all:
            return
        for step in self.steps.values():
            is_open = step.memo is None or (request.failed and step.memo.detail.get("outcome") == "timeout")
            if is_open and step.key != cut and self._is_own_child(step):
                yield step

    def _is_own_child(self, step: SourceStep) -> bool:
        """Whether the step names the child that the source has started for it, and no other run."""
        child = str(step.invoke.get("run_id", ""))
        return bool(child) and child == with_partition_prefix(child, run_id_for(self.record.id, step.key))

    def _late(self, step: SourceStep, child: RunRecord) -> bytes:
        output = self.context.cipher.open(child.output, *end_scopes(child.id, child.name, failed=False))
        return self._completed(step, dumps(output), {"ended_at": child.ended_at})

    def _edited(self, key: str, value: Any) -> bytes:
        """The memo of a step with a result that the caller has given.

        Raises:
            ForkError: a step of this kind has no such result.
            StepOutputError: the value is not JSON, over the limit, or not what the invoked function returns.
        """
        step, now, action = self.steps[key], self.context.partition.clock.now_ms(), self.request.action
        if step.kind not in (StepKind.RUN, StepKind.INVOKE):
            raise ForkError(
                f"{action}: step {step.id!r} is of kind {step.kind!r}: only results of step.run and step.invoke can be "
                "given"
            )
        limit = self.context.declared.limits.step_output_bytes
        result = dumps_output(value, what=f"step {step.id!r}", limit_bytes=limit)
        app, _, name = str(step.invoke.get("function", "")).partition("/")
        if (function := self.context.declared.find(app, name)) is not None:
            restore(function.output, loads(result), what=f"step {step.id!r}")
        return self._completed(step, result, {"attempts": 0, "started_at": now, "ended_at": now, "edited": True})

    def _completed(self, step: SourceStep, result: bytes, facts: Mapping[str, Any]) -> bytes:
        """The memo of a step that succeeds, for the fork."""
        outcome = {"outcome": "completed"} if step.kind == StepKind.INVOKE else {}
        detail = {"id": step.id, **step.invoke, **outcome, **facts}
        scope = result_scope(self.fork_id, step.key, Memo(step.id, detail=detail))
        return memo_of_data(self.context.cipher.seal(result, scope), detail)
