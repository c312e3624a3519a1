"""The name of a queue, as an option."""

from __future__ import annotations

from stepflow_engine.limits import check_id

__all__ = ["checked_queue"]


def checked_queue(queue: str, what: str = "queue") -> str:
    """Return the name of a queue, if a queue can have it.

    Args:
        what: the name of the value in an error.

    Raises:
        ValueError: it is not text, or is empty or too long, or contains ``,`` or a space, or ends with ``:steps``.
    """
    check_id(queue, what)
    if set(queue) & set(", ") or queue.endswith(":steps"):
        raise ValueError(f"{what} must not contain ',' or a space, or end with ':steps', got {queue!r}")
    return queue
