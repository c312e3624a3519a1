"""The audit log of all partitions, newest first."""

from __future__ import annotations

from typing import Any

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.audit import AuditEntry, read_audit_page
from stepflow_broker.views.times import iso

__all__ = ["audit_json", "find_actions"]

_PAGE = 1_000


def find_actions(
    partition: Partition, *, action: str = "", subject: str = "", since_ms: int = 0, limit: int = 50
) -> Operation[list[AuditEntry]]:
    """The newest actions of all partitions, newest first.

    Args:
        action: only actions of this name; ``""``: any.
        subject: only actions with this subject; ``""``: any.
        since_ms: only actions from this time on, in ms since the epoch.
        limit: how many.
    """
    found: list[AuditEntry] = []
    before = dict.fromkeys(partition.all, "")
    left = dict.fromkeys(partition.all, limit)
    while before:
        pages: list[list[AuditEntry]] = yield [
            read_audit_page(one, before=last, since_ms=since_ms, limit=_PAGE) for one, last in before.items()
        ]
        for one, page in zip(list(before), pages, strict=True):
            matching = [entry for entry in page if action in ("", entry.action) and subject in ("", entry.subject)]
            found += matching[: left[one]]
            left[one] -= len(matching)
            if len(page) < _PAGE or left[one] <= 0:
                del before[one]
            else:
                before[one] = page[-1].id
    return sorted(found, key=lambda entry: entry.at, reverse=True)[:limit]


def audit_json(entry: AuditEntry) -> dict[str, Any]:
    """An entry as the JSON output has it."""
    return {
        "at": iso(entry.at),
        "who": entry.who,
        "action": entry.action,
        "subject": entry.subject,
        "reason": entry.reason,
        "details": entry.details,
    }
