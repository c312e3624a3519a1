"""A dialogue with the servers: what takes several round trips, written once for blocking brokers and for asyncio.

It is a generator that yields calls, each list for one round trip to each server, and is sent their answers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from stepflow_broker.protocol.command import Command
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker

__all__ = ["Operation", "arun_operation", "run_operation", "single"]

T = TypeVar("T")
Operation = Generator[Sequence[Command[Any]], list[Any], T]
"""Yields calls, each list for one round trip, is sent their answers, and returns what it found."""


def run_operation(broker: Broker, dialogue: Operation[T]) -> T:
    """Hold a dialogue, and return what it found.

    Raises:
        BackendUnavailableError: as `Broker.execute_all`; what was done before stays done, and a new dialogue goes on from there.
    """
    try:
        calls = next(dialogue)
        while True:
            calls = dialogue.send(broker.execute_all(calls))
    except StopIteration as end:
        found: T = end.value
        return found


async def arun_operation(broker: AsyncBroker, dialogue: Operation[T]) -> T:
    """As `run_operation`, without blocking the event loop."""
    try:
        calls = next(dialogue)
        while True:
            calls = dialogue.send(await broker.execute_all(calls))
    except StopIteration as end:
        found: T = end.value
        return found


def single(call: Command[T]) -> Operation[T]:
    """One call, and its answer."""
    answers = yield [call]
    answer: T = answers[0]
    return answer
