"""Candidates: few runs among which are all that a filter wants, where it names them by more than an index does.

These are the children of a run, the runs of a batch, those of an event, those whose id begins in some way, and those
that are executed.
"""

from __future__ import annotations

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation, single
from stepflow_broker.registry.functions import read_functions
from stepflow_broker.transitions.runs.attempts import AttemptRecord, read_attempts
from stepflow_broker.transitions.runs.batches import read_members
from stepflow_broker.transitions.runs.run_index import RunQuery, read_run_functions
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import RunRecord, read_run
from stepflow_broker.transitions.steps.step_record import StepRecord, read_steps
from stepflow_broker.views.invoke_view import find_invokes
from stepflow_broker.views.map_children import map_children
from stepflow_broker.views.run_view import run_not_found
from stepflow_engine.errors import FilterError
from stepflow_engine.ids import run_id_by_event, run_id_for, split_job_id, with_partition_prefix
from stepflow_engine.memo import read_memo
from stepflow_engine.state_machine import RunStatus

__all__ = ["read_candidates", "read_children"]

_MAX_MATCHES = 1_000
_INDEXES = 50
"""How many indexes are searched for a prefix in one round trip."""
_SCANNED = 1_000


def read_candidates(partition: Partition, wanted: RunQuery) -> Operation[list[str] | None]:
    """The ids among which are those of all wanted runs, where they are few; ``None``: the indexes have them."""
    if wanted.parent:
        return (yield from read_children(partition, wanted.parent))
    if wanted.batch:
        return (yield from _batched(partition, wanted.batch))
    if wanted.event_id:
        return (yield from _started_by(partition, wanted.event_id))
    if wanted.id_prefix:
        return (yield from _with_prefix(partition, wanted))
    return (yield from _executing(partition)) if wanted.statuses == {RunStatus.RUNNING} else None


def _executing(partition: Partition) -> Operation[list[str] | None]:
    """The ids of the runs whose code workers hold; ``None``: there are very many.

    Behind very many queued runs, these would be at the end of the index of live runs.
    """
    parts = yield [command(replies.texts, "ZRANGE", one.keys("LEASES"), 0, _MAX_MATCHES) for one in partition.all]
    jobs = [job for part in parts for job in part]
    return None if len(jobs) > _MAX_MATCHES else [job for job in jobs if not split_job_id(job)[1]]


def read_run_parts(
    partition: Partition, run_id: str
) -> Operation[tuple[RunRecord, list[StepRecord], list[AttemptRecord], list[tuple[str, bytes]]]]:
    """A run, its steps that have not ended, its kept attempts and its memos. One round trip.

    Memos are read last, so that a step that ends in between is not missed.

    Raises:
        RunNotFoundError: there is no such run.
    """
    record, pending, attempts, memos = yield [
        read_run(partition, run_id),
        read_steps(partition, run_id),
        read_attempts(partition, run_id),
        read_memos(partition, run_id),
    ]
    if record is None:
        raise run_not_found(run_id)
    return record, pending, attempts, memos


def read_children(partition: Partition, run_id: str) -> Operation[list[str]]:
    """The ids of the runs that a run has invoked, in the order of the invokes, then those of maps. One round trip.

    Some runs of maps may not exist: those of items that were not executed.

    Raises:
        RunNotFoundError: there is no such run.
    """
    _, pending, attempts, stored = yield from read_run_parts(partition, run_id)
    memos = [(key, read_memo(text)) for key, text in stored]
    invoked = [invoke.run_id for invoke in find_invokes(memos, pending, attempts) if invoke.run_id]
    ended = ((key, memo.detail, memo.detail.get("count")) for key, memo in memos)
    live = ((step.key, step.facts, step.items.begun) for step in pending if step.items is not None)
    of_maps = (child for one in (*ended, *live) for child in map_children(*one))
    return list(dict.fromkeys((*invoked, *of_maps)))


def _batched(partition: Partition, run_id: str) -> Operation[list[str]]:
    """The ids of the runs of a batch, in the order in which they joined it. A round trip, or two.

    Args:
        run_id: the run that executes the batch, or one of the runs.

    Raises:
        RunNotFoundError: there is no such run.
        FilterError: it is not of a batch.
    """
    status, batch = yield from single(
        command(replies.texts, "HMGET", partition.run_key("RUN", run_id), "status", "batch")
    )
    if not status:
        raise run_not_found(run_id)
    if not batch:
        raise FilterError("batch", f"batch must be a run of a batch: run {run_id} is of none")
    return (yield from read_members(partition, batch))


def _started_by(partition: Partition, event_id: str) -> Operation[list[str]]:
    """The ids that runs by an event have: of all functions, also those that nothing registers any more."""
    configs, *names = yield [read_functions(partition.keys), *[read_run_functions(one) for one in partition.all]]
    pinned = {config.name: config.pinned_partition for config in configs}
    pinned = dict.fromkeys((name for part in names for name in part), "") | pinned
    return [
        run_id
        for name, prefix in sorted(pinned.items())
        for run_id in (
            run_id_by_event(event_id, name, prefix),
            with_partition_prefix(prefix, run_id_for(event_id, name)),  # of `start`
        )
    ]


def _with_prefix(partition: Partition, wanted: RunQuery) -> Operation[list[str]]:
    """The ids of runs that start with a prefix, of the wanted functions.

    Raises:
        FilterError: there are more than a thousand, so which of them are the newest is not known.
    """
    prefix = wanted.id_prefix
    parts = [partition.of(prefix)] if len(prefix) >= 4 else partition.all
    names = yield [read_run_functions(one) for one in parts]
    cursors = {
        one.keys("INDEX", f"function {name}"): b"0"
        for one, found in zip(parts, names, strict=True)
        for name in found
        if name in wanted.functions or (not wanted.functions and name.startswith(wanted.app and f"{wanted.app}/"))
    }
    ids: dict[str, None] = {}
    while cursors:
        batch = list(cursors.items())[:_INDEXES]
        pages = yield [
            command(replies.raw, "ZSCAN", key, cursor, "MATCH", f"{prefix}*", "COUNT", _SCANNED)
            for key, cursor in batch
        ]
        for (key, _), (following, flat) in zip(batch, pages, strict=True):
            ids |= dict.fromkeys(run.decode() for run in flat[::2])
            cursors[key] = following
            if following == b"0":
                del cursors[key]
        if len(ids) > _MAX_MATCHES:
            raise FilterError(
                "id", f"more than {_MAX_MATCHES:,} run ids begin with {prefix!r}: write more of its digits"
            )
    return list(ids)
