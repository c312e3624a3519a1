"""Waits that a worker has to look at: it decides whether an event fulfils their conditions."""

from __future__ import annotations

import logging

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.registry.event_filter import EventFilter
from stepflow_broker.transitions.events import StreamedEvent
from stepflow_broker.transitions.waits import deliver_event, read_condition, read_waits
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.errors import ConfigurationError, CorruptDataError

__all__ = ["ConditionalWaitMatcher"]

_log = logging.getLogger("stepflow.worker")


class ConditionalWaitMatcher:
    """Those that stand in the index under ``?``.

    Args:
        cipher: opens the data of events.
    """

    def __init__(self, broker: AsyncBroker, cipher: Cipher = NO_ENCRYPTION) -> None:
        self._broker = broker
        self._cipher = cipher

    async def give(self, keys: Keys, name: str, event: StreamedEvent) -> None:
        """Give an event to the waits of a partition whose condition holds for it."""
        for run_id, key in await self._broker.execute(read_waits(keys, name)):
            condition = await self._broker.execute(read_condition(keys, run_id, key))
            if condition and self._fits(condition, event, run_id):
                await self._broker.execute(deliver_event(keys, run_id, key, event.event))

    def _fits(self, condition: bytes, event: StreamedEvent, run_id: str) -> bool:
        """Whether a wait is for an event; one that cannot be read is for none."""
        try:
            return EventFilter.from_json(condition).holds(event.event, self._cipher)
        except (CorruptDataError, ConfigurationError) as error:
            _log.error("condition_not_readable", extra={"run_id": run_id, "error": str(error)})
            return False
