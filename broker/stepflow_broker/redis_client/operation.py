"""A dialogue with the servers: what takes several round trips, written once for blocking brokers and for asyncio.

It is a generator that yields calls, each list for one round trip to each server, and is sent their answers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from stepflow_broker.protocol.command import Call
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker

__all__ = ["Dialogue", "aconverse", "ask", "converse"]

T = TypeVar("T")
Dialogue = Generator[Sequence[Call[Any]], list[Any], T]
"""Yields calls, each list for one round trip, is sent their answers, and returns what it found."""


def converse(broker: Broker, dialogue: Dialogue[T]) -> T:
    """Hold a dialogue, and return what it found.

    Raises:
        ServerError: as `Broker.run_all`; what was done before stays done, and a new dialogue goes on from there.
    """
    try:
        calls = next(dialogue)
        while True:
            calls = dialogue.send(broker.run_all(calls))
    except StopIteration as end:
        found: T = end.value
        return found


async def aconverse(broker: AsyncBroker, dialogue: Dialogue[T]) -> T:
    """As `converse`, without blocking the event loop."""
    try:
        calls = next(dialogue)
        while True:
            calls = dialogue.send(await broker.run_all(calls))
    except StopIteration as end:
        found: T = end.value
        return found


def ask(call: Call[T]) -> Dialogue[T]:
    """One call, and its answer."""
    answers = yield [call]
    answer: T = answers[0]
    return answer
