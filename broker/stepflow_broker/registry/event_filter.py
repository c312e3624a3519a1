"""Filters of events: which event ends a wait, or cancels a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from stepflow_broker.registry.event_values import digest, values_at
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps, loads
from stepflow_engine.encryption_scopes import open_event, read_event
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.expression import ON_EVENT_AND_RUN, expression
from stepflow_engine.steps import SleepRequest, WaitRequest

__all__ = ["EventFilter", "known_event", "wait_index"]

_NAMES_RUN = re.compile(r"\brun\b")


def known_event(expression: str, run_event: bytes) -> Any:
    """The parsed event of the run if the expression refers to it; otherwise ``None``."""
    return loads(run_event) if _NAMES_RUN.search(expression) else None


def wait_index(event: str, *, paths: str, values: bytes, has_condition: bool) -> str:
    """The entry of a wait in the index of waits.

    Args:
        event: the name of the event.
        paths, values: the values that the event must have; see `stepflow_engine.steps.WaitRequest`.
        has_condition: whether a worker must evaluate an expression on the event.
    """
    if has_condition:
        return f"?\n\n{event}"
    return f"{paths}\n{digest(values) if paths else ''}\n{event}"


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The conditions on an event.

    Attributes:
        paths, values, expression: see `WaitRequest`.
        run_event: the event of the waiting run, as stored; ``run.event`` in the expression.
    """

    paths: str
    values: Any
    expression: str
    run_event: Any

    @classmethod
    def of(cls, request: SleepRequest | WaitRequest, run_event: bytes) -> EventFilter:
        """The filter of a request. That of a sleep is never evaluated."""
        if isinstance(request, SleepRequest):
            return cls("", [], "false", None)
        return cls(request.paths, loads(request.values), request.condition, known_event(request.condition, run_event))

    def holds(self, event: bytes, cipher: Cipher) -> bool:
        """Whether an event, given as JSON text, meets all conditions.

        Raises:
            DecryptionError: the data of the event, or of the event of the run, cannot be decrypted.
            ExpressionCostError: the evaluation of the expression would take too long.
        """
        value = open_event(cipher, read_event(event))
        if values_at(value, self.paths) != dumps(self.values):
            return False
        if not self.expression:
            return True
        run_event = open_event(cipher, self.run_event) if self.run_event else None
        return expression(self.expression, ON_EVENT_AND_RUN).holds(event=value, run={"event": run_event})

    def to_json(self) -> bytes:
        """The form that is stored with the step."""
        return dumps([self.paths, self.values, self.expression, self.run_event])

    @classmethod
    def from_json(cls, text: bytes) -> EventFilter:
        """Read the form that `to_json` writes.

        Raises:
            CorruptDataError: the text has another form.
        """
        try:
            match loads(text):
                case [str(paths), list(values), str(expression), dict() | None as run_event]:
                    return cls(paths, values, expression, run_event)
        except ValueError as error:
            raise CorruptDataError("the stored event filter", error) from None
        raise CorruptDataError("the stored event filter", "it has another form")
