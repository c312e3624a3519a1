"""The audit log: who has forked, answered, cancelled, paused, resumed, forgotten, resent or repaired what, and why.

The script of an action records it, so both happen or neither does. An action of many calls, such as `cancel_runs`, has
one entry, which is sent with the first call. Flow control, deadlines and cancelling events are not recorded.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_engine.codec import dumps, loads
from stepflow_engine.times import utc_time

__all__ = ["ACTIONS", "Action", "AuditEntry", "read_audit_page", "record_action"]


@dataclass(frozen=True, slots=True)
class Action:
    """An action that consists of many calls.

    Attributes:
        who: who does it.
        name: what is done, such as ``cancel_many``.
        subject: to what.
        details: more, for the record.
    """

    who: str
    name: str
    subject: str
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


ACTIONS = (
    "fork",
    "retry",
    "rerun",
    "fork_many",
    "stop_bulk",
    "answer",
    "cancel",
    "cancel_many",
    "pause",
    "resume",
    "forget",
    "resend",
    "repair",
    "create",
    "trigger",
    "backfill",
    "delete",
    "set_limit",
    "reset_limit",
    "accept",
)
"""What the audit log records."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that was done by hand, as `Stepflow.audit` lists it.

    Attributes:
        id: the id of the entry, which only entries of other partitions may share.
        at: when, in UTC.
        who: ``user@host`` for the command line, the app id for Python.
        action: ``fork``, ``retry``, ``rerun``, ``fork_many``, ``stop_bulk``, ``answer``, ``cancel``, ``cancel_many``,
            ``pause``, ``resume``, ``forget``, ``resend``, ``repair``, ``create``, ``trigger``, ``backfill`` or
            ``delete``.
        subject: the run id; else what is meant, such as ``function shop/order``.
        reason: why; ``""``: none was given.
        details: more; which, depends on the action.

    Example::

        for entry in app.audit(action="cancel", since="1d"):
            print(entry.at, entry.who, entry.subject, entry.reason)
    """

    id: str
    at: datetime
    who: str
    action: str
    subject: str
    reason: str
    details: Mapping[str, Any]


def record_action(partition: Partition, action: Action) -> Command[bool]:
    """Record an action of many calls, in the first partition."""
    action_id = uuid.uuid4().hex
    return run_script(
        "record_action",
        bool,
        (partition.all[0].keys("AUDIT"),),
        action_id,
        action.who,
        action.name,
        action.subject,
        action.reason,
        dumps({**action.details, "id": action_id}),
    )


def read_audit_page(
    partition: Partition, *, before: str = "", since_ms: int = 0, limit: int
) -> Command[list[AuditEntry]]:
    """Read entries of one partition, newest first.

    Args:
        before: only entries older than this one; ``""``: all.
        since_ms: only entries from this time on, in ms since the epoch.
    """
    end = f"({before}" if before else "+"
    return command(_entries, "XREVRANGE", partition.keys("AUDIT"), end, since_ms, "COUNT", limit)


def _entries(reply: list[Any]) -> list[AuditEntry]:
    return [_entry(entry.decode(), dict(zip(flat[::2], flat[1::2], strict=True))) for entry, flat in reply]


def _entry(entry: str, fields: Mapping[bytes, bytes]) -> AuditEntry:
    who, action, subject, reason = (
        fields.get(name, b"").decode(errors="replace") for name in (b"who", b"action", b"subject", b"reason")
    )
    try:
        details = loads(fields[b"details"])
    except (KeyError, ValueError):
        details = None
    known = {name: value for name, value in details.items() if name != "id"} if isinstance(details, dict) else {}
    return AuditEntry(entry, utc_time(int(entry.partition("-")[0])), who, action, subject, reason, known)
