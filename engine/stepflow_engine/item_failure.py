"""ItemFailure: an item of a map that failed for good."""

from __future__ import annotations

from dataclasses import dataclass

from stepflow_engine.errors import InvokeError, StepError

__all__ = ["ItemFailure"]


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """An item of ``step.map`` that failed for good.

    Attributes:
        index: the index of the item, from 0.
        error: its error, with name, message and traceback: a `StepError` of a handler, an `InvokeError` of a function.

    Example::

        again = [names[one.index] for one in sizes.failures if one.error.name == "TimeoutError"]
    """

    index: int
    error: StepError

    @property
    def run_id(self) -> str:
        """The run of the function for this item; ``""``: the item called a handler, or no run was started."""
        return self.error.run_id if isinstance(self.error, InvokeError) else ""
