"""Children in another partition than their parents: the delivery of the messages that connect the two.

Each delivery is an operation: a sequence of commands to two partitions. A worker can die after any of them. The message
is then still on its stream, and another worker delivers it again, from the first command on. Every command can be
repeated. So no message is lost, and none has an effect twice:

=========================  =====================================================================================
interrupted after          the next delivery finds
=========================  =====================================================================================
the wait was recorded      the start message; it creates the child
the child was created      the start message and the child; it does not change the child
the child has ended        the child's own message; it resolves the step
the step was resolved      the child's own message; no step waits for the child, so its retention starts
the parent was cancelled   a message that cancels the child; it stays for as long as the start message
=========================  =====================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Arg, Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.invokes.invokes import ChildStart, Resolved
from stepflow_broker.transitions.invokes.outbox import ChildCancelled, Message, RemoteChildFinished, StartChild
from stepflow_broker.transitions.runs.run_control import cancel_run
from stepflow_engine.codec import dumps

__all__ = [
    "RemoteChildResult",
    "ack_message",
    "deliver",
    "invoke_remote_child",
    "read_end",
    "start_remote_child",
    "wake_remote_parent",
]


@dataclass(frozen=True, slots=True)
class RemoteChildResult:
    """How a child has ended whose parent lives in another partition.

    Attributes:
        child: its run id.
        parent, key: the step that waits for it.
        status: how it has ended.
        payload: its output, or its failure, as JSON text.
        reason: why it was skipped; ``b""``: it was not.
        start_message: the entry that started it, in the parent's partition.
        end_message: the entry for its end, in its own partition.
    """

    child: str
    parent: str
    key: str
    status: str
    payload: bytes
    reason: bytes
    start_message: str
    end_message: str


def invoke_remote_child(
    partition: Partition,
    start: ChildStart,
    *,
    run_id: str,
    fence: int,
    version: int,
) -> Command[tuple[ScriptStatus, StartChild | None]]:
    """Record that a step waits for a child in another partition. DONE, ALREADY, NO_RUN, STALE_FENCE, STALE_REGISTRY.

    Returns the message that starts the child too, so that the caller can deliver it at once. It is also on the stream.
    """
    config = start.config
    parts: list[Arg] = [run_id, start.key, start.depth, config.app, config.id, config.queue, config.retention_ms]
    args = tuple(replies.text(arg) for arg in [*parts, *config.rules_or_skip(start.event, partition.cipher)])

    def read(reply: list[Any]) -> tuple[ScriptStatus, StartChild | None]:
        code, entry = ScriptStatus(reply[0]), reply[1].decode()
        return code, StartChild(entry, start.child, start.event, args) if entry else None

    return run_script(
        "invoke_remote_child",
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
        start.child,
        start.event,
        dumps(args),
    )


def deliver(partition: Partition, message: Message, *, worker: str) -> Operation[Resolved | None]:
    """Deliver a message and delete it from its stream. Returns the step that the message has resolved, if any.

    Args:
        partition: the partition that the message comes from.
        message: the message.
        worker: the worker that delivers it.
    """
    match message:
        case RemoteChildFinished(child):
            return (yield from _report_end(partition, child, worker))
        case StartChild(entry, child):
            code = (yield [start_remote_child(partition, message)])[0]
            yield [ack_message(partition, entry)]
            return (yield from _report_end(partition, child, worker)) if code is ScriptStatus.RESOLVED else None
        case ChildCancelled():
            return (yield from _cancel(partition, message, worker))
        case other:
            assert_never(other)


def _report_end(partition: Partition, child: str, worker: str) -> Operation[Resolved | None]:
    """Resolve the step that waits for a child, if the child has ended."""
    end = (yield [read_end(partition, child)])[0]
    if end is None:
        return None
    resolved: Resolved | None = (yield [wake_remote_parent(partition, end, worker=worker)])[0]
    yield [ack_message(partition.of(child), end.end_message, child)]
    return resolved


def _cancel(partition: Partition, message: ChildCancelled, worker: str) -> Operation[Resolved | None]:
    """Cancel a child. If it does not exist, it was forgotten, or its start message has not been delivered yet.

    The start message is read first. If it was still there, the child may be created later, so the message stays.
    """
    is_starting = (yield [_has_entry(partition, message.start_message)])[0]
    cancel = cancel_run(
        partition,
        run_id=message.child,
        failure=message.failure,
        retention_ms=message.retention_ms,
    )
    code = (yield [cancel])[0]
    if code is ScriptStatus.NO_RUN and is_starting:
        return None
    yield [ack_message(partition, message.id)]
    return (yield from _report_end(partition, message.child, worker))


def start_remote_child(partition: Partition, message: StartChild) -> Command[ScriptStatus]:
    """Create the child of a message. DONE, ALREADY (it is live), or RESOLVED (it was skipped, or has ended)."""
    child = message.child
    return run_script(
        "start_remote_child",
        ScriptStatus,
        partition.run_keys(child, "RUN"),
        partition.clock.script_ms(),
        child,
        message.id,
        message.event,
        *message.args,
    )


def read_end(partition: Partition, child: str) -> Command[RemoteChildResult | None]:
    """How a child has ended. ``None`` if it is live or forgotten, or has no parent in another partition."""

    def read(reply: list[bytes | None]) -> RemoteChildResult | None:
        parent, key, status, output, error, reason, start_message, end_message = reply
        if not (parent and key and status and start_message and end_message):
            return None
        names = (parent.decode(), key.decode(), status.decode())
        payload = output or error or b"null"
        return RemoteChildResult(child, *names, payload, reason or b"", start_message.decode(), end_message.decode())

    fields = ("remote_parent", "parent_step", "status", "output", "error", "reason", "start_message", "finished")
    return command(read, "HMGET", partition.run_key("RUN", child), *fields)


def wake_remote_parent(partition: Partition, end: RemoteChildResult, *, worker: str) -> Command[Resolved | None]:
    """Resolve the step that waits for a child that has ended. ``None`` if it no longer waits, or the parent is gone."""

    def read(reply: list[Any]) -> Resolved | None:
        code, position, memo = reply
        return Resolved(end.parent, end.key, position, memo) if code == 1 else None

    return run_script(
        "wake_remote_parent",
        read,
        partition.run_keys(end.parent, "RUN"),
        partition.clock.script_ms(),
        end.parent,
        end.key,
        end.child,
        end.status,
        end.payload,
        end.reason,
        end.start_message,
        worker,
    )


def ack_message(partition: Partition, entry: str, child: str = "") -> Command[int]:
    """Delete an entry from the stream of a partition.

    Args:
        partition: the partition of the stream.
        entry: the id of the entry.
        child: the run whose end the entry reports; its retention starts now. ``""``: the entry reports no end.
    """
    return run_script("ack_message", int, (partition.keys("FINISHED"),), entry, child)


def _has_entry(partition: Partition, entry: str) -> Command[bool]:
    return command(bool, "XRANGE", partition.keys("FINISHED"), entry, entry)
