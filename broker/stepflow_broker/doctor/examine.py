"""The doctor: looks at all that is on a server, and finds what cannot be; the truth of the runs decides.

Each thing is looked at by one script together with all that it must agree with, so workers may work meanwhile. What
takes longer than a script, as whether a job is on its list, is suspected first and then confirmed by one.

One pass over the keys for each partition, in pages: no call keeps the server for more than some milliseconds, and
memory grows with the number of ready jobs alone, by some 100 bytes for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stepflow_broker.doctor.backlog import examine_queues, examine_traffic
from stepflow_broker.doctor.findings import Finding, Findings
from stepflow_broker.doctor.remote_waits import AwayWait, examine_away
from stepflow_broker.doctor.wait_counts import examine_counts
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.keys import KEYS, Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.registry.functions import read_functions
from stepflow_broker.transitions.jobs import queue_lists
from stepflow_broker.views.listings import read_workers

__all__ = ["examine"]

_PAGE = 200
_SCAN = 500
_LIST_PAGE = 5_000
_CONFIRMED = 10

_INDEXES = ("LIVE", "ENDED", "LEASES", "TIMEOUTS")
_INDEX_OF_SUBJECT = ("CONCURRENCY_SLOTS", "WAIT_LIST", "RQ_WIP", "RQ_SCHEDULED", "RQ_FAILED", "WAITS")
_LOOKED_AT = (
    *("MEMOS", "MEMO_ORDER", "STEPS", "TIMEOUT", "RQ_JOB", "SINGLETON", "BATCHED"),
    *("IDEMPOTENCY", "THROTTLE", "DEBOUNCE", "BATCH", "RATE", "EVENT_HISTORY"),
)


def examine(broker: Broker, partition: Partition, *, repair: bool = False) -> list[Finding]:
    """What is wrong with the data on a server: nothing, if the list is empty. Workers may work meanwhile.

    Args:
        repair: mend what can be mended. It is safe to repeat; what a repair uncovers is found the next time.

    Raises:
        BackendUnavailableError: the server does not answer, or cannot do it now.
        ConfigurationError: the server refuses the user.
    """
    workers = read_workers(broker, partition)
    findings = Findings(has_workers=bool(workers))
    examine_queues(broker, partition.keys, findings, workers)
    for one in partition.all:
        examine_traffic(broker, one, findings, repair=repair)
        examination = _Examination(broker, one, one.keys, findings, repair)
        examination.all()
        if examination.waits:
            examine_counts(broker, one.keys, findings, repair=repair)
        examine_away(broker, one, findings, examination.away, repair=repair)
    return findings.to_list()


@dataclass(slots=True)
class _Examination:
    """One pass over a partition.

    Attributes:
        began: when it began, as RQ writes times.
        listed: hashes of the jobs seen on lists.
        suspects: ready jobs that were seen on no list, or twice.
        own: lists that only stepflow writes to.
        waits: whether there are waits for events.
        away: waits for runs of other partitions, which no script of this one can see.
    """

    broker: Broker
    partition: Partition
    keys: Keys
    findings: Findings
    repair: bool
    began: str = ""
    listed: set[int] = field(default_factory=set)
    suspects: set[bytes] = field(default_factory=set)
    own: frozenset[str] = frozenset()
    waits: bool = False
    away: list[AwayWait] = field(default_factory=list)

    def all(self) -> None:
        """Look at everything."""
        self.lists()
        self.keyspace()
        self.indexes()
        self.ready_jobs()

    # -- lists -------------------------------------------------------------------

    def lists(self) -> None:
        """Look at the jobs on all lists."""
        now = self.partition.now_ms() or self.broker.execute(server_time_ms())
        self.began = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        prefix = self.keys("RQ_QUEUE")
        known = self.broker.execute(command(_texts, "SMEMBERS", self.keys("RQ_QUEUES")))
        functions = self.broker.execute(read_functions(self.keys))
        self.own = frozenset(queue_lists([config.queue for config in functions]))
        for name in sorted({name.removeprefix(prefix) for name in known} | self.own):
            self._list(name)

    def _list(self, name: str) -> None:
        """Look at one list, from its end: what is taken from its front meanwhile does not shift the rest."""
        seen = self._pages(name, _LIST_PAGE)
        twice = {job for job in seen if self._is_listed(job)}
        if twice and self.broker.execute(command(int, "LLEN", self.keys("RQ_QUEUE", name))) > _LIST_PAGE:
            twice &= self._twice(name)
        self.suspects |= twice

    def _is_listed(self, job: bytes) -> bool:
        """Whether a job was seen before; from now on it was."""
        before = len(self.listed)
        self.listed.add(hash(job))
        return len(self.listed) == before

    def _twice(self, name: str) -> set[bytes]:
        """A second look at a long list, in other pages: what was pushed meanwhile shifted other jobs then."""
        seen, twice = set[int](), set[bytes]()
        for job in self._pages(name, _LIST_PAGE + 7, look=False):
            if hash(job) in seen:
                twice.add(job)
            seen.add(hash(job))
        return twice

    def _pages(self, name: str, size: int, *, look: bool = True) -> Iterator[bytes]:
        key, last = self.keys("RQ_QUEUE", name), -1
        while jobs := self.broker.execute(command(_raw, "LRANGE", key, last - size + 1, last)):
            if look:
                self._members("RQ_QUEUE", name, jobs)
            yield from jobs
            last -= size

    # -- keys --------------------------------------------------------------------

    def keyspace(self) -> None:
        """Look at every key that belongs to a run or a name."""
        kinds = {self.keys(key.name).encode(): key.name for key in KEYS if key.ids and key.type != "channel"}
        pattern = re.compile(b"(%b)(.*)" % b"|".join(map(re.escape, kinds)), re.DOTALL)
        cursor = b"0"
        of_partition = ("MATCH", f"{self.keys.partition}*") if self.keys.partition else ()
        while True:
            cursor, names = self.broker.execute(command(_raw, "SCAN", cursor, *of_partition, "COUNT", _SCAN))
            subjects: dict[str, list[bytes]] = {}
            for found in filter(None, map(pattern.match, names)):
                subjects.setdefault(kinds[found[1]], []).append(found[2])
            self.waits |= "WAITS" in subjects or "WAIT_COUNTS" in subjects
            self._look(subjects)
            if cursor == b"0":
                return

    def _look(self, subjects: dict[str, list[bytes]]) -> None:
        self.runs(subjects.get("RUN", []))
        calls = [
            self._script("examine_keys", self.keys("LIVE"), kind, *part)
            for kind in _LOOKED_AT
            for part in _parts(subjects.get(kind, []), _PAGE)
        ]
        for found in self.broker.execute_all(calls) if calls else ():
            self.findings.add_all(found)
        for kind in _INDEX_OF_SUBJECT:
            for subject in subjects.get(kind, ()):
                self._index(kind, subject.decode())

    def runs(self, runs: Sequence[bytes]) -> None:
        """Look at runs, live and ended."""
        while runs:
            call = self._script("examine_runs", self.keys("LIVE"), *runs[:_PAGE])
            looked, found, ready, away = self.broker.execute(call)
            self.findings.add_all(found)
            began = self.began.encode()
            self.suspects |= {job for job, queued_at in ready if hash(job) not in self.listed and queued_at <= began}
            self.away += [AwayWait(*_texts(wait)) for wait in away]
            runs = runs[looked:]

    def ready_jobs(self) -> None:
        """Confirm what was suspected of ready jobs."""
        for part in _parts(sorted(self.suspects), _CONFIRMED):
            self.findings.add_all(self.broker.execute(self._script("examine_queued", self.keys("LIVE"), *part)))

    # -- indexes -----------------------------------------------------------------

    def indexes(self) -> None:
        """Look at the members of the indexes that there are once."""
        for kind in _INDEXES:
            self._index(kind, "")

    def _index(self, kind: str, subject: str) -> None:
        scan, width = ("SSCAN", 1) if kind == "WAITS" else ("ZSCAN", 2)
        cursor = b"0"
        while True:
            cursor, flat = self.broker.execute(command(_raw, scan, self.keys(kind, subject), cursor, "COUNT", _SCAN))
            self._members(kind, subject, flat[::width])
            if cursor == b"0":
                return

    def _members(self, kind: str, subject: str, members: Sequence[bytes]) -> None:
        own = 1 if not kind.startswith("RQ_") or subject in self.own else 0
        calls = [
            self._script("examine_members", self.keys(kind, subject), kind, subject, own, *part)
            for part in _parts(members, _SCAN)
        ]
        for found in self.broker.execute_all(calls) if calls else ():
            self.findings.add_all(found)

    def _script(self, name: str, key: str, *words: str | bytes | int) -> Command[Any]:
        return run_script(name, _raw, (key,), self.partition.now_ms(), 1 if self.repair else 0, *words)


def _parts(items: Sequence[bytes], size: int) -> Iterable[Sequence[bytes]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _texts(reply: list[bytes]) -> list[str]:
    return [item.decode() for item in reply]


def _raw(reply: Any) -> Any:
    return reply
