"""Whole runs: start and cancel them, and read what is stored of them.

A start and a cancel are one script each. After a crash of the caller, the run exists completely or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Arg, Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.functions import DEDUPE_MS, FunctionConfig
from stepflow_broker.registry.tags import error_group_of, pack_subjects, tag_subject, tags_of, unpack_subjects
from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import is_item_key
from stepflow_engine.mismatch import Mismatch
from stepflow_engine.patches import PatchDecision
from stepflow_engine.rounds import PastRound, read_rounds
from stepflow_engine.run_overrides import RunOverrides
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.steps import stored_kind

__all__ = [
    "ItemCounts",
    "RunRecord",
    "StepRecord",
    "cancel_run",
    "forget_runs",
    "note_closing",
    "note_patches",
    "patches_text",
    "read_patches",
    "read_run",
    "read_steps",
    "runs_of_callers",
    "set_values",
    "start_run",
    "start_runs",
    "start_runs_later",
    "unpin_run",
]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as Redis stores it. Times are milliseconds since the epoch.

    Attributes:
        version: the version of the code that started it; ``""``: none.
        ended_by: the worker that executed it when it ended; ``""``: none did.
        ended_version: the version of the code that ended it.
        attempt_started_at: the start of the present attempt of the function's own code; ``None``: it was not claimed.
        leased_at: when the worker ``owner`` claimed it.
        fence: the fence of its lease; 0: it is not leased.
        batch: the run that executes the batch of which it is a part, itself if it is that run; ``""``: none.
        executing: the report of its worker on the step that it executes; see `stepflow_broker.transitions.attempts`.
        tags: its tags by name.
        error_group: the group of its error; ``""``: it has not failed.
        signals: how many signals are kept that no wait has received.
        values: what its code has set with ``ctx.set``, a dict by key, or sealed; ``None``: it has set nothing.
        has_undo: whether its code has requested a step with an undo handler.
        undoing: the status that it will have when its steps are undone; ``""``: it does not undo them.
        options: those of its start; ``None``: it has the settings of its function.
        patches: what it has decided at the patches of its code.
        closing: the status that it will have when its children have ended; ``""``: it does not wait for them to end.
        pinned: whether only workers of the release ``version`` execute it.
        round: how often it has continued as new.
        round_at: the start of its round; ``None``: it is in the first one.
        rounds: the last rounds that have ended, the latest first.
        mismatch: how its code differs from its history; ``None``: it does not, as far as is known.
        has_accepted_mismatch: whether somebody has let it go on with this code.
        unchecked_memos: how many of its first memos are not compared with the code.
    """

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
    batch: str = ""
    forked_from: str = ""
    forked_at: str = ""
    forked_by: str = ""
    keys_of: str = ""
    forks: tuple[str, ...] = ()
    version: str = ""
    ended_by: str = ""
    ended_version: str = ""
    attempt_started_at: int | None = None
    leased_at: int | None = None
    executing: str = ""
    fence: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    error_group: str = ""
    signals: int = 0
    values: Any = None
    has_undo: bool = False
    undoing: str = ""
    options: RunOverrides | None = None
    patches: Mapping[str, PatchDecision] = field(default_factory=dict)
    closing: str = ""
    pinned: bool = False
    round: int = 0
    round_at: int | None = None
    rounds: tuple[PastRound, ...] = ()
    mismatch: Mismatch | None = None
    has_accepted_mismatch: bool = False
    unchecked_memos: int = 0

    @property
    def name(self) -> str:
        """``app/function``."""
        return f"{self.app}/{self.function}"

    @property
    def patched(self) -> dict[str, bool]:
        """Whether it takes the new way at each patch that it has reached."""
        return {patch_id: decision.patched for patch_id, decision in self.patches.items()}


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
        index, condition: of a step that waits for an event; see `stepflow_broker.transitions.waits.WaitStart`.
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


def start_run(
    partition: Partition,
    config: FunctionConfig,
    *,
    run_id: str,
    event: bytes,
    dedupe: bool,
) -> Command[ScriptStatus]:
    """Create a run of a function and queue its first job. DONE, ALREADY (it exists) or RESOLVED (it was skipped).

    If a singleton attaches the caller to a live run, the status is RESOLVED too: see `runs_of_callers`.
    """
    args = _start_args(partition, config, [(run_id, event)], dedupe=dedupe)
    return run_script("start_runs", replies.first_status, partition.run_keys(run_id, "RUN"), *args)


def start_runs(
    partition: Partition,
    config: FunctionConfig,
    runs: Sequence[tuple[str, bytes]],
) -> Command[list[ScriptStatus]]:
    """Create runs (id, event) of a function with one script. All ids must be of one partition. See `start_run`."""
    args = _start_args(partition, config, runs, dedupe=False)
    return run_script(
        "start_runs",
        lambda reply: [replies.start_status(code) for code in reply],
        partition.run_keys(runs[0][0], "RUN"),
        *args,
    )


def start_runs_later(
    partition: Partition,
    config: FunctionConfig,
    runs: Sequence[tuple[str, bytes]],
    *,
    due_ms: int,
    delay_ms: int,
    dedupe_ms: int,
) -> Command[list[ScriptStatus]]:
    """Create runs (id, event) of a function that start at a later time. All ids must be of one partition.

    A run exists from the call on, and can be cancelled. Its rules of flow control are computed now, and checked and
    applied when it is due.

    Args:
        due_ms: the time, in milliseconds since the epoch; 0: ``delay_ms`` from now, by the clock of the server.
        dedupe_ms: for how long at least the ids prevent a second start.
    """
    args: list[Arg] = [partition.clock.script_ms(), config.app, config.id, config.queue]
    args += (dedupe_ms, config.retention_ms, due_ms, delay_ms)
    for run_id, event in runs:
        args += (run_id, event, *config.rules(event, partition.cipher))
    return run_script(
        "start_runs_later",
        lambda reply: [replies.start_status(code) for code in reply],
        partition.run_keys(runs[0][0], "RUN"),
        *args,
    )


def runs_of_callers(start: Command[Any], run_ids: Sequence[str]) -> Command[list[str]]:
    """The command of a start of these runs, which answers with the run of each caller.

    It is the new run, or the live run that a singleton attaches the caller to.
    """

    def read(reply: list[int | bytes]) -> list[str]:
        pairs = zip(run_ids, reply, strict=True)
        return [code.decode() if isinstance(code, bytes) else run_id for run_id, code in pairs]

    return Command(start.args, read, start.script)


def _start_args(
    partition: Partition, config: FunctionConfig, runs: Sequence[tuple[str, bytes]], *, dedupe: bool
) -> list[Arg]:
    args: list[Arg] = [
        partition.clock.script_ms(),
        config.app,
        config.id,
        config.queue,
        DEDUPE_MS if dedupe else 0,
        config.retention_ms,
    ]
    for run_id, event in runs:
        args += (run_id, event, *config.rules(event, partition.cipher))
    return args


def cancel_run(
    partition: Partition,
    *,
    run_id: str,
    failure: bytes,
    retention_ms: int,
    children: bool = True,
    who: str = "",
    reason: str = "",
) -> Command[ScriptStatus]:
    """End a live run as cancelled. DONE, ALREADY (it had ended) or NO_RUN.

    Args:
        partition: any partition of the server.
        run_id: the run.
        failure: the failure of the run, as JSON text.
        retention_ms: how long the cancelled run is kept, in milliseconds.
        children: whether to cancel the children that it waits for too.
        who, reason: for the audit log; without ``who``, the cancellation is not recorded.
    """
    return run_script(
        "cancel_run",
        ScriptStatus,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        failure,
        retention_ms,
        1 if children else 0,
        who,
        reason,
    )


def unpin_run(partition: Partition, run_id: str, *, who: str, reason: str = "") -> Command[ScriptStatus]:
    """Let workers of any release execute a pinned run. DONE, ALREADY (it is not pinned), or NO_RUN (it has ended)."""
    keyed = (*partition.run_keys(run_id, "RUN"), partition.of(run_id).keys("CODE_WAITS"))
    return run_script("unpin_run", ScriptStatus, keyed, partition.clock.script_ms(), run_id, who, reason)


def read_run(partition: Partition, run_id: str) -> Command[RunRecord | None]:
    """The run, or ``None`` if there is none."""
    return command(lambda reply: parse_run(run_id, replies.fields(reply)), "HGETALL", partition.run_key("RUN", run_id))


def read_run_event(partition: Partition, run_id: str) -> Command[bytes]:
    """The stored text of the event of a run, whatever it is; empty if there is no such run."""
    return command(replies.bytes_or_empty, "HGET", partition.run_key("RUN", run_id), "event")


def read_status(partition: Partition, run_id: str) -> Command[RunStatus | None]:
    """The status of a run; ``None`` if there is no such run."""
    return command(
        lambda reply: RunStatus(reply.decode()) if reply else None, "HGET", partition.run_key("RUN", run_id), "status"
    )


def read_undoing(partition: Partition, run_id: str) -> Command[tuple[RunStatus | None, str]]:
    """The status of a run, ``None`` if there is no such run, and the status that it will have when it is undone."""

    def read(reply: list[bytes | None]) -> tuple[RunStatus | None, str]:
        status, undoing = replies.text_pair(reply)
        return RunStatus(status) if status else None, undoing

    return command(read, "HMGET", partition.run_key("RUN", run_id), "status", "undoing")


def read_round(partition: Partition, run_id: str) -> Command[int]:
    """How often a run has continued as new."""
    return command(replies.integer, "HGET", partition.run_key("RUN", run_id), "round")


def count_steps(partition: Partition, run_id: str) -> Command[int]:
    """The number of memos of a run."""
    return command(int, "LLEN", partition.run_key("MEMO_ORDER", run_id))


def read_memos(partition: Partition, run_id: str, applied: int = 0) -> Command[list[tuple[str, bytes]]]:
    """The memos of a run in their order, without the first ``applied``."""
    return run_script(
        "load_run",
        lambda reply: pair_memos(reply[1]),
        partition.run_keys(run_id, "RUN", "MEMOS", "MEMO_ORDER"),
        applied,
        0,
    )


def pair_memos(flat: list[bytes]) -> list[tuple[str, bytes]]:
    """``[key, memo, key, memo …]`` as pairs."""
    return [(key.decode(), memo) for key, memo in zip(flat[::2], flat[1::2], strict=True)]


def read_steps(partition: Partition, run_id: str) -> Command[list[StepRecord]]:
    """The steps of a run that have not ended."""
    return command(lambda reply: list(_steps(replies.fields(reply))), "HGETALL", partition.run_key("STEPS", run_id))


def read_depth(partition: Partition, run_id: str) -> Command[int]:
    """How many parents a run has above it."""
    return command(replies.integer, "HGET", partition.run_key("RUN", run_id), "depth")


def read_values(partition: Partition, run_id: str) -> Command[Any]:
    """What the code of a run has set, as a dict by key, or sealed; ``None``: it has set nothing."""
    return command(lambda reply: loads(reply) if reply else None, "HGET", partition.run_key("RUN", run_id), "values")


def forget_deaths(partition: Partition, run_id: str) -> Command[int]:
    """Forget which workers died with this run: its code was suspended since, so it did not kill them."""
    return command(int, "HDEL", partition.run_key("RUN", run_id), "deaths")


def forget_runs(partition: Partition, *, limit: int) -> Command[tuple[int, int]]:
    """Take runs whose retention is over out of the indexes. Returns how many were due, and how many of them gone."""
    return run_script(
        "forget_runs", replies.integer_pair, (partition.keys("EXPIRY"),), partition.clock.script_ms(), limit
    )


def tag_run(partition: Partition, *, run_id: str, fence: int, tags: Mapping[str, str]) -> Command[ScriptStatus]:
    """Give a run tags, each in the place of one of the same name. DONE, NO_RUN or STALE_FENCE."""
    subjects = pack_subjects(tag_subject(name, value) for name, value in tags.items())
    return run_script("tag_run", ScriptStatus, partition.run_keys(run_id, "RUN"), run_id, fence, subjects)


def set_values(partition: Partition, *, run_id: str, fence: int, values: bytes) -> Command[ScriptStatus]:
    """Store what the code of a run has set, as JSON text, in place of earlier values. DONE, NO_RUN or STALE_FENCE."""
    return run_script("set_values", ScriptStatus, partition.run_keys(run_id, "RUN"), run_id, fence, values)


def note_undo(partition: Partition, *, run_id: str, fence: int) -> Command[ScriptStatus]:
    """Note that the code of a run has requested a step with an undo handler. DONE, NO_RUN or STALE_FENCE."""
    return run_script("note_undo", ScriptStatus, partition.run_keys(run_id, "RUN"), run_id, fence)


def note_patches(
    partition: Partition, *, run_id: str, fence: int, patches: Mapping[str, PatchDecision]
) -> Command[ScriptStatus]:
    """Store all that a run has decided at the patches of its code. DONE, NO_RUN or STALE_FENCE."""
    keyed = partition.run_keys(run_id, "RUN")
    return run_script("note_patches", ScriptStatus, keyed, run_id, fence, patches_text(patches))


def patches_text(patches: Mapping[str, PatchDecision]) -> bytes:
    """The stored form of decisions at patches; ``b""``: there are none."""
    return dumps({patch_id: decision.to_json() for patch_id, decision in patches.items()}) if patches else b""


def read_patches(partition: Partition, run_id: str) -> Command[Mapping[str, PatchDecision]]:
    """What a run has decided at the patches of its code, by their ids.

    Raises:
        CorruptDataError: the field has another form.
    """

    def read(reply: bytes | None) -> Mapping[str, PatchDecision]:
        try:
            return _patches(reply or b"")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptDataError(f"run {run_id!r:.100}", error) from error

    return command(read, "HGET", partition.run_key("RUN", run_id), "patches")


def _patches(text: bytes) -> dict[str, PatchDecision]:
    return {patch_id: PatchDecision.from_json(value) for patch_id, value in loads(text).items()} if text else {}


def note_closing(partition: Partition, *, run_id: str, fence: int, status: RunStatus) -> Command[ScriptStatus]:
    """Note how the code of a run has ended, while the run waits for its children. DONE, NO_RUN or STALE_FENCE."""
    return run_script("note_closing", ScriptStatus, partition.run_keys(run_id, "RUN"), run_id, fence, status)


def parse_run(run_id: str, fields: dict[str, bytes]) -> RunRecord | None:
    """The record of a run from the fields of its hash; ``None`` if there is no such run.

    Raises:
        CorruptDataError: a field has another form.
    """
    if "status" not in fields:
        return None
    try:
        return _parse_run(run_id, fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"run {run_id!r:.100}", error) from error


def _parse_run(run_id: str, fields: dict[str, bytes]) -> RunRecord:

    def text(name: str) -> str:
        return fields.get(name, b"").decode()

    def number(name: str) -> int | None:
        return int(float(fields[name])) if fields.get(name) else None

    subjects = unpack_subjects(fields.get("indexed", b""))
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
        batch=text("batch"),
        forked_from=text("forked_from"),
        forked_at=text("forked_at"),
        forked_by=text("forked_by"),
        keys_of=text("keys_of"),
        forks=tuple(text("forks").split()),
        version=text("version"),
        ended_by=text("ended_by"),
        ended_version=text("ended_version") or text("version"),
        attempt_started_at=number("attempt_started_at") if number("attempt") else number("started_at"),
        leased_at=number("leased_at"),
        executing=text("executing"),
        fence=number("lease") or 0,
        tags=tags_of(subjects),
        error_group=error_group_of(subjects),
        signals=number("signals") or 0,
        values=loads(fields["values"]) if fields.get("values") else None,
        has_undo="undo" in fields,
        undoing=text("undoing"),
        options=RunOverrides.from_json(fields["options"]) if fields.get("options") else None,
        patches=_patches(fields.get("patches", b"")),
        round=number("round") or 0,
        round_at=number("round_at"),
        rounds=read_rounds(text("rounds")) if "rounds" in fields else (),
        closing="" if RunStatus(text("status")).ended else text("closing"),
        pinned="pinned" in fields,
        mismatch=Mismatch.from_json(loads(fields["mismatch"])) if "mismatch" in fields else None,
        has_accepted_mismatch="mismatch_accepted" in fields,
        unchecked_memos=number("unchecked_memos") or 0,
    )


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
