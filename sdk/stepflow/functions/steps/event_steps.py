"""``step.send_event``: send events exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepflow.event import Event
from stepflow.functions.requests import send_request
from stepflow.functions.steps.calls import StepCalls

__all__ = ["EventSteps"]


class EventSteps(StepCalls):
    """Steps that send events."""

    async def send_event(self, id: str, events: Event[Any] | Sequence[Event[Any]]) -> list[str]:
        """Send events exactly once, also after crashes and on replays.

        Args:
            id: identifies the step in the run.
            events: one event, or a list of at most 5,000. An event without an id gets one derived from the step.

        Returns:
            The ids of the events.

        Raises:
            EventError: an event is invalid or over a limit, or there are too many.

        Example::

            await ctx.step.send_event("closed", Event("shop/order.closed", {"order": 17}))
        """
        self._refuse_handler_options("send_event")
        limits = self._limits
        request = send_request(
            events, now_ms=self._execution.now_ms(), most=limits.events_per_send, event_bytes=limits.event_bytes
        )
        memo = await self._execution.request(id, request)
        return list(memo.data)
