"""One attempt at a step."""

from __future__ import annotations

from typing import NamedTuple

from stepflow_broker.transitions.jobs import Lease
from stepflow_engine.steps import RunRequest, StepCall
from stepflow_workers.state.run_cache import CachedRun

__all__ = ["StepAttempt"]


class StepAttempt(NamedTuple):
    """One attempt at a step.

    Attributes:
        run: the run, in memory.
        lease: of the job under which it is executed.
        call: the step, as the code has asked for it.
        request: its handler and options.
        number: of this attempt, 0-based.
        deaths: the workers that died in this attempt or one like it.
    """

    run: CachedRun
    lease: Lease
    call: StepCall
    request: RunRequest
    number: int
    deaths: tuple[str, ...]
