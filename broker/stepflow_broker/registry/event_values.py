"""Values in events: how paths and keys select them, and the digest by which the index of waits finds them."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from stepflow_engine.codec import dumps
from stepflow_engine.expression import expression

__all__ = ["digest", "digest_at", "id_digest", "value_at", "value_of", "values_at"]

_PATH = re.compile(r"event(\.[A-Za-z_][A-Za-z0-9_]*)+")


def value_at(event: dict[str, Any], path: str) -> Any:
    """The value at a path such as ``event.data.user.id``; ``None`` if there is none."""
    value: Any = {"event": event}
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def value_of(key: str, event: dict[str, Any]) -> Any:
    """The value of a key for an event. A key is a path or a CEL expression. ``None`` if it does not apply."""
    return value_at(event, key) if _PATH.fullmatch(key) else expression(key).value(event=event)


def values_at(event: dict[str, Any], paths: str) -> bytes:
    """The values at several paths, separated by commas, as the JSON text of a list."""
    return dumps([value_at(event, f"event.{path}") for path in paths.split(",") if path])


def digest_at(event: dict[str, Any], paths: str) -> str:
    """The digest of the values at these paths, as the index of waits stores it; ``""`` for no paths."""
    return digest(values_at(event, paths)) if paths else ""


def id_digest(event_id: str) -> str:
    """The digest of the id of an event, by which a run notes that it has received it; ``""``: it has no id."""
    return digest(event_id.encode(errors="replace")) if event_id else ""


def digest(values: bytes) -> str:
    """The SHA-1 of a text, such as the JSON text of values."""
    return hashlib.sha1(values, usedforsecurity=False).hexdigest()
