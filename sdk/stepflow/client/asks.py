"""Asks and their answers: what waits for a person, and how an answer is checked and stored."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stepflow.client.backend import Backend
from stepflow.client.find import checked_limit
from stepflow.client.function_names import parse_name
from stepflow.functions.function import Function
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.runs.run_state import read_round, read_status
from stepflow_broker.transitions.steps.asks import AnswerStart, answer_ask, read_answer
from stepflow_broker.transitions.steps.step_record import StepRecord, read_steps
from stepflow_broker.views.asks import AskView, find_asks
from stepflow_broker.views.run_view import run_ended, run_not_found
from stepflow_broker.views.times import iso
from stepflow_engine.codec import dumps, dumps_checked, loads
from stepflow_engine.encryption_scopes import ask_scope, step_scope
from stepflow_engine.errors import AnswerError, CorruptDataError, FilterError
from stepflow_engine.ids import numbered_id, numbered_keys
from stepflow_engine.json_schema import SchemaError, misfits
from stepflow_engine.limits import check_id
from stepflow_engine.memo import Memo, read_memo
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.steps import StepKind, stored_kind
from stepflow_engine.times import utc_time

__all__ = ["Ask", "answer_operation", "ask_of", "asks_operation"]

_SHOWN = 3
_MAX_TRIES = 10


@dataclass(frozen=True, slots=True)
class Ask:
    """A step that waits for the answer of a person, as `Stepflow.asks` lists it. It does not change.

    Attributes:
        run_id: the run.
        function: its function, as ``app/function``.
        step: the id by which the step is answered. The second step of a run with the id ``approve`` is ``approve#2``.
        to: whom the ask is for; ``""``: anybody.
        since: since when it waits, in UTC.
        until: when it waits no longer, in UTC.
        schema: the JSON schema of the answer; ``"encrypted"``: this process does not have the key.

    Example::

        for ask in app.asks(to="ops"):
            app.answer(ask.run_id, ask.step, {"approved": True}, by="ada")
    """

    run_id: str
    function: str
    step: str
    to: str
    since: datetime
    until: datetime
    schema: Any


def ask_of(view: AskView) -> Ask:
    """An ask from its view."""
    since, until = utc_time(view.since), utc_time(view.until)
    return Ask(view.run_id, view.function, view.step, view.to, since, until, view.schema)


def asks_operation(
    backend: Backend, app_id: str, function: Function[Any, Any] | str | None, to: str | None, limit: int
) -> Operation[list[AskView]]:
    """The read of `Client.asks`.

    Raises:
        FilterError: an argument is invalid.
        ConfigurationError: ``function`` is neither a function nor text.
    """
    names = () if function is None else ("/".join(parse_name(function, app_id)),)
    if to is not None:
        try:
            check_id(to, "to")
        except ValueError as error:
            raise FilterError("to", str(error)) from None
    app = "" if names else app_id
    return find_asks(backend.partition, app=app, functions=names, to=to, limit=checked_limit(limit))


def answer_operation(
    backend: Backend, run_id: str, step_id: str, data: Any, *, by: str | None = None
) -> Operation[None]:
    """Check an answer and store it. See `Client.answer`."""
    return _Answer(backend, run_id, step_id, data, by).give()


class _Answer:
    """One answer to one step."""

    def __init__(self, backend: Backend, run_id: str, step_id: str, data: Any, by: str | None) -> None:
        self._backend = backend
        self._run_id = run_id
        self._step_id = step_id
        try:
            check_id(run_id, "run id")
        except ValueError:
            raise run_not_found(str(run_id)) from None
        try:
            check_id(step_id, "step id")
            self._by = backend.actor if by is None else check_id(by, "by")
        except ValueError as error:
            raise self._refusal(str(error)) from None
        limit = backend.declared.limits.event_bytes
        self._text = dumps_checked(data, what=self._name, limit_bytes=limit, refuse=self._refusal)
        self._id = uuid.uuid4().hex

    @property
    def _name(self) -> str:
        return f"the answer to step {self._step_id!r:.100} of run {self._run_id}"

    def give(self) -> Operation[None]:
        """Store the answer, if the step still waits for it."""
        partition, run_id = self._backend.partition, self._run_id
        for _ in range(_MAX_TRIES):
            (round_,) = yield [read_round(partition, run_id)]
            keys = numbered_keys(self._step_id, round_)
            # memos are read last, so that a step that ends in between is not missed
            status, pending, *memos = yield [
                read_status(partition, run_id),
                read_steps(partition, run_id),
                *[read_answer(partition, run_id, key) for key in keys],
            ]
            step = self._waiting(keys, status, pending, memos)
            (code,) = yield [answer_ask(partition, self._checked(step), run_id=run_id)]
            if code is ScriptStatus.DONE:
                return
        raise self._refusal(f"{self._name} is not stored: the step has changed again and again: repeat the call")

    def _waiting(
        self, keys: Sequence[str], status: RunStatus | None, pending: Sequence[StepRecord], memos: Sequence[bytes]
    ) -> StepRecord:
        """The step that waits for the answer.

        Raises:
            AnswerError: there is none; the message says why.
            RunEndedError: the run has ended.
            RunNotFoundError: there is no such run.
        """
        if status is None:
            raise run_not_found(self._run_id)
        for key, text in zip(keys, memos, strict=True):
            if text:
                raise self._has_ended(read_memo(text, key))
        if status.ended:
            raise run_ended(self._run_id, status, "answer")
        asks = [step for step in pending if step.kind == StepKind.ASK]
        waiting = next((step for step in asks if step.key in keys), None)
        if waiting is None:
            names = ", ".join(repr(numbered_id(step.id, step.key)) for step in asks[:20]) or "none"
            raise self._refusal(
                f"run {self._run_id} has no step {self._step_id!r:.100} that waits for an answer; its asks: {names}"
            )
        return waiting

    def _has_ended(self, memo: Memo) -> AnswerError:
        """The error for a step that has its memo."""
        kind, ended_at = stored_kind(memo.detail), memo.detail.get("ended_at")
        if kind != StepKind.ASK:
            return self._refusal(f"step {memo.id!r:.100} of run {self._run_id} is a step of kind '{kind}', not an ask")
        by, at = str(memo.detail.get("answered_by", "")), utc_time(ended_at or 0)
        step = f"step {memo.id!r:.100} of run {self._run_id}"
        if not by:
            return self._refusal(f"{step} waits no longer: it timed out at {iso(at)}")
        return self._refusal(
            f"{step} was answered by {by} at {iso(at)}: only the first answer counts",
            answered_by=by,
            answered_at=at,
        )

    def _checked(self, step: StepRecord) -> AnswerStart:
        """The answer to store, if it fits the schema of the step.

        Raises:
            AnswerError: it does not fit.
            DecryptionError: the schema is encrypted, and this process does not have the key.
        """
        cipher, run_id = self._backend.cipher, self._run_id
        detail = loads(b"{" + step.detail)
        schema = cipher.open(detail.get("schema"), ask_scope(run_id, step.key))
        try:
            wrong = misfits(schema, loads(self._text))
        except SchemaError as error:
            raise CorruptDataError(f"the schema of step {step.id[:100]!r}", error) from None
        if wrong:
            more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            texts = "; ".join(f"{one.path}: {one.text}" for one in wrong[:_SHOWN])
            paths = tuple(dict.fromkeys(one.path for one in wrong))
            raise self._refusal(f"{self._name} does not fit its schema: {texts}{more}", paths=paths)
        return AnswerStart(
            key=step.key,
            detail=step.detail,
            data=cipher.seal(self._text, step_scope(run_id, step.key)),
            answer_id=self._id,
            by=self._by,
            who=self._backend.actor,
            details=dumps({"step": numbered_id(step.id, step.key), "by": self._by}),
        )

    def _refusal(self, message: str, **facts: Any) -> AnswerError:
        return AnswerError(message, run_id=self._run_id, step_id=str(self._step_id), **facts)
