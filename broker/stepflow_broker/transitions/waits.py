"""Transitions of waits, as calls: sleep, wait for an event, and send events as a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.event_filter import wait_index
from stepflow_broker.transitions.invokes import Resolved

__all__ = ["BegunWait", "WaitStart", "begin_wait", "deliver_event", "read_condition", "read_waits", "send_events"]


@dataclass(frozen=True, slots=True)
class WaitStart:
    """What a step waits for.

    Attributes:
        key, step_id: the step.
        detail: the end of its memo's JSON text, which does not depend on the outcome: ``"id":…}``.
        delay_ms: for how long, in milliseconds.
        until_ms: until when, in milliseconds since the epoch; 0: the delay counts.
        event: the name of an event; ``""``: the step sleeps.
        index: see `stepflow_broker.registry.event_filter.wait_index`.
        condition: what a worker has to look at before it gives the step an event.
        lookback_ms: how long ago the event may have come, in milliseconds.
    """

    key: str
    step_id: str
    detail: bytes
    delay_ms: int
    until_ms: int = 0
    event: str = ""
    index: str = ""
    condition: bytes = b""
    lookback_ms: int = 0


@dataclass(frozen=True, slots=True)
class BegunWait:
    """A step that was made to wait.

    Attributes:
        resolved: its memo, if the time for which it would wait is past.
        recent: the events of the run's partition on which it looks back, oldest first.
        since_ms: since when it looks back, in milliseconds since the epoch; 0: it does not.
    """

    code: ScriptStatus
    resolved: Resolved | None
    recent: list[bytes]
    since_ms: int


def begin_wait(partition: Partition, start: WaitStart, *, run_id: str, fence: int) -> Command[BegunWait]:
    """Make a step wait. DONE, ALREADY, RESOLVED (a time that is past), NO_RUN, STALE_FENCE."""

    def read(reply: list[Any]) -> BegunWait:
        code = ScriptStatus(reply[0])
        resolved = Resolved(run_id, start.key, reply[1], reply[2]) if code is ScriptStatus.RESOLVED else None
        return BegunWait(code, resolved, reply[3], reply[4])

    return run_script(
        "begin_wait",
        read,
        partition.run_keys(run_id, "RUN"),
        partition.now_ms(),
        run_id,
        fence,
        start.key,
        start.step_id,
        start.detail,
        start.delay_ms,
        start.until_ms,
        start.index,
        start.condition,
        start.event,
        start.lookback_ms,
    )


def deliver_event(partition: Partition, run_id: str, key: str, event: bytes) -> Command[bool]:
    """End a step's wait with an event; false if it waits no more."""
    return run_script("deliver_event", bool, partition.run_keys(run_id, "RUN"), partition.now_ms(), run_id, key, event)


def send_events(
    partition: Partition, *, run_id: str, fence: int, key: str, memo: bytes, events: Sequence[tuple[bytes, str, bool]]
) -> Command[tuple[ScriptStatus, int]]:
    """Put events (text, id, whether the sender chose the id) on the stream as a step. As `commit_step`."""
    words = [word for text, event_id, dedupe in events for word in (text, event_id, 1 if dedupe else 0)]
    return run_script(
        "send_events",
        replies.status_and_number,
        (*partition.run_keys(run_id, "RUN", "MEMOS", "MEMO_ORDER"), partition.of(run_id).keys("EVENTS")),
        run_id,
        fence,
        key,
        memo,
        *words,
    )


def read_waits(partition: Partition, event: str) -> Command[list[tuple[str, str]]]:
    """The waits (run id, step key; or a run and ``!<n>``) for an event that a worker has to look at."""
    index = wait_index(event, paths="", values=b"", has_condition=True)
    return command(_members, "SMEMBERS", partition.keys("WAITS", index))


def read_condition(partition: Partition, run_id: str, key: str) -> Command[bytes]:
    """What has to be looked at; empty if the step waits no more, or, of a key ``!<n>``, the run has ended."""
    if key.startswith("!"):
        return command(replies.bytes_or_empty, "HGET", partition.run_key("RUN", run_id), f"condition:{key[1:]}")
    return command(replies.bytes_or_empty, "HGET", partition.run_key("STEPS", run_id), f"{key}:condition")


def _members(reply: Any) -> list[tuple[str, str]]:
    found = [member.decode().rpartition(":") for member in reply]
    return [(run_id, key) for run_id, _, key in found]
