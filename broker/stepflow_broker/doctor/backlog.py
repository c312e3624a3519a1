"""Whether what is due, and what has come, is seen to: leases, timers, streams, queues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.doctor.findings import Findings
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.keys import GROUP, Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.functions import read_functions
from stepflow_broker.transitions.batches import end_batch
from stepflow_broker.transitions.invokes import wake_parent
from stepflow_broker.transitions.jobs import fire_timers, reclaim_leases
from stepflow_broker.transitions.outbox import EndedBatch, EndedRun, Finished, finished_in
from stepflow_broker.transitions.remote_invokes import deliver
from stepflow_broker.views.listings import WorkerRecord

__all__ = ["examine_queues", "examine_traffic"]

_OVERDUE_MS = 60_000
_PAGE = 500
_DOCTOR = "doctor"


def examine_queues(broker: Broker, keys: Keys, findings: Findings, workers: Sequence[WorkerRecord]) -> None:
    """Look for queues that nobody serves, and for partitions in which RQ is suspended."""
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


def examine_traffic(broker: Broker, partition: Partition, findings: Findings, *, repair: bool) -> None:
    """Look at what workers should have seen to by now in a partition."""
    traffic = _Traffic(
        broker, partition, partition.keys, findings, repair, partition.now_ms() or broker.execute(server_time_ms())
    )
    traffic.overdue("lease_overdue", "LEASES")
    traffic.overdue("timer_overdue", "TIMEOUTS")
    for stream in ("EVENTS", "FINISHED"):
        traffic.stream(stream)


@dataclass(slots=True)
class _Traffic:
    """Looks at one partition.

    Attributes:
        now: the time, in ms.
    """

    broker: Broker
    partition: Partition
    keys: Keys
    findings: Findings
    repair: bool
    now: int

    def overdue(self, code: str, index: str) -> None:
        """What should have been taken off an index over a minute ago."""
        key, until = self.keys(index), self.now - _OVERDUE_MS
        first = self.broker.execute(command(_raw, "ZRANGEBYSCORE", key, "-inf", until, "LIMIT", 0, 1))
        if not first:
            return
        count = self.broker.execute(command(int, "ZCOUNT", key, "-inf", until))
        if self.repair:
            self._see_to(index)
        self.findings.add(code, first[0].decode(), f"{count:,}", repaired=self.repair)

    def _see_to(self, index: str) -> None:
        if index == "LEASES":
            while self.broker.execute(reclaim_leases(self.partition, limit=_PAGE)):
                pass
            return
        while self.broker.execute(fire_timers(self.partition, limit=_PAGE))[0]:
            pass

    # -- streams -----------------------------------------------------------------

    def stream(self, stream: str) -> None:
        """Entries that nobody has taken, or that somebody has taken and left."""
        key = self.keys(stream)
        if not self.broker.execute(command(int, "XLEN", key)):
            return
        groups = [_pairs(flat) for flat in self.broker.execute(command(_raw, "XINFO", "GROUPS", key))]
        group = next((group for group in groups if group["name"] == GROUP.encode()), None)
        if group is None:
            self._without_group(stream)
            return
        if not group["consumers"]:
            self.findings.add("no_consumers", key)
        self._pending(stream)
        self._behind(stream, group["last-delivered-id"].decode())
        if stream == "FINISHED":
            self._orphaned(key)

    def _without_group(self, stream: str) -> None:
        if self.repair:
            self.broker.execute(create_group(self.keys, stream))
        self.findings.add("group_missing", self.keys(stream), repaired=self.repair)

    def _pending(self, stream: str) -> None:
        words = ("XPENDING", self.keys(stream), GROUP, "IDLE", _OVERDUE_MS, "-", "+", 1_000)
        if pending := self.broker.execute(command(_raw, *words)):
            repaired = self.repair and self._wake(stream)
            self.findings.add("pending_overdue", self.keys(stream), f"{len(pending):,}", repaired=repaired)

    def _behind(self, stream: str, delivered: str) -> None:
        """Whether the first entry that nobody has taken came long ago."""
        first = self.broker.execute(command(_raw, "XRANGE", self.keys(stream), f"({delivered}", "+", "COUNT", 1))
        if first and (age_ms := self.now - int(first[0][0].partition(b"-")[0])) > _OVERDUE_MS:
            repaired = self.repair and self._wake(stream)
            self.findings.add("stream_behind", self.keys(stream), age_ms // 1000, repaired=repaired)

    def _wake(self, stream: str) -> bool:
        """See to finished events as a worker would; events of producers need the code of functions."""
        if stream != "FINISHED":
            return False
        for entries in self._entries(self.keys(stream)):
            for one in finished_in(entries):
                self._see_to_end(one)
        return True

    def _see_to_end(self, finished: Finished) -> None:
        match finished:
            case EndedRun(run):
                self.broker.execute(wake_parent(self.partition, run, worker=_DOCTOR))
            case EndedBatch(batch):
                self._end_batch(batch)
            case message:
                run_operation(self.broker, deliver(self.partition, message, worker=_DOCTOR))

    def _end_batch(self, batch: str) -> None:
        while self.broker.execute(end_batch(self.partition, batch)):
            pass

    def _orphaned(self, key: str) -> None:
        """Finished events of runs that do not exist: nobody can see to them."""
        for entries in self._entries(key):
            members = [f"{entry.decode()} {fields[1].decode()}" for entry, fields in entries]
            self.findings.add_all(self.broker.execute(self._look(key, members)))

    def _look(self, key: str, members: Sequence[str]) -> Command[Any]:
        return run_script(
            "examine_members", _raw, (key,), self.partition.now_ms(), int(self.repair), "FINISHED", "", 1, *members
        )

    def _entries(self, key: str) -> Iterator[list[Any]]:
        """The entries of the stream of finished events, page by page."""
        after = "-"
        while found := self.broker.execute(command(_raw, "XRANGE", key, after, "+", "COUNT", _PAGE)):
            yield found
            after = f"({found[-1][0].decode()}"


def _pairs(flat: list[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _raw(reply: Any) -> Any:
    return reply
