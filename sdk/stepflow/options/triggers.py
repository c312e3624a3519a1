"""Triggers: the events and the schedules that start runs of a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from stepflow_broker.registry.functions import CronConfig, EventConfig
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.expression import condition
from stepflow_engine.limits import check_id

__all__ = ["CatchUp", "CronTrigger", "EventTrigger", "Trigger", "trigger_configs"]

CatchUp = Literal["skip", "latest", "all"]
_MAX_TRIGGERS = 10
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

    Raises:
        ConfigurationError: a value is invalid; raised when the function is declared.

    Example::

        @app.function("report", triggers=[CronTrigger("TZ=Europe/Rome 0 2 * * *", catch_up="all")])
    """

    schedule: str
    catch_up: CatchUp = "latest"

    def to_config(self) -> CronConfig:
        """The form in which the registry stores it.

        Raises:
            ConfigurationError: the schedule, the zone or the policy is invalid.
        """
        if not isinstance(self.schedule, str):
            raise ConfigurationError(f"cron: schedule must be text, got {self.schedule!r}: {_FORMS}")
        zone, fields = "UTC", self.schedule.strip()
        if fields.startswith("TZ="):
            zone, _, fields = fields.removeprefix("TZ=").partition(" ")
        _check_zone(zone)
        _check_fields(fields)
        if self.catch_up not in get_args(CatchUp):
            raise ConfigurationError(f"cron: catch_up must be 'skip', 'latest' or 'all', got {self.catch_up!r}")
        return CronConfig(" ".join(fields.split()), zone, self.catch_up)


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
    return events, tuple(one.to_config() for one in listed if isinstance(one, CronTrigger))


def _check_zone(zone: str) -> None:
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
