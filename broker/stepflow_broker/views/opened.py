"""Stored records with their payloads opened, for display: ``"encrypted"`` where this process does not have the key."""

from __future__ import annotations

from dataclasses import replace

from stepflow_broker.transitions.attempts import AttemptRecord
from stepflow_broker.transitions.runs import RunRecord, StepRecord
from stepflow_engine.cipher import MARK, Cipher
from stepflow_engine.codec import dumps, loads
from stepflow_engine.encryption_scopes import (
    end_scopes,
    event_scope,
    redacted,
    redacted_failure,
    step_scope,
    wait_scope,
)

__all__ = ["opened_attempt", "opened_run", "opened_step"]

_MARK = MARK.encode()


def opened_run(cipher: Cipher, run: RunRecord) -> RunRecord:
    """A run with its event, its output and its failure opened."""
    data = redacted(cipher, run.event["data"], event_scope(run.event["id"]))
    return replace(
        run,
        event={**run.event, "data": data},
        output=redacted(cipher, run.output, *end_scopes(run.id, run.name, failed=False)),
        failure=redacted_failure(cipher, run.failure, *end_scopes(run.id, run.name, failed=True)),
    )


def opened_step(cipher: Cipher, run_id: str, step: StepRecord) -> StepRecord:
    """A step with the failure of its last attempt, and the values of its wait, opened."""
    if _MARK in step.detail:
        detail = loads(b"{" + step.detail)
        match = redacted(cipher, detail.get("match"), wait_scope(run_id, step.key))
        step = replace(step, detail=dumps({**detail, "match": match})[1:])
    return replace(step, failure=redacted_failure(cipher, step.failure, step_scope(run_id, step.key, failed=True)))


def opened_attempt(cipher: Cipher, run: RunRecord, attempt: AttemptRecord) -> AttemptRecord:
    """A kept attempt with its failure, and the values of its wait, opened."""
    is_step = bool(attempt.key)
    scopes = (step_scope(run.id, attempt.key, failed=True),) if is_step else end_scopes(run.id, run.name, failed=True)
    match = redacted(cipher, attempt.detail.get("match"), wait_scope(run.id, attempt.key))
    return replace(
        attempt,
        failure=redacted_failure(cipher, attempt.failure, *scopes),
        detail={**attempt.detail, "match": match} if match is not None else attempt.detail,
    )
