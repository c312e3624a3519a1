"""ServerClock: notices that the clock of the server was ahead for a while and is right again."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ServerClock"]

_JUMP_MS = 5_000
"""A smaller change is drift, or a failover to a server whose clock differs."""
_SHORT_MS = 60_000
"""A clock that is ahead for no longer is taken for wrong, also if it was seen for less time before."""


@dataclass(slots=True)
class _Period:
    """A period in which the clock was neither set ahead nor back.

    Attributes:
        offset_ms: the time of the server less the time that only grows, as last seen.
        began_ms, seen_ms: when it began, and when it was last seen, by the time that only grows.
    """

    offset_ms: int
    began_ms: int
    seen_ms: int

    @property
    def lasted_ms(self) -> int:
        return self.seen_ms - self.began_ms


class ServerClock:
    """Compares the clock of the server with the time that only grows, for one worker and partition.

    A clock that was set back is not proof that it was ahead before: the new time may be the wrong one. So only a clock
    that was set ahead, and returns to the time from before, counts, and only if it was ahead for a minute, or for less
    time than it was right before.
    """

    def __init__(self) -> None:
        self._before: _Period | None = None
        self._now: _Period | None = None

    def has_come_back(self, server_ms: int, steady_ms: int) -> bool:
        """Whether the clock was ahead since an earlier call, and is right again.

        Args:
            server_ms: the time of the server, in ms since the epoch.
            steady_ms: the time in ms by a clock of this machine that is never set.
        """
        offset_ms, now = server_ms - steady_ms, self._now
        moved_ms = offset_ms - now.offset_ms if now else 0
        if now and abs(moved_ms) <= _JUMP_MS:
            now.offset_ms, now.seen_ms = offset_ms, steady_ms
            return False
        before, self._now = self._before, _Period(offset_ms, steady_ms, steady_ms)
        if now is None:
            return False
        if moved_ms > 0:
            self._before = before or now
            return False
        if before is None:
            return False
        left_ms = offset_ms - before.offset_ms
        if left_ms > _JUMP_MS:  # it has come back by a part: the rest may follow
            return False
        self._before = None
        ahead_ms = steady_ms - before.seen_ms
        if abs(left_ms) > _JUMP_MS or ahead_ms > max(before.lasted_ms, _SHORT_MS):
            return False
        self._now.began_ms = before.began_ms
        return True
