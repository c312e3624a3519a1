"""The two servers that the scripts are tested on: fakeredis, and a real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import fakeredis
import redis
from redis import exceptions

from stepflow_broker.protocol.command import Command
from stepflow_broker.redis_client.broker import Broker
from tests.support.observed_moves import MoveRecorder

__all__ = ["FakeBroker", "Store", "fake_store", "real_store"]

T = TypeVar("T")


class FakeBroker:
    """As `Broker`, over fakeredis, which has no connections to write to."""

    def __init__(self, server: fakeredis.FakeServer) -> None:
        self.client: redis.Redis = fakeredis.FakeStrictRedis(server=server, protocol=2)
        self.client.response_callbacks.clear()  # replies as they are, as `Broker` reads them

    def close(self) -> None:
        self.client.close()

    def execute(self, call: Command[T]) -> T:
        try:
            reply: Any = self.client.execute_command(*call.args)
        except exceptions.NoScriptError:
            reply = self.client.execute_command(*call.with_source())
        return call.read(reply)

    def execute_all(self, calls: Sequence[Command[T]]) -> list[T]:
        return [self.execute(call) for call in calls]


@dataclass(frozen=True, slots=True)
class Store:
    """A server.

    Attributes:
        name: ``fakeredis`` or ``real``.
        broker: sends commands to it, and checks the moves of each script.
        client: a plain client with texts as replies, to look at what is there.
    """

    name: str
    broker: MoveRecorder
    client: redis.Redis


def fake_store() -> Store:
    """A fakeredis of its own."""
    server = fakeredis.FakeServer()
    client = fakeredis.FakeStrictRedis(server=server, decode_responses=True, protocol=2)
    return Store("fakeredis", MoveRecorder(FakeBroker(server), client), client)


def real_store(url: str) -> Store:
    """The real server at a URL."""
    client = redis.Redis.from_url(url, decode_responses=True)
    return Store("real", MoveRecorder(Broker(url), client), client)
