"""Partitions without encryption, for tests that call transitions and views themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.partitions import partition_for
from stepflow_engine.cipher import NO_ENCRYPTION

__all__ = ["PLAIN", "SetClock", "plain_at", "plain_partition"]


@dataclass(frozen=True, slots=True)
class SetClock:
    """A clock that a test sets."""

    read: Callable[[], int]

    def script_ms(self) -> int:
        return self.read()

    def now_ms(self) -> int:
        return self.read()


def plain_partition(url: str) -> Partition:
    """The first partition of a server, with the clock of the server."""
    return partition_for(url, NO_ENCRYPTION)


def plain_at(keys: Keys, now_ms: int) -> Partition:
    """The partition with these keys, in which the time stands still."""
    return Partition.first_of(keys, NO_ENCRYPTION, SetClock(lambda: now_ms))


PLAIN = Partition.first_of(Keys(), NO_ENCRYPTION)
"""The only partition of a server whose keys are not divided."""
