"""Redaction of a history: values at paths lose their contents and keep their shape, which the code still reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepflow_engine.errors import HistoryFileError

__all__ = ["redact"]

_TEXT = "redacted"


def redact(history: dict[str, Any], paths: Sequence[str]) -> None:
    """Redact the JSON form of a history.

    Args:
        paths: ``event.data.card``, ``steps.charge.data.number``; ``*`` is any step, name or element of a list.

    Raises:
        HistoryFileError: a path leads to no value.
    """
    for path in paths:
        root, _, rest = path.partition(".")
        count = 0
        if root == "event" and rest:
            count = sum(_redact(event, rest.split(".")) for event in history["events"])
        elif root == "steps":
            for step in history["steps"]:
                if (inner := _within(step["id"], rest)) is not None:
                    count += _redact(step, inner)
        if not count:
            ids = ", ".join(sorted({step["id"] for step in history["steps"]}))[:200] or "none"
            raise HistoryFileError(
                f"redact: path {path!r:.100} leads to no value: it begins with 'event.data', or with 'steps', the id "
                f"of a step or '*', and 'data'; steps: {ids}"
            )


def _within(step_id: str, rest: str) -> list[str] | None:
    """The names behind the id of a step, which may have dots; ``None``: the path is that of another step."""
    for first in (step_id, "*"):
        if rest.startswith(f"{first}."):
            return rest[len(first) + 1 :].split(".")
    return None


def _redact(value: Any, names: Sequence[str]) -> int:
    """Redact what is at the names; how many values were there."""
    keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    count = 0
    for key in list(keys):
        if names[0] not in ("*", str(key)):
            continue
        if len(names) > 1:
            count += _redact(value[key], names[1:])
        else:
            value[key], count = _blank(value[key]), count + 1
    return count


def _blank(value: Any) -> Any:
    match value:
        case bool() | None:
            return value
        case str():
            return _TEXT
        case int() | float():
            return 0
        case list():
            return [_blank(one) for one in value]
        case _:
            return {name: _blank(one) for name, one in value.items()}
