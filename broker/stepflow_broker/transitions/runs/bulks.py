"""Bulks: jobs that fork many runs, which the workers execute, one worker at a time, at a rate.

A client selects the runs, page by page, and then starts the bulk with one script. Until that, nothing has happened: the
selected runs expire. From then on the bulk is the workers'. One of them holds it for a few seconds. It takes as many
runs as the rate allows, forks them, and settles them: it stores what became of them. If it dies in between, the next
holder takes the same runs again. The ids of their forks follow from the bulk and the run, so it makes none twice, and
only one of the two can settle them. So each run is forked once, and counted once.

A bulk is in the first partition. Its runs are in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus

__all__ = [
    "MOST_TAKEN",
    "BulkRecord",
    "BulkStart",
    "Outcome",
    "TakenRuns",
    "add_bulk_runs",
    "read_bulk",
    "read_bulk_ids",
    "read_live_bulks",
    "settle_bulk_runs",
    "start_bulk",
    "stop_bulk",
    "take_bulk_runs",
]

MOST_TAKEN = 200
"""How many runs are taken at once, at most."""
_SELECTED_MS = 3_600_000
"""How long selected runs are kept that no bulk has started with."""
_WHY = "why:"
_MOST = 1_000


@dataclass(frozen=True, slots=True)
class BulkStart:
    """A bulk to start.

    Attributes:
        id: its id.
        matched: how many runs were selected.
        function: the function of the runs, as ``app/function``.
        request: how the runs are forked, as JSON text.
        per_second: how many runs are forked in a second.
        who, reason: for the forks and the audit log.
        details: what the audit log has of it, as JSON text.
    """

    id: str
    matched: int
    function: str
    request: bytes
    per_second: float
    who: str
    reason: str = ""
    details: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run of a bulk.

    Attributes:
        kind: ``done``, ``skipped`` or ``refused``.
        text: why; ``""`` if it is done.
        run_id: the run.
    """

    kind: str
    text: str = ""
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class TakenRuns:
    """Runs that a worker has taken.

    Attributes:
        status: DONE, ALREADY (another worker holds the bulk), or NO_RUN (the bulk has ended).
        settled: how many runs of the bulk are settled.
        wait_ms: how long until the rate allows more; if another worker holds the bulk, how long it does so at least.
        is_first: whether no worker had the bulk before.
        runs: the runs.
    """

    status: ScriptStatus
    settled: int
    wait_ms: int
    is_first: bool
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BulkRecord:
    """A bulk as it is stored; the rest as of `BulkStart`.

    Attributes:
        state: ``running``, ``stopping``, ``stopped`` or ``completed``.
        created_at, started_at, ended_at: when it was made, when a worker took it first, and when it ended, in ms since
            the epoch; 0: not yet.
        done, skipped, refused: how many runs were forked, were left alone, and could not be forked.
        reasons: outcome and text → how often, and one of the runs.
        holder, held_until: the worker that holds it, or held it last, and until when.
        stopped_by: who has stopped it.
    """

    id: str
    state: str
    function: str
    request: bytes
    per_second: float
    who: str
    reason: str
    matched: int
    created_at: int
    started_at: int
    ended_at: int
    done: int
    skipped: int
    refused: int
    reasons: Mapping[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    holder: str = ""
    held_until: int = 0
    stopped_by: str = ""


def add_bulk_runs(partition: Partition, bulk_id: str, position: int, runs: Sequence[str]) -> Command[bool]:
    """Add selected runs to a bulk that has not started. They are kept for an hour from the last call.

    Args:
        position: how many were added before.
    """
    keys = (partition.all[0].keys("BULK_RUNS", bulk_id),)
    return run_script("add_bulk_runs", bool, keys, position, _SELECTED_MS, *runs)


def start_bulk(partition: Partition, start: BulkStart) -> Command[ScriptStatus]:
    """Start a bulk. DONE, ALREADY (it was started), or NO_RUN (its selected runs have expired)."""
    return run_script(
        "start_bulk",
        ScriptStatus,
        _key(partition, start.id),
        partition.clock.script_ms(),
        start.id,
        start.matched,
        start.who,
        start.reason,
        f"function {start.function}",
        start.details,
        "function",
        start.function,
        "request",
        start.request,
        "per_second",
        start.per_second,
    )


def take_bulk_runs(
    partition: Partition, bulk_id: str, *, worker: str, hold_ms: int, most: int = MOST_TAKEN
) -> Command[TakenRuns]:
    """Take the next runs of a bulk, or again those that are not settled; the runs that were selected last come first.

    Args:
        worker: takes them. It holds the bulk, so that no other can.
        hold_ms: for how long, in ms.
        most: how many runs it takes at most; 0: none, it only holds the bulk.
    """
    keys = _key(partition, bulk_id)
    return run_script("take_bulk_runs", _read_taken, keys, partition.clock.script_ms(), bulk_id, worker, hold_ms, most)


def _read_taken(reply: Sequence[Any]) -> TakenRuns:
    status, settled, wait_ms, is_first, runs = reply
    return TakenRuns(ScriptStatus(status), int(settled), int(wait_ms), bool(is_first), tuple(replies.texts(runs[::-1])))


def settle_bulk_runs(
    partition: Partition, bulk_id: str, outcomes: Sequence[Outcome], *, worker: str, hold_ms: int, settled: int
) -> Command[ScriptStatus]:
    """Store what became of all runs that a worker has taken. DONE, MORE (that, and the bulk has ended), or ALREADY.

    Args:
        hold_ms: for how long the worker holds the bulk from now on, in ms; 0: it leaves it to others.
        settled: `TakenRuns.settled`.
    """
    kinds = Counter(one.kind for one in outcomes)
    reasons: dict[str, tuple[int, str]] = {}
    for one in outcomes:
        if one.text:
            count, run_id = reasons.get(f"{one.kind} {one.text}", (0, one.run_id))
            reasons[f"{one.kind} {one.text}"] = (count + 1, run_id)
    return run_script(
        "settle_bulk_runs",
        ScriptStatus,
        _key(partition, bulk_id),
        partition.clock.script_ms(),
        bulk_id,
        worker,
        hold_ms,
        settled,
        kinds["done"],
        kinds["skipped"],
        kinds["refused"],
        *[part for why, (count, run_id) in reasons.items() for part in (why, count, run_id)],
    )


def stop_bulk(partition: Partition, bulk_id: str, *, who: str, reason: str = "") -> Command[ScriptStatus]:
    """Stop a bulk. DONE, ALREADY (it was stopped, or has ended), or NO_RUN (there is none)."""
    return run_script(
        "stop_bulk", ScriptStatus, _key(partition, bulk_id), partition.clock.script_ms(), bulk_id, who, reason
    )


def read_live_bulks(partition: Partition) -> Command[list[str]]:
    """The ids of the bulks that have not ended, at most a hundred."""
    return command(replies.texts, "ZREVRANGEBYSCORE", partition.all[0].keys("BULKS"), "+inf", "+inf", "LIMIT", 0, 100)


def read_bulk_ids(partition: Partition) -> Command[list[str]]:
    """The ids of the bulks: those that have not ended, then the others, the one that ended last first."""
    return command(replies.texts, "ZREVRANGEBYSCORE", partition.all[0].keys("BULKS"), "+inf", "-inf", "LIMIT", 0, _MOST)


def read_bulk(partition: Partition, bulk_id: str) -> Command[BulkRecord | None]:
    """Read a bulk; ``None``: there is none, or it was forgotten."""

    def read(reply: Any) -> BulkRecord | None:
        fields = replies.fields(reply)
        return _record(bulk_id, fields) if "state" in fields else None

    return command(read, "HGETALL", *_key(partition, bulk_id))


def _record(bulk_id: str, fields: Mapping[str, bytes]) -> BulkRecord:
    def text(name: str) -> str:
        return replies.shown_text(fields.get(name))

    def number(name: str) -> int:
        return int(fields.get(name) or 0)

    return BulkRecord(
        id=bulk_id,
        state=text("state"),
        function=text("function"),
        request=fields.get("request", b"{}"),
        per_second=float(fields.get("per_second") or 1),
        who=text("who"),
        reason=text("reason"),
        matched=number("matched"),
        created_at=number("created_at"),
        started_at=number("started_at"),
        ended_at=number("ended_at"),
        done=number("done"),
        skipped=number("skipped"),
        refused=number("refused"),
        reasons=dict(_reason(name, value) for name, value in fields.items() if name.startswith(_WHY)),
        holder=text("holder"),
        held_until=number("held_until"),
        stopped_by=text("stopped_by"),
    )


def _reason(name: str, value: bytes) -> tuple[tuple[str, str], tuple[int, str]]:
    kind, _, text = name.removeprefix(_WHY).partition(" ")
    count, _, run_id = replies.shown_text(value).partition(" ")
    return (kind, text), (int(count), run_id)


def _key(partition: Partition, bulk_id: str) -> tuple[str]:
    return (partition.all[0].keys("BULK", bulk_id),)
