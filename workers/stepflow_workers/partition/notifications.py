"""Notifications that a worker receives over pub/sub.

All of them are hints. A lost one delays work, but loses none. A message proves nothing: channels know no databases, so
it may come from a worker of another database, and any client can publish it. So a notification only says what to read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from redis import exceptions
from redis.asyncio.client import PubSub

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.errors import is_permission_error, server_error
from stepflow_engine.product import WORKER_LOGGER
from stepflow_workers.state.log_throttle import LogThrottle

__all__ = ["NotificationHandler", "NotificationListener"]

_log = logging.getLogger(WORKER_LOGGER)
_PAUSE_S, _REFUSED_S = 0.5, 10.0
_SILENCE_S = 10.0
"""How long the connection may be silent before a ping, and how long the reply to the ping may take."""


class NotificationHandler(Protocol):
    """Handles the notifications of one partition."""

    def on_ready(self) -> None:
        """A list of jobs is no longer empty, or notifications may have been lost."""

    def on_outbox(self) -> None:
        """There are messages to other partitions in the outbox."""

    def on_pauses(self) -> None:
        """Something was paused or resumed."""

    def on_memo(self, run_id: str, position: int, key: str) -> None:
        """A run that this worker may have in memory may have a memo at a position, of the step with this key."""

    def on_cancel(self, run_id: str) -> None:
        """A run that this worker may have in memory may be cancelled."""


class NotificationListener:
    """Listens to the notifications of one partition, for one worker.

    Args:
        lists: the lists from which the worker claims jobs.
        handler: handles the notifications.
    """

    def __init__(
        self, broker: AsyncBroker, keys: Keys, worker: str, lists: list[str], handler: NotificationHandler
    ) -> None:
        self._broker = broker
        self._keys = keys
        self._channels = (keys("READY"), keys("NOTIFICATIONS", worker), keys("PAUSES"))
        self._lists = {name.encode() for name in lists}
        self._handler = handler
        self._interruptions = LogThrottle(_REFUSED_S)

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                async with self._broker.client(self._keys).pubsub() as pubsub:
                    await pubsub.subscribe(*self._channels)
                    self._handler.on_ready()
                    await self._listen(pubsub)
            except (exceptions.RedisError, OSError) as error:
                text = str(server_error(error, self._broker.url, "subscribe"))
                if self._interruptions.allows(text):
                    _log.warning("notifications_interrupted", extra={"error": text})
                await asyncio.sleep(_REFUSED_S if is_permission_error(error) else _PAUSE_S)

    async def _listen(self, pubsub: PubSub) -> None:
        """Handle messages until the connection is lost, or does not reply to a ping."""
        pinged = False
        while True:
            message = await pubsub.get_message(timeout=_SILENCE_S)
            if message is None:
                if pinged:
                    raise exceptions.TimeoutError(f"no message and no reply to a ping for {2 * _SILENCE_S:g} s")
                await pubsub.ping()
                pinged = True
                continue
            pinged = False
            if message["type"] == "message":
                self._try_to_handle(message["channel"].decode(), message["data"])

    def _try_to_handle(self, channel: str, data: bytes) -> None:
        """Handle a message. Messages are hints, so a malformed one is logged and ignored."""
        try:
            self._handle(channel, data)
        except Exception as error:  # noqa: BLE001  any client can publish anything
            _log.warning("message_not_understood", extra={"channel": channel, "error": type(error).__name__})

    def _handle(self, channel: str, data: bytes) -> None:
        if channel == self._channels[0]:
            if not data:
                self._handler.on_outbox()
            elif data in self._lists:
                self._handler.on_ready()
            return
        if channel == self._channels[2]:
            self._handler.on_pauses()
            return
        kind, _, rest = data.partition(b" ")
        if kind == b"memo":
            run_id, position, key = rest.split(b" ")
            self._handler.on_memo(run_id.decode(), int(position), key.decode())
        elif kind == b"cancel":
            self._handler.on_cancel(rest.decode())
