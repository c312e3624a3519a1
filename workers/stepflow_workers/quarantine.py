"""The quarantine: a job with which workers have died is executed alone, so that its next death is its own.

A worker that dies takes all its jobs with it, and nobody can say which was the cause. So each of them gets a death. A
job that has but one left before it is taken for poison is a suspect. It is executed in a worker in which no other job
has begun lately, and none begins meanwhile; what is claimed with it goes back to its queue. The innocent end there, and
only the cause dies again.
"""

from __future__ import annotations

import asyncio
import logging

from stepflow import Function
from stepflow_broker.jobs import Lease
from stepflow_workers.performer import POISON_DEATHS
from stepflow_workers.registry import Registry
from stepflow_workers.runner import Runner
from stepflow_workers.waker import Waker
from stepflow_workers.workbench import Workbench

__all__ = ["Quarantine"]

_log = logging.getLogger("stepflow.worker")
_SUSPECT_DEATHS = POISON_DEATHS - 1
_SETTLED_S = 3.0
"""A job that has been executed for this long is not taken for one that kills."""
_ALONE_S = 10.0
"""How long a suspect is alone; one that lives longer no longer keeps others from the worker."""


class Quarantine(Runner):
    """A runner that executes suspects alone. A worker that is closed claims no jobs: it has no free slots."""

    def __init__(self, bench: Workbench, waker: Waker, *, functions: dict[str, Function], registry: Registry) -> None:
        super().__init__(bench, waker, functions=functions, registry=registry)
        self._begun: dict[tuple[str, int], float] = {}
        self._closed_for: Lease | None = None

    async def do(self, lease: Lease) -> None:
        """Do one job, or hand it back if it or another must be alone."""
        if self._closed_for is not None:
            await self._bench.hand_back([lease])
        elif lease.deaths < _SUSPECT_DEATHS:
            await self._do(lease)
        elif self._is_settled():
            await self._do_alone(lease)
        else:
            await self._make_room(lease)

    async def _do(self, lease: Lease) -> None:
        self._begun[lease.job, lease.fence] = asyncio.get_running_loop().time()
        try:
            await super().do(lease)
        finally:
            del self._begun[lease.job, lease.fence]

    async def _do_alone(self, lease: Lease) -> None:
        _log.warning("suspect_executed_alone", extra={"job": lease.job, "deaths": lease.deaths})
        self._close(lease)
        opening = asyncio.get_running_loop().call_later(_ALONE_S, self._open, lease)
        try:
            await self._do(lease)
        finally:
            opening.cancel()
            self._open(lease)

    async def _make_room(self, lease: Lease) -> None:
        """Hand a suspect back, for it must not die with others, and begin nothing until it can be taken again."""
        self._close(lease)
        try:
            await self._bench.hand_back([lease])
            while not self._is_settled() and not self._bench.stopping:
                await asyncio.sleep(0.1)
        finally:
            self._open(lease)

    def _is_settled(self) -> bool:
        now = asyncio.get_running_loop().time()
        return all(now - began > _SETTLED_S for began in self._begun.values())

    def _close(self, lease: Lease) -> None:
        self._closed_for = lease
        self._bench.slots.used += self._bench.slots.total

    def _open(self, lease: Lease) -> None:
        if self._closed_for is lease:
            self._closed_for = None
            self._bench.slots.used -= self._bench.slots.total
            self._bench.slots.freed()
