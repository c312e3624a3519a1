"""Lists of workers, queues and runs.

Every list is read through sets and indexes, in few round trips whatever the number of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.heartbeat import is_live
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.registry.functions import read_code, read_functions
from stepflow_broker.transitions.pauses import Pause, read_pauses
from stepflow_broker.transitions.runs import parse_run, read_steps
from stepflow_broker.views.run_pauses import limits_of
from stepflow_broker.views.run_view import RunView, view_run
from stepflow_broker.views.wait_view import WaitView, find_waits
from stepflow_engine.cipher import Cipher
from stepflow_engine.encryption_scopes import end_scopes, redacted_failure
from stepflow_engine.state_machine import RunStatus

__all__ = [
    "QueueRecord",
    "WorkerRecord",
    "find_runs",
    "read_queues",
    "read_runs",
    "read_workers",
    "served_queues",
    "server_process",
    "unserved_functions",
]

_PAGE = 500
_CHUNK = 25
_STEPS = ":steps"
_WORKER_FIELDS = (
    "hostname",
    "pid",
    "state",
    "queues",
    "successful_job_count",
    "failed_job_count",
    "last_heartbeat",
)
_RUN_FIELDS = (
    "status",
    "app",
    "function",
    "queue",
    "attempt",
    "created_at",
    "started_at",
    "ended_at",
    "error",
    "last_error",
    "blocked",
    "reason",
    "continuation",
    "delayed_by",
    "concurrency",
)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker, read from its RQ record.

    Attributes:
        state: ``busy``, ``idle`` or ``suspended``.
        queues: the queues that it serves, most important first.
        finished, failed: the number of jobs that it finished, and of attempts that failed.
        last_heartbeat: milliseconds since the epoch.
        live: whether it sends heartbeats. A worker that died stays in the list for up to 30 seconds.
    """

    name: str
    host: str
    pid: int
    state: str
    queues: tuple[str, ...]
    finished: int
    failed: int
    last_heartbeat: int | None
    live: bool = True


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """The number of jobs on one queue, by state.

    Attributes:
        ready_new: ready jobs of runs that have not started.
        ready_steps: ready jobs of runs that have started; workers claim them first.
        executing: jobs that a worker holds a lease on.
        delayed: jobs that are scheduled for a later time.
        failed: failed runs whose retention has not ended.
    """

    name: str
    ready_new: int
    ready_steps: int
    executing: int
    delayed: int
    failed: int


def server_process() -> Command[int]:
    """The id of the server's process, on its machine."""
    return command(lambda reply: int(reply.decode().partition("process_id:")[2].split()[0]), "INFO", "server")


# -- workers -------------------------------------------------------------------


def read_workers(broker: Broker, partition: Partition) -> list[WorkerRecord]:
    """All workers that Redis has a record of, by name. Each serves all partitions. Two round trips."""
    prefix = partition.keys("RQ_WORKER")
    names = sorted(
        name.removeprefix(prefix)
        for name in broker.execute(command(replies.texts, "SMEMBERS", partition.keys("RQ_WORKERS")))
    )
    calls: list[Command[Any]] = [_read_worker(partition, name) for name in names]
    calls += [command(int, "PTTL", partition.keys("RQ_WORKER", name)) for name in names]
    found = broker.execute_all(calls)
    records = zip(found[: len(names)], found[len(names) :], strict=True)
    return [replace(record, live=is_live(ttl_ms)) for record, ttl_ms in records if record is not None]


def _read_worker(partition: Partition, name: str) -> Command[WorkerRecord | None]:
    """One worker; ``None`` if it died and its name is still in the set of workers."""

    def read(reply: list[bytes | None]) -> WorkerRecord | None:
        host, pid, state, queues, finished, failed, heartbeat = [(value or b"").decode() for value in reply]
        if not heartbeat:
            return None
        served = _without_step_lists(queues.split(","))
        seen_at = round(datetime.fromisoformat(heartbeat).timestamp() * 1000)
        return WorkerRecord(name, host, int(pid or 0), state, served, int(finished or 0), int(failed or 0), seen_at)

    return command(read, "HMGET", partition.keys("RQ_WORKER", name), *_WORKER_FIELDS)


def _without_step_lists(lists: list[str]) -> tuple[str, ...]:
    """The queues of RQ lists: the list ``shop:steps`` belongs to queue ``shop``."""
    return tuple(dict.fromkeys(name.removesuffix(_STEPS) for name in lists if name))


def served_queues(broker: Broker, partition: Partition) -> frozenset[str]:
    """The queues that live workers serve. Two round trips."""
    return frozenset(queue for worker in read_workers(broker, partition) if worker.live for queue in worker.queues)


def unserved_functions(broker: Broker, partition: Partition, names: Iterable[str]) -> list[str]:
    """Those of the functions whose code no live worker has. Three round trips.

    Workers of an older version do not say which code they have. If no worker says it, all functions count as served.
    """
    now = partition.now_ms() or broker.execute(server_time_ms())
    digests = broker.execute(read_code(partition, now))
    sets = [command(replies.texts, "SMEMBERS", partition.keys("CODE", digest)) for digest in digests]
    has_code = {name for found in broker.execute_all(sets) for name in found}
    return sorted(set(names) - has_code) if sets else []


# -- queues --------------------------------------------------------------------


def read_queues(broker: Broker, partition: Partition) -> list[QueueRecord]:
    """All queues that a function names or that ever had a job, by name, over all partitions. Two round trips."""
    calls: list[Command[Any]] = [server_time_ms(), read_functions(partition.keys)]
    calls += [command(replies.texts, "SMEMBERS", one.keys("RQ_QUEUES")) for one in partition.all]
    now_ms, functions, *known = broker.execute_all(calls)
    lists = [
        key.removeprefix(one.keys("RQ_QUEUE")) for one, found in zip(partition.all, known, strict=True) for key in found
    ]
    names = sorted({*_without_step_lists(lists), *[config.queue for config in functions]})
    counts = iter(
        broker.execute_all(
            [call for name in names for one in partition.all for call in _count_queue(one, name, now_ms // 1000)]
        )
    )
    return [_sum(name, [_queue(name, counts) for _ in partition.all]) for name in names]


def _count_queue(partition: Partition, name: str, now_s: int) -> list[Command[int]]:
    steps = name + _STEPS
    return [
        command(int, "LLEN", partition.keys("RQ_QUEUE", name)),
        command(int, "LLEN", partition.keys("RQ_QUEUE", steps)),
        command(int, "ZCARD", partition.keys("RQ_WIP", name)),
        command(int, "ZCARD", partition.keys("RQ_WIP", steps)),
        command(int, "ZCARD", partition.keys("RQ_SCHEDULED", name)),
        command(int, "ZCARD", partition.keys("RQ_SCHEDULED", steps)),
        command(int, "ZCOUNT", partition.keys("RQ_FAILED", name), now_s, "+inf"),
        command(int, "ZCARD", partition.keys("WAIT_LIST", f"queue {name}")),
    ]


def _queue(name: str, counts: Iterator[int]) -> QueueRecord:
    """One queue of one partition from its counts, in the order of `_count_queue`."""
    new, steps, executing, executing_steps, delayed, delayed_steps, failed, in_wait_list = [
        next(counts) for _ in range(8)
    ]
    return QueueRecord(name, new + in_wait_list, steps, executing + executing_steps, delayed + delayed_steps, failed)


def _sum(name: str, parts: Sequence[QueueRecord]) -> QueueRecord:
    """The sum of one queue over all partitions."""
    fields = ("ready_new", "ready_steps", "executing", "delayed", "failed")
    return QueueRecord(name, *(sum(getattr(part, field) for part in parts) for field in fields))


# -- runs ----------------------------------------------------------------------


def read_runs(
    broker: Broker,
    partition: Partition,
    *,
    statuses: frozenset[RunStatus] = frozenset(),
    function: str = "",
    limit: int = 20,
) -> list[RunView]:
    """The runs of `find_runs`, with what they wait for. One more round trip for each 25 waiting runs.

    Args:
        statuses, function, limit: as of `find_runs`.
    """
    runs = find_runs(broker, partition, statuses=statuses, function=function, limit=limit)
    waiting = [run.id for run in runs if run.status is RunStatus.WAITING]
    waits: dict[str, tuple[WaitView, ...]] = {}
    for first in range(0, len(waiting), _CHUNK):
        part = waiting[first : first + _CHUNK]
        steps = broker.execute_all([read_steps(partition, run_id) for run_id in part])
        waits |= {run_id: find_waits(pending) for run_id, pending in zip(part, steps, strict=True)}
    return [_opened(replace(run, waits=waits.get(run.id, ())), partition.cipher) for run in runs]


def _opened(run: RunView, cipher: Cipher) -> RunView:
    return replace(run, failure=redacted_failure(cipher, run.failure, *end_scopes(run.id, run.name, failed=True)))


def find_runs(
    broker: Broker,
    partition: Partition,
    *,
    statuses: frozenset[RunStatus] = frozenset(),
    function: str = "",
    limit: int = 20,
) -> list[RunView]:
    """Runs of all partitions, newest first: live runs are searched by creation time, ended runs by end time.

    One round trip for the pauses, then two per 500 runs searched; on a cluster, as many to each node.

    Args:
        statuses: only runs with one of these statuses; empty: any.
        function: only runs of this function, as ``app/function`` or ``function``; ``""``: any.
        limit: the maximum number of runs.
    """
    wanted = statuses or frozenset(RunStatus)

    pauses = dict(zip(partition.all, broker.execute_all([read_pauses(part) for part in partition.all]), strict=True))

    search = _Search(wanted, function, pauses)
    found: dict[str, RunView] = {}
    if any(not status.ended for status in wanted):
        found |= _search_index(broker, partition, "LIVE", search, limit)
    if any(status.ended for status in wanted):
        found |= _search_index(broker, partition, "ENDED", search, limit)
    return sorted(found.values(), key=lambda run: run.created_at or 0, reverse=True)[:limit]


@dataclass(frozen=True, slots=True)
class _Search:
    """What `find_runs` looks for, and the pauses of each partition."""

    statuses: frozenset[RunStatus]
    function: str
    pauses: Mapping[Partition, Mapping[str, Pause]]

    def matches(self, run: RunView) -> bool:
        return run.status in self.statuses and self.function in ("", run.name, run.function)


def _search_index(broker: Broker, partition: Partition, index: str, search: _Search, limit: int) -> dict[str, RunView]:
    """The first matching runs of an index, read page by page."""
    found: dict[str, RunView] = {}
    for ids in _newest(broker, partition, index, min(limit, _PAGE)):
        runs = broker.execute_all([_read_view(partition, run_id, search) for run_id in ids]) if ids else []
        for run in runs:
            if run is not None and search.matches(run):
                found[run.id] = run
                if len(found) == limit:
                    return found
    return found


def _newest(broker: Broker, partition: Partition, index: str, page: int) -> Iterator[list[str]]:
    """Pages of the run ids in an index of all partitions, highest score first; ``page`` is the size of the first."""
    buffered: dict[Partition, list[tuple[float, str]]] = {
        part: [] for part in partition.all
    }  # not yielded yet, newest last
    offsets, unread = dict.fromkeys(partition.all, 0), set(partition.all)
    while unread or any(buffered.values()):
        empty = [part for part in partition.all if part in unread and not buffered[part]]
        ranges = [
            ("ZREVRANGE", part.keys(index), offsets[part], offsets[part] + page - 1, "WITHSCORES") for part in empty
        ]
        answers = broker.execute_all([command(replies.scored_members, *args) for args in ranges]) if ranges else []
        for part, runs in zip(empty, answers, strict=True):
            buffered[part], offsets[part] = runs[::-1], offsets[part] + len(runs)
            unread -= {part} if len(runs) < page else set()
        ids: list[str] = []
        while len(ids) < page and any(buffered.values()) and all(buffered[part] for part in unread):
            ids.append(max(filter(None, buffered.values()), key=lambda runs: runs[-1]).pop()[1])
        yield ids
        page = _PAGE


def _read_view(partition: Partition, run_id: str, search: _Search) -> Command[RunView | None]:
    """One run, without its event and its output; ``None`` if its retention ended in between."""

    def read(reply: list[bytes | None]) -> RunView | None:
        fields = {name: value for name, value in zip(_RUN_FIELDS, reply, strict=True) if value is not None}
        run = parse_run(run_id, {"event": b"null", **fields})
        if run is None:
            return None
        pauses = search.pauses[partition.of(run_id)]
        limits = limits_of(fields.get("concurrency", b""))
        return view_run(run, delayed_by=fields.get("delayed_by", b"").decode(), limits=limits, pauses=pauses)

    return command(read, "HMGET", partition.run_key("RUN", run_id), *_RUN_FIELDS)
