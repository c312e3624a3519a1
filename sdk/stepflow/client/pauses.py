"""Checks what `Client.pause` and `Client.resume` are called with."""

from __future__ import annotations

from stepflow_broker.registry.functions import FunctionConfig
from stepflow_broker.transitions.pauses import PauseKind
from stepflow_engine.errors import ConfigurationError

__all__ = ["check_one_subject", "pause_target"]


def check_one_subject(action: str, *subjects: object) -> None:
    """Check that a call of ``action`` names exactly one thing.

    Raises:
        ConfigurationError: it names none or several.
    """
    if sum(subject is not None for subject in subjects) != 1:
        raise ConfigurationError(f"{action}() takes exactly one of: function, queue=, key=")


def pause_target(function: FunctionConfig | None, queue: str | None, key: str | None) -> tuple[PauseKind, str]:
    """The kind and the name under which the server records a pause."""
    if function is not None:
        return "function", function.name
    return ("queue", queue) if queue is not None else ("key", key or "")
