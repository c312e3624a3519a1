"""Schedules: start the runs that are due, and store the schedules that are created at run time.

Redis stores for each schedule the time up to which its runs have started. The script that starts runs moves it on, so
any number of workers may call it, and a crash before the call leaves the runs due. A schedule that was created at run
time lives in the partition of the runs of its function. It is changed, or starts runs, only if it is as the caller has
read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Arg, Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.function_config import DEDUPE_MS, FunctionConfig
from stepflow_broker.registry.schedules import ScheduleConfig, ScheduleState
from stepflow_engine.codec import dumps

__all__ = [
    "ByHand",
    "change_schedule",
    "fire_cron",
    "fire_schedule",
    "read_crons",
    "read_schedule",
    "read_schedule_states",
    "read_schedules",
    "schedules_version",
]


@dataclass(frozen=True, slots=True)
class ByHand:
    """Who does something with a schedule, for the audit log.

    Attributes:
        who: who does it; ``""``: it is not recorded.
        action: what is done, such as ``trigger``.
        reason: why.
        details: more, for the record.
    """

    who: str
    action: str
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def read_crons(partition: Partition) -> Command[dict[str, int]]:
    """For each schedule, the time up to which its runs have started, in ms. Values that are not a time are left out."""

    def read(reply: list[bytes]) -> dict[str, int]:
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return {name.decode(errors="replace"): int(last) for name, last in pairs if last.isdigit()}

    return command(read, "HGETALL", partition.keys("CRON"))


def fire_cron(
    partition: Partition,
    schedule: str,
    *,
    last_ms: int,
    until_ms: int,
    starts: Sequence[tuple[str, FunctionConfig, bytes]],
) -> Command[int]:
    """Start the runs (run id, function, event) of a schedule that are due after ``last_ms`` and up to ``until_ms``.

    Returns how many were started; 0 if another worker has started them.
    """
    args: list[Arg] = []
    for run_id, config, event in starts:
        args += (
            run_id,
            config.app,
            config.id,
            config.queue,
            event,
            config.retention_ms,
            *config.rules_or_skip(event, partition.cipher),
        )
    return run_script(
        "fire_cron",
        int,
        (partition.keys("CRON"), partition.keys("PAUSED")),
        partition.clock.script_ms(),
        schedule,
        last_ms,
        until_ms,
        *args,
    )


# -- schedules that were created at run time ---------------------------------------


def schedules_version(partition: Partition) -> Command[int]:
    """Read the version of the schedules of a partition. It grows with each change."""
    return command(replies.integer, "GET", partition.keys("SCHEDULES_VERSION"))


def read_schedules(partition: Partition) -> Command[list[ScheduleConfig]]:
    """Read all schedules of a partition, by name. What is not a schedule is left out."""

    def read(reply: list[bytes]) -> list[ScheduleConfig]:
        found = filter(None, map(_schedule, reply))
        return sorted(found, key=lambda schedule: schedule.name)

    return command(read, "HVALS", partition.keys("SCHEDULES"))


def read_schedule(partition: Partition, name: str) -> Command[ScheduleConfig | None]:
    """Read one schedule (``app/id``) of a partition."""
    return command(lambda reply: _schedule(reply) if reply else None, "HGET", partition.keys("SCHEDULES"), name)


def read_schedule_states(partition: Partition, names: Sequence[str]) -> Command[list[ScheduleState]]:
    """Read what schedules of a partition have started, in the order of the names, of which there is at least one."""
    return command(
        lambda reply: [ScheduleState.from_text(text) for text in reply],
        "HMGET",
        partition.keys("SCHEDULE_STATES"),
        *names,
    )


def _schedule(text: bytes) -> ScheduleConfig | None:
    try:
        return ScheduleConfig.from_text(text)
    except ValueError:
        return None


def change_schedule(
    partition: Partition,
    name: str,
    *,
    before: ScheduleConfig | None,
    after: ScheduleConfig | None,
    state: Literal["now", ""] | ScheduleState = "",
    by: ByHand,
) -> Command[ScriptStatus]:
    """Create, change or delete a schedule of a partition. DONE, ALREADY, or CHANGED: it is not as ``before``.

    Args:
        name: its name, as ``app/id``.
        before: the schedule as it was read; ``None``: there was none.
        after: the schedule from now on; ``None``: it is deleted.
        state: ``"now"``: no time up to now starts a run any more. ``""``: unchanged. Else the state from now on.
        by: who does it.
    """
    keys = partition.keys
    return run_script(
        "change_schedule",
        ScriptStatus,
        (keys("SCHEDULES"), keys("SCHEDULE_STATES"), keys("SCHEDULES_VERSION")),
        partition.clock.script_ms(),
        name,
        before.revision if before else "",
        after.to_text() if after else "",
        state.text if isinstance(state, ScheduleState) else state,
        by.who,
        by.action,
        by.reason,
    )


def fire_schedule(
    partition: Partition,
    schedule: ScheduleConfig,
    config: FunctionConfig,
    starts: Sequence[tuple[str, int, bytes]],
    *,
    last_ms: int | None,
    until_ms: int,
    by: ByHand | None = None,
) -> Command[int]:
    """Start runs (run id, time that it is for, event) of a schedule, each once.

    Returns how many were started: 0 if another worker has started them or the function is paused; CHANGED if the
    schedule is not as it was read.

    Args:
        schedule: the schedule, as it was read.
        config: its function.
        starts: the runs.
        last_ms: up to which time its runs were started, as it was read; ``None``: the runs are started by hand.
        until_ms: up to which time they are started then.
        by: who starts them by hand.
    """
    args: list[Arg] = []
    for run_id, time_ms, event in starts:
        args += (run_id, time_ms, event, *config.rules_or_skip(event, partition.cipher))
    by, keys = by or ByHand("", ""), partition.keys
    return run_script(
        "fire_schedule",
        int,
        (keys("SCHEDULES"), keys("SCHEDULE_STATES"), keys("PAUSED")),
        partition.clock.script_ms(),
        schedule.name,
        schedule.revision,
        "" if last_ms is None else last_ms,
        until_ms,
        by.who,
        by.action,
        by.reason,
        dumps(by.details),
        config.app,
        config.id,
        config.queue,
        DEDUPE_MS,
        config.retention_ms,
        *args,
    )
