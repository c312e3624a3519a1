"""The times of schedules, in code and at run time, as Redis stores them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stepflow_engine.durations import show_duration

__all__ = ["CronConfig"]

_OF_ALL_CRONS = ("schedule", "zone", "catch_up")


@dataclass(frozen=True, slots=True)
class CronConfig:
    """A schedule that starts a function.

    Attributes:
        schedule: five fields, as in crontab(5).
        zone: the IANA name of the time zone.
        catch_up: which times are caught up after no worker was running: ``skip`` (none), ``latest`` or ``all``.
        jitter_ms: how much later than its time a run starts at most, in milliseconds.
        window: the hours in which runs start, by the clock of the zone, as ``22:00-06:00``; ``""``: all.
        data: the data of the events, as JSON text; empty: the time. Only the process that has declared it knows it.
        every_ms, anchor_ms: instead of ``schedule``, the interval of the times in milliseconds, and the first of them.
        number: tells several schedules of a function with the same times apart.
        start_ms, end_ms: no time is before the first and after the second, in ms since the epoch; 0: no bound.
    """

    schedule: str
    zone: str = "UTC"
    catch_up: str = "latest"
    jitter_ms: int = 0
    window: str = ""
    data: bytes = b""
    every_ms: int = 0
    anchor_ms: int = 0
    number: int = 0
    start_ms: int = 0
    end_ms: int = 0

    def name_of(self, function: str) -> str:
        """The name of the schedule of a function (``app/id``): a line each for function, zone and fields."""
        return "\n".join([function, self.zone, self.schedule, *([str(self.number)] if self.number else [])])

    @property
    def times(self) -> str:
        """The fields or the interval as text."""
        return f"every {show_duration(self.every_ms)}" if self.every_ms else self.schedule

    @property
    def text(self) -> str:
        """The schedule as text for people."""
        times = self.times if self.every_ms else f"{self.schedule} {self.zone}"
        window = f" in {self.window}" if self.window else ""
        return times + window + (f" jitter {show_duration(self.jitter_ms)}" if self.jitter_ms else "")

    def to_json(self) -> dict[str, Any]:
        """The stored form: what is not the default, without the data, which may be secret."""
        return {
            name: value for name, value in asdict(self).items() if name in _OF_ALL_CRONS or (name != "data" and value)
        }
