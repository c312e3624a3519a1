"""Reads of one run for the handles of programs: the run, its steps, and the runs that it has invoked."""

from __future__ import annotations

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.runs.attempts import read_attempts
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.views.attempt_view import AttemptView, function_attempts, kept_attempts
from stepflow_broker.views.find_runs import read_views
from stepflow_broker.views.invoke_view import find_invokes
from stepflow_broker.views.opened import opened_attempt, opened_run, opened_step
from stepflow_broker.views.run_candidates import read_children, read_run_parts
from stepflow_broker.views.run_view import RunView, run_not_found
from stepflow_broker.views.step_view import StepView, step_views
from stepflow_engine.encryption_scopes import redacted_memo
from stepflow_engine.memo import read_memo

__all__ = ["read_attempt_views", "read_children_views", "read_run_view", "read_step_views"]


def read_run_view(partition: Partition, run_id: str) -> Operation[RunView]:
    """A run without its event and its output. One round trip.

    Raises:
        RunNotFoundError: there is no such run.
    """
    views = yield from read_views(partition, [run_id])
    if not views:
        raise run_not_found(run_id)
    return views[0]


def read_step_views(partition: Partition, run_id: str) -> Operation[list[StepView]]:
    """The steps of a run. One round trip, and one more if it has invoked functions.

    Raises:
        RunNotFoundError: there is no such run.
    """
    record, pending, kept, stored = yield from read_run_parts(partition, run_id)
    cipher = partition.cipher
    steps = [opened_step(cipher, run_id, step) for step in pending]
    memos = [(key, redacted_memo(cipher, run_id, key, read_memo(text))) for key, text in stored]
    run = opened_run(cipher, record)
    attempts = [opened_attempt(cipher, run, attempt) for attempt in kept]
    children = [invoke.run_id for invoke in find_invokes(memos, steps, attempts) if invoke.run_id]
    views = yield from read_views(partition, children)
    return step_views(run, memos, steps, attempts, {view.id: view for view in views})


def read_attempt_views(partition: Partition, run_id: str) -> Operation[list[AttemptView]]:
    """The attempts of the code between the steps of a run that are kept, the oldest first. One round trip.

    Raises:
        RunNotFoundError: there is no such run.
    """
    record, kept = yield [read_run(partition, run_id), read_attempts(partition, run_id)]
    if record is None:
        raise run_not_found(run_id)
    run = opened_run(partition.cipher, record)
    attempts = [opened_attempt(partition.cipher, run, attempt) for attempt in kept]
    return function_attempts(run, kept_attempts(run, attempts).get("", ()))


def read_children_views(partition: Partition, run_id: str) -> Operation[list[RunView]]:
    """The runs that a run has invoked, the oldest first, without those that were forgotten. Two round trips.

    Raises:
        RunNotFoundError: there is no such run.
    """
    ids = yield from read_children(partition, run_id)
    views = yield from read_views(partition, ids)
    return sorted(views, key=lambda view: (view.created_at or 0, view.id))
