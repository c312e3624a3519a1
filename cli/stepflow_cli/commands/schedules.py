"""``stepflow schedules``: list, create and change schedules, and start their runs by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, get_args

import click
from rich.text import Text

from stepflow import Schedule
from stepflow.client.schedule_operations import list_all
from stepflow.options.cron_times import next_start
from stepflow.options.triggers import CatchUp
from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import read_functions
from stepflow_broker.views.times import iso, local_time
from stepflow_cli.exit_codes import EPILOG, ExitCode
from stepflow_cli.filters import TimeArgument, resolve_time, time_option
from stepflow_cli.formatting import Cell, brief, console, cut, echo, print_json, printable, state_text, table
from stepflow_cli.options import data_option, duration, output_option, reason_option, server_options
from stepflow_cli.server import find_app
from stepflow_engine.durations import show_duration

__all__ = ["schedules"]

_WIDEST = 100
"""How many characters of a name a table shows."""


@click.group(epilog=EPILOG)
def schedules() -> None:
    """List, create and change schedules, and start their runs by hand."""


def _check_name(_: click.Context, __: click.Parameter, value: str) -> str:
    if "/" not in value:
        raise click.BadParameter(f"schedule must be APP/ID, got {value!r}")
    return value


_schedule_argument = click.argument("schedule", metavar="APP/ID", callback=_check_name)


# -- list and show -------------------------------------------------------------


@schedules.command("list", epilog=EPILOG)
@output_option
@server_options
def list_schedules(*, output: str, redis_url: str | None) -> None:
    """List the schedules that were created at run time, and those that functions declare in their code."""
    app = find_app(redis_url)
    created = run_operation(app.backend.broker, list_all(app.backend))
    functions = app.backend.broker.execute(read_functions(app.backend.partition.keys))
    declared = [(config, cron) for config in functions for cron in config.crons]
    now = REAL_CLOCK.now_ms()
    if output == "json":
        print_json([*map(_json, created), *(_declared_json(config, cron, now) for config, cron in declared)])
        return
    if not created and not declared:
        echo("there are no schedules")
        return
    grid = table("SCHEDULE", "FUNCTION", "TIMES", "NEXT", "LAST", "STATE")
    for schedule in created:
        grid.add_row(*_row(schedule))
    for config, cron in declared:
        grid.add_row(
            "—", printable(config.name), printable(cron.text), _shown(_next(config, cron, now)), "—", "in code"
        )
    console().print(grid)


def _row(schedule: Schedule) -> list[Cell]:
    if schedule.paused:
        state = state_text("suspended")
        state.plain = "paused"
    else:
        state = Text("active" if schedule.next_times else "ended")
    return [
        printable(cut(f"{schedule.app}/{schedule.id}", _WIDEST)),
        printable(cut(schedule.function, _WIDEST)),
        printable(_times(schedule)),
        _shown(_ms(schedule.next_times[0]) if schedule.next_times else None),
        _shown(_ms(schedule.last_time)),
        state,
    ]


@schedules.command("show", epilog=EPILOG)
@_schedule_argument
@output_option
@server_options
def show(schedule: str, *, output: str, redis_url: str | None) -> None:
    """Show a schedule that was created at run time, with its next times and its last run."""
    _print(find_app(redis_url).schedules.get(schedule), output)


def _print(schedule: Schedule, output: str) -> None:
    if output == "json":
        print_json(_json(schedule))
        return
    created = f"{local_time(_ms(schedule.created_at) or 0)} by {schedule.created_by}"
    paused = f"since {_shown(_ms(schedule.paused_at))}  {schedule.paused_reason}".rstrip() if schedule.paused else ""
    last = f"{_shown(_ms(schedule.last_time))}, run {schedule.last_run}" if schedule.last_run else ""
    for label, text in (
        ("schedule", f"{schedule.app}/{schedule.id}"),
        ("function", schedule.function),
        ("times", _times(schedule)),
        ("catch up", schedule.catch_up),
        ("start", _shown(_ms(schedule.start)) if schedule.start else ""),
        ("end", _shown(_ms(schedule.end)) if schedule.end else ""),
        ("data", brief(schedule.data) if schedule.data is not None else ""),
        ("created", created),
        ("reason", schedule.reason),
        ("paused", paused),
        ("next", ", ".join(_shown(_ms(one)) for one in schedule.next_times) or "—"),
        ("last", last),
    ):
        if text:
            echo(f"{label:<9} {text}")


# -- create --------------------------------------------------------------------


@schedules.command("create", epilog=EPILOG)
@_schedule_argument
@click.argument("function", metavar="APP/FUNCTION")
@click.option("--cron", metavar="FIELDS", help="Five fields, as '0 6 * * *'.")
@click.option("--every", type=duration, metavar="TIME", help="Instead of --cron, the interval: 15m, 1d.")
@click.option("--timezone", metavar="ZONE", help="The time zone, as Europe/Rome. Default: UTC.")
@data_option
@click.option("--jitter", type=duration, metavar="TIME", help="Start each run up to this much later: 5m.")
@click.option("--window", metavar="FROM-TO", help="The hours in which runs start: 22:00-06:00.")
@click.option("--start", metavar="TIME", help="No time before this: ISO 8601 with an offset.")
@click.option("--end", metavar="TIME", help="No time after this: ISO 8601 with an offset.")
@click.option(
    "--catch-up",
    type=click.Choice(get_args(CatchUp)),
    default="latest",
    show_default=True,
    help="What to do with times at which no worker was running.",
)
@click.option("--replace", is_flag=True, help="Change the schedule if it exists.")
@reason_option
@output_option
@server_options
def create(
    schedule: str,
    function: str,
    *,
    cron: str | None,
    every: float | None,
    timezone: str | None,
    data: Any,
    jitter: float | None,
    window: str | None,
    start: str | None,
    end: str | None,
    catch_up: CatchUp,
    replace: bool,
    reason: str,
    output: str,
    redis_url: str | None,
) -> None:
    """Create the schedule APP/ID, which starts runs of APP/FUNCTION for times from now on."""
    if "/" not in function:
        raise click.BadParameter(f"function must be APP/FUNCTION, got {function!r}", param_hint="APP/FUNCTION")
    created = find_app(redis_url).schedules.create(
        schedule,
        function,
        cron=cron,
        every=every,
        timezone=timezone,
        data=data,
        jitter=jitter,
        window=window,
        start=start,
        end=end,
        catch_up=catch_up,
        replace=replace,
        reason=reason,
    )
    _print(created, output)


# -- change --------------------------------------------------------------------


@schedules.command("pause", epilog=EPILOG)
@_schedule_argument
@reason_option
@output_option
@server_options
def pause(schedule: str, *, reason: str, output: str, redis_url: str | None) -> None:
    """Pause a schedule: it starts no more runs until it is resumed.

    Times that pass meanwhile start nothing; 'schedules backfill' starts them.
    """
    new = find_app(redis_url).schedules.pause(schedule, reason=reason)
    if output == "json":
        print_json({"schedule": schedule, "paused": True, "new": new})
        return
    echo(f"schedule {schedule} is paused" if new else f"schedule {schedule} was already paused; its reason is updated")


@schedules.command("resume", epilog=EPILOG)
@_schedule_argument
@output_option
@server_options
def resume(schedule: str, *, output: str, redis_url: str | None) -> None:
    """Resume a paused schedule, for times from now on."""
    was = find_app(redis_url).schedules.resume(schedule)
    if output == "json":
        print_json({"schedule": schedule, "paused": False, "was_paused": was})
        return
    echo(f"schedule {schedule} is resumed" if was else f"schedule {schedule} was not paused")


@schedules.command("delete", epilog=EPILOG)
@_schedule_argument
@reason_option
@output_option
@server_options
def delete(schedule: str, *, reason: str, output: str, redis_url: str | None) -> ExitCode:
    """Delete a schedule. Runs that it has started go on.

    If there is none, the exit code is 4.
    """
    deleted = find_app(redis_url).schedules.delete(schedule, reason=reason)
    if output == "json":
        print_json({"schedule": schedule, "deleted": deleted})
    else:
        echo(f"schedule {schedule} is deleted" if deleted else f"there is no schedule {schedule}")
    return ExitCode.OK if deleted else ExitCode.NOT_FOUND


# -- start runs ----------------------------------------------------------------


@schedules.command("trigger", epilog=EPILOG)
@_schedule_argument
@reason_option
@output_option
@server_options
def trigger(schedule: str, *, reason: str, output: str, redis_url: str | None) -> None:
    """Start a run of a schedule now, also if it is paused, and print its id."""
    run = find_app(redis_url).schedules.trigger(schedule, reason=reason)
    if output == "json":
        print_json({"schedule": schedule, "run_id": run.id})
    else:
        echo(run.id)


@schedules.command("backfill", epilog=EPILOG)
@_schedule_argument
@time_option("--since", "The first time", required=True)
@time_option("--until", "The last time, by default now")
@click.option("--dry-run", is_flag=True, help="Print what would be started, and start nothing.")
@reason_option
@output_option
@server_options
def backfill(
    schedule: str,
    *,
    since: TimeArgument,
    until: TimeArgument | None,
    dry_run: bool,
    reason: str,
    output: str,
    redis_url: str | None,
) -> None:
    """Start the runs of past times that have none, each once; at most 1,000."""
    app = find_app(redis_url)
    missed = app.schedules.backfill(schedule, resolve_time(since), resolve_time(until), dry_run=dry_run, reason=reason)
    if output == "json":
        print_json([{"time": iso(_ms(one.time)), "run_id": one.run.id, "started": not dry_run} for one in missed])
        return
    for one in missed:
        echo(f"{local_time(_ms(one.time) or 0)}  {one.run.id}")
    echo(f"{len(missed):,} runs {'would be started' if dry_run else 'are started'}", err=True)


# -- values --------------------------------------------------------------------


def _times(schedule: Schedule) -> str:
    times = f"every {_span(schedule.every)}" if schedule.every else f"{schedule.cron} {schedule.timezone}"
    window = f" in {schedule.window}" if schedule.window else ""
    return times + window + (f" jitter {_span(schedule.jitter)}" if schedule.jitter else "")


def _span(value: timedelta) -> str:
    return show_duration(value.total_seconds() * 1000)


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _shown(at_ms: int | None) -> str:
    return "—" if at_ms is None else local_time(at_ms)


def _next(config: FunctionConfig, cron: CronConfig, now: int) -> int | None:
    return next_start(cron, after_ms=now, name=cron.name_of(config.name))


def _json(schedule: Schedule) -> dict[str, Any]:
    return {
        "schedule": f"{schedule.app}/{schedule.id}",
        "function": schedule.function,
        "in_code": False,
        "cron": schedule.cron or None,
        "every_ms": round(schedule.every.total_seconds() * 1000) if schedule.every else None,
        "timezone": schedule.timezone,
        "jitter_ms": round(schedule.jitter.total_seconds() * 1000),
        "window": schedule.window or None,
        "catch_up": schedule.catch_up,
        "start": iso(_ms(schedule.start)),
        "end": iso(_ms(schedule.end)),
        "data": schedule.data,
        "reason": schedule.reason or None,
        "created_at": iso(_ms(schedule.created_at)),
        "created_by": schedule.created_by,
        "paused_at": iso(_ms(schedule.paused_at)),
        "paused_reason": schedule.paused_reason or None,
        "next_times": [iso(_ms(one)) for one in schedule.next_times],
        "last_time": iso(_ms(schedule.last_time)),
        "last_run": schedule.last_run or None,
    }


def _declared_json(config: FunctionConfig, cron: CronConfig, now: int) -> dict[str, Any]:
    """A schedule of the code: it has no id, and its data is not registered."""
    next_at = _next(config, cron, now)
    return {
        "schedule": None,
        "function": config.name,
        "in_code": True,
        "cron": cron.schedule,
        "every_ms": None,
        "timezone": cron.zone,
        "jitter_ms": cron.jitter_ms,
        "window": cron.window or None,
        "catch_up": cron.catch_up,
        **dict.fromkeys(("start", "end", "data", "reason", "created_at", "created_by", "paused_at", "paused_reason")),
        "next_times": [] if next_at is None else [iso(next_at)],
        "last_time": None,
        "last_run": None,
    }
