"""A run as Redis stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.registry.tags import error_group_of, tags_of, unpack_subjects
from stepflow_engine.codec import loads
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.failure import Failure
from stepflow_engine.mismatch import Mismatch
from stepflow_engine.patches import PatchDecision
from stepflow_engine.rounds import PastRound, read_rounds
from stepflow_engine.run_overrides import RunOverrides
from stepflow_engine.state_machine import RunStatus

__all__ = ["RunRecord", "parse_run", "read_patches", "read_run"]


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
        executing: the report of its worker on the step that it executes; see `runs.attempts`.
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


def read_run(partition: Partition, run_id: str) -> Command[RunRecord | None]:
    """The run, or ``None`` if there is none."""
    return command(lambda reply: parse_run(run_id, replies.fields(reply)), "HGETALL", partition.run_key("RUN", run_id))


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
