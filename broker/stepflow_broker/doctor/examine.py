"""Examine all data on a server: one pass over each partition, from both sides.

From the runs: `examine_runs` compares each run with what it demands elsewhere. From the entries: `examine_entries`
finds what no run demands. Whether a ready job is in its queue takes a scan of a list, so it is suspected here, from all
lists, and confirmed by a script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stepflow_broker.doctor.backlog import examine_backlog, examine_queues
from stepflow_broker.doctor.findings import Finding, Findings
from stepflow_broker.doctor.remote_waits import RemoteWait, examine_remote_waits
from stepflow_broker.doctor.wait_counts import examine_counts
from stepflow_broker.protocol import replies
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.command import Command, command, in_chunks, run_script
from stepflow_broker.protocol.keys import KEYS, Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.registry.functions import read_functions
from stepflow_broker.transitions.jobs.job_claims import queue_lists
from stepflow_broker.views.listings import read_workers

__all__ = ["examine"]

_RUNS_IN_CALL = 200
_ENTRIES_IN_CALL = 500
_LIST_PAGE = 5_000
_CONFIRMED_IN_CALL = 10

_INDEXES = ("LIVE", "EXPIRY", "LEASES", "TIMEOUTS", "ASKS", "RUN_FUNCTIONS")
_SETS = ("WAITS", "RUN_FUNCTIONS")
_INDEXES_WITH_ID = ("INDEX", "CONCURRENCY_SLOTS", "WAIT_LIST", "RQ_WIP", "RQ_SCHEDULED", "RQ_FAILED", "WAITS")
_WHOLE_KEYS = (
    *("MEMOS", "MEMO_ORDER", "ATTEMPTS", "STEPS", "ITEMS", "TIMEOUT", "RQ_JOB", "SINGLETON", "BATCHED"),
    *("SIGNALS", "SIGNAL_IDS"),
    *("IDEMPOTENCY", "THROTTLE", "DEBOUNCE", "BATCH", "RATE", "EVENT_HISTORY", "ERROR_GROUP"),
    *("EVENT_INDEX", "COMPARED_PATHS"),
)


def examine(broker: Broker, partition: Partition, *, repair: bool = False) -> list[Finding]:
    """Find the problems of all data on a server. Workers may run meanwhile.

    Args:
        repair: repair what can be repaired. It is safe to repeat. The next examination finds what a repair uncovers.

    Raises:
        BackendUnavailableError: the server does not answer, or is not ready.
        ConfigurationError: the server refuses the user.
    """
    workers = [worker for worker in read_workers(broker, partition) if worker.live]
    findings = Findings(has_workers=bool(workers))
    examine_queues(broker, partition, findings, workers)
    for one in partition.all:
        examine_backlog(broker, one, findings, repair=repair)
        examination = _Examination(broker, one, one.keys, findings, repair)
        examination.examine_all()
        if examination.has_waits:
            examine_counts(broker, one.keys, findings, repair=repair)
        examine_remote_waits(broker, one, findings, examination.remote_waits, repair=repair)
    return findings.to_list()


@dataclass(slots=True)
class _Examination:
    """One pass over a partition. It keeps about 100 bytes for each ready job.

    Attributes:
        began: when it began, as RQ writes times.
        listed: hashes of the jobs seen in lists.
        suspects: ready jobs that were seen in no list, or twice.
        own_lists: lists that only stepflow writes to.
        has_waits: whether there are waits for events.
        remote_waits: waits for runs of other partitions, which no script of this one can see.
    """

    broker: Broker
    partition: Partition
    keys: Keys
    findings: Findings
    repair: bool
    began: str = ""
    listed: set[int] = field(default_factory=set)
    suspects: set[bytes] = field(default_factory=set)
    own_lists: frozenset[str] = frozenset()
    has_waits: bool = False
    remote_waits: list[RemoteWait] = field(default_factory=list)

    def examine_all(self) -> None:
        """Examine lists, keys and indexes, and confirm the suspects."""
        self._examine_lists()
        self._examine_keys()
        for kind in _INDEXES:
            self._examine_index(kind, "")
        self._examine_finished()
        for jobs in in_chunks(sorted(self.suspects), _CONFIRMED_IN_CALL):
            self._examine_entries("RQ_QUEUE", "", jobs)

    # -- lists -------------------------------------------------------------------

    def _examine_lists(self) -> None:
        now = self.broker.execute(server_time_ms(self.partition.clock))
        self.began = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        prefix = self.keys("RQ_QUEUE")
        known = self.broker.execute(command(replies.texts, "SMEMBERS", self.keys("RQ_QUEUES")))
        functions = self.broker.execute(read_functions(self.keys))
        self.own_lists = frozenset(queue_lists([config.queue for config in functions]))
        for name in sorted({name.removeprefix(prefix) for name in known} | self.own_lists):
            self._examine_list(name)

    def _examine_list(self, name: str) -> None:
        seen = self._list_jobs(name, _LIST_PAGE)
        twice = {job for job in seen if self._is_listed(job)}
        if twice and self.broker.execute(command(int, "LLEN", self.keys("RQ_QUEUE", name))) > _LIST_PAGE:
            twice &= self._twice_in(name)
        self.suspects |= twice

    def _is_listed(self, job: bytes) -> bool:
        """Whether a job was seen before. From now on it was."""
        before = len(self.listed)
        self.listed.add(hash(job))
        return len(self.listed) == before

    def _twice_in(self, name: str) -> set[bytes]:
        """The jobs seen twice in other pages of a long list: a push shifts jobs from one page into the next."""
        seen, twice = set[int](), set[bytes]()
        for job in self._list_jobs(name, _LIST_PAGE + 7, examine=False):
            if hash(job) in seen:
                twice.add(job)
            seen.add(hash(job))
        return twice

    def _list_jobs(self, name: str, size: int, *, examine: bool = True) -> Iterator[bytes]:
        """The jobs of a list, from its end, so that claims at its front do not shift the rest."""
        key, last = self.keys("RQ_QUEUE", name), -1
        while jobs := self.broker.execute(command(replies.raw, "LRANGE", key, last - size + 1, last)):
            if examine:
                self._examine_entries("RQ_QUEUE", name, jobs)
            yield from jobs
            last -= size

    # -- keys --------------------------------------------------------------------

    def _examine_keys(self) -> None:
        """Examine every key that belongs to a run or a name."""
        kinds = {self.keys(key.name).encode(): key.name for key in KEYS if key.ids and key.type != "channel"}
        pattern = re.compile(b"(%b)(.*)" % b"|".join(map(re.escape, kinds)), re.DOTALL)
        cursor = b"0"
        of_partition = ("MATCH", f"{self.keys.partition}*") if self.keys.partition else ()
        while True:
            cursor, names = self.broker.execute(
                command(replies.raw, "SCAN", cursor, *of_partition, "COUNT", _ENTRIES_IN_CALL)
            )
            ids: dict[str, list[bytes]] = {}
            for found in filter(None, map(pattern.match, names)):
                ids.setdefault(kinds[found[1]], []).append(found[2])
            self.has_waits |= "WAITS" in ids or "WAIT_COUNTS" in ids
            self._examine_runs(ids.get("RUN", []))
            self._send([call for kind in _WHOLE_KEYS for call in self._calls(kind, "", ids.get(kind, []))])
            for kind in _INDEXES_WITH_ID:
                for one in ids.get(kind, ()):
                    self._examine_index(kind, one.decode())
            if cursor == b"0":
                return

    def _examine_runs(self, runs: Sequence[bytes]) -> None:
        began = self.began.encode()
        while runs:
            call = self._script("examine_runs", *runs[:_RUNS_IN_CALL])
            examined, found, ready, waits = self.broker.execute(call)
            self.findings.add_all(found)
            self.suspects |= {job for job, queued_at in ready if hash(job) not in self.listed and queued_at <= began}
            self.remote_waits += [RemoteWait(*replies.texts(wait)) for wait in waits]
            runs = runs[examined:]

    # -- indexes -----------------------------------------------------------------

    def _examine_index(self, kind: str, subject: str) -> None:
        scan, width = ("SSCAN", 1) if kind in _SETS else ("ZSCAN", 2)
        key, cursor = self.keys(kind, subject), b"0"
        while True:
            cursor, flat = self.broker.execute(command(replies.raw, scan, key, cursor, "COUNT", _ENTRIES_IN_CALL))
            self._examine_entries(kind, subject, flat[::width])
            if cursor == b"0":
                return

    def _examine_finished(self) -> None:
        """Examine the finished events of the partition."""
        key, after = self.keys("FINISHED"), "-"
        while page := self.broker.execute(command(replies.raw, "XRANGE", key, after, "+", "COUNT", _ENTRIES_IN_CALL)):
            members = [entry + b" " + fields[1] for entry, fields in page]
            self._examine_entries("FINISHED", "", members)
            after = f"({page[-1][0].decode()}"

    def _examine_entries(self, kind: str, subject: str, members: Sequence[bytes]) -> None:
        self._send(self._calls(kind, subject, members))

    def _calls(self, kind: str, subject: str, members: Sequence[bytes]) -> list[Command[Any]]:
        """Compare entries. ``subject``: the id of their index; ``""``: there is one index, or they are keys."""
        own = not kind.startswith("RQ_") or subject in self.own_lists
        return [
            self._script("examine_entries", kind, subject, int(own), *part)
            for part in in_chunks(members, _ENTRIES_IN_CALL)
        ]

    def _script(self, name: str, *words: str | bytes | int) -> Command[Any]:
        return run_script(
            name, replies.raw, (self.keys("LIVE"),), self.partition.clock.script_ms(), int(self.repair), *words
        )

    def _send(self, calls: Sequence[Command[Any]]) -> None:
        for found in self.broker.execute_all(calls) if calls else ():
            self.findings.add_all(found)
