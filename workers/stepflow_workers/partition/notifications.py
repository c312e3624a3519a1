"""The notifications: what a worker is told over pub/sub. All of it is hints; nothing is lost when one is not heard."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from redis import exceptions
from redis.asyncio.client import PubSub

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.errors import is_permission_error, server_error

__all__ = ["NotificationHandler", "NotificationListener"]

_log = logging.getLogger("stepflow.worker")
_PAUSE_S, _REFUSED_S = 0.5, 10.0
_SILENCE_S = 10.0
"""How long nothing may be heard before the server is asked for a sign of life, and how long that may take."""


class NotificationHandler(Protocol):
    """Who is told."""

    def on_ready(self) -> None:
        """A list of jobs is no longer empty, or something may have been missed."""

    def on_messages(self) -> None:
        """There are messages to other partitions."""

    def on_pauses(self) -> None:
        """Something was paused or resumed."""

    def on_memo(self, run_id: str, position: int, key: str, memo: bytes) -> None:
        """Another worker has stored a memo of a run that this worker holds."""

    def on_cancel(self, run_id: str) -> None:
        """A run that this worker holds was cancelled."""


class NotificationListener:
    """Listens for one worker, to one partition.

    Args:
        lists: the lists whose jobs the worker takes.
    """

    def __init__(
        self, broker: AsyncBroker, keys: Keys, worker: str, lists: list[str], listener: NotificationHandler
    ) -> None:
        self._broker = broker
        self._keys = keys
        self._channels = (keys("READY"), keys("NOTIFICATIONS", worker), keys("PAUSES"))
        self._lists = {name.encode() for name in lists}
        self._listener = listener

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                async with self._broker.client(self._keys).pubsub() as pubsub:
                    await pubsub.subscribe(*self._channels)
                    self._listener.on_ready()
                    await self._listen(pubsub)
            except (exceptions.RedisError, OSError) as error:
                _log.warning(
                    "inbox_interrupted", extra={"error": str(server_error(error, self._broker.url, "subscribe"))}
                )
                await asyncio.sleep(_REFUSED_S if is_permission_error(error) else _PAUSE_S)

    async def _listen(self, pubsub: PubSub) -> None:
        """Hear all that comes, until the connection is lost or says nothing, though it was asked."""
        asked = False
        while True:
            message = await pubsub.get_message(timeout=_SILENCE_S)
            if message is None:
                if asked:
                    raise exceptions.TimeoutError(f"no sign of life for {2 * _SILENCE_S:g} s")
                await pubsub.ping()
                asked = True
                continue
            asked = False
            if message["type"] == "message":
                self._try_to_hear(message["channel"].decode(), message["data"])

    def _try_to_hear(self, channel: str, data: bytes) -> None:
        """Hear a message. Messages are hints, so one that makes no sense is let go."""
        try:
            self._hear(channel, data)
        except Exception as error:  # noqa: BLE001  anybody may publish anything
            _log.warning("message_not_understood", extra={"channel": channel, "error": type(error).__name__})

    def _hear(self, channel: str, data: bytes) -> None:
        if channel == self._channels[0]:
            if not data:
                self._listener.on_messages()
            elif data in self._lists:
                self._listener.on_ready()
            return
        if channel == self._channels[2]:
            self._listener.on_pauses()
            return
        kind, _, rest = data.partition(b" ")
        if kind == b"memo":
            run_id, position, key, memo = rest.split(b" ", 3)
            self._listener.on_memo(run_id.decode(), int(position), key.decode(), memo)
        elif kind == b"cancel":
            self._listener.on_cancel(rest.decode())
