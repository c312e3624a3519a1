"""Transitions and readings of whole runs, as calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol.command import Arg, Command, command, run_script
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.functions import DEDUPE_MS, FunctionConfig
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.codec import loads
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.failure import Failure
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.steps import stored_kind

__all__ = ["RunRecord", "StepRecord", "cancel_run", "list_runs", "read_run", "read_steps", "start_run", "start_runs"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as it stands in Redis. Times are milliseconds since the epoch."""

    id: str
    app: str
    function: str
    queue: str
    status: RunStatus
    attempt: int
    created_at: int
    started_at: int | None
    ended_at: int | None
    event: dict[str, Any]
    output: Any
    failure: Failure | None
    owner: str
    continuation: str
    due_at: int | None
    blocked: str
    reason: str
    parent: str
    parent_step: str

    @property
    def name(self) -> str:
        """``app/function``."""
        return f"{self.app}/{self.function}"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that is planned, executing, waiting for its next attempt, or waiting for a child, a time or an event.

    Attributes:
        child: the run that it waits for.
        detail: of a step that waits, what its memo will say whatever the outcome: JSON text without its first brace.
        index, condition: of one that waits for an event; see `stepflow_broker.transitions.waits.WaitStart`.
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

    @property
    def kind(self) -> str:
        """The kind of the step. Only a step that waits has a detail; the others are jobs.

        Raises:
            CorruptDataError: the detail is not JSON.
        """
        try:
            return stored_kind(loads(b"{" + self.detail) if self.detail else {})
        except ValueError as invalid:
            raise CorruptDataError("a step", invalid) from None


def start_run(
    keys: Keys,
    config: FunctionConfig,
    *,
    run_id: str,
    event: bytes,
    dedupe: bool,
    cipher: Cipher = NO_ENCRYPTION,
    now_ms: int = 0,
) -> Command[ScriptStatus]:
    """Create a run of a function and queue its first job. DONE, ALREADY (it exists) or RESOLVED (it was skipped)."""
    keys = keys.of(run_id)
    words = _start_words(config, [(run_id, event)], dedupe=dedupe, cipher=cipher, now_ms=now_ms)
    return run_script("start_runs", lambda reply: ScriptStatus(reply[0]), (keys("RUN", run_id),), *words)


def start_runs(
    keys: Keys,
    config: FunctionConfig,
    runs: Sequence[tuple[str, bytes]],
    *,
    cipher: Cipher = NO_ENCRYPTION,
    now_ms: int = 0,
) -> Command[list[ScriptStatus]]:
    """Create runs (id, event) of a function in one script, which costs each less; answers as of `start_run`."""
    keys = keys.of(runs[0][0])
    words = _start_words(config, runs, dedupe=False, cipher=cipher, now_ms=now_ms)
    return run_script(
        "start_runs", lambda reply: [ScriptStatus(code) for code in reply], (keys("RUN", runs[0][0]),), *words
    )


def _start_words(
    config: FunctionConfig, runs: Sequence[tuple[str, bytes]], *, dedupe: bool, cipher: Cipher, now_ms: int
) -> list[Arg]:
    words: list[Arg] = [now_ms, config.app, config.id, config.queue, DEDUPE_MS if dedupe else 0, config.retention_ms]
    for run_id, event in runs:
        words += (run_id, event, *config.rules(event, cipher))
    return words


def cancel_run(
    keys: Keys, *, run_id: str, failure: bytes, retention_ms: int, children: bool = True, now_ms: int = 0
) -> Command[ScriptStatus]:
    """End a live run as cancelled, with the children that it waits for. DONE, ALREADY (it had ended) or NO_RUN."""
    keys = keys.of(run_id)
    return run_script(
        "cancel_run", ScriptStatus, (keys("RUN", run_id),), now_ms, run_id, failure, retention_ms, 1 if children else 0
    )


def read_run(keys: Keys, run_id: str) -> Command[RunRecord | None]:
    """The run, or ``None`` if there is none."""
    keys = keys.of(run_id)
    return command(lambda reply: parse_run(run_id, _pairs(reply)), "HGETALL", keys("RUN", run_id))


def read_status(keys: Keys, run_id: str) -> Command[RunStatus | None]:
    """Only the status of a run."""
    keys = keys.of(run_id)
    return command(lambda reply: RunStatus(reply.decode()) if reply else None, "HGET", keys("RUN", run_id), "status")


def count_steps(keys: Keys, run_id: str) -> Command[int]:
    """How many memos a run has."""
    keys = keys.of(run_id)
    return command(int, "LLEN", keys("MEMO_ORDER", run_id))


def read_memos(keys: Keys, run_id: str, applied: int = 0) -> Command[list[tuple[str, bytes]]]:
    """The memos of a run in the order in which they were recorded, those after the first ``applied``."""
    keys = keys.of(run_id)
    return run_script(
        "load_run",
        lambda reply: pair_memos(reply[1]),
        (keys("RUN", run_id), keys("MEMOS", run_id), keys("MEMO_ORDER", run_id)),
        applied,
        0,
    )


def pair_memos(flat: list[bytes]) -> list[tuple[str, bytes]]:
    """``[key, memo, key, memo …]`` as pairs."""
    return [(key.decode(), memo) for key, memo in zip(flat[::2], flat[1::2], strict=True)]


def read_steps(keys: Keys, run_id: str) -> Command[list[StepRecord]]:
    """The steps of a run that have not ended."""
    keys = keys.of(run_id)
    return command(lambda reply: list(_steps(_pairs(reply))), "HGETALL", keys("STEPS", run_id))


def forget_deaths(keys: Keys, run_id: str) -> Command[int]:
    """The run's code has come to rest: workers that died before did not die of it."""
    keys = keys.of(run_id)
    return command(int, "HDEL", keys("RUN", run_id), "deaths")


def list_runs(keys: Keys, *, live: bool, limit: int) -> Command[list[str]]:
    """Ids of runs, newest first: those that live, or those that have ended."""
    return command(_texts, "ZREVRANGE", keys("LIVE" if live else "ENDED"), 0, limit - 1)


def forget_ended(keys: Keys, now_ms: int) -> Command[int]:
    """Take runs whose retention is over off the list of ended runs."""
    return command(int, "ZREMRANGEBYSCORE", keys("ENDED"), "-inf", now_ms)


def parse_run(run_id: str, fields: dict[str, bytes]) -> RunRecord | None:
    """A run's record from the fields of its hash."""
    if "status" not in fields:
        return None

    def text(name: str) -> str:
        return fields.get(name, b"").decode()

    def number(name: str) -> int | None:
        return int(float(fields[name])) if fields.get(name) else None

    error = fields.get("error") or (None if RunStatus(text("status")).ended else fields.get("last_error"))
    return RunRecord(
        id=run_id,
        app=text("app"),
        function=text("function"),
        queue=text("queue"),
        status=RunStatus(text("status")),
        attempt=number("attempt") or 0,
        created_at=number("created_at") or 0,
        started_at=number("started_at"),
        ended_at=number("ended_at"),
        event=loads(fields["event"]),
        output=loads(fields["output"]) if fields.get("output") else None,
        failure=Failure.from_json(loads(error)) if error else None,
        owner=text("owner"),
        continuation=text("continuation"),
        due_at=number("due") if text("continuation") == "delayed" else None,
        blocked=text("blocked"),
        reason=text("reason"),
        parent=text("parent") or text("remote_parent"),
        parent_step=text("parent_step"),
    )


def _steps(fields: dict[str, bytes]) -> Iterator[StepRecord]:
    for name, value in fields.items():
        if ":" in name:
            continue
        error = fields.get(f"{name}:error")
        due = fields.get(f"{name}:due")
        yield StepRecord(
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
        )


def _pairs(reply: Any) -> dict[str, bytes]:
    if isinstance(reply, dict):
        return {key.decode(): value for key, value in reply.items()}
    return {key.decode(): value for key, value in zip(reply[::2], reply[1::2], strict=True)}


def _texts(reply: list[bytes]) -> list[str]:
    return [item.decode() for item in reply]
