"""Router: reads events from the stream and starts a run of every function whose trigger matches.

Every worker routes. When a worker dies with an event, another worker takes the event over. The id of a run derives from
the id of the event and the function, so routing an event twice starts nothing twice.

Runs of functions with flow control are created in the order of the stream: an event for such a function is routed after
all earlier events, which other workers may have read. Other events are not ordered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis import exceptions

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.connection import SOCKET_TIMEOUT_S
from stepflow_broker.registry.function_config import EventConfig, FunctionConfig, starts
from stepflow_broker.transitions.events.aside_events import begin_try, end_try
from stepflow_broker.transitions.events.event_stream import (
    StreamedEvent,
    drop_event,
    has_earlier_events,
    read_deliveries,
    read_events,
    route_event,
    take_over_events,
)
from stepflow_engine.encryption_scopes import open_event, read_event
from stepflow_engine.errors import BackendUnavailableError, ConfigurationError, CorruptDataError, DecryptionError
from stepflow_engine.expression import ExpressionCostError
from stepflow_engine.ids import run_id_by_event
from stepflow_engine.product import WORKER_LOGGER
from stepflow_workers.consumers.conditional_waits import ConditionalWaitMatcher
from stepflow_workers.consumers.event_forwarder import EventForwarder, RoutedEvent, set_aside
from stepflow_workers.state.registry import Registry

__all__ = ["Router"]

_log = logging.getLogger(WORKER_LOGGER)
_BLOCK_MS = 10_000
_TAKE_OVER_MS = 10_000
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.002, 0.1
_LIMIT = 200
_MAX_NAMES = 10_000
_MAX_TRIES = 2
"""How many workers may have ended with an event that one worker had read with others: with that one, three deaths."""
_MAX_DELIVERIES = 360
"""How often workers may have read an event without its key: for about an hour."""


@dataclass(frozen=True, slots=True)
class _Last:
    """The event before another one: its entry, and the task that routes it."""

    entry: str
    routing: asyncio.Task[RoutedEvent | None]


class Router:
    """Routes events, for one worker.

    Args:
        broker: the worker's broker.
        worker: the worker's name, as a consumer of the group.
        registry: the functions, with their triggers.
    """

    def __init__(self, broker: AsyncBroker, partition: Partition, worker: str, registry: Registry) -> None:
        self._broker = broker
        self._partition = partition
        self._worker = worker
        self._registry = registry
        self._take_over_at = 0.0
        self._paths: dict[str, tuple[str, ...]] = {}
        self._waits = ConditionalWaitMatcher(broker)
        self._forwarder = EventForwarder(broker, partition, self._waits)

    async def run(self) -> None:
        """Route until cancelled."""
        await self.prepare()
        try:
            await self._read_registry()
            await self._run()
        finally:
            await self._forwarder.close()

    async def _run(self) -> None:
        while True:
            try:
                await self._route_in_order(await self._read())
                await self._route_abandoned()
            except (BackendUnavailableError, ConfigurationError) as error:
                if "NOGROUP" in str(error):
                    await self.prepare()
                    continue
                _log.warning("routing_interrupted", extra={"error": str(error)})
                await asyncio.sleep(1)
            except Exception:  # noqa: BLE001  an internal error delays routing by a second, but does not end it
                _log.exception("routing_internal_error")
                await asyncio.sleep(1)

    async def _read_registry(self) -> None:
        """Read the functions before the first event: they decide whether its place in the stream counts."""
        while True:
            try:
                return await self._registry.read()
            except (BackendUnavailableError, ConfigurationError) as error:
                _log.warning("routing_interrupted", extra={"error": str(error)})
                await asyncio.sleep(1)

    async def prepare(self) -> None:
        """Create the stream and its group, if they do not exist."""
        with contextlib.suppress(BackendUnavailableError):  # they exist already
            await self._broker.execute(create_group(self._partition.keys, "EVENTS"))

    async def drain(self) -> int:
        """Route the events that are on the stream; returns how many."""
        events = await self._broker.execute(read_events(self._partition, self._worker, limit=_LIMIT))
        await self.route(events)
        await self._forwarder.drain()
        return len(events)

    async def route(self, events: list[StreamedEvent]) -> None:
        """Start the runs of events. Those for functions with flow control are routed in their order."""
        ordered = self._ordered(events)
        routed: list[RoutedEvent | None] = []
        for in_order, group in itertools.groupby(events, lambda event: event.entry in ordered):
            if in_order:
                routed += await self._route_each_after_the_last(group)
            else:
                routed += await asyncio.gather(*[self._try_to_route(event) for event in group])
        to_forward = [event for event in routed if event is not None]
        if to_forward:
            await self._forwarder.forward(to_forward)

    async def _route_each_after_the_last(self, events: Iterable[StreamedEvent]) -> list[RoutedEvent | None]:
        """Route events in their order, in one round trip if the script refuses none of them.

        All are sent at once. The script refuses an event while the one before is not routed. It is then sent again,
        after that one. If an event cannot be routed, neither are those after it.
        """
        tasks: list[asyncio.Task[RoutedEvent | None]] = []
        last: _Last | None = None
        for event in events:
            task = asyncio.create_task(self._try_to_route(event, last))
            tasks.append(task)
            last = _Last(event.entry, task)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [task.result() for task in tasks]

    async def _route_in_order(self, events: list[StreamedEvent]) -> None:
        """Route new events, after the earlier ones that other workers are still routing if the order counts.

        Each worker reads a part of the stream: parts do not overlap, so two workers never wait for each other.
        """
        ordered, delay_s = self._ordered(events), _FIRST_DELAY_S
        first = next((event for event in events if event.entry in ordered), None)
        while first is not None and await self._broker.execute(self._earlier(first)):
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            await self._route_abandoned()
        await self.route(events)

    async def _route_abandoned(self) -> None:
        """Now and then, take over the events that another worker has not routed."""
        now = asyncio.get_running_loop().time()
        if now >= self._take_over_at:
            self._take_over_at = now + _TAKE_OVER_MS / 1000
            for event in await self._broker.execute(self._take_over()):
                await self._route_suspect(event)

    async def _route_suspect(self, event: StreamedEvent) -> None:
        """Route an event that another worker has read and not routed: it may have ended that worker.

        One event after the other, each with a note that the worker removes if it survives. An event that several
        workers have not survived is set aside.
        """
        tried = await self._broker.execute(begin_try(self._partition, event))
        if tried > _MAX_TRIES:
            reason = f"{tried} workers ended while they routed it: an expression, a codec or a library may crash on it"
            await set_aside(self._broker, self._partition, event, [reason])
        else:
            routed = await self._try_to_route(event)
            if routed is not None:
                await self._forwarder.forward([routed])
                await self._forwarder.drain()
        await self._broker.execute(end_try(self._partition, event))

    def _ordered(self, events: list[StreamedEvent]) -> set[str]:
        """The entries of the events that may start a function whose flow control depends on the order of its runs.

        There are none with several partitions: the events for one key are on the streams of all of them.
        """
        configs = [] if self._forwarder.is_needed else self._registry.functions.values()
        triggers = [trigger for config in configs if config.flow is not None for trigger in config.events]
        return {event.entry for event in events if _takes(triggers, event)} if triggers else set()

    async def _try_to_route(self, event: StreamedEvent, last: _Last | None = None) -> RoutedEvent | None:
        """Route an event in its own partition, after the last one; returns what to forward to other partitions.

        An event for which this worker has no encryption key stays for another worker, which takes it over. If workers
        have left it so for about an hour, or if it was altered, it is set aside. An entry that is not an event is
        deleted from the stream.
        """
        try:
            value = read_event(event.event)
        except CorruptDataError as error:
            _log.error("event_dropped", extra={"entry": event.entry, "error": str(error)})
            await self._broker.execute_all(drop_event(self._partition, event))
            return None
        try:
            return await self._route(event, open_event(self._partition.cipher, value), last)
        except DecryptionError as error:
            _log.warning("payload_decryption_failed", extra={"event_id": event.event_id[:200], "error": str(error)})
            if error.is_final or await self._was_left_often(event):
                await set_aside(self._broker, self._partition, event, [str(error)])
            return None

    async def _was_left_often(self, event: StreamedEvent) -> bool:
        """Whether workers have read an event so often that none seems to have its key."""
        return await self._broker.execute(read_deliveries(self._partition, event)) >= _MAX_DELIVERIES

    async def _route(
        self, event: StreamedEvent, value: dict[str, Any], last: _Last | None = None
    ) -> RoutedEvent | None:
        name, forward = value["name"], self._forwarder.is_needed
        while True:
            configs, undecided = self._started(value)
            started = [
                (run_id_by_event(event.event_id, config.name, config.pinned_partition), config) for config in configs
            ]
            here = [one for one in started if self._partition.of(one[0]) is self._partition]
            elsewhere = [one for one in started if one not in here]
            paths = self._paths.get(name, ())
            call = partial(
                route_event,
                self._partition,
                event,
                version=self._registry.version,
                paths=paths,
                after=last.entry if last else "",
            )
            try:
                command = call(here, keep=forward or bool(undecided))
            except ExpressionCostError:
                here, too_expensive = self._affordable(here, event)
                undecided += too_expensive
                command = call(here, keep=True)
            routed = await self._broker.execute(command)
            if routed.code is ScriptStatus.EARLIER_EVENT and last is not None:
                await last.routing
                last = None
            elif routed.code is ScriptStatus.STALE_REGISTRY:
                await self._registry.read()
            elif routed.code is ScriptStatus.MORE_VALUES:
                self._remember(name, routed.paths)
            else:
                break
        if routed.paths:
            undecided += await self._waits.deliver(self._partition, name, event)
        if forward:
            return RoutedEvent(event, name, elsewhere, undecided)
        if undecided:
            await set_aside(self._broker, self._partition, event, undecided)
        elif routed.paths:
            await self._broker.execute_all(drop_event(self._partition, event))
        return None

    def _started(self, event: dict[str, Any]) -> tuple[list[FunctionConfig], list[str]]:
        """The functions that an event starts, and why it could not be decided for others."""
        started, undecided = [], []
        for config in self._registry.functions.values():
            try:
                if starts(config, event):
                    started.append(config)
            except ExpressionCostError as error:
                undecided.append(f"function {config.name}: {error}")
        return started, undecided

    def _affordable(
        self, runs: list[tuple[str, FunctionConfig]], event: StreamedEvent
    ) -> tuple[list[tuple[str, FunctionConfig]], list[str]]:
        """The runs whose keys can be evaluated, and why those of others cannot."""
        affordable, too_expensive = [], []
        for run_id, config in runs:
            try:
                config.rules_of_event(event.event, self._partition.cipher)
            except ExpressionCostError as error:
                too_expensive.append(f"function {config.name}: {error}")
            else:
                affordable.append((run_id, config))
        return affordable, too_expensive

    def _remember(self, name: str, paths: tuple[str, ...]) -> None:
        """Cache the paths at which waits for events of a name compare values. The cache is cleared when it is full."""
        if len(self._paths) >= _MAX_NAMES:
            self._paths.clear()
        self._paths[name] = paths

    async def _read(self) -> list[StreamedEvent]:
        """Read events, and block on the server until there are some, on a separate connection."""
        call = read_events(self._partition, self._worker, limit=_LIMIT)
        args = (*call.args[:-3], "BLOCK", str(_BLOCK_MS), *call.args[-3:])
        pool = self._broker.client(self._partition.keys).connection_pool
        try:
            connection = await pool.get_connection()
        except (exceptions.RedisError, OSError) as error:
            raise BackendUnavailableError(str(error)) from None
        try:
            await connection.send_packed_command(connection.pack_command(*args))
            timeout_s = SOCKET_TIMEOUT_S + _BLOCK_MS / 1000
            return call.answer(await connection.read_response(disable_decoding=True, timeout=timeout_s))
        except (exceptions.RedisError, OSError) as error:
            # also after an error reply: it may come from a replica, and the next connection may reach the primary
            await connection.disconnect(nowait=True)
            raise BackendUnavailableError(str(error)) from None
        except BaseException:
            await connection.disconnect(nowait=True)  # cancelled: a reply may still arrive on it
            raise
        finally:
            await pool.release(connection)

    def _earlier(self, event: StreamedEvent) -> Command[bool]:
        return has_earlier_events(self._partition, event, self._worker, idle_ms=_TAKE_OVER_MS * 2)

    def _take_over(self) -> Command[list[StreamedEvent]]:
        return take_over_events(self._partition, self._worker, idle_ms=_TAKE_OVER_MS, limit=_LIMIT)


def _takes(triggers: list[EventConfig], event: StreamedEvent) -> bool:
    try:
        name = read_event(event.event)["name"]
    except CorruptDataError:
        return False
    return any(trigger.takes(name) for trigger in triggers)
