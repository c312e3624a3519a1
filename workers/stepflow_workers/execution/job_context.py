"""JobContext: what every job of a worker needs."""

from __future__ import annotations

from dataclasses import dataclass

from stepflow import Function
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.state.registry import Registries
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["JobContext"]


@dataclass(frozen=True, slots=True)
class JobContext:
    """The parts of one worker that its jobs use.

    Attributes:
        state: the shared state of the worker.
        completions: wakes the parents of finished runs.
        functions: the functions of this process by ``app/id``.
        registries: the functions of all processes, per partition.
    """

    state: WorkerState
    completions: CompletionConsumer
    functions: dict[str, Function]
    registries: Registries
