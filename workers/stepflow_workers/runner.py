"""The pipeline of a job: claim → load → replay → perform → commit.

What a crash leaves behind, at every point: a job with a lease that runs out, and memos for what is done. Another
worker reclaims the job and replays the code over the memos.
"""

from __future__ import annotations

from stepflow import Function
from stepflow_broker.jobs import Lease
from stepflow_workers.continuation import Continuation
from stepflow_workers.invoker import Invoker
from stepflow_workers.loader import Loader
from stepflow_workers.planned_step import do_planned_step
from stepflow_workers.planner import Planner
from stepflow_workers.registry import Registry
from stepflow_workers.waker import Waker
from stepflow_workers.workbench import Workbench

__all__ = ["Runner"]


class Runner:
    """Does the jobs that a worker has claimed.

    Args:
        functions: the functions of this process by ``app/id``.
        registry: the functions of all processes.
    """

    def __init__(self, bench: Workbench, waker: Waker, *, functions: dict[str, Function], registry: Registry) -> None:
        self._bench = bench
        self._loader = Loader(bench, functions)
        invoker = Invoker(bench.broker, bench.keys, registry)
        planner = Planner(bench, self._loader, invoker, waker)
        self._continuation = Continuation(bench, self._loader, planner, waker)

    async def do(self, lease: Lease) -> None:
        """Do one job, from its claim to its commit or its return to the queue."""
        held = await self._loader.load(lease)
        if held is None:
            return
        held.users += 1
        try:
            if lease.key:
                await do_planned_step(self._bench, held, lease)
            else:
                await self._continuation.do(held, lease)
        finally:
            if held.lease is lease:
                held.lease = None
            self._bench.held.leave(held)
