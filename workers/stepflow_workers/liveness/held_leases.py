"""HeldLeases: the leases of a worker by job. Each change also goes to the table that the lease sidecar reads."""

from __future__ import annotations

from typing import TypeVar, overload

from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_workers.liveness.lease_table import LeaseTable

__all__ = ["HeldLeases"]

T = TypeVar("T")


class HeldLeases(dict[str, Lease]):
    """Job → lease. Only assignment, ``del`` and ``pop`` change it, in the thread of the event loop.

    It is a real dict, because the thread of the lease renewer copies its values while the loop changes it.

    Args:
        table: the table that the lease sidecar reads.
    """

    def __init__(self, table: LeaseTable) -> None:
        super().__init__()
        self._table = table
        self._indexes: dict[str, int] = {}

    def __setitem__(self, job: str, lease: Lease) -> None:
        self._clear(job)
        super().__setitem__(job, lease)
        index = self._table.put(job, lease.fence)
        if index is not None:
            self._indexes[job] = index

    def __delitem__(self, job: str) -> None:
        super().__delitem__(job)
        self._clear(job)

    @overload
    def pop(self, job: str, /) -> Lease: ...
    @overload
    def pop(self, job: str, default: Lease, /) -> Lease: ...
    @overload
    def pop(self, job: str, default: T, /) -> Lease | T: ...
    def pop(self, job: str, /, *default: T) -> Lease | T:
        """Remove a job, and return its lease or the default."""
        self._clear(job)
        return super().pop(job, *default)

    def _clear(self, job: str) -> None:
        index = self._indexes.pop(job, None)
        if index is not None:
            self._table.clear(index)
