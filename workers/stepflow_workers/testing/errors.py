"""The errors of the test kit."""

from __future__ import annotations

from stepflow_broker.views.explain import Reason
from stepflow_engine.errors import StepflowError

__all__ = ["NotIdleError", "Stuck", "UnusedStubError"]


class Stuck(StepflowError):  # noqa: N818  what it says is not a fault of the kit
    """A run does not end by itself, whatever time passes.

    Attributes:
        reason: what it waits for, as `Run.explain` gives it.
    """

    def __init__(self, run_id: str, reason: Reason, text: str) -> None:
        super().__init__(f"run {run_id} does not end by itself: {text}")
        self.run_id = run_id
        self.reason = reason


class NotIdleError(StepflowError):
    """The worker still works after a long time: a handler blocks, or jobs are not taken."""


class UnusedStubError(StepflowError):
    """A harness was left, and no step has used one of its stubs: its name may be wrong."""
