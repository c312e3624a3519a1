"""Triggers: the events and the schedules that start runs of a function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from stepflow.options.window import Window
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.function_config import EventConfig
from stepflow_engine.codec import dumps_event
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import ConfigurationError, EventError
from stepflow_engine.expression import condition
from stepflow_engine.limits import Limits, check_id

__all__ = [
    "CatchUp",
    "CronTrigger",
    "EventTrigger",
    "Trigger",
    "check_zone",
    "checked_catch_up",
    "checked_window",
    "jitter_ms",
    "split_zone",
    "trigger_configs",
]

CatchUp = Literal["skip", "latest", "all"]
_MAX_TRIGGERS = 10
_LONGEST_JITTER_MS = 24 * 3600 * 1000
_FORMS = (
    'write five fields, as "0 9 * * 1-5", with a time zone before them if it is not UTC: "TZ=Europe/Rome 0 9 * * *"'
)


@dataclass(frozen=True, slots=True)
class EventTrigger:
    """An event that starts a run of a function.

    Attributes:
        event: the name of the event; a ``*`` at the end matches any text: ``"shop/order.*"``.
        if_: a CEL expression on ``event`` that must be true, such as ``"event.data.total > 100"``. If a key is missing
            or has another type, the expression counts as false.

    Raises:
        ConfigurationError: a value is invalid; raised when the function is declared.

    Example::

        @app.function("thank", triggers=[EventTrigger("shop/order.closed", if_="event.data.total > 100")])
    """

    event: str
    if_: str | None = None

    def to_config(self) -> EventConfig:
        """The form in which the registry stores it.

        Raises:
            ConfigurationError: the name or the expression is invalid.
        """
        try:
            check_id(self.event, "event")
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if "*" in self.event[:-1]:
            raise ConfigurationError(f"event must have a '*' at its end only, got {self.event!r}")
        return EventConfig(self.event, "" if self.if_ is None else condition(self.if_).text)


@dataclass(frozen=True, slots=True)
class CronTrigger:
    """A schedule that starts runs of a function. Each time starts one run, regardless of the number of workers.

    The last processed time is stored in Redis, so no time starts a second run after a crash or a restart.

    Attributes:
        schedule: five fields as in crontab(5), after ``TZ=<zone>`` if the zone is not UTC. A local time that a clock
            change skips starts a run right after the change. A local time that occurs twice starts one run, unless the
            schedule matches every hour or every minute.
        catch_up: what to do with times at which no worker was running: ``skip`` them, start a run for the ``latest``,
            or for ``all`` (at most 1,000).
        jitter: how much later than its time a run starts at most: a duration or seconds, at most 24 hours. It derives
            from the schedule and the time, so each time has its own, the same on all workers.
        window: the hours in which runs start, by the clock of the zone: ``"22:00-06:00"``. A time outside of it moves
            to its next beginning; several that move to the same beginning start one run.
        data: the data of the runs' events, JSON; ``None``: ``schedule``, ``zone`` and ``time``. The time that a run is
            for is also ``ctx.event.time``.

    Raises:
        ConfigurationError: a value is invalid; raised when the function is declared.

    Example::

        @app.function("report", triggers=[CronTrigger("TZ=Europe/Rome 0 2 * * *", catch_up="all", jitter="5m")])
    """

    schedule: str
    catch_up: CatchUp = "latest"
    jitter: Duration | None = None
    window: str | None = None
    data: Any = None

    def to_config(self) -> CronConfig:
        """The form in which the registry stores it.

        Raises:
            ConfigurationError: the schedule, the zone or another value is invalid.
        """
        zone, fields = split_zone(self.schedule)
        return CronConfig(
            fields,
            zone,
            checked_catch_up(self.catch_up),
            jitter_ms=jitter_ms(self.jitter),
            window=checked_window(self.window, zone),
            data=b"" if self.data is None else _json(self.data),
        )


Trigger = str | EventTrigger | CronTrigger


def trigger_configs(
    *, event: str | None, if_: str | None, cron: str | None, triggers: Sequence[Trigger]
) -> tuple[tuple[EventConfig, ...], tuple[CronConfig, ...]]:
    """The events and the schedules that start a function.

    Raises:
        ConfigurationError: a trigger is invalid, or there are more than ten.
    """
    if if_ is not None and event is None:
        raise ConfigurationError('if_: needs event=; in triggers=, write EventTrigger("name", if_=...)')
    own = [
        *([EventTrigger(event, if_)] if event is not None else []),
        *([CronTrigger(cron)] if cron is not None else []),
    ]
    listed = [*own, *(EventTrigger(one) if isinstance(one, str) else one for one in triggers)]
    if len(listed) > _MAX_TRIGGERS:
        raise ConfigurationError(f"triggers must be at most {_MAX_TRIGGERS}, got {len(listed)}")
    wrong = next((one for one in listed if not isinstance(one, EventTrigger | CronTrigger)), None)
    if wrong is not None:
        raise ConfigurationError(f"triggers must be event names, EventTrigger or CronTrigger, got {wrong!r}")
    events = tuple(one.to_config() for one in listed if isinstance(one, EventTrigger))
    return events, _numbered([one.to_config() for one in listed if isinstance(one, CronTrigger)])


def _numbered(crons: Sequence[CronConfig]) -> tuple[CronConfig, ...]:
    """The schedules; those with the same times, such as one for each value of their data, get numbers."""
    seen = Counter[tuple[str, str]]()
    numbered = []
    for cron in crons:
        times = (cron.zone, cron.schedule)
        numbered.append(replace(cron, number=seen[times]))
        seen[times] += 1
    return tuple(numbered)


# -- the parts of a schedule -----------------------------------------------------


def split_zone(schedule: object) -> tuple[str, str]:
    """The time zone and the five fields of a schedule.

    Raises:
        ConfigurationError: the zone does not exist, or the fields are invalid.
    """
    if not isinstance(schedule, str):
        raise ConfigurationError(f"cron: schedule must be text, got {schedule!r}: {_FORMS}")
    zone, fields = "UTC", schedule.strip()
    if fields.startswith("TZ="):
        zone, _, fields = fields.removeprefix("TZ=").partition(" ")
    check_zone(zone)
    _check_fields(fields)
    return zone, " ".join(fields.split())


def checked_catch_up(value: object) -> str:
    """The policy for missed times.

    Raises:
        ConfigurationError: there is no such policy.
    """
    if not isinstance(value, str) or value not in get_args(CatchUp):
        raise ConfigurationError(f"cron: catch_up must be 'skip', 'latest' or 'all', got {value!r}")
    return value


def jitter_ms(value: Duration | None) -> int:
    """The largest jitter in milliseconds; 0: none.

    Raises:
        ConfigurationError: it is not a duration, or is over 24 hours.
    """
    try:
        return 0 if value is None else duration_ms(value, name="cron: jitter", max_ms=_LONGEST_JITTER_MS)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def checked_window(value: object, zone: str) -> str:
    """The window; ``""``: none.

    Raises:
        ConfigurationError: it is not two times of day.
    """
    if value is None:
        return ""
    try:
        Window.parse(value, ZoneInfo(zone))
    except ValueError as error:
        raise ConfigurationError(f"cron: {error}") from None
    return str(value)


def _json(data: Any) -> bytes:
    try:
        return dumps_event(data, limit_bytes=Limits().event_bytes)
    except EventError as error:
        raise ConfigurationError(f"cron: data: {error}") from None


def check_zone(zone: str) -> None:
    """Check that a time zone exists.

    Raises:
        ConfigurationError: it does not.
    """
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        raise ConfigurationError(f"cron: time zone must exist, got {zone!r}: {_FORMS}") from None


def _check_fields(fields: str) -> None:
    from cronsim import CronSim, CronSimError

    try:
        if len(fields.split()) != 5:
            raise CronSimError("it does not have five fields")
        next(CronSim(fields, datetime.now(UTC)))
    except CronSimError as error:
        raise ConfigurationError(f"cron: schedule is invalid ({error}), got {fields!r}: {_FORMS}") from None
    except StopIteration:
        raise ConfigurationError(f"cron: schedule has no next time, got {fields!r}") from None
