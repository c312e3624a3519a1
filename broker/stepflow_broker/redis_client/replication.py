"""Replication: commands that count as executed only after a replica has confirmed their writes.

``WAIT`` covers the writes of its own connection. So the commands, a marker and ``WAIT`` are sent together on one
connection, and after any error all of them are resent. The marker is a write without meaning: a command that is sent
twice may write nothing itself. ``WAIT`` is never resent alone: another server would confirm writes that it does not
have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.pipelined_connection import fresh_context
from stepflow_engine.durations import show_duration
from stepflow_engine.errors import ReplicationError

__all__ = ["AsyncReplicator", "run_replicated"]

T = TypeVar("T")
_REPLICAS = 1
_MARK_S = 60


def run_replicated(broker: Broker, keys: Keys, calls: Sequence[Command[T]], *, timeout_ms: int) -> list[T]:
    """Send commands, in one round trip to each server, and return their answers after a replica has their writes.

    Args:
        timeout_ms: how long to wait for the replica, in milliseconds.

    Raises:
        ReplicationError: no replica has confirmed the writes in time.
        BackendUnavailableError: as `Broker.execute_all`.
    """
    answers: dict[int, T] = {}
    for at in broker.by_server(calls):
        part = [calls[n] for n in at]
        its_keys = next((one for one in keys.all if one.partition == part[0].routing_key), keys)
        answers.update(zip(at, _run_part(broker, its_keys, part, timeout_ms), strict=True))
    return [answers[n] for n in range(len(calls))]


def _run_part(broker: Broker, keys: Keys, calls: Sequence[Command[T]], timeout_ms: int) -> list[T]:
    mark = command(bytes, "SET", keys("REPLICATED"), "", "EX", _MARK_S)
    sent: list[Command[Any]] = [*calls, mark, command(int, "WAIT", _REPLICAS, timeout_ms)]
    *answers, _, confirmed = broker.execute_all(sent, as_one=True)
    if confirmed < _REPLICAS:
        raise ReplicationError(
            f"the server has it, but no replica has confirmed it within {show_duration(timeout_ms)}: it may or may not "
            "survive a fail-over; the same call with the same id may be repeated, and starts nothing twice",
            confirmed=confirmed,
            timeout_ms=timeout_ms,
        )
    return answers


class AsyncReplicator:
    """`run_replicated` for one event loop. Commands that are submitted during a round trip share the next one.

    It sends from a thread, on a connection of its own: a connection that waits for a replica cannot do anything else.
    """

    def __init__(self, broker: Broker, keys: Keys, *, timeout_ms: int) -> None:
        self._broker = broker
        self._keys = keys
        self._timeout_ms = timeout_ms
        self._waiting: list[tuple[Sequence[Command[Any]], asyncio.Future[list[Any]]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def execute_all(self, calls: Sequence[Command[T]]) -> list[T]:
        """See `run_replicated`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((calls, future))
        if self._sender is None or self._sender.done():
            self._sender = loop.create_task(self._send(), context=fresh_context())
        return await future

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                answers = iter(await asyncio.to_thread(self._run, [call for calls, _ in batch for call in calls]))
            except Exception as error:  # noqa: BLE001  every waiting caller must receive the error
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for calls, future in batch:
                its_own = [next(answers) for _ in calls]
                if not future.done():
                    future.set_result(its_own)

    def _run(self, calls: list[Command[Any]]) -> list[Any]:
        return run_replicated(self._broker, self._keys, calls, timeout_ms=self._timeout_ms)
