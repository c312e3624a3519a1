"""Triggers: what starts a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from stepflow_broker.registry.functions import CronConfig, EventConfig
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.expression import expression
from stepflow_engine.limits import check_id

__all__ = ["CatchUp", "CronTrigger", "EventTrigger", "Trigger", "trigger_configs"]

CatchUp = Literal["skip", "latest", "all"]
_MOST = 10
_FORMS = (
    'write five fields, as "0 9 * * 1-5", with a time zone before them if it is not UTC: "TZ=Europe/Rome 0 9 * * *"'
)


@dataclass(frozen=True, slots=True)
class EventTrigger:
    """An event that starts a function.

    Attributes:
        event: the event's name; ``*`` at the end stands for anything: ``"shop/order.*"``.
        if_: a CEL expression on ``event`` that must hold, such as ``"event.data.total > 100"``. Where it does not
            apply, because a key is missing or has another type, it does not hold.
    """

    event: str
    if_: str | None = None

    def to_config(self) -> EventConfig:
        """What the registry is told.

        Raises:
            ConfigurationError: the name or the expression is not one.
        """
        try:
            check_id(self.event, "an event's name")
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if "*" in self.event[:-1]:
            raise ConfigurationError(f"the event {self.event!r} of a trigger has a '*' that is not at its end")
        return EventConfig(self.event, "" if self.if_ is None else expression(self.if_).text)


@dataclass(frozen=True, slots=True)
class CronTrigger:
    """Times that start a function, each once, however many workers there are.

    Attributes:
        schedule: five fields as in crontab(5), with ``TZ=<zone>`` before them if the zone is not UTC. A time that a
            change of clocks leaves out comes right after it; one that comes twice starts once, unless the schedule has
            every hour or every minute.
        catch_up: what becomes of times at which no worker was there: ``skip`` them, start a run for the ``latest``, or
            for ``all`` (at most 1,000).
    """

    schedule: str
    catch_up: CatchUp = "latest"

    def to_config(self) -> CronConfig:
        """What the registry is told.

        Raises:
            ConfigurationError: the schedule, the zone or the policy is not one.
        """
        if not isinstance(self.schedule, str):
            raise ConfigurationError(f"the schedule {self.schedule!r} is not text: {_FORMS}")
        zone, fields = "UTC", self.schedule.strip()
        if fields.startswith("TZ="):
            zone, _, fields = fields.removeprefix("TZ=").partition(" ")
        _check_zone(zone)
        _check_fields(fields)
        if self.catch_up not in get_args(CatchUp):
            raise ConfigurationError(f"catch_up is 'skip', 'latest' or 'all', not {self.catch_up!r}")
        return CronConfig(" ".join(fields.split()), zone, self.catch_up)


Trigger = str | EventTrigger | CronTrigger


def trigger_configs(
    *, event: str | None, if_: str | None, cron: str | None, triggers: Sequence[Trigger]
) -> tuple[tuple[EventConfig, ...], tuple[CronConfig, ...]]:
    """The events and the times that start a function.

    Raises:
        ConfigurationError: one of them is not what it must be, or there are more than ten.
    """
    if if_ is not None and event is None:
        raise ConfigurationError('if_ belongs to event=; in triggers=, write EventTrigger("name", if_=...)')
    first = [
        *([EventTrigger(event, if_)] if event is not None else []),
        *([CronTrigger(cron)] if cron is not None else []),
    ]
    found = [*first, *(EventTrigger(one) if isinstance(one, str) else one for one in triggers)]
    if len(found) > _MOST:
        raise ConfigurationError(f"it has {len(found)} triggers; at most {_MOST} are accepted")
    wrong = next((one for one in found if not isinstance(one, EventTrigger | CronTrigger)), None)
    if wrong is not None:
        raise ConfigurationError(f"a trigger is an event's name, an EventTrigger or a CronTrigger, not {wrong!r}")
    events = tuple(one.to_config() for one in found if isinstance(one, EventTrigger))
    return events, tuple(one.to_config() for one in found if isinstance(one, CronTrigger))


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        raise ConfigurationError(f"there is no time zone {zone!r}; as for Europe/Rome: {_FORMS}") from None


def _check_fields(fields: str) -> None:
    from cronsim import CronSim, CronSimError

    try:
        if len(fields.split()) != 5:
            raise CronSimError("there are not five fields")
        next(CronSim(fields, datetime.now(UTC)))
    except CronSimError as error:
        raise ConfigurationError(f"the schedule {fields!r} is not one ({error}): {_FORMS}") from None
    except StopIteration:
        raise ConfigurationError(f"the schedule {fields!r} never comes") from None
