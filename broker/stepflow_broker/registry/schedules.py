"""Schedules that were created at run time, as Redis stores them, and the events of scheduled runs."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.flow_control import known
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_engine.cipher import Cipher, is_sealed
from stepflow_engine.codec import dumps, loads
from stepflow_engine.encryption_scopes import event_scope, redacted, schedule_scope
from stepflow_engine.ids import partition_prefix_for, run_id_for, with_partition_prefix
from stepflow_engine.product import NAME
from stepflow_engine.steps import event_text

__all__ = [
    "CRON_EVENT",
    "ScheduleConfig",
    "ScheduleState",
    "cron_event",
    "partition_prefix_of",
    "scheduled_run_id",
]

CRON_EVENT = f"{NAME}/cron"
"""The name of the event of a run that a schedule has started."""


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """A schedule that was created at run time. Times are milliseconds since the epoch.

    Attributes:
        app, id: its name.
        function: what it starts, as ``app/function``.
        cron: its times. The data is not in it.
        data: the data of the events as JSON, perhaps sealed; ``None``: each event has its time.
        reason: why it was created; ``""``: none was given.
        created_at, created_by: when, and by whom.
        paused_at: since when it is paused; 0: it is not.
        paused_reason: why.
        revision: identifies this state of it.
    """

    app: str
    id: str
    function: str
    cron: CronConfig
    data: Any = None
    reason: str = ""
    created_at: int = 0
    created_by: str = ""
    paused_at: int = 0
    paused_reason: str = ""
    revision: str = ""

    @property
    def name(self) -> str:
        """``app/id``."""
        return f"{self.app}/{self.id}"

    def to_text(self) -> bytes:
        """The stored form: the revision, and JSON."""
        fields = {
            "app": self.app,
            "id": self.id,
            "function": self.function,
            "cron": self.cron.to_json(),
            "data": self.data,
            "reason": self.reason,
            "created_at": self.created_at,
            "created_by": self.created_by,
            "paused_at": self.paused_at,
            "paused_reason": self.paused_reason,
        }
        return self.revision.encode() + b" " + dumps(fields)

    @classmethod
    def from_text(cls, text: bytes) -> ScheduleConfig:
        """Read the stored form. Unknown fields, of a newer stepflow, are ignored.

        Raises:
            ValueError: it is not one.
        """
        revision, _, stored = text.partition(b" ")
        try:
            value = loads(stored)
            found = known(cls, {**value, "cron": known(CronConfig, value["cron"]), "revision": revision.decode()})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a schedule: {error}") from None
        if not all(isinstance(one, str) for one in (found.app, found.id, found.function)):
            raise ValueError("not a schedule: it has no name or no function")
        return found

    def changed(self, **fields: Any) -> ScheduleConfig:
        """A new state of it."""
        return replace(self, **fields, revision=uuid.uuid4().hex)

    def event(self, cipher: Cipher, event_id: str, time_ms: int) -> bytes:
        """The event of a run of the schedule.

        Raises:
            DecryptionError: its data cannot be opened.
        """
        if self.data is None:
            return cron_event(cipher, self.cron, event_id, time_ms, more={"id": self.name})
        opened = cipher.open(self.data, schedule_scope(self.name)) if is_sealed(self.data) else self.data
        return cron_event(cipher, replace(self.cron, data=dumps(opened)), event_id, time_ms)

    def shown_data(self, cipher: Cipher) -> Any:
        """Its data; ``"encrypted"`` if it cannot be opened."""
        return redacted(cipher, self.data, schedule_scope(self.name)) if is_sealed(self.data) else self.data


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """What a schedule has started.

    Attributes:
        until_ms: up to which time its runs were started; 0: unknown.
        last_ms: the time that its last run is for; 0: there is none.
        last_run: that run; ``""``: there is none.
        text: the stored form.
    """

    until_ms: int = 0
    last_ms: int = 0
    last_run: str = ""
    text: str = ""

    @classmethod
    def from_text(cls, stored: bytes | None) -> ScheduleState:
        """Read the stored form."""
        text = (stored or b"").decode(errors="replace")
        until, last, run, *_ = [*text.split(), "", "", ""]
        return cls(_number(until), _number(last), run if _number(last) else "", text)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def cron_event(
    cipher: Cipher, cron: CronConfig, event_id: str, time_ms: int, *, more: dict[str, Any] | None = None
) -> bytes:
    """The event of a run that a schedule starts.

    Args:
        cipher: seals the data of the schedule. The time, which is the data if there is no other, is not secret.
        cron: the schedule.
        event_id: the id of the event.
        time_ms: the time that the run is for.
        more: more data, if the schedule has none of its own.
    """
    if cron.data:
        return event_text(CRON_EVENT, id=event_id, ts=time_ms, data=cipher.seal(cron.data, event_scope(event_id)))
    moment = datetime.fromtimestamp(time_ms / 1000, ZoneInfo(cron.zone))
    data = {"schedule": cron.times, "zone": cron.zone, "time": moment.isoformat(), **(more or {})}
    return event_text(CRON_EVENT, id=event_id, ts=time_ms, data=dumps(data))


def partition_prefix_of(config: FunctionConfig) -> str:
    """The partition prefix of the scheduled runs of a function, and of the state of its schedules."""
    return config.pinned_partition or partition_prefix_for(config.name)


def scheduled_run_id(config: FunctionConfig, schedule: str, time_ms: int) -> str:
    """The id of the run of a schedule for a time: the same whoever starts it."""
    return with_partition_prefix(partition_prefix_of(config), run_id_for("cron", schedule, str(time_ms)))
