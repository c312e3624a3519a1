"""Consumers of the two streams, of events and of finished runs: each worker is one, under its name.

Redis creates a consumer when it reads and never deletes it. A worker that stops deletes its own. The consumers of
workers that died stay until their pending entries have been taken over and `GONE_MS` have passed.
"""

from __future__ import annotations

from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition

__all__ = ["GONE_MS", "remove_consumers"]

GONE_MS = 300_000
"""How long a consumer has read nothing before it is deleted, in milliseconds. A live worker reads every few seconds."""


def remove_consumers(partition: Partition, *, worker: str = "") -> Command[int]:
    """Delete consumers without pending entries. Returns how many.

    Args:
        worker: the one to delete; ``""``: all that have read nothing for `GONE_MS`.
    """
    keyed = (partition.keys("EVENTS"), partition.keys("FINISHED"))
    return run_script("remove_consumers", int, keyed, worker, GONE_MS)
