"""The relay: takes events to the other partitions, where functions that they start are at home, and runs wait for them.

An event stays on the stream of the partition where it came until it has been everywhere. When a partition cannot be
reached, it is taken there later, by whichever worker takes the event over; those that have met it do not meet it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.registry.functions import FunctionConfig
from stepflow_broker.transitions.events import (
    StreamedEvent,
    deliver_remote_event,
    drop_event,
    has_waits,
    start_by_event,
)
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.errors import StepflowError
from stepflow_engine.run_loop import end_tasks
from stepflow_workers.consumers.conditional_waits import ConditionalWaitMatcher

__all__ = ["EventForwarder", "RoutedEvent"]

_log = logging.getLogger("stepflow.worker")
_MOST = 8
"""How many batches of events are on their way at once."""
_PATIENCE_S = 8.0
"""How long a partition may take; less than that after which events are taken over."""


@dataclass(frozen=True, slots=True)
class RoutedEvent:
    """An event that has been routed where it came.

    Attributes:
        name: the event's.
        starts: the runs (id, function) that it starts elsewhere.
    """

    event: StreamedEvent
    name: str
    starts: Sequence[tuple[str, FunctionConfig]]


class EventForwarder:
    """Takes events from one partition to the others, for one worker.

    Args:
        keys: of the partition where they come.
    """

    def __init__(
        self, broker: AsyncBroker, keys: Keys, waits: ConditionalWaitMatcher, cipher: Cipher = NO_ENCRYPTION
    ) -> None:
        self._broker = broker
        self._keys = keys
        self._others = [one for one in keys.all if one is not keys]
        self._waits = waits
        self._cipher = cipher
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def is_needed(self) -> bool:
        """Whether there are other partitions."""
        return bool(self._others)

    async def take(self, arrivals: Sequence[RoutedEvent]) -> None:
        """Take events to the others, in a task of its own: one that is away does not hold up what comes meanwhile."""
        if len(self._under_way) >= _MOST:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.get_running_loop().create_task(self._take(arrivals))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def drain(self) -> None:
        """Wait until all events have been everywhere, or could not be taken there."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def close(self) -> None:
        """Leave what is under way to others."""
        await end_tasks(list(self._under_way))

    async def _take(self, arrivals: Sequence[RoutedEvent]) -> None:
        stuck = set[str]()
        told = [self._tell(keys, arrivals, stuck) for keys in self._others]
        await asyncio.gather(*[self._start(arrival, stuck) for arrival in arrivals], *told)
        for arrival in arrivals:
            if arrival.event.entry not in stuck:
                await self._try(self._broker.execute_all(drop_event(self._keys, arrival.event)))

    async def _start(self, arrival: RoutedEvent, stuck: set[str]) -> None:
        """Start the runs that are at home elsewhere."""
        if not await self._try(self._start_all(arrival)):
            stuck.add(arrival.event.entry)

    async def _start_all(self, arrival: RoutedEvent) -> None:
        starts = [
            start_by_event(self._keys, run_id, config, arrival.event, cipher=self._cipher)
            for run_id, config in arrival.starts
        ]
        await self._broker.execute_all(starts)

    async def _tell(self, keys: Keys, arrivals: Sequence[RoutedEvent], stuck: set[str]) -> None:
        """Have events meet the waits of a partition, which has none for most of them."""
        if not await self._try(self._tell_waits(keys, arrivals)):
            stuck.update(arrival.event.entry for arrival in arrivals)

    async def _tell_waits(self, keys: Keys, arrivals: Sequence[RoutedEvent]) -> None:
        names = list(dict.fromkeys(arrival.name for arrival in arrivals))
        waited = await self._broker.execute_all([has_waits(keys, name) for name in names])
        asked = {name for name, is_waited in zip(names, waited, strict=True) if is_waited}
        for arrival in arrivals:
            if arrival.name in asked:
                await self._meet(keys, arrival)

    async def _meet(self, keys: Keys, arrival: RoutedEvent) -> None:
        paths: Sequence[str] = ()
        while True:
            call = deliver_remote_event(keys, arrival.event, origin=self._keys, paths=paths, cipher=self._cipher)
            met = await self._broker.execute(call)
            if met.code is not ScriptStatus.MORE_VALUES:
                break
            paths = met.paths
        if met.paths:
            await self._waits.give(keys, arrival.name, arrival.event)

    async def _try(self, doing: Coroutine[Any, Any, object]) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await doing
        except (StepflowError, TimeoutError) as error:
            _log.warning("event_not_forwarded", extra={"error": str(error) or "no answer in time"})
            return False
        return True
