"""Batches, as calls: runs that are executed as one."""

from __future__ import annotations

from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.keys import Keys

__all__ = ["end_batch", "load_batch"]

_LIMIT = 100


def load_batch(keys: Keys, batch: str) -> Command[list[bytes]]:
    """The events of a batch, in the order in which they came."""
    keys = keys.of(batch)
    return run_script("load_batch", list, (keys("BATCHED", batch),), keys("RUN"))


def end_batch(keys: Keys, batch: str, *, limit: int = _LIMIT, now_ms: int = 0) -> Command[int]:
    """End the runs of a batch that has ended, and tell their parents; the answer is how many are still to be ended."""
    keys = keys.of(batch)
    return run_script("end_batch", int, (keys("RUN", batch),), now_ms, batch, limit)
