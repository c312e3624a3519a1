"""The history of a run: its attempts that gave no result, and the report on the step that executes.

The scripts that record a failed attempt, reclaim the lease of a dead worker, or end a run keep the attempt in the same
step. So a crash keeps the attempt and its effect, or neither. A successful attempt is in the memo of its step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.partition import Partition
from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.failure import Failure

__all__ = [
    "FAILED",
    "UNFINISHED",
    "WORKER_DIED",
    "AttemptRecord",
    "ExecutingStep",
    "attempt_detail",
    "executing_report",
    "parse_executing",
    "read_attempts",
    "read_first_failure",
]

FAILED = "failed"
"""The outcome of an attempt that raised an error."""
WORKER_DIED = "worker_died"
"""The outcome of an attempt whose worker died."""
UNFINISHED = "unfinished"
"""The outcome of a step that had not ended when its run was cancelled or failed."""
_LONGEST_REPORTED_ID = 256
_MOST_FIELDS = 1_000_000
"""More fields than the hash has: 1,000 attempts, and a heartbeat for each step."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that gave no result, of a step or of the function's own code. Times are milliseconds since the epoch.

    Attributes:
        key: the key of the step; ``""``: the function's own code.
        number: the number of the attempt, 1-based. An attempt whose worker died has the number of the next attempt.
        step_id: the id of the step.
        outcome: `FAILED`, `WORKER_DIED` or `UNFINISHED`.
        started_at: ``None``: unknown, or it did not start.
        version: the version of the code; ``None``: that of the run.
        failure: ``None`` for an unfinished step.
        detail: all stored facts. Those of an unfinished wait or invoke are the facts of its memo.
    """

    key: str
    number: int
    step_id: str
    outcome: str
    started_at: int | None
    ended_at: int | None
    worker: str
    version: str | None
    failure: Failure | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExecutingStep:
    """The step that a continuation executes, and since when, in milliseconds since the epoch.

    Attributes:
        fence: the fence of the lease under which its worker has reported it; 0: it was not stored yet.
    """

    key: str
    step_id: str
    since: int
    fence: int = 0


def attempt_detail(
    *, number: int, worker: str, version: str | None, step_id: str = "", times: tuple[int, int] | None = None
) -> bytes:
    """The stored form of a failed attempt, without its error, which the script adds.

    Args:
        number: the number of the attempt, 1-based.
        worker: the worker.
        version: the version of its code; ``None``: that of the run.
        step_id: the step; ``""``: the function's own code.
        times: the start and the end, in milliseconds since the epoch; ``None``: the script knows them.
    """
    detail: dict[str, object] = {"number": number, "worker": worker}
    if step_id:
        detail["id"] = step_id
    if times is not None:
        detail["started_at"], detail["ended_at"] = times
    if version is not None:
        detail["version"] = version
    return dumps(detail)


def read_attempts(partition: Partition, run_id: str) -> Command[list[AttemptRecord]]:
    """The kept attempts of a run, oldest first.

    The details of heartbeats, which are in the same hash and may be large, are not read. The scan is complete: there
    are fewer fields than it may look at.
    """

    def read(reply: Any) -> list[AttemptRecord]:
        return list(_attempts(replies.fields(reply[1])))

    return command(read, "HSCAN", partition.run_key("ATTEMPTS", run_id), 0, "MATCH", "[0-9]*", "COUNT", _MOST_FIELDS)


def read_first_failure(partition: Partition, run_id: str, key: str) -> Command[int | None]:
    """When the first attempt of a step failed, in milliseconds since the epoch.

    Args:
        key: the key of the step; ``""``: the function's own code.
    """
    if key:
        return command(_time, "HGET", partition.run_key("STEPS", run_id), f"{key}:first_failed_at")
    return command(_time, "HGET", partition.run_key("RUN", run_id), "first_failed_at")


def _time(reply: bytes | None) -> int | None:
    return None if reply is None else int(reply)


def _attempts(fields: Mapping[str, bytes]) -> Iterator[AttemptRecord]:
    numbered = [
        (int(number), key, name)
        for name in fields
        for number, _, key in [name.partition(":")]
        if ":" in name and number.isdigit()
    ]
    for _, key, name in sorted(numbered):
        yield _attempt(key, fields[name])


def _attempt(key: str, text: bytes) -> AttemptRecord:
    try:
        detail = loads(text)
    except ValueError as invalid:
        raise CorruptDataError("an attempt", invalid) from None
    if not isinstance(detail, dict):
        raise CorruptDataError("an attempt", "not an object")
    error = detail.pop("error", None)
    return AttemptRecord(
        key=key,
        number=int(detail.get("number", 1)),
        step_id=str(detail.get("id") or ""),
        outcome=str(detail.get("outcome", FAILED)),
        started_at=detail.get("started_at"),
        ended_at=detail.get("ended_at"),
        worker=str(detail.get("worker") or ""),
        version=detail.get("version"),
        failure=Failure.from_json(error) if isinstance(error, dict) else None,
        detail=detail,
    )


def executing_report(key: str, step_id: str, since_ms: int) -> str:
    """The report on the step that a continuation executes, which is stored with the fence of its lease."""
    return f"{since_ms} {key} {step_id[:_LONGEST_REPORTED_ID]}"


def parse_executing(report: str) -> ExecutingStep | None:
    """Read a stored report; ``None`` if there is none.

    It stays when the step ends: it counts while the run is leased with its fence, and the step has no memo and no job.
    """
    fence, since, key, step_id = (*report.split(" ", 3), "", "", "")[:4]
    return ExecutingStep(key, step_id, int(since), int(fence)) if fence.isdigit() and since.isdigit() and key else None
