"""Checks what `Client.pause` and `Client.resume` are called with."""

from __future__ import annotations

from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.pauses import PauseKind
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.limits import check_id

__all__ = ["check_one_subject", "check_reason", "pause_target"]


def check_one_subject(action: str, *subjects: object) -> None:
    """Check that a call of ``action`` names exactly one thing.

    Raises:
        ConfigurationError: it names none or several.
    """
    if sum(subject is not None for subject in subjects) != 1:
        raise ConfigurationError(f"{action}() takes exactly one of: function, queue=, key=")


def pause_target(function: FunctionConfig | None, queue: str | None, key: str | None) -> tuple[PauseKind, str]:
    """The kind and the name under which the server records a pause.

    Raises:
        ConfigurationError: the queue or the key is invalid.
    """
    if function is not None:
        return "function", function.name
    return ("queue", _checked(queue, "queue")) if queue is not None else ("key", _checked(key, "key"))


def check_reason(reason: str) -> str:
    """The reason of a pause; ``""``: none.

    Raises:
        ConfigurationError: it is not text, not valid Unicode, or too long.
    """
    return "" if reason == "" else _checked(reason, "reason")


def _checked(value: object, what: str) -> str:
    try:
        return check_id(value, what)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
