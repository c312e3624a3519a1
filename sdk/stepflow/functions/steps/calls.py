"""What all methods of the step tools share: the execution, the limits, and the settings of ``with_options``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepflow.options.step import StepSettings
from stepflow_engine.errors import StepUsageError
from stepflow_engine.execution import Execution
from stepflow_engine.limits import Limits

__all__ = ["StepCalls"]

_DEFAULT = StepSettings()


class StepCalls:
    """The base of the step tools."""

    def __init__(
        self,
        execution: Execution,
        *,
        app_id: str,
        event: Mapping[str, Any],
        limits: Limits,
        settings: StepSettings = _DEFAULT,
    ) -> None:
        self._execution = execution
        self._app_id = app_id
        self._event = event
        self._limits = limits
        self._settings = settings

    def _refuse_undo(self, call: str) -> None:
        if self._settings.undo is not None:
            raise StepUsageError(f"with_options(undo=...) is for step.run, not for step.{call}: remove undo")

    def _refuse_cache(self, call: str) -> None:
        if self._settings.cache is not None:
            raise StepUsageError(f"with_options(cache=...) is for step.run, not for step.{call}: remove cache")

    def _refuse_handler_options(self, call: str) -> None:
        """Refuse options of a handler for a step that has none."""
        self._refuse_undo(call)
        self._refuse_cache(call)
        if self._settings.placement is not None:
            child = (
                f", or pass queue= to {call} for the queue of the child" if call in ("invoke", "start_child") else ""
            )
            raise StepUsageError(
                f"with_options(queue=..., slots=...) is for step.run, not for step.{call}: remove them{child}"
            )
