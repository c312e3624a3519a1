"""Cancellation of runs from outside: by events, and by timeouts of start and end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stepflow_broker.registry.event_filter import EventFilter, known_event, wait_index
from stepflow_broker.registry.event_values import value_at
from stepflow_broker.registry.flow_control import Rule, known
from stepflow_engine.codec import dumps
from stepflow_engine.durations import show_duration

__all__ = ["CancelConfig", "CancellationConfig"]


@dataclass(frozen=True, slots=True)
class CancelConfig:
    """An event that cancels a run.

    Attributes:
        event: the name of the event.
        path: a path that must have the same value in the event and in the event of the run, such as
            ``data.order_id``; ``""``: none.
        condition: a CEL expression on ``event`` and ``run.event`` that must be true; ``""``: none.
        timeout_ms: how long after the start of the run the event cancels it, in milliseconds; 0: no limit.
    """

    event: str
    path: str = ""
    condition: str = ""
    timeout_ms: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """``path`` as a tuple, empty if there is none."""
        return (self.path,) if self.path else ()


@dataclass(frozen=True, slots=True)
class CancellationConfig:
    """All cancellation rules of a function.

    Attributes:
        cancel_on: the events that cancel a run.
        start_ms: how long a run may wait before it executes for the first time, in milliseconds; 0: no limit.
        finish_ms: how long it may take from then on, in milliseconds; 0: no limit.
    """

    cancel_on: tuple[CancelConfig, ...] = ()
    start_ms: int = 0
    finish_ms: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CancellationConfig:
        """Read the stored form, parsed from JSON."""
        cancels = tuple(known(CancelConfig, one) for one in value.get("cancel_on", ()))
        return cls(cancels, value.get("start_ms", 0), value.get("finish_ms", 0))

    def rules(self, event: dict[str, Any], stored: bytes) -> Iterator[Rule]:
        """The rules for the start of a run by an event (see ``lib/start_rules.lua``).

        Args:
            event: the event of the run, decrypted.
            stored: the event as the run stores it, which may be encrypted.

        If the event of the run has no value at the path, no event can match, and the rule is left out.
        """
        yield Rule.of("field", "cancel_events", value=len(self.cancel_on))
        for number, one in enumerate(self.cancel_on):
            values = [value_at(event, f"event.{path}") for path in one.paths]
            if None in values:
                continue
            index = wait_index(one.event, paths=one.path, values=dumps(values), has_condition=bool(one.condition))
            text = b""
            if one.condition:
                text = EventFilter(one.path, values, one.condition, known_event(one.condition, stored)).to_json()
            yield Rule.of("cancel_on", index, condition=text, timeout_ms=one.timeout_ms, number=number)
        if self.start_ms:
            yield Rule.of("start_within", show_duration(self.start_ms), timeout_ms=self.start_ms)
        if self.finish_ms:
            yield Rule.of("finish_within", show_duration(self.finish_ms), timeout_ms=self.finish_ms)
