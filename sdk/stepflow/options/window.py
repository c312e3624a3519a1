"""Window: the hours of a day in which the runs of a schedule start."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

__all__ = ["Window"]

_TEXT = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """From the first time of day up to the second, which is not part of it, by the clock of a time zone.

    A window whose end is before its beginning contains midnight. Times are milliseconds since the epoch.
    """

    begin: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: object, zone: ZoneInfo) -> Window:
        """Read ``"22:00-06:00"``.

        Raises:
            ValueError: it has another form, or is empty.
        """
        parsed = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if parsed is None:
            raise ValueError(f'window must be two times of day, as "22:00-06:00", got {text!r:.100}')
        begin_hour, begin_minute, end_hour, end_minute = map(int, parsed.groups())
        begin, end = time(begin_hour, begin_minute), time(end_hour, end_minute)
        if begin == end:
            raise ValueError(f"window must have an end that differs from its beginning, got {text!r}: no time is in it")
        return cls(begin, end, zone)

    def contains(self, at_ms: int) -> bool:
        """Whether a time is in the window."""
        return self._before(at_ms, self.begin) > self.end_before(at_ms)

    def begin_after(self, at_ms: int) -> int:
        """The first beginning after a time."""
        return self._after(at_ms, self.begin)

    def end_after(self, at_ms: int) -> int:
        """The first end after a time."""
        return self._after(at_ms, self.end)

    def end_before(self, at_ms: int) -> int:
        """The last end that is not after a time."""
        return self._before(at_ms, self.end)

    def _before(self, at_ms: int, clock: time) -> int:
        day = self._local(at_ms).date() + _DAY
        while (moment_ms := self._at(day, clock)) > at_ms:
            day -= _DAY
        return moment_ms

    def _after(self, at_ms: int, clock: time) -> int:
        day = self._local(at_ms).date() - _DAY
        while (moment_ms := self._at(day, clock)) <= at_ms:
            day += _DAY
        return moment_ms

    def _at(self, day: date, clock: time) -> int:
        """A time of day, or, if a clock change skips it, as long after the change."""
        return int(datetime.combine(day, clock, self.zone).timestamp() * 1000)

    def _local(self, at_ms: int) -> datetime:
        return datetime.fromtimestamp(at_ms / 1000, self.zone)
