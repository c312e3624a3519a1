"""The heartbeats of handlers: what the worker stores of them for the next attempt."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any

from stepflow_broker.transitions.steps.heartbeats import forget_heartbeat, read_heartbeat, record_heartbeat
from stepflow_engine.codec import loads
from stepflow_engine.encryption_scopes import heartbeat_scope
from stepflow_engine.errors import DecryptionError
from stepflow_engine.handler_control import HandlerControl
from stepflow_engine.ids import idempotency_key
from stepflow_engine.steps import RunRequest
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["begin_handler", "end_handler", "forget_heartbeats"]

_WRITE_EVERY_S = 1.0


class _HeartbeatLog:
    """Stores the last detail of the heartbeats of one attempt, at most once a second. Used in the event loop."""

    def __init__(self, state: WorkerState, attempt: StepAttempt[RunRequest], control: HandlerControl) -> None:
        self._state = state
        self._attempt = attempt
        self._control = control
        self._written = b""
        self._timer: asyncio.TimerHandle | None = None

    def note(self) -> None:
        """Store the last detail now, or when a second has passed since it was stored."""
        if self._timer is None and self.flush():
            self._timer = asyncio.get_running_loop().call_later(_WRITE_EVERY_S, self._later)

    def _later(self) -> None:
        self._timer = None
        self.note()

    def flush(self) -> bool:
        """Store the last detail, if it is not stored; true if it was not."""
        detail, attempt = self._control.detail, self._attempt
        if detail is self._written:
            return False
        self._written = detail
        run, lease = attempt.run, attempt.lease
        scope = heartbeat_scope(run.run_id, attempt.key)
        sent = self._state.broker.submit(
            record_heartbeat(
                self._state.partition,
                run_id=run.run_id,
                job_key=lease.key,
                fence=lease.fence,
                key=attempt.key,
                detail=run.function.cipher.seal(detail, scope),
            )
        )
        sent.add_done_callback(_drop_error)
        return True

    def close(self) -> None:
        """Store nothing more."""
        if self._timer is not None:
            self._timer.cancel()


async def begin_handler(state: WorkerState, attempt: StepAttempt[RunRequest]) -> HandlerControl:
    """The control of the handler of an attempt. It has the last heartbeat of the attempts before."""
    run, last = attempt.run, None
    if attempt.lease.has_heartbeats:
        last = await _last_heartbeat(state, attempt)
    key = idempotency_key(run.keys_of, attempt.key)
    return HandlerControl(attempt.id, key, last, partial(_noted, asyncio.get_running_loop(), state, attempt))


def end_handler(control: HandlerControl, *, failed: bool) -> bool:
    """Store what a failed attempt has reported last. Call it before the failure is recorded: then the fence is over.

    Heartbeats that come later, from what the handler has left behind, are ignored.

    Returns:
        Whether this attempt, or one before it, has stored a heartbeat.
    """
    log: _HeartbeatLog | None = control.log
    control.on_beat = control.log = None  # the log refers to the control: a cycle would keep the arguments of the step
    if log is not None:
        if failed:
            log.flush()
        log.close()
    return log is not None or control.last_heartbeat is not None


def forget_heartbeats(state: WorkerState, attempt: StepAttempt[RunRequest]) -> None:
    """Delete the detail of a step whose memo is stored."""
    sent = state.broker.submit(forget_heartbeat(state.partition, attempt.run.run_id, attempt.key))
    sent.add_done_callback(_drop_error)


async def _last_heartbeat(state: WorkerState, attempt: StepAttempt[RunRequest]) -> Any:
    run = attempt.run
    text = await state.broker.execute(read_heartbeat(state.partition, run.run_id, attempt.key))
    with contextlib.suppress(DecryptionError, ValueError):  # it is a hint: the handler starts from its beginning
        return run.function.cipher.open(loads(text or b"null"), heartbeat_scope(run.run_id, attempt.key))
    return None


def _noted(
    loop: asyncio.AbstractEventLoop, state: WorkerState, attempt: StepAttempt[RunRequest], control: HandlerControl
) -> None:
    """Called by a heartbeat, in the thread of the handler. The event loop is told once, however many there are."""
    if control.is_noted:
        return
    control.is_noted = True
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        loop.call_soon_threadsafe(_note, state, attempt, control)


def _note(state: WorkerState, attempt: StepAttempt[RunRequest], control: HandlerControl) -> None:
    control.is_noted = False  # before the detail is read
    if control.on_beat is None:
        return
    if control.log is None:
        control.log = _HeartbeatLog(state, attempt, control)
    control.log.note()


def _drop_error(sent: asyncio.Future[Any]) -> None:
    if not sent.cancelled():
        sent.exception()
