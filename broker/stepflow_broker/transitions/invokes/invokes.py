"""Invokes: start a child, and wake its parent. `remote_invokes` has the invokes between partitions.

The wait and the child are stored in one script. When the child ends, its message stays in the outbox until the step of
the parent has its memo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Arg, Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.invokes.outbox import StartChild
from stepflow_engine.codec import dumps
from stepflow_engine.steps import ParentClose

__all__ = [
    "ChildStart",
    "HandleStart",
    "Resolved",
    "find_closed_children",
    "invoke_child",
    "start_child",
    "wake_parent",
]

_CLOSE = ":close"
_SCANNED = 1_000
"""How many fields of the steps of a run one command looks at."""


@dataclass(frozen=True, slots=True)
class ChildStart:
    """A child that a step of a parent starts.

    Attributes:
        key, step_id: the step of the parent.
        child: the run id of the child.
        event: the event of the child, as JSON text.
        detail: the end of the JSON text of the memo, which does not depend on the outcome: ``"id":…}``.
        timeout_ms: the longest wait, in milliseconds.
        timeout_memo: the memo that the step gets when the timeout is over.
        refusal: the memo that the step gets at once if the function cannot be invoked; empty: it can.
        config: the function.
        depth: how many parents the child has above it.
    """

    key: str
    step_id: str
    child: str
    event: bytes
    detail: bytes
    timeout_ms: int
    timeout_memo: bytes
    refusal: bytes
    config: FunctionConfig
    depth: int


@dataclass(frozen=True, slots=True)
class HandleStart:
    """A child that a step of a parent starts without waiting for it. The code gets a handle.

    Attributes:
        key: the step of the parent.
        memo: its memo.
        end: the child, and the step that waits for its end. If the function cannot be invoked, it has a refusal, which
            is also the memo.
        parent_close: what becomes of the child when the parent ends; see `stepflow_engine.steps.ParentClose`.
    """

    key: str
    memo: bytes
    end: ChildStart
    parent_close: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A step that has got its memo, and the position of the memo in the run."""

    run_id: str
    key: str
    position: int
    memo: bytes


def invoke_child(
    partition: Partition,
    start: ChildStart,
    *,
    run_id: str,
    fence: int,
    version: int,
) -> Command[tuple[ScriptStatus, Resolved | None]]:
    """Start a child and store the wait for it. DONE, ALREADY, RESOLVED, NO_RUN, STALE_FENCE, STALE_REGISTRY."""

    def read(reply: list[Any]) -> tuple[ScriptStatus, Resolved | None]:
        code = ScriptStatus(reply[0])
        return code, Resolved(run_id, start.key, reply[1], reply[2]) if code is ScriptStatus.RESOLVED and reply[
            1
        ] else None

    return run_script(
        "invoke_child",
        read,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        fence,
        version,
        start.key,
        start.step_id,
        start.detail,
        start.timeout_ms,
        start.timeout_memo,
        start.refusal,
        start.child,
        start.config.app,
        start.config.id,
        start.config.queue,
        start.event,
        start.depth,
        start.config.retention_ms,
        *start.config.rules_or_skip(start.event, partition.cipher),
    )


def start_child(
    partition: Partition,
    start: HandleStart,
    *,
    run_id: str,
    fence: int,
    version: int,
) -> Command[tuple[ScriptStatus, list[Resolved | StartChild]]]:
    """Start a child and store the memo of the step that starts it. DONE, ALREADY, NO_RUN, STALE_FENCE, STALE_REGISTRY.

    Also returns the steps that have a memo now, and the message that starts a child in another partition, so that the
    caller can deliver it at once. It is also on the stream.
    """
    end, config = start.end, start.end.config
    rules = config.rules_or_skip(end.event, partition.cipher)
    is_remote = partition.of(end.child) is not partition.of(run_id)
    parts: list[Arg] = [run_id, end.key, end.depth, config.app, config.id, config.queue, config.retention_ms, *rules]
    args = tuple(replies.text(arg) for arg in parts) if is_remote else ()

    def read(reply: list[Any]) -> tuple[ScriptStatus, list[Resolved | StartChild]]:
        code, position, end_position, memo, message = reply
        found: list[Resolved | StartChild] = []
        if position:
            found.append(Resolved(run_id, start.key, position, start.memo))
        if end_position:
            found.append(Resolved(run_id, end.key, end_position, memo))
        if message:
            found.append(StartChild(message.decode(), end.child, end.event, args))
        return ScriptStatus(code), found

    return run_script(
        "start_child",
        read,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        fence,
        version,
        start.key,
        start.memo,
        end.key,
        end.step_id,
        end.detail,
        end.timeout_ms,
        end.timeout_memo,
        start.parent_close,
        "" if end.refusal else end.child,
        config.app,
        config.id,
        config.queue,
        end.event,
        end.depth,
        config.retention_ms,
        dumps(args) if is_remote else b"",
        *rules,
    )


def find_closed_children(partition: Partition, run_id: str) -> Operation[set[str]]:
    """The keys of the steps that wait for children which must not outlive their parent.

    Other fields of the steps are not read: they may be very many, and damaged.
    """
    steps, found, cursor = partition.run_key("STEPS", run_id), set[str](), 0
    while True:
        [(cursor, keys)] = yield [
            command(_read_closed, "HSCAN", steps, cursor, "MATCH", f"*{_CLOSE}", "COUNT", _SCANNED)
        ]
        found |= keys
        if not cursor:
            return found


def _read_closed(reply: Any) -> tuple[int, set[str]]:
    cursor, fields = reply
    closes = replies.fields(fields).items()
    return int(cursor), {name.removesuffix(_CLOSE) for name, close in closes if close != ParentClose.LEAVE.encode()}


def wake_parent(partition: Partition, child: str, *, worker: str) -> Command[Resolved | None]:
    """Resolve the step that waits for a child that has ended. ``None`` if no step waits for it."""

    def read(reply: list[Any]) -> Resolved | None:
        code, position, memo, run_id, key = reply
        return Resolved(run_id.decode(), key.decode(), position, memo) if code == 1 else None

    return run_script("wake_parent", read, partition.run_keys(child, "RUN"), partition.clock.script_ms(), child, worker)
