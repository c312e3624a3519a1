"""What an event must be, for a step that waits for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepflow_broker.values import values_at
from stepflow_engine.codec import dumps, loads
from stepflow_engine.expression import expression
from stepflow_engine.steps import SleepRequest, WaitRequest

__all__ = ["Condition"]


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for an event.

    Attributes:
        paths, values, expression: see `WaitRequest`.
        run_event: the event of the run that waits, which the expression knows as ``run.event``.
    """

    paths: str
    values: Any
    expression: str
    run_event: Any

    @classmethod
    def of(cls, request: SleepRequest | WaitRequest, run_event: bytes) -> Condition:
        """That of a request; of a sleep, one that nobody looks at."""
        if isinstance(request, SleepRequest):
            return cls("", [], "false", None)
        known = loads(run_event) if request.condition else None
        return cls(request.paths, loads(request.values), request.condition, known)

    def holds(self, event: bytes) -> bool:
        """Whether it holds for an event, given as JSON text."""
        value = loads(event)
        if values_at(value, self.paths) != dumps(self.values):
            return False
        return not self.expression or expression(self.expression).holds(event=value, run={"event": self.run_event})

    def to_json(self) -> bytes:
        """As it is kept with the step."""
        return dumps([self.paths, self.values, self.expression, self.run_event])

    @classmethod
    def from_json(cls, text: bytes) -> Condition:
        """Read what `to_json` has written."""
        return cls(*loads(text))
