"""The leases of claimed jobs: extend them, and queue the jobs of those that are over.

A worker that crashes leaves its leases. `reclaim_leases` queues their jobs again when the leases are over.
`repair_jobs` queues jobs that another tool has removed from their queues.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition

__all__ = ["by_partition", "extend_leases", "reclaim_leases", "repair_jobs"]


def by_partition(
    partition: Partition, leases: Iterable[tuple[str, int]]
) -> list[tuple[Partition, list[tuple[str, int]]]]:
    """Leases (job, fence), grouped by partition."""
    found: dict[Partition, list[tuple[str, int]]] = {}
    for lease in leases:
        found.setdefault(partition.of(lease[0]), []).append(lease)
    return list(found.items())


def extend_leases(
    partition: Partition,
    leases: Sequence[tuple[str, int]],
    *,
    lease_ms: int,
    executing: Mapping[str, str] = MappingProxyType({}),
) -> Command[list[str]]:
    """Extend leases (job, fence) of a partition by ``lease_ms``. Returns the jobs whose leases are lost.

    Args:
        partition: the partition of the jobs.
        leases: job and fence of each lease.
        lease_ms: the length of a lease, in milliseconds.
        executing: job of a continuation → the step that it executes; see `executing_report`.
    """
    args = [part for job, fence in leases for part in (job, fence, executing.get(job, ""))]
    return run_script(
        "extend_leases",
        replies.texts,
        (partition.keys("LEASES"),),
        partition.clock.script_ms(),
        lease_ms,
        *args,
    )


def reclaim_leases(partition: Partition, *, limit: int = 100, lease_ms: int = 10_000) -> Command[list[str]]:
    """Queue the jobs of a partition whose leases are over, and return them.

    Args:
        partition: the partition of the jobs.
        limit: the largest number of jobs.
        lease_ms: the length of the workers' leases. After an outage, live workers get half of it to extend theirs.
    """
    keyed = (partition.keys("LEASES"), partition.keys("LAST_LEASE_SCAN"))
    return run_script("reclaim_leases", replies.texts, keyed, partition.clock.script_ms(), limit, lease_ms)


def repair_jobs(partition: Partition, *, cursor: int, count: int = 500) -> Command[tuple[int, list[str]]]:
    """Check some live runs of a partition, and queue their missing jobs. Returns the next cursor and the jobs."""
    return run_script(
        "repair_jobs",
        replies.cursor_and_texts,
        (partition.keys("LIVE"),),
        partition.clock.script_ms(),
        cursor,
        count,
    )
