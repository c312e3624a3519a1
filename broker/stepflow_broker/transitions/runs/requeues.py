"""Failed runs whose jobs RQ's tools have requeued. `claim_jobs` notes them, and a worker retries them.

A note is deleted after the retry, whose id follows from the run and the time of the note. So a crash in between repeats
the retry, which changes nothing.
"""

from __future__ import annotations

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition

__all__ = ["read_requeued", "settle_requeue"]


def read_requeued(partition: Partition, *, limit: int) -> Command[dict[str, int]]:
    """Some requeued runs of a partition, and the times of their notes in ms. Workers get different ones."""
    return command(
        lambda reply: {run_id: int(at) for run_id, at in replies.fields(reply or ()).items()},
        "HRANDFIELD",
        partition.keys("REQUEUED"),
        limit,
        "WITHVALUES",
    )


def settle_requeue(partition: Partition, run_id: str, noted_at: int, *, is_retried: bool) -> Command[bool]:
    """Delete the note on a run. False if another worker has done it, or the run was requeued again meanwhile.

    Args:
        is_retried: whether the run has been retried. If not, its job is a failed job of RQ again.
    """
    keys = (partition.keys("REQUEUED"), partition.run_key("RUN", run_id))
    return run_script(
        "settle_requeue", bool, keys, partition.clock.script_ms(), run_id, noted_at, 1 if is_retried else 0
    )
