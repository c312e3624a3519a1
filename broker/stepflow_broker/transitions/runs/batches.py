"""Batches: runs that are executed as one.

The members of a batch end after the batch itself, in portions. A message in the outbox stays until all have ended, so
after a crash another worker ends the rest.
"""

from __future__ import annotations

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation

__all__ = ["end_batch", "load_batch", "read_members"]

_LIMIT = 100


def load_batch(partition: Partition, batch: str) -> Command[list[bytes]]:
    """The events of a batch, in the order of their arrival."""
    return run_script("load_batch", list, partition.run_keys(batch, "BATCHED"), partition.of(batch).keys("RUN"))


def end_batch(partition: Partition, batch: str, *, limit: int = _LIMIT) -> Command[int]:
    """End members of a batch that has ended, and wake their parents. Returns how many members are left."""
    return run_script("end_batch", int, partition.run_keys(batch, "RUN"), partition.clock.script_ms(), batch, limit)


def read_members(partition: Partition, batch: str) -> Operation[list[str]]:
    """The ids of the members of a batch, in the order in which they joined it. One round trip.

    Those that have ended are read last, so that one that ends in between is not missed.
    """
    run, batched = partition.run_keys(batch, "RUN", "BATCHED")
    live, ended = yield [
        command(replies.texts, "LRANGE", batched, 0, -1),
        command(replies.texts, "HMGET", run, "members"),
    ]
    return list(dict.fromkeys([*ended[0].split(), *live]))
