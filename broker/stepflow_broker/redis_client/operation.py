"""Operations: several round trips, written once for the blocking and the asyncio broker.

An operation is a generator. It yields lists of commands, each for one round trip to each server, and receives their
answers.
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
"""Yields commands, each list for one round trip, receives their answers, and returns a result."""


def run_operation(broker: Broker, operation: Operation[T]) -> T:
    """Run an operation and return its result.

    Raises:
        BackendUnavailableError: as `Broker.execute_all`. Earlier round trips stay executed; a new operation continues.
    """
    try:
        calls = next(operation)
        while True:
            calls = operation.send(broker.execute_all(calls))
    except StopIteration as end:
        result: T = end.value
        return result


async def arun_operation(broker: AsyncBroker, operation: Operation[T]) -> T:
    """As `run_operation`, without blocking the event loop."""
    try:
        calls = next(operation)
        while True:
            calls = operation.send(await broker.execute_all(calls))
    except StopIteration as end:
        result: T = end.value
        return result


def single(call: Command[T]) -> Operation[T]:
    """An operation of one command."""
    answers = yield [call]
    answer: T = answers[0]
    return answer
