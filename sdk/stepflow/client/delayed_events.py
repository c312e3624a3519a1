"""What lists and cancels delayed events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stepflow.client.connected_app import ConnectedApp
from stepflow.client.pauses import check_reason
from stepflow.event import checked_event_id
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation
from stepflow_broker.transitions.events.delayed_events import DelayedEventRecord, cancel_event, find_delayed_events
from stepflow_engine.counts import check_count
from stepflow_engine.errors import ConfigurationError, EventError
from stepflow_engine.times import utc_time

__all__ = ["DelayedEvent", "DelayedEvents"]


@dataclass(frozen=True, slots=True)
class DelayedEvent:
    """An event that is sent at a later time.

    Attributes:
        id, name, data: those of the event. The data is ``"encrypted"`` if this process does not have its key.
        at: when it is sent, in UTC.

    Example::

        for event in app.delayed_events():
            print(event.at, event.name, event.id)
    """

    id: str
    name: str
    data: Any
    at: datetime


class DelayedEvents(ConnectedApp):
    """Lists and cancels events that were sent with a time in the future."""

    def delayed_events(self, *, limit: int = 50) -> list[DelayedEvent]:
        """The delayed events of the server, those that are due first.

        Args:
            limit: the largest number of events.

        Raises:
            ConfigurationError: the limit is not a positive integer.
            BackendUnavailableError: the server does not answer.

        Example::

            print([event.id for event in app.delayed_events(limit=10)])
        """
        return _events(run_operation(self.backend.broker, self._find(limit)))

    async def adelayed_events(self, *, limit: int = 50) -> list[DelayedEvent]:
        """The asyncio twin of `delayed_events`."""
        return _events(await arun_operation(self.backend.abroker, self._find(limit)))

    def cancel_event(self, id: str, *, reason: str = "") -> bool:
        """Cancel a delayed event before it is sent. Runs that it would have started do not exist yet.

        Args:
            id: the id of the event.
            reason: is recorded in the audit log.

        Returns:
            Whether it was delayed. False: it was sent, it was cancelled before, or there never was one.

        Raises:
            EventError: the id is invalid.
            ConfigurationError: the reason is invalid.
            BackendUnavailableError: the server does not answer.

        Example::

            app.cancel_event("trial-4", reason="the user has paid")
        """
        return run_operation(self.backend.broker, self._cancel(id, reason))

    async def acancel_event(self, id: str, *, reason: str = "") -> bool:
        """The asyncio twin of `cancel_event`."""
        return await arun_operation(self.backend.abroker, self._cancel(id, reason))

    def _find(self, limit: int) -> Operation[list[DelayedEventRecord]]:
        try:
            check_count(limit, "delayed_events: limit")
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        return find_delayed_events(self.backend.partition, limit=limit)

    def _cancel(self, id: str, reason: str) -> Operation[bool]:
        """Cancel it where it is: in the partition of its id, or, if a step has sent it, in that of the run."""
        event_id, why = checked_event_id(id), check_reason(reason)
        if event_id is None:
            raise EventError("cancel_event: id must be the id of an event, got None")
        return self._cancelling(event_id, why)

    def _cancelling(self, event_id: str, reason: str) -> Operation[bool]:
        partition, who = self.backend.partition, self.backend.actor
        cancelled: list[bool] = yield [cancel_event(one, event_id, who=who, reason=reason) for one in partition.all]
        return any(cancelled)


def _events(records: list[DelayedEventRecord]) -> list[DelayedEvent]:
    return [DelayedEvent(one.id, one.name, one.data, utc_time(one.due_at)) for one in records]
