"""Everything about one run: the stored run, its steps, and its tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.pauses import Pause, read_pauses
from stepflow_broker.transitions.runs.attempts import read_attempts
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import RunRecord, read_run
from stepflow_broker.transitions.runs.run_state import read_status
from stepflow_broker.transitions.steps.signals import WaitingSignal, read_signals
from stepflow_broker.transitions.steps.step_record import read_steps
from stepflow_broker.views.attempt_view import AttemptView, function_attempts, kept_attempts
from stepflow_broker.views.invoke_view import find_invokes
from stepflow_broker.views.mismatch_view import mismatch_json
from stepflow_broker.views.opened import opened_attempt, opened_run, opened_signal, opened_step
from stepflow_broker.views.run_pauses import limits_of, pause_reason, pauses_of
from stepflow_broker.views.run_tree import RunTree, read_run_tree
from stepflow_broker.views.run_view import run_not_found
from stepflow_broker.views.step_view import StepView, step_views
from stepflow_broker.views.times import iso
from stepflow_engine.encryption_scopes import redacted_memo
from stepflow_engine.memo import read_memo

__all__ = ["RunDetails", "read_run_details"]


@dataclass(frozen=True, slots=True)
class RunDetails:
    """One run with its event, its output, its steps, its tree, the pauses that stop it, and its history.

    Attributes:
        history: the attempts of the function's own code that are kept, oldest first.
        forgotten: those of its source and its forks that exist no more.
        signals: the signals that no wait has received, in the order of arrival.
    """

    run: RunRecord
    steps: list[StepView]
    tree: RunTree
    pauses: tuple[Pause, ...] = ()
    history: tuple[AttemptView, ...] = ()
    forgotten: frozenset[str] = frozenset()
    signals: tuple[WaitingSignal, ...] = ()

    @property
    def forks(self) -> list[str]:
        """The forks of the run that still exist, newest first."""
        return [fork for fork in self.run.forks if fork not in self.forgotten]

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        run, tree = self.run, self.tree.to_json()
        return {
            "run_id": run.id,
            "app": run.app,
            "function": run.function,
            "queue": run.queue,
            "served": tree["served"],
            "status": run.status,
            "attempt": run.attempt,
            "created_at": iso(run.created_at),
            "started_at": iso(run.started_at),
            "ended_at": iso(run.ended_at),
            "due_at": iso(run.due_at),
            "worker": run.owner or run.ended_by or None,
            "version": run.version or None,
            "pinned": run.pinned,
            "batch": run.batch or None,
            "blocked": run.blocked or None,
            "paused": pause_reason(self.pauses) or None,
            "reason": run.reason or None,
            "forked_from": run.forked_from or None,
            "forked_at": run.forked_at or None,
            "forked_by": run.forked_by or None,
            "forks": self.forks,
            "tags": dict(run.tags),
            "error_group": run.error_group or None,
            "values": run.values or {},
            "signals": [
                {"signal": one.name, "id": one.id, "at": iso(one.at_ms), "data": one.data} for one in self.signals
            ],
            "undoing": run.undoing or None,
            "patches": run.patched,
            "round": run.round,
            "mismatch": mismatch_json(run),
            "round_started_at": iso(run.round_at),
            "rounds": [
                {
                    "round": past.number,
                    "started_at": iso(past.started_at),
                    "ended_at": iso(past.ended_at),
                    "steps": past.steps,
                    "digest": past.digest,
                }
                for past in run.rounds
            ],
            "event": run.event,
            "output": run.output,
            "error": run.failure.to_json() if run.failure else None,
            "history": [attempt.to_json() for attempt in self.history],
            "steps": [step.to_json() for step in self.steps],
            "parent": self.tree.parent_json(),
            "children": tree["children"],
            "children_not_shown": tree["children_not_shown"],
        }


def read_run_details(broker: Broker, partition: Partition, run_id: str, *, depth: int) -> RunDetails:
    """A run, its steps and its tree.

    Attempts and memos are read after the pending steps, so that a step that ends in between is not missed.

    Args:
        depth: how many levels of children to read.

    Raises:
        RunNotFoundError: there is no such run.
    """
    run = broker.execute(read_run(partition, run_id))
    if run is None:
        raise run_not_found(run_id)
    pending = broker.execute(read_steps(partition, run_id))
    cipher = partition.cipher
    run, pending = opened_run(cipher, run), [opened_step(cipher, run_id, step) for step in pending]
    attempts = [opened_attempt(cipher, run, attempt) for attempt in broker.execute(read_attempts(partition, run_id))]
    stored = broker.execute(read_memos(partition, run_id))
    memos = [(key, redacted_memo(cipher, run_id, key, read_memo(text))) for key, text in stored]
    tree = read_run_tree(broker, partition, run, find_invokes(memos, pending, attempts), depth=depth)
    children = {child.run.id: child.run for child in tree.children}
    pauses = () if run.status.ended else _read_pauses(broker, partition, run)
    history = function_attempts(run, kept_attempts(run, attempts).get("", ()))
    steps, forgotten = step_views(run, memos, pending, attempts, children), _forgotten(broker, partition, run)
    waiting = broker.execute(read_signals(partition, run_id)) if run.signals else []
    signals = tuple(opened_signal(cipher, run_id, one) for one in waiting)
    return RunDetails(run, steps, tree, pauses, tuple(history), forgotten, signals)


def _forgotten(broker: Broker, partition: Partition, run: RunRecord) -> frozenset[str]:
    """The source and the forks of a run that exist no more. One round trip, if it has any."""
    links = [link for link in (run.forked_from, *run.forks) if link]
    statuses = broker.execute_all([read_status(partition, link) for link in links]) if links else []
    return frozenset(link for link, status in zip(links, statuses, strict=True) if status is None)


def _read_pauses(broker: Broker, partition: Partition, run: RunRecord) -> tuple[Pause, ...]:
    pauses = broker.execute(read_pauses(partition.of(run.id)))
    if not pauses:
        return ()
    limits = broker.execute(command(replies.texts, "HMGET", partition.run_key("RUN", run.id), "concurrency"))
    return pauses_of(pauses, run.name, run.queue, limits_of(limits[0].encode()))
