"""What a person looks at: the workers, the queues, and the list of runs.

Everything is found through sets and indexes, in few round trips whatever the number of runs; nothing here changes
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.registry.functions import read_functions
from stepflow_engine.codec import loads
from stepflow_engine.failure import Failure
from stepflow_engine.states import RunStatus

__all__ = ["QueueRecord", "RunSummary", "WorkerRecord", "find_runs", "read_queues", "read_workers", "server_process"]

_PAGE = 500
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
)
_STANDING = {"gated": "stands in line", "batched": "collected in a batch"}


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker as RQ knows it.

    Attributes:
        state: ``busy``, ``idle`` or ``suspended``.
        queues: the queues that it serves, most important first.
        finished, failed: jobs that it has done, and attempts that failed.
        last_heartbeat: milliseconds since the epoch.
    """

    name: str
    host: str
    pid: int
    state: str
    queues: tuple[str, ...]
    finished: int
    failed: int
    last_heartbeat: int | None


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """How much there is on a queue.

    Attributes:
        ready_new: first jobs of new runs, ready.
        ready_steps: jobs of runs that have started, ready; they go first.
        executing: jobs that a worker holds.
        delayed: jobs that wait for their time.
        failed: runs that have failed and are still kept.
    """

    name: str
    ready_new: int
    ready_steps: int
    executing: int
    delayed: int
    failed: int


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A line of the list of runs: a run without its event and its output, which may be large.

    Times are milliseconds since the epoch.

    Attributes:
        failure: what ended the run, or why its last attempt failed.
        blocked: why no worker can take it.
        blocked_by: what of its function's flow control holds it up, or has skipped it; ``""``: nothing.
    """

    id: str
    app: str
    function: str
    queue: str
    status: RunStatus
    attempt: int
    created_at: int
    started_at: int | None
    ended_at: int | None
    failure: Failure | None
    blocked: str
    blocked_by: str

    @property
    def name(self) -> str:
        """``app/function``."""
        return f"{self.app}/{self.function}"


def server_process() -> Command[int]:
    """The id of the server's process, on its machine."""
    return command(lambda reply: int(reply.decode().partition("process_id:")[2].split()[0]), "INFO", "server")


# -- workers -------------------------------------------------------------------


def read_workers(broker: Broker, keys: Keys) -> list[WorkerRecord]:
    """All workers that live, by name: each serves all partitions. Two round trips."""
    prefix = keys("RQ_WORKER")
    names = sorted(
        name.removeprefix(prefix) for name in broker.execute(command(_texts, "SMEMBERS", keys("RQ_WORKERS")))
    )
    found = broker.execute_all([_read_worker(keys, name) for name in names])
    return [record for record in found if record is not None]


def _read_worker(keys: Keys, name: str) -> Command[WorkerRecord | None]:
    """One worker; ``None`` for one that died without taking its name off the list."""

    def read(reply: list[bytes | None]) -> WorkerRecord | None:
        host, pid, state, queues, finished, failed, heartbeat = [(value or b"").decode() for value in reply]
        if not heartbeat:
            return None
        served = _without_step_lists(queues.split(","))
        seen_at = round(datetime.fromisoformat(heartbeat).timestamp() * 1000)
        return WorkerRecord(name, host, int(pid or 0), state, served, int(finished or 0), int(failed or 0), seen_at)

    return command(read, "HMGET", keys("RQ_WORKER", name), *_WORKER_FIELDS)


def _without_step_lists(lists: list[str]) -> tuple[str, ...]:
    """Queue names of RQ's lists: ``shop:steps`` belongs to ``shop``."""
    return tuple(dict.fromkeys(name.removesuffix(_STEPS) for name in lists if name))


# -- queues --------------------------------------------------------------------


def read_queues(broker: Broker, keys: Keys) -> list[QueueRecord]:
    """All queues that are registered or have ever had a job, by name, over all partitions. Two round trips."""
    calls: list[Command[Any]] = [command(lambda reply: int(reply[0]), "TIME"), read_functions(keys)]
    calls += [command(_texts, "SMEMBERS", one("RQ_QUEUES")) for one in keys.all]
    now_s, functions, *known = broker.execute_all(calls)
    lists = [key.removeprefix(one("RQ_QUEUE")) for one, found in zip(keys.all, known, strict=True) for key in found]
    names = sorted({*_without_step_lists(lists), *[config.queue for config in functions]})
    counts = iter(
        broker.execute_all([call for name in names for one in keys.all for call in _count_queue(one, name, now_s)])
    )
    return [_sum(name, [_queue(name, counts) for _ in keys.all]) for name in names]


def _count_queue(keys: Keys, name: str, now_s: int) -> list[Command[int]]:
    steps = name + _STEPS
    return [
        command(int, "LLEN", keys("RQ_QUEUE", name)),
        command(int, "LLEN", keys("RQ_QUEUE", steps)),
        command(int, "ZCARD", keys("RQ_WIP", name)),
        command(int, "ZCARD", keys("RQ_WIP", steps)),
        command(int, "ZCARD", keys("RQ_SCHEDULED", name)),
        command(int, "ZCARD", keys("RQ_SCHEDULED", steps)),
        command(int, "ZCOUNT", keys("RQ_FAILED", name), now_s, "+inf"),
        command(int, "ZCARD", keys("WAIT_LIST", f"queue {name}")),
    ]


def _queue(name: str, counts: Iterator[int]) -> QueueRecord:
    """Read the counts of one queue, in the order of `_count_queue`."""
    new, steps, executing, executing_steps, delayed, delayed_steps, failed, in_line = [next(counts) for _ in range(8)]
    return QueueRecord(name, new + in_line, steps, executing + executing_steps, delayed + delayed_steps, failed)


def _sum(name: str, parts: Sequence[QueueRecord]) -> QueueRecord:
    """A queue over all partitions."""
    fields = ("ready_new", "ready_steps", "executing", "delayed", "failed")
    return QueueRecord(name, *(sum(getattr(part, field) for part in parts) for field in fields))


# -- runs ----------------------------------------------------------------------


def find_runs(
    broker: Broker, keys: Keys, *, statuses: frozenset[RunStatus] = frozenset(), function: str = "", limit: int = 20
) -> list[RunSummary]:
    """Runs of all partitions, newest first: live ones are taken by their start, ended ones by their end.

    Two round trips for each 500 runs that are looked at; on a cluster, to each node.

    Args:
        statuses: only runs with one of these; empty: any.
        function: only runs of it, as ``app/function`` or ``function``; ``""``: any.
        limit: at most so many.
    """
    wanted = statuses or frozenset(RunStatus)

    def fits(run: RunSummary) -> bool:
        return run.status in wanted and function in ("", run.name, run.function)

    found: dict[str, RunSummary] = {}
    if any(not status.ended for status in wanted):
        found |= _look_through(broker, keys, "LIVE", fits, limit)
    if any(status.ended for status in wanted):
        found |= _look_through(broker, keys, "ENDED", fits, limit)
    return sorted(found.values(), key=lambda run: run.created_at, reverse=True)[:limit]


def _look_through(
    broker: Broker, keys: Keys, index: str, fits: Callable[[RunSummary], bool], limit: int
) -> dict[str, RunSummary]:
    """The first runs of an index that fit, page by page."""
    found: dict[str, RunSummary] = {}
    for ids in _newest(broker, keys, index, min(limit, _PAGE)):
        runs = broker.execute_all([_read_summary(keys, run_id) for run_id in ids]) if ids else []
        for run in runs:
            if run is not None and fits(run):
                found[run.id] = run
                if len(found) == limit:
                    return found
    return found


def _newest(broker: Broker, keys: Keys, index: str, page: int) -> Iterator[list[str]]:
    """The ids in an index of all partitions, the highest scores first, in pages of which the first is of this size."""
    left: dict[Keys, list[tuple[float, str]]] = {one: [] for one in keys.all}  # read and not passed on, newest last
    seen, more = dict.fromkeys(keys.all, 0), set(keys.all)
    while more or any(left.values()):
        empty = [one for one in keys.all if one in more and not left[one]]
        words = [("ZREVRANGE", one(index), seen[one], seen[one] + page - 1, "WITHSCORES") for one in empty]
        replies = broker.execute_all([command(_scored, *some) for some in words]) if words else []
        for one, runs in zip(empty, replies, strict=True):
            left[one], seen[one] = runs[::-1], seen[one] + len(runs)
            more -= {one} if len(runs) < page else set()
        ids: list[str] = []
        while len(ids) < page and any(left.values()) and all(left[one] for one in more):
            ids.append(max(filter(None, left.values()), key=lambda runs: runs[-1]).pop()[1])
        yield ids
        page = _PAGE


def _read_summary(keys: Keys, run_id: str) -> Command[RunSummary | None]:
    """One line; ``None`` for a run that was forgotten meanwhile."""

    def read(reply: list[bytes | None]) -> RunSummary | None:
        fields = dict(zip(_RUN_FIELDS, reply, strict=True))
        if fields["status"] is None:
            return None
        text = {name: (value or b"").decode() for name, value in fields.items()}
        status = RunStatus(text["status"])
        error = fields["error"] if status.ended else fields["last_error"]
        return RunSummary(
            id=run_id,
            app=text["app"],
            function=text["function"],
            queue=text["queue"],
            status=status,
            attempt=int(text["attempt"] or 0),
            created_at=_number(text["created_at"]) or 0,
            started_at=_number(text["started_at"]),
            ended_at=_number(text["ended_at"]),
            failure=Failure.from_json(loads(error)) if error else None,
            blocked=text["blocked"],
            blocked_by=_held_by(text),
        )

    return command(read, "HMGET", keys.of(run_id)("RUN", run_id), *_RUN_FIELDS)


def _held_by(text: dict[str, str]) -> str:
    if text["continuation"] == "delayed" and not text["started_at"]:
        return text["delayed_by"]
    return text["reason"] or _STANDING.get(text["continuation"], "")


def _number(text: str) -> int | None:
    return int(float(text)) if text else None


def _scored(reply: list[bytes]) -> list[tuple[float, str]]:
    return [(float(score), member.decode()) for member, score in zip(reply[::2], reply[1::2], strict=True)]


def _texts(reply: list[bytes]) -> list[str]:
    return [item.decode() for item in reply]


def served_queues(broker: Broker, keys: Keys) -> frozenset[str]:
    """The queues that live workers serve. Two round trips."""
    return frozenset(queue for worker in read_workers(broker, keys) for queue in worker.queues)
