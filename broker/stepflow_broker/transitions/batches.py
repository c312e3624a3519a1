"""Batches, as calls: runs that are executed as one."""

from __future__ import annotations

from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition

__all__ = ["end_batch", "load_batch"]

_LIMIT = 100


def load_batch(partition: Partition, batch: str) -> Command[list[bytes]]:
    """The events of a batch, in the order in which they came."""
    return run_script("load_batch", list, partition.run_keys(batch, "BATCHED"), partition.keys("RUN"))


def end_batch(partition: Partition, batch: str, *, limit: int = _LIMIT) -> Command[int]:
    """End the runs of a batch that has ended, and tell their parents; the answer is how many are still to be ended."""
    return run_script("end_batch", int, partition.run_keys(batch, "RUN"), partition.now_ms(), batch, limit)
