"""A step as Redis stores it until it has a memo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.partition import Partition
from stepflow_engine.codec import loads
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import is_item_key
from stepflow_engine.steps import stored_kind

__all__ = ["ItemCounts", "StepRecord", "read_steps"]


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """How far a map is.

    Attributes:
        digest: identifies its items.
        count: how many items it has.
        begun: how many of them were handed out.
        open: how many of those have not ended.
        failed: how many have failed.
        tolerated: how many may fail.
    """

    digest: str
    count: int
    begun: int
    open: int
    failed: int
    tolerated: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that has no memo yet: it is planned, executes, is retried, or waits for a child, a time or an event.

    Attributes:
        child: the run that it waits for; ``""``: none.
        detail: of a step that waits: the part of its memo that does not depend on the outcome, as JSON text without
            its first brace.
        index, condition: of a step that waits for an event; see `stepflow_broker.transitions.steps.waits.WaitStart`.
        has_early_events: whether the worker that began the wait has yet to match the early events. It may have died.
        deferred: how often in a row a worker could not execute its job.
        parent_close: of a wait for a child of which the code has a handle: what becomes of the child when the run ends.
        leased_at: when the worker ``owner`` claimed its job, in milliseconds since the epoch.
        queue: the queue of its job; ``""``: that of the run.
        items: of a map: the counts of its items.
    """

    key: str
    id: str
    state: str
    attempts: int
    owner: str
    due_at: int | None
    failure: Failure | None
    child: str = ""
    detail: bytes = b""
    index: str = ""
    condition: bytes = b""
    has_early_events: bool = False
    deferred: int = 0
    leased_at: int | None = None
    queue: str = ""
    parent_close: str = ""
    items: ItemCounts | None = None

    @property
    def is_item(self) -> bool:
        """Whether it is an item of a map."""
        return is_item_key(self.key)

    @property
    def kind(self) -> str:
        """The kind of the step. Only a step that waits has a detail; the others are jobs.

        Raises:
            CorruptDataError: the detail is not JSON.
        """
        return stored_kind(self.facts)

    @property
    def facts(self) -> dict[str, Any]:
        """The detail, read; empty: it has none.

        Raises:
            CorruptDataError: the detail is not JSON.
        """
        try:
            return dict(loads(b"{" + self.detail)) if self.detail else {}
        except ValueError as invalid:
            raise CorruptDataError(f"step {self.id[:100]!r}", invalid) from None


def read_steps(partition: Partition, run_id: str) -> Command[list[StepRecord]]:
    """The steps of a run that have not ended."""
    return command(lambda reply: list(_steps(replies.fields(reply))), "HGETALL", partition.run_key("STEPS", run_id))


def _steps(fields: dict[str, bytes]) -> Iterator[StepRecord]:
    for name, value in fields.items():
        if ":" in name:
            continue
        try:
            yield _step(name, value, fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptDataError(f"step {value.decode(errors='replace')[:100]!r}", error) from error


def _step(name: str, value: bytes, fields: dict[str, bytes]) -> StepRecord:
    error = fields.get(f"{name}:error")
    due, leased_at = fields.get(f"{name}:due"), fields.get(f"{name}:leased_at")
    return StepRecord(
        key=name,
        id=value.decode(),
        state=fields.get(f"{name}:state", b"").decode(),
        attempts=int(fields.get(f"{name}:attempt", b"0")),
        owner=fields.get(f"{name}:owner", b"").decode(),
        due_at=int(float(due)) if due else None,
        failure=Failure.from_json(loads(error)) if error else None,
        child=fields.get(f"{name}:child", b"").decode(),
        detail=fields.get(f"{name}:detail", b""),
        index=fields.get(f"{name}:index", b"").decode(),
        condition=fields.get(f"{name}:condition", b""),
        has_early_events=f"{name}:lookback" in fields,
        deferred=int(fields.get(f"{name}:deferred", b"0")),
        leased_at=int(float(leased_at)) if leased_at else None,
        queue=fields.get(f"{name}:queue", b"").decode(),
        parent_close=fields.get(f"{name}:close", b"").decode(),
        items=_items(name, fields) if f"{name}:count" in fields else None,
    )


def _items(name: str, fields: dict[str, bytes]) -> ItemCounts:
    count, begun, opened, failed, tolerated = (
        int(fields[f"{name}:{field}"]) for field in ("count", "next", "open", "failed", "tolerated")
    )
    return ItemCounts(fields[f"{name}:digest"].decode(), count, begun, opened, failed, tolerated)
