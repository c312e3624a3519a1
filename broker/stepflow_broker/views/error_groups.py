"""Groups of errors: failures of runs that are alike, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.views.times import iso
from stepflow_engine.times import utc_time

__all__ = ["ErrorGroup", "read_error_groups"]

_MAX_GROUPS = 1_000


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Failures of runs that are alike: the same function, step, error, message and place in the code.

    In messages, numbers and quoted parts do not count. If the app encrypts, messages and places do not count.

    Attributes:
        id: the id of the group: ``app.runs(error=group.id)`` finds its runs.
        function: the function, as ``app/function``.
        step: the id of the step that failed last; ``""``: the code between steps.
        name: the name of the error.
        message: the message of the last failure; ``""``: it is encrypted.
        count: how many runs have failed, also those that are forgotten. A run with a batch counts once.
        first_at, last_at: the first and the last failure, in UTC.
        run: the run that failed last.

    Example::

        for group in app.error_groups():
            print(group.count, group.message, [run.id for run in app.runs(error=group.id, limit=3)])
    """

    id: str
    function: str
    step: str
    name: str
    message: str
    count: int
    first_at: datetime
    last_at: datetime
    run: str

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return {
            "id": self.id,
            "function": self.function,
            "step": self.step or None,
            "name": self.name,
            "message": self.message or None,
            "count": self.count,
            "first_at": iso(self.first_at),
            "last_at": iso(self.last_at),
            "run_id": self.run,
        }


def read_error_groups(
    partition: Partition, *, app: str = "", functions: Sequence[str] = (), since_ms: int = 0, limit: int
) -> Operation[list[ErrorGroup]]:
    """Groups of errors of all partitions, the one with the latest failure first. Two round trips.

    Args:
        app: only those of functions of this app; ``""``: of any.
        functions: only those of these functions, as ``app/function``; empty: of any.
        since_ms: only those with a failure at this time or later, in ms since the epoch.
        limit: the largest number of groups.
    """
    most = _MAX_GROUPS if app or functions else limit
    ids = yield [
        command(replies.texts, "ZREVRANGEBYSCORE", one.keys("ERROR_GROUPS"), "+inf", since_ms, "LIMIT", 0, most)
        for one in partition.all
    ]
    named = list(dict.fromkeys(group for part in ids for group in part))
    if not named:
        return []
    parts = yield [_read_group(one, group) for group in named for one in partition.all]
    width = len(partition.all)
    groups = [_merged([part for part in parts[at : at + width] if part]) for at in range(0, len(parts), width)]
    found = [
        group
        for group in groups
        if group and app in ("", group.function.partition("/")[0]) and (not functions or group.function in functions)
    ]
    found.sort(key=lambda group: group.id)
    return sorted(found, key=lambda group: group.last_at, reverse=True)[:limit]


def _read_group(partition: Partition, group: str) -> Command[ErrorGroup | None]:
    def read(reply: Any) -> ErrorGroup | None:
        fields = {name: replies.shown_text(value) for name, value in replies.fields(reply).items()}
        if "last" not in fields:
            return None
        return ErrorGroup(
            id=group,
            function=fields.get("function", ""),
            step=fields.get("step", ""),
            name=fields.get("name", ""),
            message=fields.get("message", ""),
            count=int(fields.get("count") or 0),
            first_at=utc_time(int(fields.get("first") or 0)),
            last_at=utc_time(int(fields["last"])),
            run=fields.get("run", ""),
        )

    return command(read, "HGETALL", partition.keys("ERROR_GROUP", group))


def _merged(parts: Sequence[ErrorGroup]) -> ErrorGroup | None:
    """A group from its parts in the partitions."""
    if not parts:
        return None
    last = max(parts, key=lambda part: part.last_at)
    return replace(last, count=sum(part.count for part in parts), first_at=min(part.first_at for part in parts))
