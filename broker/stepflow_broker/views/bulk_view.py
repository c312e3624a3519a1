"""Bulks as they are shown: how far each is, and what became of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation, single
from stepflow_broker.transitions.runs.bulks import BulkRecord, read_bulk, read_bulk_ids
from stepflow_broker.views.times import iso
from stepflow_engine.errors import BulkNotFoundError
from stepflow_engine.limits import check_id
from stepflow_engine.times import utc_time, utc_time_or_none

__all__ = ["BulkInfo", "BulkReason", "read_bulk_info", "read_bulk_infos"]

_ENDED = ("completed", "stopped")


@dataclass(frozen=True, slots=True)
class BulkReason:
    """Why runs of a bulk were not run again.

    Attributes:
        outcome: ``skipped``: there was no need, or no run any more; ``refused``: it is not possible.
        text: why. ``…`` stands for the id of the run.
        count: how many runs.
        run: one of them; ``""``: unknown.

    Example::

        for reason in bulk.info().reasons:
            print(reason.count, reason.outcome, reason.text, reason.run)
    """

    outcome: str
    text: str
    count: int
    run: str

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BulkInfo:
    """A bulk at one moment.

    At the end ``done + skipped + refused`` is ``matched``, or less if it was stopped.

    Attributes:
        id: the id of the bulk.
        state: ``running``, ``stopping`` (the runs that a worker has taken are still forked), ``stopped`` or
            ``completed``.
        function: the function of the runs, as ``app/function``.
        matched: how many runs were selected.
        done: how many were run again, as new runs.
        skipped: how many were left alone: they were run again already, are forgotten, or the flow control of the
            function has skipped the new run.
        refused: how many could not be run again.
        reasons: why runs were skipped or refused, the most frequent first. At most 20 texts are told apart.
        per_second: how many runs it forks in a second at most.
        rate: how many runs it has settled in a second so far.
        who: who has started it.
        reason: why.
        created_at, started_at, ended_at: when it was started, when a worker took it first, and when it ended, in
            UTC; ``None``: not yet.
        worker: the worker that executes it; ``""``: none has it now.
        stopped_by: who has stopped it; ``""``: nobody.

    Example::

        info = app.bulk(bulk_id).info()
        print(info.state, info.done, "of", info.matched)
    """

    id: str
    state: str
    function: str
    matched: int
    created_at: datetime
    done: int = 0
    skipped: int = 0
    refused: int = 0
    reasons: Sequence[BulkReason] = ()
    per_second: float = 0.0
    rate: float = 0.0
    who: str = ""
    reason: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    worker: str = ""
    stopped_by: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is stopped or completed."""
        return self.state in _ENDED

    @property
    def settled(self) -> int:
        """How many runs are done, skipped or refused."""
        return self.done + self.skipped + self.refused

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return {
            "id": self.id,
            "state": self.state,
            "function": self.function,
            "matched": self.matched,
            "done": self.done,
            "skipped": self.skipped,
            "refused": self.refused,
            "reasons": [one.to_json() for one in self.reasons],
            "per_second": self.per_second,
            "rate": self.rate,
            "who": self.who,
            "reason": self.reason or None,
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
            "worker": self.worker or None,
            "stopped_by": self.stopped_by or None,
        }


def read_bulk_info(partition: Partition, bulk_id: str) -> Operation[BulkInfo]:
    """A bulk. One round trip.

    Raises:
        BulkNotFoundError: there is none, or it was forgotten.
    """
    try:
        record = yield from single(read_bulk(partition, check_id(bulk_id, "bulk id")))
    except ValueError:
        record = None
    if record is None:
        raise BulkNotFoundError(f"no bulk has the id {str(bulk_id)[:100]!r}, or it ended over 7 days ago")
    return _view(record, partition.clock.now_ms())


def read_bulk_infos(partition: Partition) -> Operation[list[BulkInfo]]:
    """All bulks, the newest first, at most a thousand. Two round trips."""
    ids = yield from single(read_bulk_ids(partition))
    records = (yield [read_bulk(partition, bulk_id) for bulk_id in ids]) if ids else []
    now = partition.clock.now_ms()
    found = [_view(record, now) for record in records if record is not None]
    return sorted(sorted(found, key=lambda one: one.id), key=lambda one: one.created_at, reverse=True)


def _view(record: BulkRecord, now: int) -> BulkInfo:
    settled = record.done + record.skipped + record.refused
    lasted_ms = (record.ended_at or now) - record.started_at if record.started_at else 0
    reasons = [BulkReason(*why, *found) for why, found in record.reasons.items()]
    return BulkInfo(
        id=record.id,
        state=record.state,
        function=record.function,
        matched=record.matched,
        done=record.done,
        skipped=record.skipped,
        refused=record.refused,
        reasons=tuple(sorted(reasons, key=lambda one: (-one.count, one.outcome, one.text))),
        per_second=record.per_second,
        rate=round(settled * 1000 / lasted_ms, 1) if lasted_ms > 0 else 0.0,
        who=record.who,
        reason=record.reason,
        created_at=utc_time(record.created_at),
        started_at=utc_time_or_none(record.started_at or None),
        ended_at=utc_time_or_none(record.ended_at or None),
        worker=record.holder if record.held_until > now else "",
        stopped_by=record.stopped_by,
    )
