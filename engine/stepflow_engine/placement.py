"""Placement: where the handler of a step is executed, and how much of its worker it takes."""

from __future__ import annotations

from dataclasses import dataclass

from stepflow_engine.counts import check_count

__all__ = ["Placement", "placement"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the handler of a step is executed, and how much of its worker it takes.

    Attributes:
        queue: the queue of the step's job; ``""``: that of the run.
        slots: how many slots of its worker it takes.
    """

    queue: str = ""
    slots: int = 1


def placement(outer: Placement | None, queue: str | None, slots: int | None) -> Placement | None:
    """The placement that ``with_options(queue=, slots=)`` sets; ``None``: the queue of the run, and one slot.

    Args:
        outer: that of the step tools.
        queue: a queue that has been checked; ``None``: that of ``outer``.

    Raises:
        ValueError: the number of slots is out of range.
    """
    if queue is None and slots is None:
        return outer
    if slots is not None:
        check_count(slots, "slots")
    outer = outer or Placement()
    return Placement(outer.queue if queue is None else queue, outer.slots if slots is None else slots)
