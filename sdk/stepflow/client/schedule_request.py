"""ScheduleRequest: what `Schedules.create` is called with, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stepflow.client.pauses import check_reason
from stepflow.later import When, time_ms
from stepflow.options.app_id import checked_app_id
from stepflow.options.cron_times import next_start
from stepflow.options.triggers import check_zone, checked_catch_up, checked_window, jitter_ms, split_zone
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.schedules import ScheduleConfig
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import Restore, dumps_event, loads
from stepflow_engine.declared_types import check_event_data
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.encryption_scopes import schedule_scope
from stepflow_engine.errors import ConfigurationError, EventError
from stepflow_engine.limits import Limits, check_id

__all__ = ["ScheduleRequest", "schedule_name"]

_SHORTEST_MS = 1_000


def schedule_name(id: object, app_id: str) -> tuple[str, str]:
    """The app and the id of a schedule, from an id of this app or ``"app/id"``.

    Raises:
        ConfigurationError: no schedule can have this id.
    """
    try:
        text = check_id(id, "schedule: id")
        app, slash, own = text.partition("/")
        if slash and (not app or not own or "/" in own):
            raise ValueError(f"schedule: id must be an id without '/', or app/id, got {text!r:.100}")
        if slash:
            checked_app_id(app, "schedule: app id")
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return (app, own) if slash else (app_id, text)


@dataclass(frozen=True, slots=True)
class ScheduleRequest:
    """The arguments of `Schedules.create`; see there."""

    cron: str | None
    every: Duration | None
    timezone: str | None
    data: Any
    jitter: Duration | None
    window: str | None
    start: When | None
    end: When | None
    catch_up: str
    reason: str

    def times(self) -> CronConfig:
        """The times, as far as they do not depend on the present.

        Raises:
            ConfigurationError: an argument is invalid, or some exclude each other.
        """
        if (self.cron is None) == (self.every is None):
            raise ConfigurationError('schedule: takes exactly one of cron="0 6 * * *" and every="15m"')
        zone, fields = ("", "") if self.cron is None else split_zone(self.cron)
        if self.timezone is not None:
            if not isinstance(self.timezone, str):
                raise ConfigurationError(
                    f"schedule: timezone must be a name such as 'Europe/Rome', got {self.timezone!r}"
                )
            if zone not in ("", "UTC", self.timezone):
                raise ConfigurationError("schedule: the time zone stands in cron and in timezone: leave one out")
            check_zone(self.timezone)
            zone = self.timezone
        try:
            every_ms = (
                0 if self.every is None else duration_ms(self.every, name="schedule: every", least_ms=_SHORTEST_MS)
            )
            start_ms = 0 if self.start is None else max(1, time_ms(self.start, "schedule: start"))
            end_ms = 0 if self.end is None else max(1, time_ms(self.end, "schedule: end"))
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        return CronConfig(
            fields,
            zone or "UTC",
            checked_catch_up(self.catch_up),
            jitter_ms=jitter_ms(self.jitter),
            window=checked_window(self.window, zone or "UTC"),
            every_ms=every_ms,
            start_ms=start_ms,
            end_ms=end_ms,
        )

    def config(
        self,
        app: str,
        id: str,
        function: FunctionConfig,
        *,
        declared: Restore | None,
        cipher: Cipher,
        limits: Limits,
    ) -> ScheduleConfig:
        """The schedule, without what depends on the present.

        Args:
            declared: the adapter of the data that the function declares, if it is known here.

        Raises:
            ConfigurationError: an argument is invalid.
        """
        config = ScheduleConfig(app, id, function.name, self.times(), reason=check_reason(self.reason))
        if self.data is None:
            return config
        try:
            check_event_data(declared, self.data, limit_bytes=limits.event_bytes)
            text = dumps_event(self.data, limit_bytes=limits.event_bytes)
        except EventError as error:
            raise ConfigurationError(f"schedule: data: {error}") from None
        return replace(config, data=loads(cipher.seal(text, schedule_scope(config.name))))


def from_now(config: ScheduleConfig, before: ScheduleConfig | None, *, now_ms: int, who: str) -> ScheduleConfig:
    """The schedule as it is stored now.

    Args:
        before: the schedule that it replaces, whose pause it keeps.

    Raises:
        ConfigurationError: no run of it would ever start.
    """
    cron = config.cron
    if cron.end_ms and cron.end_ms <= now_ms:
        raise ConfigurationError("schedule: end must be in the future, got a time that is over")
    if cron.start_ms and cron.end_ms and cron.end_ms <= cron.start_ms:
        raise ConfigurationError("schedule: end must be after start")
    if cron.every_ms:
        first_ms = cron.start_ms or now_ms + cron.every_ms
        cron = replace(cron, anchor_ms=first_ms, start_ms=first_ms)
    if next_start(cron, after_ms=now_ms, name=config.name) is None:
        raise ConfigurationError(
            "schedule: it has no time between now and its end: choose a later end, or other times"
            if cron.end_ms
            else "schedule: it has no time in the next ten years: choose other times"
        )
    paused_at, paused_reason = (before.paused_at, before.paused_reason) if before else (0, "")
    return config.changed(
        cron=cron, created_at=now_ms, created_by=who, paused_at=paused_at, paused_reason=paused_reason
    )
