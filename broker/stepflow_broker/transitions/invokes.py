"""Transitions of invokes, as calls: start a child, and wake its parent. Both live in one partition; see `away`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.functions import FunctionConfig

__all__ = ["ChildStart", "Resolved", "invoke_child", "wake_parent"]


@dataclass(frozen=True, slots=True)
class ChildStart:
    """What a step of a parent wants to be run.

    Attributes:
        key, step_id: the parent's step.
        child: the run id of the child.
        event: its event, as JSON text.
        detail: the end of the memo's JSON text that does not depend on the outcome: ``"id":…}``.
        timeout_ms: the longest wait, in milliseconds.
        timeout_memo: the memo for when the time is over.
        refusal: the memo for when the function cannot be invoked; empty: it can.
        config: the function, if it can.
        depth: of the child.
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
class Resolved:
    """A step of a parent that was resolved, and the memo that it got."""

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
    """Start a child, with the timeout key of the wait. DONE, ALREADY, RESOLVED, NO_RUN, STALE_FENCE, STALE_REGISTRY."""

    def read(reply: list[Any]) -> tuple[ScriptStatus, Resolved | None]:
        code = ScriptStatus(reply[0])
        return code, Resolved(run_id, start.key, reply[1], reply[2]) if code is ScriptStatus.RESOLVED and reply[
            1
        ] else None

    return run_script(
        "invoke_child",
        read,
        partition.run_keys(run_id, "RUN"),
        partition.now_ms(),
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


def wake_parent(partition: Partition, child: str, *, worker: str) -> Command[Resolved | None]:
    """Resolve the step that waits for a child that has ended; ``None`` if none waits for it any more."""

    def read(reply: list[Any]) -> Resolved | None:
        code, position, memo, run_id, key = reply
        return Resolved(run_id.decode(), key.decode(), position, memo) if code == 1 else None

    return run_script("wake_parent", read, partition.run_keys(child, "RUN"), partition.now_ms(), child, worker)
