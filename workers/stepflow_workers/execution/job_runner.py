"""The pipeline of a job: claim → load → replay → perform → commit.

What a crash leaves behind, at every point: a job with a lease that runs out, and memos for what is done. Another
worker reclaims the job and replays the code over the memos.
"""

from __future__ import annotations

import logging

from stepflow import Function
from stepflow_broker.transitions.jobs import Lease
from stepflow_engine.errors import CorruptDataError, DecryptionError
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.execution.run_driver import RunDriver
from stepflow_workers.execution.run_loader import Loader
from stepflow_workers.execution.step_planner import Planner
from stepflow_workers.execution.steps.invoke import Invoker
from stepflow_workers.execution.steps.job import do_planned_step
from stepflow_workers.state.registry import Registries
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["Runner"]

_log = logging.getLogger("stepflow.worker")


class Runner:
    """Does the jobs that a worker has claimed.

    Args:
        functions: the functions of this process by ``app/id``.
        registries: the functions of all processes.
    """

    def __init__(
        self,
        worker_state: WorkerState,
        completions: CompletionConsumer,
        *,
        functions: dict[str, Function],
        registries: Registries,
    ) -> None:
        self._worker_state = worker_state
        self._loader = Loader(worker_state, functions)
        invoker = Invoker(worker_state, registries)
        planner = Planner(worker_state, self._loader, invoker, completions)
        self._continuation = RunDriver(worker_state, self._loader, planner, completions)

    async def do(self, lease: Lease) -> None:
        """Do one job, from its claim to its commit or its return to the queue."""
        try:
            held = await self._loader.load(lease)
            if held is not None:
                await self._do_held(held, lease)
        except (DecryptionError, CorruptDataError) as error:
            event = "run_corrupt" if isinstance(error, CorruptDataError) else "payload_decryption_failed"
            _log.warning(event, extra={"run_id": lease.run_id, "error": str(error)})
            self._worker_state.forget(lease.run_id)
            await self._loader.put_off(lease, type(error).__name__, str(error))

    async def _do_held(self, held: CachedRun, lease: Lease) -> None:
        held.users += 1
        try:
            if lease.key:
                await do_planned_step(self._worker_state, held, lease)
            else:
                await self._continuation.do(held, lease)
        finally:
            if held.lease is lease:
                held.lease = None
            self._worker_state.held.leave(held)
