"""LogThrottle: limits a log event that would repeat for as long as its cause lasts."""

from __future__ import annotations

import time

__all__ = ["LogThrottle"]

_MAX_SUBJECTS = 1_000


class LogThrottle:
    """Allows one line a minute for each subject.

    Args:
        every_s: the shortest time between two lines for a subject, in seconds.
    """

    def __init__(self, every_s: float = 60.0) -> None:
        self._every_s = every_s
        self._next: dict[str, float] = {}

    def allows(self, subject: str) -> bool:
        """Whether to write a line for a subject now. If so, the next one has to wait."""
        now = time.monotonic()
        if now < self._next.get(subject, 0.0):
            return False
        if len(self._next) >= _MAX_SUBJECTS:
            self._next.clear()
        self._next[subject] = now + self._every_s
        return True
