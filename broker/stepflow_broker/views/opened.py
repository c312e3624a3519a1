"""Stored records with their payloads opened, for display: ``"encrypted"`` where this process does not have the key."""

from __future__ import annotations

from dataclasses import replace

from stepflow_broker.transitions.runs.attempts import AttemptRecord
from stepflow_broker.transitions.runs.run_record import RunRecord
from stepflow_broker.transitions.steps.signals import WaitingSignal
from stepflow_broker.transitions.steps.step_record import StepRecord
from stepflow_engine.cipher import MARK, Cipher
from stepflow_engine.codec import dumps, loads
from stepflow_engine.encryption_scopes import (
    end_scopes,
    redacted,
    redacted_detail,
    redacted_event,
    redacted_failure,
    signal_scope,
    step_scope,
    values_scope,
)

__all__ = ["opened_attempt", "opened_run", "opened_signal", "opened_step"]

_MARK = MARK.encode()


def opened_run(cipher: Cipher, run: RunRecord) -> RunRecord:
    """A run with its event, its output, its failure and its values opened."""
    return replace(
        run,
        event=redacted_event(cipher, run.event),
        output=redacted(cipher, run.output, *end_scopes(run.id, run.name, failed=False)),
        failure=redacted_failure(cipher, run.failure, *end_scopes(run.id, run.name, failed=True)),
        values=redacted(cipher, run.values, values_scope(run.id)),
    )


def opened_step(cipher: Cipher, run_id: str, step: StepRecord) -> StepRecord:
    """A step with the failure of its last attempt, and what its wait compares or asks for, opened."""
    if _MARK in step.detail:
        detail = redacted_detail(cipher, run_id, step.key, loads(b"{" + step.detail))
        step = replace(step, detail=dumps(detail)[1:])
    return replace(step, failure=redacted_failure(cipher, step.failure, step_scope(run_id, step.key, failed=True)))


def opened_signal(cipher: Cipher, run_id: str, signal: WaitingSignal) -> WaitingSignal:
    """A kept signal with its data opened."""
    return replace(signal, data=redacted(cipher, signal.data, signal_scope(run_id, signal.id)))


def opened_attempt(cipher: Cipher, run: RunRecord, attempt: AttemptRecord) -> AttemptRecord:
    """A kept attempt with its failure, and what its wait compared or asked for, opened."""
    is_step = bool(attempt.key)
    scopes = (step_scope(run.id, attempt.key, failed=True),) if is_step else end_scopes(run.id, run.name, failed=True)
    return replace(
        attempt,
        failure=redacted_failure(cipher, attempt.failure, *scopes),
        detail=redacted_detail(cipher, run.id, attempt.key, attempt.detail),
    )
