"""The audit log: who has done what by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from stepflow.client.connected_app import ConnectedApp
from stepflow.client.find import checked_limit, time_ms
from stepflow.client.run import Run
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation
from stepflow_broker.transitions.audit import ACTIONS, AuditEntry
from stepflow_broker.views.audit import find_actions
from stepflow_engine.errors import FilterError
from stepflow_engine.limits import check_id

__all__ = ["AuditLog"]


class AuditLog(ConnectedApp):
    """Reads the audit log."""

    def audit(
        self,
        *,
        action: str | None = None,
        subject: Run[Any] | str | None = None,
        since: datetime | str | timedelta | None = None,
        limit: int = 50,
    ) -> list[AuditEntry]:
        """Who has retried, cancelled, paused, answered or repaired what, and why, the newest first.

        The log is that of all apps on the server. Each partition keeps about 100,000 entries.

        Args:
            action: only this action: see `AuditEntry`.
            subject: only what was done to this: a run or its id, or text as in ``"function shop/order"``.
            since: from this time on: a datetime with a time zone, or how long ago, such as ``"2h"`` or a timedelta.
            limit: the largest number of entries.

        Raises:
            FilterError: an argument is invalid.
            BackendUnavailableError: the server does not answer.

        Example::

            for entry in app.audit(subject=run):
                print(entry.at, entry.who, entry.action, entry.reason)
        """
        return run_operation(self.backend.broker, self._find_actions(action, subject, since, limit))

    async def aaudit(
        self,
        *,
        action: str | None = None,
        subject: Run[Any] | str | None = None,
        since: datetime | str | timedelta | None = None,
        limit: int = 50,
    ) -> list[AuditEntry]:
        """The asyncio twin of `audit`."""
        return await arun_operation(self.backend.abroker, self._find_actions(action, subject, since, limit))

    def _find_actions(
        self,
        action: str | None,
        subject: Run[Any] | str | None,
        since: datetime | str | timedelta | None,
        limit: int,
    ) -> Operation[list[AuditEntry]]:
        if action is not None and action not in ACTIONS:
            raise FilterError("action", f"action must be one of {', '.join(ACTIONS)}, got {action!r:.100}")
        name = subject.id if isinstance(subject, Run) else subject
        try:
            name = "" if name is None else check_id(name, "subject")
        except ValueError as error:
            raise FilterError("subject", str(error)) from None
        return find_actions(
            self.backend.partition,
            action=action or "",
            subject=name,
            since_ms=time_ms(since, "since", self.backend.partition.clock) or 0,
            limit=checked_limit(limit),
        )
