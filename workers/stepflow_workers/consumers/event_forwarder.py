"""EventForwarder: forwards events to the other partitions, where they start runs and end waits.

An event stays on the stream of its own partition until every other partition has it. When a partition cannot be
reached, the worker that takes the event over forwards it later. Waits that have received it do not receive it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.events.aside_events import set_aside_event
from stepflow_broker.transitions.events.event_stream import (
    StreamedEvent,
    deliver_remote_event,
    drop_event,
    has_waits,
    start_by_event,
)
from stepflow_engine.errors import StepflowError
from stepflow_engine.expression import ExpressionCostError
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.run_loop import end_tasks
from stepflow_workers.consumers.conditional_waits import ConditionalWaitMatcher

__all__ = ["EventForwarder", "RoutedEvent", "set_aside"]

_log = logging.getLogger(WORKER_LOGGER)
_MAX_BATCHES = 8
"""How many batches of events are forwarded at once."""
_TIMEOUT_S = 8.0
"""The time limit for one partition; shorter than the time after which another worker takes events over."""


@dataclass(frozen=True, slots=True)
class RoutedEvent:
    """An event that has been routed in its own partition.

    Attributes:
        name: the name of the event.
        starts: the runs (id, function) that it starts in other partitions.
        undecided: why it could not be decided for some functions or waits; the event is then set aside.
    """

    event: StreamedEvent
    name: str
    starts: Sequence[tuple[str, FunctionConfig]]
    undecided: list[str]


async def set_aside(broker: AsyncBroker, partition: Partition, event: StreamedEvent, reasons: Sequence[str]) -> None:
    """Move an event that could not be routed completely from the stream, and log the reasons."""
    if await broker.execute(set_aside_event(partition, event, reasons)):
        reason = "; ".join(reasons)[:1_000]
        _log.error("event_set_aside", extra={"event_id": event.event_id[:200], "error": reason})


class EventForwarder:
    """Forwards events from one partition to the others, for one worker.

    Args:
        partition: the partition of the events.
    """

    def __init__(self, broker: AsyncBroker, partition: Partition, waits: ConditionalWaitMatcher) -> None:
        self._broker = broker
        self._partition = partition
        self._others = [one for one in partition.all if one is not partition]
        self._waits = waits
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_needed(self) -> bool:
        """Whether there are other partitions."""
        return bool(self._others)

    async def forward(self, events: Sequence[RoutedEvent]) -> None:
        """Forward events in a task of its own: an unreachable partition does not delay later events."""
        if len(self._tasks) >= _MAX_BATCHES:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.get_running_loop().create_task(self._forward(events))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Wait until all events have been forwarded, or have failed to."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Stop forwarding. Other workers take the rest over."""
        await end_tasks(list(self._tasks))

    async def _forward(self, events: Sequence[RoutedEvent]) -> None:
        stuck = set[str]()
        delivered = [self._deliver(partition, events, stuck) for partition in self._others]
        await asyncio.gather(*[self._start(routed, stuck) for routed in events], *delivered)
        for routed in events:
            if routed.event.entry not in stuck:
                await self._try(self._drop(routed))

    async def _drop(self, routed: RoutedEvent) -> None:
        if routed.undecided:
            await set_aside(self._broker, self._partition, routed.event, routed.undecided)
        else:
            await self._broker.execute_all(drop_event(self._partition, routed.event))

    async def _start(self, routed: RoutedEvent, stuck: set[str]) -> None:
        """Start the runs that live in other partitions."""
        if not await self._try(self._start_all(routed)):
            stuck.add(routed.event.entry)

    async def _start_all(self, routed: RoutedEvent) -> None:
        starts = []
        for run_id, config in routed.starts:
            try:
                starts.append(start_by_event(self._partition, run_id, config, routed.event))
            except ExpressionCostError as error:
                routed.undecided.append(f"function {config.name}: {error}")
        await self._broker.execute_all(starts)

    async def _deliver(self, partition: Partition, events: Sequence[RoutedEvent], stuck: set[str]) -> None:
        """Deliver events to the waits of a partition, which has none for most of them."""
        if not await self._try(self._deliver_all(partition, events)):
            stuck.update(routed.event.entry for routed in events)

    async def _deliver_all(self, partition: Partition, events: Sequence[RoutedEvent]) -> None:
        names = list(dict.fromkeys(routed.name for routed in events))
        have_waits = await self._broker.execute_all([has_waits(partition, name) for name in names])
        awaited = {name for name, is_waited in zip(names, have_waits, strict=True) if is_waited}
        for routed in events:
            if routed.name in awaited:
                await self._deliver_one(partition, routed)

    async def _deliver_one(self, partition: Partition, routed: RoutedEvent) -> None:
        paths: Sequence[str] = ()
        while True:
            call = deliver_remote_event(partition, routed.event, origin=self._partition, paths=paths)
            delivered = await self._broker.execute(call)
            if delivered.code is not ScriptStatus.MORE_VALUES:
                break
            paths = delivered.paths
        if delivered.paths:
            routed.undecided.extend(await self._waits.deliver(partition, routed.name, routed.event))

    async def _try(self, work: Coroutine[Any, Any, object]) -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await work
        except (StepflowError, TimeoutError) as error:
            _log.warning("event_not_forwarded", extra={"error": str(error) or "no answer in time"})
            return False
        return True
