"""StepAttempt: one attempt at one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.steps import StepCall
from stepflow_engine.value_class import value_class
from stepflow_workers.state.run_cache import CachedRun

__all__ = ["StepAttempt"]

R = TypeVar("R")


@value_class
class StepAttempt(Generic[R]):
    """A step of a run, and the lease under which it is executed or started.

    Attributes:
        run: the run.
        lease: the lease of the continuation, or of the step's own job.
        call: the call of the step in the code.
        request: the request of the call.
        number: the number of the attempt, 0-based.
        deaths: the workers that died in earlier executions.
    """

    run: CachedRun
    lease: Lease
    call: StepCall
    request: R
    number: int = 0
    deaths: Sequence[str] = ()

    @property
    def key(self) -> str:
        """The key of the step."""
        return self.call.key

    @property
    def id(self) -> str:
        """The id of the step."""
        return self.call.id
