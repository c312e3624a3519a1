"""Find work that is late and work that no worker will do: leases, timers, streams, queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stepflow_broker.doctor.findings import Findings
from stepflow_broker.protocol import replies
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.keys import GROUP, Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.functions import read_function_queues, read_functions
from stepflow_broker.transitions.invokes.invokes import wake_parent
from stepflow_broker.transitions.invokes.outbox import EndedBatch, EndedRun, Finished, finished_in
from stepflow_broker.transitions.invokes.remote_invokes import deliver
from stepflow_broker.transitions.jobs.leases import reclaim_leases
from stepflow_broker.transitions.jobs.timers import fire_timers
from stepflow_broker.transitions.runs.batches import end_batch
from stepflow_broker.transitions.runs.bulks import read_bulk, read_live_bulks
from stepflow_broker.transitions.schedules import read_schedules
from stepflow_broker.views.listings import WorkerRecord, unserved_functions

__all__ = ["examine_backlog", "examine_queues"]

_OVERDUE_MS = 60_000
_PAGE = 500
_DOCTOR = "doctor"


def examine_queues(broker: Broker, partition: Partition, findings: Findings, workers: Sequence[WorkerRecord]) -> None:
    """Find queues, functions and schedules that no worker serves, and partitions in which RQ is suspended."""
    keys = partition.keys
    exist = broker.execute_all([command(int, "EXISTS", one("RQ_SUSPENDED")) for one in keys.all])
    suspended = [one for one, found in zip(keys.all, exist, strict=True) if found]
    if len(suspended) == len(keys.all):
        findings.add("suspended", keys("RQ_SUSPENDED"))
    else:
        for one in suspended:
            findings.add("suspended", one("RQ_SUSPENDED"), f" in partition {one.partition[:-1]}")
    served = {queue for worker in workers for queue in worker.queues}
    functions = broker.execute(read_functions(keys))
    for queue in sorted({config.queue for config in functions} - served):
        names = [config.name for config in functions if config.queue == queue]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        findings.add("queue_unserved", queue, ", ".join(names[:3]) + more)
    for name in unserved_functions(broker, partition, [config.name for config in functions]):
        findings.add("function_unserved", name)
    _examine_bulks(broker, partition, findings)
    _examine_schedules(broker, partition, findings, {config.name for config in functions})
    others = _used_queues(broker, keys) - served - {config.queue for config in functions}
    for queue, count in sorted(_count_live(broker, keys, others).items()):
        findings.add("queue_unserved", queue, f"{count:,} live runs that have this queue")


def _used_queues(broker: Broker, keys: Keys) -> set[str]:
    """The queues that functions have or had, and all that had a job: runs can have queues of their own."""
    queues = {queue for _, queue in broker.execute(read_function_queues(keys))}
    known = broker.execute_all([command(replies.texts, "SMEMBERS", one("RQ_QUEUES")) for one in keys.all])
    for one, lists in zip(keys.all, known, strict=True):
        queues |= {name.removeprefix(one("RQ_QUEUE")).removesuffix(":steps") for name in lists}
    return queues


def _examine_bulks(broker: Broker, partition: Partition, findings: Findings) -> None:
    """Find bulks that no worker has held for a minute."""
    now = broker.execute(server_time_ms(partition.clock))
    for bulk_id in broker.execute(read_live_bulks(partition)):
        bulk = broker.execute(read_bulk(partition, bulk_id))
        if bulk is not None and max(bulk.created_at, bulk.held_until) < now - _OVERDUE_MS:
            left = bulk.matched - bulk.done - bulk.skipped - bulk.refused
            findings.add("bulk_unserved", bulk_id, f"{left:,} runs of function {bulk.function} are left")


def _examine_schedules(broker: Broker, partition: Partition, findings: Findings, known: set[str]) -> None:
    """Find schedules of functions that are not registered."""
    for schedules in broker.execute_all([read_schedules(one) for one in partition.all]):
        for schedule in schedules:
            if schedule.function not in known:
                findings.add("schedule_without_function", schedule.name, schedule.function)


def _count_live(broker: Broker, keys: Keys, queues: set[str]) -> Counter[str]:
    """How many live runs there are in each of these queues."""
    found = Counter[str]()
    for one in keys.all if queues else ():
        first = 0
        while runs := broker.execute(command(replies.texts, "ZRANGE", one("LIVE"), first, first + _PAGE - 1)):
            of_runs = broker.execute_all(
                [command(replies.bytes_or_empty, "HGET", one("RUN", run), "queue") for run in runs]
            )
            found.update(queue.decode(errors="replace") for queue in of_runs)
            first += _PAGE
    return Counter({queue: found[queue] for queue in queues if found[queue]})


def examine_backlog(broker: Broker, partition: Partition, findings: Findings, *, repair: bool) -> None:
    """Find what workers should have done by now in a partition."""
    now = broker.execute(server_time_ms(partition.clock))
    backlog = _Backlog(broker, partition, partition.keys, findings, repair, now)
    backlog.examine_index("lease_overdue", "LEASES")
    backlog.examine_index("timer_overdue", "TIMEOUTS")
    for stream in ("EVENTS", "FINISHED"):
        backlog.examine_stream(stream)
    if count := broker.execute(command(int, "XLEN", partition.keys("EVENTS_ASIDE"))):
        findings.add("events_aside", partition.keys("EVENTS_ASIDE"), f"{count:,}")
    for run in broker.execute(command(replies.texts, "ZRANGEBYSCORE", partition.keys("UNDO_FAILURES"), now, "+inf")):
        findings.add("undo_failed", run)


@dataclass(slots=True)
class _Backlog:
    """The late work of one partition.

    Attributes:
        now: the time, in ms.
    """

    broker: Broker
    partition: Partition
    keys: Keys
    findings: Findings
    repair: bool
    now: int

    def examine_index(self, code: str, index: str) -> None:
        """Find what workers should have taken from an index over a minute ago."""
        key, until = self.keys(index), self.now - _OVERDUE_MS
        first = self.broker.execute(command(replies.raw, "ZRANGEBYSCORE", key, "-inf", until, "LIMIT", 0, 1))
        if not first:
            return
        count = self.broker.execute(command(int, "ZCOUNT", key, "-inf", until))
        if self.repair:
            self._work_off(index)
        self.findings.add(code, first[0].decode(), f"{count:,}", repaired=self.repair)

    def _work_off(self, index: str) -> None:
        if index == "LEASES":
            while self.broker.execute(reclaim_leases(self.partition, limit=_PAGE)):
                pass
            return
        while self.broker.execute(fire_timers(self.partition, limit=_PAGE))[0]:
            pass

    # -- streams -----------------------------------------------------------------

    def examine_stream(self, stream: str) -> None:
        """Find entries that no worker has read, or that a worker has read and not handled."""
        key = self.keys(stream)
        if not self.broker.execute(command(int, "XLEN", key)):
            return
        groups = [replies.fields(flat) for flat in self.broker.execute(command(replies.raw, "XINFO", "GROUPS", key))]
        group = next((group for group in groups if group["name"] == GROUP.encode()), None)
        if group is None:
            if self.repair:
                self.broker.execute(create_group(self.keys, stream))
            self.findings.add("group_missing", key, repaired=self.repair)
            return
        if not group["consumers"]:
            self.findings.add("no_consumers", key)
        self._examine_pending(stream)
        self._examine_unread(stream, group["last-delivered-id"].decode())

    def _examine_pending(self, stream: str) -> None:
        words = ("XPENDING", self.keys(stream), GROUP, "IDLE", _OVERDUE_MS, "-", "+", 1_000)
        if pending := self.broker.execute(command(replies.raw, *words)):
            repaired = self.repair and self._handle(stream)
            self.findings.add("pending_overdue", self.keys(stream), f"{len(pending):,}", repaired=repaired)

    def _examine_unread(self, stream: str, delivered: str) -> None:
        first = self.broker.execute(command(replies.raw, "XRANGE", self.keys(stream), f"({delivered}", "+", "COUNT", 1))
        if first and (age_ms := self.now - replies.entry_ms(first)) > _OVERDUE_MS:
            repaired = self.repair and self._handle(stream)
            self.findings.add("stream_behind", self.keys(stream), age_ms // 1000, repaired=repaired)

    def _handle(self, stream: str) -> bool:
        """Handle finished events as a worker does. Events of producers need the code of functions."""
        if stream != "FINISHED":
            return False
        key, after = self.keys(stream), "-"
        while page := self.broker.execute(command(replies.raw, "XRANGE", key, after, "+", "COUNT", _PAGE)):
            for finished in finished_in(page):
                self._handle_finished(finished)
            after = f"({page[-1][0].decode()}"
        return True

    def _handle_finished(self, finished: Finished) -> None:
        match finished:
            case EndedRun(run):
                self.broker.execute(wake_parent(self.partition, run, worker=_DOCTOR))
            case EndedBatch(batch):
                while self.broker.execute(end_batch(self.partition, batch)):
                    pass
            case message:
                run_operation(self.broker, deliver(self.partition, message, worker=_DOCTOR))
