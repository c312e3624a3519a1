"""VirtualClock: the clock of a test. It goes on like the real one, or stands still, and a test sets it ahead."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from stepflow_engine.errors import ConfigurationError

__all__ = ["VirtualClock"]


class VirtualClock:
    """The clock of a harness. `Harness.advance` sets it; it never goes back.

    Args:
        start: its first time, with a time zone; ``None``: now.
        frozen: whether it stands still between two calls of `Harness.advance`.

    Raises:
        ConfigurationError: ``start`` is no datetime with a time zone.

    Example::

        assert h.clock.now().year == 2027
    """

    def __init__(self, start: datetime | None = None, *, frozen: bool = False) -> None:
        if start is not None and (not isinstance(start, datetime) or start.utcoffset() is None):
            raise ConfigurationError(f"start must be a datetime with a time zone, got {start!r}")
        self._frozen = frozen
        now = time.monotonic_ns() // 1_000_000
        at_ms = time.time_ns() // 1_000_000 if start is None else round(start.timestamp() * 1000)
        self._base_ms = at_ms if frozen else at_ms - now

    def script_ms(self) -> int:
        """The time that scripts are given, in milliseconds since the epoch."""
        return self.now_ms()

    def now_ms(self) -> int:
        """The time in milliseconds since the epoch."""
        return self._base_ms if self._frozen else self._base_ms + time.monotonic_ns() // 1_000_000

    def now(self) -> datetime:
        """The time in UTC."""
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)

    def set_to(self, at_ms: int) -> int:
        """Set it ahead to a time in milliseconds since the epoch; returns by how much. An earlier time is ignored."""
        by_ms = max(0, at_ms - self.now_ms())
        self._base_ms += by_ms
        return by_ms
