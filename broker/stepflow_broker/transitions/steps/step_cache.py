"""Cached results of steps. Each is one key with an expiry: after a crash of its worker, it is there, or it is not."""

from __future__ import annotations

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus

__all__ = ["cache_result", "read_cached_result"]


def read_cached_result(partition: Partition, digest: str) -> Command[bytes]:
    """The text of a cached result; empty: there is none.

    Args:
        partition: any partition of the server.
        digest: of the function, the step and the key, in hex digits.
    """
    return command(replies.bytes_or_empty, "GET", partition.of(digest).keys("CACHED_RESULT", digest))


def cache_result(partition: Partition, digest: str, result: bytes, *, ttl_ms: int) -> Command[ScriptStatus]:
    """Store a result, as JSON text, in place of an earlier one. DONE."""
    keys = partition.of(digest).keys
    keyed = (keys("CACHED_RESULT", digest), keys("CACHED_RESULTS"))
    return run_script("cache_result", ScriptStatus, keyed, partition.clock.script_ms(), digest, result, ttl_ms)
