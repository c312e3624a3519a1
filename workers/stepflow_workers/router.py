"""The router: takes events off the stream and starts a run of every function whose trigger matches.

Every worker routes. An event that a worker took and did not route, because it died, is taken over by another; the id
of a run derives from the event's id and the function, so routing twice starts nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from redis import exceptions

from stepflow_broker.async_broker import AsyncBroker
from stepflow_broker.call import Call
from stepflow_broker.connection import SOCKET_TIMEOUT_S
from stepflow_broker.functions import (
    StreamedEvent,
    create_group,
    read_events,
    route_event,
    take_over_events,
)
from stepflow_broker.keys import Keys
from stepflow_engine.codec import loads
from stepflow_engine.errors import ServerError
from stepflow_engine.ids import run_id_for
from stepflow_workers.registry import Registry

__all__ = ["Router", "matches"]

_log = logging.getLogger("stepflow.worker")
_BLOCK_MS = 10_000
_TAKE_OVER_MS = 10_000
_LIMIT = 200


def matches(pattern: str, name: str) -> bool:
    """Whether an event of this name starts a function with this trigger; ``*`` at the end stands for anything."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


class Router:
    """Routes events, for one worker.

    Args:
        broker: the worker's broker.
        worker: the worker's name, as a consumer of the group.
        registry: the functions, with their triggers.
    """

    def __init__(self, broker: AsyncBroker, keys: Keys, worker: str, registry: Registry) -> None:
        self._broker = broker
        self._keys = keys
        self._worker = worker
        self._registry = registry
        self._take_over_at = 0.0

    async def run(self) -> None:
        """Route until cancelled."""
        await self.prepare()
        while True:
            try:
                await self.route(await self._read())
                now = asyncio.get_running_loop().time()
                if now >= self._take_over_at:
                    self._take_over_at = now + _TAKE_OVER_MS / 1000
                    await self.route(await self._broker.run(self._take_over()))
            except ServerError as error:
                if "NOGROUP" in str(error):
                    await self.prepare()
                    continue
                _log.warning("routing_interrupted", extra={"error": str(error)})
                await asyncio.sleep(1)

    async def prepare(self) -> None:
        """Make sure that the stream and its group exist."""
        with contextlib.suppress(ServerError):  # they exist already
            await self._broker.run(create_group(self._keys, "EVENTS"))

    async def drain(self) -> int:
        """Route what has come so far; how many events that were."""
        events = await self._broker.run(read_events(self._keys, self._worker, limit=_LIMIT))
        await self.route(events)
        return len(events)

    async def route(self, events: list[StreamedEvent]) -> None:
        """Start the runs of some events."""
        await asyncio.gather(*[self._route(event) for event in events])

    async def _route(self, event: StreamedEvent) -> None:
        while True:
            name = loads(event.event)["name"]
            starts = [
                (run_id_for(event.event_id, config.name), config)
                for config in self._registry.functions.values()
                if any(matches(pattern, name) for pattern in config.events)
            ]
            started = await self._broker.run(route_event(self._keys, event, starts, version=self._registry.version))
            if started is not None:
                return
            await self._registry.read()

    async def _read(self) -> list[StreamedEvent]:
        """Block on the server until events come; on a connection of its own, for it holds it."""
        call = read_events(self._keys, self._worker, limit=_LIMIT)
        words = (*call.words[:-3], "BLOCK", _BLOCK_MS, *call.words[-3:])
        connection = await self._broker.client.connection_pool.get_connection()
        try:
            await connection.send_packed_command(connection.pack_command(*words))
            timeout_s = SOCKET_TIMEOUT_S + _BLOCK_MS / 1000
            return call.read(await connection.read_response(disable_decoding=True, timeout=timeout_s))
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            await connection.disconnect(nowait=True)
            raise ServerError(str(error)) from None
        except exceptions.ResponseError as error:
            raise ServerError(str(error)) from None
        except BaseException:
            await connection.disconnect(nowait=True)  # cancelled: a reply may still come on it
            raise
        finally:
            await self._broker.client.connection_pool.release(connection)

    def _take_over(self) -> Call[list[StreamedEvent]]:
        return take_over_events(self._keys, self._worker, idle_ms=_TAKE_OVER_MS, limit=_LIMIT)
