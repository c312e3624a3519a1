"""Forks: run again from a step, from the failure, or from the start, as a new run with results of an earlier one."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from stepflow.client.backend import Backend
from stepflow.client.function_names import DeclaredFunctions
from stepflow.client.pauses import check_reason
from stepflow.event import Event, checked_event_id, encode_event, read_event
from stepflow.functions.function import Function, check_input
from stepflow_broker.protocol.clock import now_ms
from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation, single
from stepflow_broker.registry.functions import FunctionConfig, read_function
from stepflow_broker.transitions.forks import ForkStart, fork_run
from stepflow_broker.transitions.runs import RunRecord, StepRecord, read_memos, read_run, read_steps
from stepflow_broker.views.run_view import run_not_found
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import Restore, dumps, dumps_event, dumps_output, loads
from stepflow_engine.encryption_scopes import reseal_memo, result_scope
from stepflow_engine.errors import ForkError
from stepflow_engine.ids import PARTITION_PREFIX_LENGTH, run_id_for, step_key, with_partition_prefix
from stepflow_engine.limits import check_id
from stepflow_engine.memo import Memo, memo_of_data, read_memo
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.steps import StepKind, stored_kind

__all__ = [
    "SAME_DATA",
    "Children",
    "Fork",
    "ForkContext",
    "ForkRequest",
    "Keys",
    "acreate_fork",
    "create_fork",
    "fork_operation",
]

Keys = Literal["auto", "keep", "new"]
"""Which idempotency keys the steps of a fork use."""
Children = Literal["adopt", "again"]
"""What becomes of children that have ended."""


class _SameData:
    """The type of `SAME_DATA`."""

    def __repr__(self) -> str:
        return "the data of the run"


SAME_DATA: Final = _SameData()
"""The default of ``data=``: the fork has the data of its source."""
_NUMBERED = re.compile(r"(.+)#([1-9][0-9]*)")
_SHOWN_STEPS = 20


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
class ForkRequest:
    """What to fork; see `Client.fork`.

    Attributes:
        action: the name of the call, for messages.
    """

    before: str | None = None
    failed: bool = False
    data: Any = SAME_DATA
    results: Mapping[str, Any] = field(default_factory=dict)
    keys: Keys = "auto"
    children: Children = "adopt"
    id: str | None = None
    reason: str = ""
    action: str = "fork"

    def check(self) -> None:
        """Refuse arguments that can never be right.

        Raises:
            ForkError: an argument is invalid, or two contradict each other.
            EventError: the id is invalid.
            ConfigurationError: the reason is invalid.
        """
        if self.before is not None and (not isinstance(self.before, str) or not self.before):
            raise ForkError(f"{self.action}: before must be the id of a step, got {self.before!r}")
        if self.before is not None and self.failed:
            raise ForkError(f"{self.action}: before and failed=True contradict each other: pass one of them")
        if not isinstance(self.results, Mapping) or not all(isinstance(one, str) for one in self.results):
            raise ForkError(f'{self.action}: results must be a dict from step ids to values, as in {{"price": 12}}')
        if self.keys not in ("auto", "keep", "new"):
            raise ForkError(f'{self.action}: keys must be "auto", "keep" or "new", got {self.keys!r}')
        if self.children not in ("adopt", "again"):
            raise ForkError(f'{self.action}: children must be "adopt" or "again", got {self.children!r}')
        checked_event_id(self.id)
        check_reason(self.reason)

    def details(self, fork_id: str) -> bytes:
        """What the audit log has of the fork, as JSON text."""
        more = {"before": self.before} if self.before is not None else {}
        names = list(self.results)
        more_names = [f"and {len(names) - _SHOWN_STEPS:,} more"] if len(names) > _SHOWN_STEPS else []
        edited = {"results": [*names[:_SHOWN_STEPS], *more_names]} if names else {}
        data = {} if self.data is SAME_DATA else {"data": "other"}
        return dumps({"run": fork_id, **more, **edited, **data})

    @property
    def keeps_keys(self) -> bool:
        """Whether the fork uses the idempotency keys of its source."""
        return self.keys == "keep" or (self.keys == "auto" and self.failed)


@dataclass(frozen=True, slots=True)
class _Step:
    """A step of the source.

    Attributes:
        text, memo: its memo, stored and read; ``b""`` and ``None``: it has not ended.
    """

    key: str
    id: str
    kind: str
    text: bytes = b""
    memo: Memo | None = None


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork that was created.

    Attributes:
        run_id: its id.
        output: restores its output to the declared type; ``None``: this process has not declared the function.
    """

    run_id: str
    output: Restore | None


def create_fork(backend: Backend, run_id: str, request: ForkRequest) -> Fork:
    """Create a fork of a run. See `Client.fork`."""
    fork, command = run_operation(backend.broker, fork_operation(backend, run_id, request))
    _check(run_id, backend.deliver([command])[0])
    return fork


async def acreate_fork(backend: Backend, run_id: str, request: ForkRequest) -> Fork:
    """The asyncio twin of `create_fork`."""
    fork, command = await arun_operation(backend.abroker, fork_operation(backend, run_id, request))
    _check(run_id, (await backend.adeliver([command]))[0])
    return fork


def _check(run_id: str, code: ScriptStatus) -> None:
    if code is ScriptStatus.NO_RUN:
        raise run_not_found(run_id)


def fork_operation(
    context: ForkContext, run_id: str, request: ForkRequest
) -> Operation[tuple[Fork, Command[ScriptStatus]]]:
    """Read what a fork needs, and return it with the command that creates it.

    Raises:
        ForkError: the run cannot be forked like this; the message says why, and what can be done.
        RunNotFoundError: no run has this id, or its retention is over.
    """
    request.check()
    try:
        check_id(run_id, "run id")
    except ValueError:
        raise run_not_found(str(run_id)) from None
    partition, declared = context.partition, context.declared
    record, memos, pending = yield [
        read_run(partition, run_id),
        read_memos(partition, run_id),
        read_steps(partition, run_id),
    ]
    if record is None:
        raise run_not_found(run_id)
    _check_status(record, request)
    function = declared.find(record.app, record.function)
    config: FunctionConfig | None = (
        function.config
        if function is not None
        else (yield from single(read_function(partition.keys, record.app, record.function)))
    )
    if config is None:
        raise ForkError(
            f"{request.action}: function {record.name} is not registered, so nothing could execute the fork: "
            "start a worker that has it"
        )
    _check_flow(partition, record, config, request)
    fork_id = _fork_id(run_id, config, request.id)
    plan = _Plan(context, record, _steps(memos, pending), request, fork_id)
    start = ForkStart(
        run_id=fork_id,
        source=run_id,
        event=plan.event(function),
        replaces_event=request.data is not SAME_DATA,
        memos=list(plan.memos()),
        forked_at=request.before or "",
        forked_by=": ".join(part for part in (context.actor, request.reason) if part),
        keys_of=(record.keys_of or run_id) if request.keeps_keys else "",
        takes_events=request.failed,
        who=context.actor,
        action=request.action.removeprefix("a"),
        reason=request.reason,
        details=request.details(fork_id),
        dedupe=request.id is not None,
    )
    output = function.output if function is not None else None
    return Fork(fork_id, output), fork_run(partition, config, start)


def _check_status(record: RunRecord, request: ForkRequest) -> None:
    """Refuse what would do nothing, or would be done twice at once."""
    name = f"{request.action}: run {record.id} of {record.name}"
    if record.batch and (request.before is not None or request.results):
        raise ForkError(
            f"{name} was part of a batch, so it has no steps of its own: fork it without before and results"
        )
    if record.batch == record.id:
        raise ForkError(f"{name} executed a batch: repeat the runs of the batch; each joins the next batch")
    if not record.status.ended and request.before is None:
        raise ForkError(f"{name} has not ended, it is {record.status}: cancel it first, or fork it before a step")
    if request.failed and record.status is RunStatus.COMPLETED:
        raise ForkError(f"{name} is completed, so there is nothing to retry: rerun it, or fork it before a step")


def _check_flow(partition: Partition, record: RunRecord, config: FunctionConfig, request: ForkRequest) -> None:
    """Refuse what the present flow control of the function does not allow."""
    name = f"{request.action}: run {record.id}"
    if config.pinned_partition and partition.of(config.pinned_partition) is not partition.of(record.id):
        raise ForkError(
            f"{name} is in another partition than that in which function {record.name} counts its runs since it has "
            "this flow control: start a new run with the same data"
        )
    keeps_results = request.failed or request.before is not None or bool(request.results)
    if config.flow and config.flow.batch and not record.batch and keeps_results:
        raise ForkError(
            f"{name} has results of its own, and {record.name} collects runs in batches now, which have no such "
            "results: use rerun, which executes all steps again"
        )


def _fork_id(run_id: str, config: FunctionConfig, own_id: str | None) -> str:
    unique = uuid.uuid4().hex if own_id is None else run_id_for(run_id, own_id, config.name, "fork")
    return with_partition_prefix(run_id[:PARTITION_PREFIX_LENGTH], unique)


def _steps(memos: Sequence[tuple[str, bytes]], pending: Sequence[StepRecord]) -> dict[str, _Step]:
    """The steps of the source by key: those with memos in the order of the memos, then the others."""
    steps: dict[str, _Step] = {}
    for key, text in memos:
        memo = read_memo(text)
        steps[key] = _Step(key, memo.id, stored_kind(memo.detail), text, memo)
    for step in pending:
        if step.key not in steps:
            steps[step.key] = _Step(step.key, step.id, step.kind)
    return steps


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a fork gets of its source.

    Attributes:
        record, steps: the source, and its steps by key.
        request: what to fork.
        fork_id: the id of the fork.
    """

    context: ForkContext
    record: RunRecord
    steps: Mapping[str, _Step]
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
            now_ms=now_ms(),
            limit_bytes=self.context.declared.limits.event_bytes,
            cipher=self.context.cipher,
        )
        if function is not None:
            check_input(function, loads(dumps_event(data, limit_bytes=self.context.declared.limits.event_bytes)))
        return text

    def memos(self) -> Iterator[tuple[str, bytes]]:
        """Key and text of each memo of the fork; ``b""``: the server copies it."""
        new: dict[str, bytes] = {}
        for step_id, value in self.request.results.items():
            key = self._key_of(step_id)
            new[key] = self._edited(key, value)
        for step in self._before_the_cut():
            if step.key in new:
                yield step.key, new.pop(step.key)
            elif not self._is_repeated(step):
                yield (
                    step.key,
                    reseal_memo(self.context.cipher, step.text, step.key, of=self.record.id, to=self.fork_id),
                )
        yield from new.items()

    def _is_repeated(self, step: _Step) -> bool:
        """Whether the fork executes a step again although its memo was stored before the cut."""
        has_failed = step.memo is not None and step.memo.failure is not None
        if self.request.failed and has_failed:
            return True
        return self.request.children == "again" and step.kind == StepKind.INVOKE

    def _before_the_cut(self) -> list[_Step]:
        """The steps with memos that the fork may keep, in the order of the memos."""
        ended = [step for step in self.steps.values() if step.memo is not None]
        if self.request.before is not None:
            cut = self._key_of(self.request.before)
            at = next((number for number, step in enumerate(ended) if step.key == cut), len(ended))
            return ended[:at]
        return ended if self.request.failed else []

    def _key_of(self, step_id: str) -> str:
        """The key of a step by its id; ``charge#2`` is the second step with the id ``charge``.

        Raises:
            ForkError: the run has no such step; the message names those that it has.
        """
        numbered = _NUMBERED.fullmatch(step_id)
        keys = [step_key(step_id), *([step_key(numbered[1], int(numbered[2]) - 1)] if numbered else [])]
        known = next((key for key in keys if key in self.steps), None)
        if known is None:
            ids = list(dict.fromkeys(step.id for step in self.steps.values()))
            names = ", ".join(repr(one) for one in ids[:_SHOWN_STEPS]) or "none"
            more = f" and {len(ids) - _SHOWN_STEPS} more" if len(ids) > _SHOWN_STEPS else ""
            raise ForkError(
                f"{self.request.action}: run {self.record.id} of {self.record.name} has no step {step_id!r}; "
                f"its steps: {names}{more}"
            )
        return known

    def _edited(self, key: str, value: Any) -> bytes:
        """The memo of a step with a result that the caller has given.

        Raises:
            ForkError: a step of this kind has no such result.
            StepOutputError: the value is not JSON, or is over the limit.
        """
        step, now, action = self.steps[key], now_ms(), self.request.action
        detail: dict[str, Any] = {"id": step.id, "attempts": 0, "started_at": now, "ended_at": now, "edited": True}
        if step.kind not in (StepKind.RUN, StepKind.INVOKE):
            raise ForkError(
                f"{action}: step {step.id!r} is of kind {step.kind!r}: only results of step.run and step.invoke can be "
                "given"
            )
        limit = self.context.declared.limits.step_output_bytes
        result = dumps_output(value, what=f"step {step.id!r}", limit_bytes=limit)
        if step.kind == StepKind.INVOKE:
            if step.memo is None:
                raise ForkError(f"{action}: step {step.id!r} still waits for its child: give its result after that")
            detail = {**step.memo.detail, **detail, "outcome": "completed"}
        scope = result_scope(self.fork_id, key, Memo(step.id, detail=detail))
        return memo_of_data(self.context.cipher.seal(result, scope), detail)
