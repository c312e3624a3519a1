"""What sends events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from stepflow.client.commands import as_events, event_commands
from stepflow.client.connected_app import ConnectedApp
from stepflow.event import Event
from stepflow.later import When
from stepflow_engine.durations import Duration

__all__ = ["EventSender"]


class EventSender(ConnectedApp):
    """Sends events."""

    @overload
    def send(
        self,
        event: str,
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> str: ...
    @overload
    def send(self, event: Event[Any], /) -> str: ...
    @overload
    def send(self, event: Sequence[Event[Any]], /) -> list[str]: ...
    def send(
        self,
        event: str | Event[Any] | Sequence[Event[Any]],
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> Any:
        """Send an event, or several in one round trip. Each function with a matching trigger gets a run.

        When the call returns, Redis has the event. A worker routes it later, even if this process crashes.

        Args:
            event: the name of the event, an `Event`, or a list of at most 5,000 events.
            data: the data of the event; JSON.
            id: identifies the event. A second event with the same id within 24 hours starts nothing. ``None``: stepflow
                generates an id. An empty id is refused, because it usually comes from a missing header or field.
            delay: how long after the call the event is sent, by the clock of the server: a duration or seconds, at most
                366 days. Until then it starts and ends nothing, and `cancel_event` withdraws it.
            at: instead of ``delay``, the time at which it is sent, as in `Event`.

        Returns:
            The id of the event, or the list of ids.

        Raises:
            EventError: an event is not JSON or over a limit, or an id or a time is invalid; no event is sent.
            BackendUnavailableError: the server does not answer. With an ``id``, it is safe to repeat the call.
            ReplicationError: with ``durability="replicated"``, no replica has confirmed the event in time. With an
                ``id``, it is safe to repeat the call.

        Example::

            app.send("shop/order.placed", {"order": 17}, id="order-17")
            app.send("shop/trial.ended", {"user": 4}, id="trial-4", delay="14d")
        """
        events, single = as_events(event, data, id, limits=self.limits, delay=delay, at=at)
        ids, commands = event_commands(self.backend, events, limits=self.limits, delay=delay)
        self.backend.deliver(commands)
        return ids[0] if single else ids

    @overload
    async def asend(
        self,
        event: str,
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> str: ...
    @overload
    async def asend(self, event: Event[Any], /) -> str: ...
    @overload
    async def asend(self, event: Sequence[Event[Any]], /) -> list[str]: ...
    async def asend(
        self,
        event: str | Event[Any] | Sequence[Event[Any]],
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> Any:
        """The asyncio twin of `send`."""
        events, single = as_events(event, data, id, limits=self.limits, delay=delay, at=at)
        ids, commands = event_commands(self.backend, events, limits=self.limits, delay=delay)
        await self.backend.adeliver(commands)
        return ids[0] if single else ids
