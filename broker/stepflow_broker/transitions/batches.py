"""Batches: runs that are executed as one.

The members of a batch end after the batch itself, in portions. A message in the outbox stays until all have ended, so
after a crash another worker ends the rest.
"""

from __future__ import annotations

from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition

__all__ = ["end_batch", "load_batch"]

_LIMIT = 100


def load_batch(partition: Partition, batch: str) -> Command[list[bytes]]:
    """The events of a batch, in the order of their arrival."""
    return run_script("load_batch", list, partition.run_keys(batch, "BATCHED"), partition.of(batch).keys("RUN"))


def end_batch(partition: Partition, batch: str, *, limit: int = _LIMIT) -> Command[int]:
    """End members of a batch that has ended, and wake their parents. Returns how many members are left."""
    return run_script("end_batch", int, partition.run_keys(batch, "RUN"), partition.now_ms(), batch, limit)
