"""The status codes that the scripts return."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ScriptStatus"]


class ScriptStatus(IntEnum):
    """The status codes of the scripts. The header of each script lists those that it returns."""

    SERVED = 4
    RESOLVED = 3
    MORE = 2
    DONE = 1
    ALREADY = 0
    NO_RUN = -1
    STALE_FENCE = -2
    STALE_REGISTRY = -3
    MORE_VALUES = -4
    EARLIER_EVENT = -5
    FORKED = -6
    CHANGED = -7
    FULL = -8
