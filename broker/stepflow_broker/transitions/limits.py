"""Limits of flow control that were changed by hand, for a time or until they are reset.

As with pauses, each partition has its own record of all changes, and its scripts read only that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation
from stepflow_engine.codec import dumps

__all__ = ["ChangedLimit", "change_of", "read_all_limits", "read_limits", "reset_limit", "set_limit"]


@dataclass(frozen=True, slots=True)
class ChangedLimit:
    """What a limit was changed to. Times are milliseconds since the epoch.

    Attributes:
        subject: which limit: see `stepflow_broker.registry.flow_control.DeclaredLimit`.
        limit: how many.
        until_ms: when the change ends; 0: when it is reset.
        since_ms: when it was made.
        reason: why; ``""``: none was given.
    """

    subject: str
    limit: int
    until_ms: int
    since_ms: int
    reason: str


def set_limit(
    partition: Partition, subject: str, limit: int, *, for_ms: int = 0, reason: str = "", who: str = ""
) -> Operation[None]:
    """Change a limit in all partitions.

    Args:
        for_ms: for how long, in milliseconds; 0: until it is reset.
        who: for the audit log of the first partition; ``""``: the change is not recorded.
    """
    details = dumps({"limit": limit, "for_ms": for_ms or None})
    yield [
        run_script(
            "set_limit",
            ScriptStatus,
            (one.keys("LIMITS"),),
            one.clock.script_ms(),
            subject,
            limit,
            for_ms,
            reason,
            "" if number else who,
            details,
        )
        for number, one in enumerate(partition.all)
    ]


def reset_limit(partition: Partition, subject: str, *, who: str = "") -> Operation[bool]:
    """End the change of a limit in all partitions. False if it was not changed."""
    codes = yield [
        run_script(
            "reset_limit", ScriptStatus, (one.keys("LIMITS"),), one.clock.script_ms(), subject, "" if number else who
        )
        for number, one in enumerate(partition.all)
    ]
    return ScriptStatus.DONE in codes


def read_limits(partition: Partition) -> Command[dict[str, ChangedLimit]]:
    """The limits that were changed, as one partition has them, by subject."""

    def read(reply: Any) -> dict[str, ChangedLimit]:
        pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
        found = [_changed(subject, value) for subject, value in pairs]
        return {one.subject: one for one in found if one is not None}

    return command(read, "HGETALL", partition.keys("LIMITS"))


def read_all_limits(partition: Partition) -> Operation[dict[str, ChangedLimit]]:
    """The limits that were changed in any partition, by subject."""
    found: list[dict[str, ChangedLimit]] = yield [read_limits(one) for one in partition.all]
    return {subject: one for changes in reversed(found) for subject, one in changes.items()}


def change_of(changes: Mapping[str, ChangedLimit], kind: str, name: str) -> ChangedLimit | None:
    """The change of a limit, by its name: ``shop/sync``, or ``shop/sync:event.data.shop=17``."""
    for subject, one in changes.items():
        of, _, form = subject.partition(" ")
        is_value = form.endswith("=") and name.startswith(form) and not name.startswith(f"{form}=")
        if of == kind and (name == form or is_value):
            return one
    return None


def _changed(subject: bytes, value: bytes) -> ChangedLimit | None:
    """A change; ``None`` for a field that stepflow has not written."""
    try:
        limit, until_ms, since_ms, *reason = value.decode().split(" ", 3)
        return ChangedLimit(subject.decode(), int(limit), int(until_ms), int(since_ms), "".join(reason))
    except ValueError:
        return None
