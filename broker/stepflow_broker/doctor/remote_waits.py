"""Waits for children in other partitions, compared with these children.

No script can see both, so the order of the looks decides. The message that has the child made is looked for first: when
it is gone, the child has been made. The child is kept until the wait has ended, and so is the message that tells of its
end; the wait is looked at last. So a wait that stands all the same has been forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepflow_broker.doctor.findings import Findings
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.remote_invokes import RemoteChildResult, read_end, wake_remote_parent
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.state_machine import RunStatus

__all__ = ["AwayWait", "examine_away"]

_PAGE = 200
_LOST = dumps(Failure("InvokeTimeoutError", "the run did not finish in time").to_json())
_ENDED = frozenset(status.value for status in RunStatus if status.ended)


@dataclass(frozen=True, slots=True)
class AwayWait:
    """A step that waits for a run of another partition.

    Attributes:
        run, key: the step.
        child: the run that it waits for.
        asked: the message that has the child made.
    """

    run: str
    key: str
    child: str
    asked: str


def examine_away(
    broker: Broker, partition: Partition, findings: Findings, waits: Sequence[AwayWait], *, repair: bool
) -> None:
    """Look at the children that are waited for, and once more at the waits of those of which nothing will be heard."""
    for first in range(0, len(waits), _PAGE):
        suspects = _suspects(broker, partition, waits[first : first + _PAGE])
        stands = broker.execute_all([_stands(partition, wait) for _, wait in suspects]) if suspects else []
        for (code, wait), still in zip(suspects, stands, strict=True):
            if still:
                repaired = repair and _resolve(broker, partition, code, wait)
                findings.add(code, f"{wait.run}:{wait.key}", wait.child, repaired=repaired)


def _resolve(broker: Broker, partition: Partition, code: str, wait: AwayWait) -> bool:
    """Give a step the end of its child, or, of one that is lost, that the time is over."""
    end: RemoteChildResult | None = RemoteChildResult(
        wait.child, wait.run, wait.key, "timeout", _LOST, b"", wait.asked, ""
    )
    if code == "remote_child_result_lost":
        end = broker.execute(read_end(partition, wait.child))
    return end is not None and broker.execute(wake_remote_parent(partition, end, worker="doctor")) is not None


def _suspects(broker: Broker, partition: Partition, waits: Sequence[AwayWait]) -> list[tuple[str, AwayWait]]:
    asked = broker.execute_all([_has_message(partition.of(wait.run).keys, wait.asked) for wait in waits])
    made = [wait for wait, is_asked in zip(waits, asked, strict=True) if not is_asked]
    children = broker.execute_all([_read_child(partition, wait.child) for wait in made]) if made else []
    found = [("remote_child_missing", wait) for wait, (status, _) in zip(made, children, strict=True) if not status]
    ended = [(wait, told) for wait, (status, told) in zip(made, children, strict=True) if status in _ENDED]
    heard = (
        broker.execute_all([_has_message(partition.of(wait.child).keys, told or "0-1") for wait, told in ended])
        if ended
        else []
    )
    return found + [
        ("remote_child_result_lost", wait) for (wait, _), is_told in zip(ended, heard, strict=True) if not is_told
    ]


def _has_message(keys: Keys, entry: str) -> Command[bool]:
    return command(bool, "XRANGE", keys("FINISHED"), entry, entry)


def _read_child(partition: Partition, child: str) -> Command[tuple[str, str]]:
    """Its status, and the message that tells of its end; ``""`` for what is not there."""
    return command(_pair, "HMGET", partition.run_key("RUN", child), "status", "finished")


def _stands(partition: Partition, wait: AwayWait) -> Command[bool]:
    """Whether a step still waits for its child."""
    step = (f"{wait.key}:state", f"{wait.key}:child")
    return command(
        lambda reply: _pair(reply) == ("waiting", wait.child), "HMGET", partition.run_key("STEPS", wait.run), *step
    )


def _pair(reply: list[bytes | None]) -> tuple[str, str]:
    first, second = [(value or b"").decode() for value in reply]
    return first, second
