"""Requeues: retries the failed runs that RQ's own tools have requeued: ``rq requeue``, or a dashboard's button."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from stepflow import Stepflow
from stepflow.client.fork_request import ForkRequest
from stepflow.client.forks import fork_operation
from stepflow.client.function_names import DeclaredFunctions
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.operation import arun_operation
from stepflow_broker.transitions.runs.requeues import read_requeued, settle_requeue
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.views.run_view import run_not_found
from stepflow_engine.cipher import Cipher
from stepflow_engine.errors import BackendUnavailableError, CorruptDataError, StepflowError
from stepflow_engine.product import WORKER_LOGGER

__all__ = ["Requeues"]

_log = logging.getLogger(WORKER_LOGGER)
_PAGE = 50


@dataclass(frozen=True, slots=True)
class _Context:
    """Where the worker creates forks of the runs of an app; see `ForkContext`."""

    partition: Partition
    declared: DeclaredFunctions
    cipher: Cipher
    actor: str = "rq requeue"


class Requeues:
    """Retries the requeued runs of one partition, for one worker.

    Args:
        apps: the apps of the worker by id. Runs of other apps are left to other workers.
    """

    def __init__(self, broker: AsyncBroker, partition: Partition, apps: Mapping[str, Stepflow]) -> None:
        self._broker = broker
        self._partition = partition
        self._contexts = {
            app_id: _Context(partition, app.backend.declared, app.backend.cipher) for app_id, app in apps.items()
        }

    async def retry_some(self) -> bool:
        """Retry some of the runs. Whether there may be more."""
        noted = await self._broker.execute(read_requeued(self._partition, limit=_PAGE))
        retried = await asyncio.gather(*[self._retry(run_id, noted_at) for run_id, noted_at in noted.items()])
        return len(noted) == _PAGE and any(retried)

    async def _retry(self, run_id: str, noted_at: int) -> bool:
        """Retry a run, whichever workers do so too. False if it is left to another worker."""
        run = fork = error = None
        try:
            run = await self._broker.execute(read_run(self._partition, run_id))
            if run is None:
                raise run_not_found(run_id)
            context = self._contexts.get(run.app)
            if context is None or context.declared.find(run.app, run.function) is None:
                return False
            request = ForkRequest(failed=True, id=f"requeue-{noted_at}", action="retry")
            fork, command = await arun_operation(self._broker, fork_operation(context, run_id, request))
            if await self._broker.execute(command) is ScriptStatus.NO_RUN:
                raise run_not_found(run_id)
        except StepflowError as raised:
            if isinstance(raised, BackendUnavailableError) and not isinstance(raised, CorruptDataError):
                raise
            error = raised
        settled = settle_requeue(self._partition, run_id, noted_at, is_retried=error is None)
        if await self._broker.execute(settled):
            name = run.name if run is not None else ""
            if error is not None:
                _log.warning("requeue_refused", extra={"run_id": run_id, "function": name, "error": str(error)})
            elif fork is not None:
                _log.info("run_requeued", extra={"run_id": run_id, "function": name, "new_run_id": fork.run_id})
        return True
