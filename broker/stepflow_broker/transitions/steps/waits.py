"""Waits: sleep, wait for an event, and send events as a step.

A wait is stored with its end in the same script. If the worker crashes, any worker ends the wait by its timer or by an
event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.event_filter import wait_index
from stepflow_broker.registry.event_values import id_digest
from stepflow_broker.transitions.invokes.invokes import Resolved

__all__ = [
    "BegunWait",
    "SentEvent",
    "WaitStart",
    "begin_wait",
    "deliver_event",
    "early_events_matched",
    "read_condition",
    "read_early_events",
    "read_waits",
    "send_events",
]


@dataclass(frozen=True, slots=True)
class WaitStart:
    """A wait to store: for a time, or for an event until a time.

    Attributes:
        key, step_id: the step.
        detail: the end of the JSON text of its memo, which does not depend on the outcome: ``"id":…}``.
        delay_ms: the longest wait, in milliseconds.
        until_ms: the end of the wait, in milliseconds since the epoch; 0: it ends after ``delay_ms``.
        event: the name of an event; ``""``: the step sleeps.
        index: see `stepflow_broker.registry.event_filter.wait_index`.
        condition: the `EventFilter` that a worker evaluates before the step gets an event; ``b""``: none.
        lookback_ms: how old an early event may be that ends the wait, in milliseconds; ``None``: it must have come
            after the run was created. 0: no early event ends the wait.
        since: the position of the latest memo that the code had when it requested the step; 0: none.
        own_event: the id of the event that has started the run, which ends no wait of it; ``""``: none.
        unread: ids of events, and positions of the memos of waits that each has ended, of which the code knows nothing:
            it had cancelled these waits. The events may end this wait.
    """

    key: str
    step_id: str
    detail: bytes
    delay_ms: int
    until_ms: int = 0
    event: str = ""
    index: str = ""
    condition: bytes = b""
    lookback_ms: int | None = 0
    since: int = 0
    own_event: str = ""
    unread: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True, slots=True)
class BegunWait:
    """What ``begin_wait`` returns.

    Attributes:
        resolved: the memo of the step, if the end of the wait is in the past, or an early event has ended it.
        early: the early events of the run's partition that the caller must match, oldest first.
        since_ms: from when on events of other partitions may end the wait, in milliseconds since the epoch; 0: there is
            nothing to match.
    """

    code: ScriptStatus
    resolved: Resolved | None
    early: list[bytes]
    since_ms: int


def begin_wait(partition: Partition, start: WaitStart, *, run_id: str, fence: int) -> Command[BegunWait]:
    """Store a wait. DONE, ALREADY, RESOLVED (by its time, or an early event), NO_RUN, STALE_FENCE."""

    def read(reply: list[Any]) -> BegunWait:
        code = ScriptStatus(reply[0])
        resolved = Resolved(run_id, start.key, reply[1], reply[2]) if code is ScriptStatus.RESOLVED else None
        return BegunWait(code, resolved, reply[3], reply[4])

    return run_script(
        "begin_wait",
        read,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        fence,
        start.key,
        start.step_id,
        start.detail,
        start.delay_ms,
        start.until_ms,
        start.index,
        start.condition,
        "run" if start.lookback_ms is None else start.lookback_ms,
        start.since,
        id_digest(start.own_event),
        *[part for event_id, position in start.unread for part in (id_digest(event_id), position)],
    )


def read_early_events(partition: Partition, index: str, *, since_ms: int) -> Command[list[bytes]]:
    """The events of a partition, oldest first, that may end a wait of a run in another partition.

    Args:
        partition: the partition of the events.
        index: see `stepflow_broker.registry.event_filter.wait_index`.
        since_ms: from when on, in milliseconds since the epoch.
    """
    event = index.split("\n", 2)[2]
    return run_script(
        "read_early_events",
        list,
        (partition.keys("COMPARED_PATHS", event),),
        partition.clock.script_ms(),
        index,
        since_ms,
    )


def early_events_matched(partition: Partition, run_id: str, key: str) -> Command[int]:
    """Note that the early events of a wait have been matched, so that nobody matches them again."""
    return command(int, "HDEL", partition.run_key("STEPS", run_id), f"{key}:lookback")


def deliver_event(partition: Partition, run_id: str, key: str, event: bytes, *, event_id: str) -> Command[bool]:
    """End the wait of a step with an event. False if the step no longer waits, or had the event before it waited."""
    args = (partition.clock.script_ms(), run_id, key, event, id_digest(event_id))
    return run_script("deliver_event", bool, partition.run_keys(run_id, "RUN"), *args)


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event of a step.

    Attributes:
        text: the event as JSON text.
        id: its id.
        dedupe: whether the sender chose the id.
        due_ms: when it is sent, in milliseconds since the epoch; 0: now.
    """

    text: bytes
    id: str
    dedupe: bool
    due_ms: int = 0


def send_events(
    partition: Partition, *, run_id: str, fence: int, key: str, memo: bytes, events: Sequence[SentEvent]
) -> Command[tuple[ScriptStatus, int]]:
    """Add events to the stream, or delay them, and store the memo of their step.

    Both happen in one script, so a crash sends all events or none. Returns what `commit_step` returns.
    """
    args = [part for one in events for part in (one.text, one.id, 1 if one.dedupe else 0, one.due_ms)]
    return run_script(
        "send_events",
        replies.status_and_number,
        (*partition.run_keys(run_id, "RUN", "MEMOS", "MEMO_ORDER"), partition.of(run_id).keys("EVENTS")),
        run_id,
        fence,
        key,
        memo,
        *args,
    )


def read_waits(partition: Partition, event: str) -> Command[list[tuple[str, str]]]:
    """The waits for an event whose conditions a worker evaluates: run id, and step key or ``!<n>`` (cancel event)."""
    index = wait_index(event, paths="", values=b"", has_condition=True)
    return command(_members, "SMEMBERS", partition.keys("WAITS", index))


def read_condition(partition: Partition, run_id: str, key: str) -> Command[bytes]:
    """The condition of a wait. Empty if the step no longer waits or, for a key ``!<n>``, the run has ended."""
    if key.startswith("!"):
        return command(replies.bytes_or_empty, "HGET", partition.run_key("RUN", run_id), f"condition:{key[1:]}")
    return command(replies.bytes_or_empty, "HGET", partition.run_key("STEPS", run_id), f"{key}:condition")


def _members(reply: Any) -> list[tuple[str, str]]:
    found = [member.decode().rpartition(":") for member in reply]
    return [(run_id, key) for run_id, _, key in found]
