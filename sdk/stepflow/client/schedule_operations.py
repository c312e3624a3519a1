"""The operations on schedules: round trips that are the same for the blocking and the asyncio client.

A schedule is changed, or starts runs, only if it is as it was read. If somebody else has changed it meanwhile, the
operation reads it again.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime

from stepflow.client.backend import Backend
from stepflow.client.function_names import require_config, split_name
from stepflow.client.pauses import check_reason
from stepflow.client.run import Run
from stepflow.client.schedule_info import Schedule, ScheduledRun, schedule_info
from stepflow.client.schedule_request import from_now
from stepflow.later import When, time_ms
from stepflow.options.cron_times import due_times
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.command import in_chunks
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation, single
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import read_function
from stepflow_broker.registry.schedules import (
    ScheduleConfig,
    ScheduleState,
    partition_prefix_of,
    scheduled_run_id,
)
from stepflow_broker.transitions.runs.run_state import read_status
from stepflow_broker.transitions.schedules import (
    ByHand,
    change_schedule,
    fire_schedule,
    read_schedule,
    read_schedule_states,
    read_schedules,
)
from stepflow_engine.errors import ConfigurationError, ScheduleNotFoundError
from stepflow_engine.ids import with_partition_prefix
from stepflow_engine.times import utc_time

__all__ = ["backfill", "create", "delete", "get", "list_all", "pause", "read_config", "resume", "trigger"]

_TRIES = 5
_MOST_TIMES = 1_000
_CLOCKS_DIFFER_MS = 60_000
"""How far ahead of the server a clock may be whose time counts as now."""
_STARTS = 100
"""Runs that one script starts. More would block other clients of the server for longer."""
Stored = tuple[Partition, ScheduleConfig]


def read_config(backend: Backend, function: str) -> Operation[FunctionConfig]:
    """The settings of a function (``app/function``): declared in this process, else read from the registry."""
    app, id = split_name(function, "")
    if (declared := backend.declared.find(app, id)) is not None:
        return declared.config
    (config,) = yield [read_function(backend.partition.keys, app, id)]
    return require_config(function, config)


def _find(backend: Backend, name: str) -> Operation[Stored | None]:
    parts = backend.partition.all
    stored: list[ScheduleConfig | None] = yield [read_schedule(one, name) for one in parts]
    return next(((one, schedule) for one, schedule in zip(parts, stored, strict=True) if schedule), None)


def _require(backend: Backend, name: str) -> Operation[Stored]:
    stored = yield from _find(backend, name)
    if stored is None:
        raise ScheduleNotFoundError(name)
    return stored


def _now_ms(backend: Backend) -> Operation[int]:
    return (yield from single(server_time_ms(backend.partition.clock)))


def _busy(name: str) -> ConfigurationError:
    return ConfigurationError(f"schedule {name!r}: others change it at this moment: try again")


# -- create and read -------------------------------------------------------------


def create(
    backend: Backend, config: ScheduleConfig, function: FunctionConfig, *, replaces: bool
) -> Operation[Schedule]:
    """Create a schedule, or change it if ``replaces``."""
    name, by = config.name, ByHand(backend.actor, "create", config.reason)
    home = backend.partition.of(partition_prefix_of(function))
    for _ in range(_TRIES):
        stored = yield from _find(backend, name)
        if stored is not None and not replaces:
            raise ConfigurationError(f"schedule: {name!r} exists already: pass replace=True to change it")
        now_ms = yield from _now_ms(backend)
        here = stored[1] if stored and stored[0] is home else None
        after = from_now(config, stored[1] if stored else None, now_ms=now_ms, who=backend.actor)
        (code,) = yield [change_schedule(home, name, before=here, after=after, state="now", by=by)]
        if code is ScriptStatus.CHANGED:
            continue
        if stored is not None and here is None:  # its function was another one
            yield [change_schedule(stored[0], name, before=stored[1], after=None, by=ByHand("", "move"))]
        return schedule_info(after, ScheduleState(), backend.cipher, now_ms)
    raise _busy(name)


def get(backend: Backend, name: str) -> Operation[Schedule]:
    """Read a schedule."""
    home, schedule = yield from _require(backend, name)
    (state,) = (yield [read_schedule_states(home, [name])])[0]
    now_ms = yield from _now_ms(backend)
    return schedule_info(schedule, state, backend.cipher, now_ms)


def list_all(backend: Backend, *, app: str = "", function: str = "") -> Operation[list[Schedule]]:
    """Read the schedules of all partitions, by name.

    Args:
        app: only those of this app; ``""``: of all.
        function: only those of this function (``app/function``); ``""``: of all.
    """
    parts = backend.partition.all
    read: list[list[ScheduleConfig]] = yield [read_schedules(one) for one in parts]
    wanted = [
        (part, [one for one in stored if (not app or one.app == app) and (not function or one.function == function)])
        for part, stored in zip(parts, read, strict=True)
    ]
    wanted = [(part, stored) for part, stored in wanted if stored]
    if not wanted:
        return []
    states = yield [read_schedule_states(part, [one.name for one in stored]) for part, stored in wanted]
    now_ms = yield from _now_ms(backend)
    return sorted(
        (
            schedule_info(schedule, state, backend.cipher, now_ms)
            for (_, stored), of_part in zip(wanted, states, strict=True)
            for schedule, state in zip(stored, of_part, strict=True)
        ),
        key=lambda schedule: (schedule.app, schedule.id),
    )


# -- change ----------------------------------------------------------------------


def pause(backend: Backend, name: str, reason: str) -> Operation[bool]:
    """Pause a schedule. False if it was paused; the reason is updated."""
    by = ByHand(backend.actor, "pause", check_reason(reason))
    for _ in range(_TRIES):
        home, before = yield from _require(backend, name)
        paused_at = before.paused_at or (yield from _now_ms(backend))
        after = before.changed(paused_at=paused_at, paused_reason=by.reason)
        (code,) = yield [change_schedule(home, name, before=before, after=after, by=by)]
        if code is not ScriptStatus.CHANGED:
            return not before.paused_at
    raise _busy(name)


def resume(backend: Backend, name: str) -> Operation[bool]:
    """Resume a schedule from now on. False if it was not paused."""
    for _ in range(_TRIES):
        home, before = yield from _require(backend, name)
        if not before.paused_at:
            return False
        after, by = before.changed(paused_at=0, paused_reason=""), ByHand(backend.actor, "resume")
        (code,) = yield [change_schedule(home, name, before=before, after=after, state="now", by=by)]
        if code is not ScriptStatus.CHANGED:
            return True
    raise _busy(name)


def delete(backend: Backend, name: str, reason: str) -> Operation[bool]:
    """Delete a schedule. False if there is none."""
    by = ByHand(backend.actor, "delete", check_reason(reason))
    for _ in range(_TRIES):
        stored = yield from _find(backend, name)
        if stored is None:
            return False
        (code,) = yield [change_schedule(stored[0], name, before=stored[1], after=None, by=by)]
        if code is not ScriptStatus.CHANGED:
            return True
    raise _busy(name)


# -- start runs ------------------------------------------------------------------


def _require_home(backend: Backend, name: str) -> Operation[tuple[Partition, ScheduleConfig, FunctionConfig]]:
    """A schedule and its function."""
    home, schedule = yield from _require(backend, name)
    config = yield from read_config(backend, schedule.function)
    if home is not backend.partition.of(partition_prefix_of(config)):
        raise ConfigurationError(
            f"schedule {name!r}: its function has got other limits, and no worker has moved it yet: try again"
        )
    return home, schedule, config


def trigger(backend: Backend, name: str, reason: str) -> Operation[str]:
    """Start a run of a schedule now. Returns its id."""
    by, unique = ByHand(backend.actor, "trigger", check_reason(reason)), uuid.uuid4().hex
    for _ in range(_TRIES):
        home, schedule, config = yield from _require_home(backend, name)
        now_ms = yield from _now_ms(backend)
        run_id = with_partition_prefix(partition_prefix_of(config), unique)
        starts = [(run_id, now_ms, schedule.event(backend.cipher, run_id, now_ms))]
        (code,) = yield [
            fire_schedule(home, schedule, config, starts, last_ms=None, until_ms=now_ms, by=by),
        ]
        if code != ScriptStatus.CHANGED:
            return run_id
    raise _busy(name)


def backfill(
    backend: Backend, name: str, since: When, until: When | None, *, dry_run: bool, reason: str
) -> Operation[list[ScheduledRun]]:
    """Start the runs of past times that have none."""
    by = ByHand(backend.actor, "backfill", check_reason(reason))
    since_ms, until_ms = _range(since, until)
    home, schedule, config = yield from _require_home(backend, name)
    now_ms = yield from _now_ms(backend)
    if until_ms > now_ms + _CLOCKS_DIFFER_MS:
        raise ConfigurationError("backfill: until must not be in the future, got a later time: leave it out for now")
    times = _times(schedule, since_ms, min(until_ms or now_ms, now_ms))
    missed: list[tuple[int, str]] = []
    for part in in_chunks([(one, scheduled_run_id(config, name, one)) for one in times], _STARTS):
        statuses = yield [read_status(backend.partition, run_id) for _, run_id in part]
        missed += [one for one, status in zip(part, statuses, strict=True) if status is None]
    for part in () if dry_run else in_chunks(missed, _STARTS):
        starts = [(run_id, at_ms, schedule.event(backend.cipher, run_id, at_ms)) for at_ms, run_id in part]
        of_part = replace(by, details={"since": _iso(part[0][0]), "until": _iso(part[-1][0]), "times": len(part)})
        (code,) = yield [fire_schedule(home, schedule, config, starts, last_ms=None, until_ms=now_ms, by=of_part)]
        if code == ScriptStatus.CHANGED:
            raise ConfigurationError(
                f"backfill: schedule {name!r} has changed meanwhile: call it again, which starts the rest"
            )
    return [ScheduledRun(utc_time(at_ms), Run(backend, run_id)) for at_ms, run_id in missed]


def _range(since: When, until: When | None) -> tuple[int, int]:
    """The first and the last time, in milliseconds; the last is 0 for now."""
    try:
        since_ms = time_ms(since, "backfill: since")
        until_ms = 0 if until is None else max(1, time_ms(until, "backfill: until"))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    if until_ms and until_ms < since_ms:
        raise ConfigurationError("backfill: until must be after since")
    return since_ms, until_ms


def _times(schedule: ScheduleConfig, since_ms: int, until_ms: int) -> list[int]:
    every = replace(schedule.cron, catch_up="all")
    times = due_times(every, after_ms=since_ms - 1, now_ms=until_ms, name=schedule.name, most=_MOST_TIMES + 1)
    if len(times) > _MOST_TIMES:
        raise ConfigurationError(
            f"backfill: schedule {schedule.name!r} has over {_MOST_TIMES:,} times in this range: choose a shorter one"
        )
    return times


def _iso(at_ms: int) -> str:
    return datetime.isoformat(utc_time(at_ms))
