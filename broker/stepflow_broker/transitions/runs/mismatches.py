"""Mismatches: runs whose code requests other steps than their history records.

The mismatch is stored before the worker acts on it. A run that was set aside is tried again after a delay that grows,
so it goes on by itself when a worker has code that fits, or when somebody accepts the mismatch.
"""

from __future__ import annotations

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_engine.codec import dumps
from stepflow_engine.mismatch import Mismatch

__all__ = ["accept_mismatch", "has_accepted_mismatch", "note_mismatch"]


def note_mismatch(
    partition: Partition, *, run_id: str, fence: int, mismatch: Mismatch, code: str
) -> Command[ScriptStatus]:
    """Store how the code of a run differs from its history.

    DONE, ALREADY (this version of the code did before), RESOLVED (somebody has accepted it), NO_RUN or STALE_FENCE.

    Args:
        code: the fingerprint of the code.
    """
    keyed = partition.run_keys(run_id, "RUN")
    return run_script("note_mismatch", ScriptStatus, keyed, run_id, fence, dumps(mismatch.to_json()), code)


def accept_mismatch(partition: Partition, run_id: str, *, who: str, reason: str = "") -> Command[ScriptStatus]:
    """Let a run go on with the code that differs from its history.

    DONE, ALREADY (it was accepted before), CHANGED (its code has not differed) or NO_RUN.
    """
    keyed = partition.run_keys(run_id, "RUN", "STEPS")
    return run_script("accept_mismatch", ScriptStatus, keyed, partition.clock.script_ms(), run_id, who, reason)


def has_accepted_mismatch(partition: Partition, run_id: str, *, code: str) -> Command[bool]:
    """Whether a run may go on with this code, which differs from its history."""

    def read(reply: list[bytes | None]) -> bool:
        known, accepted = replies.texts(reply)
        return known == code and bool(accepted)

    return command(read, "HMGET", partition.run_key("RUN", run_id), "mismatch_code", "mismatch_accepted")
