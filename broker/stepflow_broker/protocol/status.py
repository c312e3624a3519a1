"""What the scripts answer."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ScriptStatus"]


class ScriptStatus(IntEnum):
    """What the scripts answer; each script's header names those that it uses."""

    RESOLVED = 3
    MORE = 2
    DONE = 1
    ALREADY = 0
    NO_RUN = -1
    STALE_FENCE = -2
    STALE_REGISTRY = -3
    MORE_VALUES = -4
