"""ConditionalWaitMatcher: matches events with the waits whose conditions only a worker can evaluate."""

from __future__ import annotations

import logging

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.registry.event_filter import EventFilter
from stepflow_broker.transitions.events.event_stream import StreamedEvent
from stepflow_broker.transitions.steps.waits import deliver_event, read_condition, read_waits
from stepflow_engine.cipher import Cipher
from stepflow_engine.errors import ConfigurationError, CorruptDataError
from stepflow_engine.expression import ExpressionCostError
from stepflow_engine.product import WORKER_LOGGER

__all__ = ["ConditionalWaitMatcher"]

_log = logging.getLogger(WORKER_LOGGER)


class ConditionalWaitMatcher:
    """Matches the waits that the index has under ``?``."""

    def __init__(self, broker: AsyncBroker) -> None:
        self._broker = broker

    async def deliver(self, partition: Partition, name: str, event: StreamedEvent) -> list[str]:
        """Deliver an event to the waits of a partition whose condition holds for it.

        Returns why it could not be decided for the others.
        """
        undecided = []
        for run_id, key in await self._broker.execute(read_waits(partition, name)):
            condition = await self._broker.execute(read_condition(partition, run_id, key))
            try:
                if condition and self._matches(partition.cipher, condition, event, run_id):
                    delivery = deliver_event(partition, run_id, key, event.event, event_id=event.event_id)
                    await self._broker.execute(delivery)
            except ExpressionCostError as error:
                undecided.append(f"a wait of run {run_id}: {error}")
        return undecided

    def _matches(self, cipher: Cipher, condition: bytes, event: StreamedEvent, run_id: str) -> bool:
        """Whether an event fulfils the condition of a wait. A condition that cannot be read matches nothing."""
        try:
            return EventFilter.from_json(condition).holds(event.event, cipher)
        except (CorruptDataError, ConfigurationError) as error:
            _log.error("condition_not_readable", extra={"run_id": run_id, "error": str(error)})
            return False
