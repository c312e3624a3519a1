"""Compare waits for children in other partitions with these children.

No script can see both, so the order of the reads decides. First the message that starts the child: once it is gone, the
child exists. The child is kept until the wait has ended, and so is the message of its end. The wait is read last: a
wait that is still there has been forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepflow_broker.doctor.findings import Findings
from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.invokes.remote_invokes import RemoteChildResult, read_end, wake_remote_parent
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.state_machine import RunStatus

__all__ = ["RemoteWait", "examine_remote_waits"]

_PAGE = 200
_LOST = dumps(Failure("InvokeTimeoutError", "the run did not finish in time").to_json())
_ENDED = frozenset(status.value for status in RunStatus if status.ended)


@dataclass(frozen=True, slots=True)
class RemoteWait:
    """A step that waits for a run of another partition.

    Attributes:
        run, key: the step.
        child: the run that it waits for.
        message: the message that starts the child.
    """

    run: str
    key: str
    child: str
    message: str


def examine_remote_waits(
    broker: Broker, partition: Partition, findings: Findings, waits: Sequence[RemoteWait], *, repair: bool
) -> None:
    """Read the children of waits, and again the waits whose children are lost or have ended without a message."""
    for first in range(0, len(waits), _PAGE):
        suspects = _suspects(broker, partition, waits[first : first + _PAGE])
        are_open = broker.execute_all([_is_open(partition, wait) for _, wait in suspects]) if suspects else []
        for (code, wait), is_open in zip(suspects, are_open, strict=True):
            if is_open:
                repaired = repair and _resolve(broker, partition, code, wait)
                findings.add(code, f"{wait.run}:{wait.key}", wait.child, repaired=repaired)


def _resolve(broker: Broker, partition: Partition, code: str, wait: RemoteWait) -> bool:
    """End a wait by the result of its child, or, if that is lost, as timed out."""
    end: RemoteChildResult | None = RemoteChildResult(
        wait.child, wait.run, wait.key, "timeout", _LOST, b"", wait.message, ""
    )
    if code == "child_result_lost":
        end = broker.execute(read_end(partition, wait.child))
    return end is not None and broker.execute(wake_remote_parent(partition, end, worker="doctor")) is not None


def _suspects(broker: Broker, partition: Partition, waits: Sequence[RemoteWait]) -> list[tuple[str, RemoteWait]]:
    pending = broker.execute_all([_has_message(partition.of(wait.run).keys, wait.message) for wait in waits])
    made = [wait for wait, is_pending in zip(waits, pending, strict=True) if not is_pending]
    children = broker.execute_all([_read_child(partition, wait.child) for wait in made]) if made else []
    found = [("child_missing", wait) for wait, (status, _) in zip(made, children, strict=True) if not status]
    ended = [(wait, message) for wait, (status, message) in zip(made, children, strict=True) if status in _ENDED]
    has_end = (
        broker.execute_all([_has_message(partition.of(wait.child).keys, message or "0-1") for wait, message in ended])
        if ended
        else []
    )
    return found + [
        ("child_result_lost", wait) for (wait, _), has_message in zip(ended, has_end, strict=True) if not has_message
    ]


def _has_message(keys: Keys, entry: str) -> Command[bool]:
    return command(bool, "XRANGE", keys("FINISHED"), entry, entry)


def _read_child(partition: Partition, child: str) -> Command[tuple[str, str]]:
    """Its status, and the message of its end; ``""`` for what is missing."""
    return command(replies.text_pair, "HMGET", partition.run_key("RUN", child), "status", "finished")


def _is_open(partition: Partition, wait: RemoteWait) -> Command[bool]:
    """Whether a step still waits for its child."""
    step = (f"{wait.key}:state", f"{wait.key}:child")
    return command(
        lambda reply: replies.text_pair(reply) == ("waiting", wait.child),
        "HMGET",
        partition.run_key("STEPS", wait.run),
        *step,
    )
