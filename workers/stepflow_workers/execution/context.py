"""What the execution of every job needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stepflow import Function
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.state.registry import Registries
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["JobContext"]


@dataclass(frozen=True, slots=True)
class JobContext:
    """What the execution of every job of one worker needs.

    Attributes:
        state: what the jobs share.
        completions: wakes parents of finished runs.
        functions: the functions of this process, by ``app/id``.
        registries: the functions of all processes, for each partition.
    """

    state: WorkerState
    completions: CompletionConsumer
    functions: Mapping[str, Function]
    registries: Registries
