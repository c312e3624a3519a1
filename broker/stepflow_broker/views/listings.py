"""Lists of workers, queues and runs.

Every list is read through sets and indexes, in few round trips whatever the number of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.heartbeat import is_live
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.worker_record import CODE_VERSION
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.registry.code import read_code
from stepflow_broker.registry.functions import read_functions

__all__ = [
    "QueueRecord",
    "WorkerRecord",
    "read_queues",
    "read_workers",
    "served_queues",
    "server_process",
    "unserved_functions",
]

_STEPS = ":steps"
_WORKER_FIELDS = (
    "hostname",
    "pid",
    "state",
    "queues",
    "successful_job_count",
    "failed_job_count",
    "last_heartbeat",
    CODE_VERSION,
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
        version: the version of its code; ``""``: it does not know it.
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
    version: str = ""


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
        host, pid, state, queues, finished, failed, heartbeat, version = [(value or b"").decode() for value in reply]
        if not heartbeat:
            return None
        served = _without_step_lists(queues.split(","))
        seen_at = round(datetime.fromisoformat(heartbeat).timestamp() * 1000)
        counts = int(finished or 0), int(failed or 0)
        return WorkerRecord(name, host, int(pid or 0), state, served, *counts, seen_at, version=version)

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
    now = broker.execute(server_time_ms(partition.clock))
    digests = broker.execute(read_code(partition, now))
    sets = [command(replies.texts, "SMEMBERS", partition.keys("CODE", digest)) for digest in digests]
    has_code = {name for found in broker.execute_all(sets) for name in found}
    return sorted(set(names) - has_code) if sets else []


# -- queues --------------------------------------------------------------------


def read_queues(broker: Broker, partition: Partition) -> list[QueueRecord]:
    """All queues that a function names or that ever had a job, by name, over all partitions. Two round trips."""
    calls: list[Command[Any]] = [server_time_ms(partition.clock), read_functions(partition.keys)]
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
