"""The leases of a worker, by job. Each change is also written to the table that the lease sidecar reads."""

from __future__ import annotations

from typing import TypeVar, overload

from stepflow_broker.transitions.jobs import Lease
from stepflow_workers.liveness.lease_table import LeaseTable

__all__ = ["HeldLeases"]

T = TypeVar("T")


class HeldLeases(dict[str, Lease]):
    """Job → lease. Changed by assignment, ``del`` and ``pop`` only, in the loop's thread.

    A real dict, because the lease renewer's thread copies its values while the loop changes it.

    Args:
        table: where the lease sidecar reads them.
    """

    def __init__(self, table: LeaseTable) -> None:
        super().__init__()
        self._table = table
        self._places: dict[str, int] = {}

    def __setitem__(self, job: str, lease: Lease) -> None:
        self._clear(job)
        super().__setitem__(job, lease)
        place = self._table.put(job, lease.fence)
        if place is not None:
            self._places[job] = place

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
        place = self._places.pop(job, None)
        if place is not None:
            self._table.clear(place)
