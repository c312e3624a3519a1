"""``stepflow functions``, ``workers`` and ``queues``: the lists of what a server has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from stepflow.client.flow_limits import FlowLimit, flow_limits
from stepflow.options.cron_times import next_start
from stepflow_broker.protocol.clock import REAL_CLOCK, server_time_ms
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.flow_control import RateConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import forget_function, read_functions
from stepflow_broker.transitions.limits import read_all_limits
from stepflow_broker.transitions.runs.run_index import RunQuery
from stepflow_broker.views.find_runs import find_page
from stepflow_broker.views.listings import read_queues, read_workers, served_queues, unserved_functions
from stepflow_broker.views.releases import ReleaseRecord, read_releases
from stepflow_broker.views.times import iso, local_time
from stepflow_cli.commands.flow_limits import change_text, limit_json
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import (
    Cell,
    console,
    echo,
    print_json,
    printable,
    since,
    state_text,
    table,
    unserved,
)
from stepflow_cli.options import output_option, server_options
from stepflow_cli.server import actor, find_partitions, find_server
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.durations import show_duration
from stepflow_engine.errors import ConfigurationError, FunctionNotFoundError
from stepflow_engine.failure import Failure
from stepflow_engine.product import NAME, WORKER_PROGRAM
from stepflow_engine.state_machine import LIVE

__all__ = ["functions", "queues", "workers"]


@click.group(epilog=EPILOG, invoke_without_command=True)
@output_option
@server_options
@click.pass_context
def functions(context: click.Context, *, output: str, redis_url: str | None) -> None:
    """List the registered functions, their triggers, and whether a live worker serves them."""
    if context.invoked_subcommand is not None:
        return
    broker, partition = find_partitions(redis_url, NO_ENCRYPTION)
    configs, queues = broker.execute(read_functions(partition.keys)), served_queues(broker, partition)
    without_code = unserved_functions(broker, partition, [config.name for config in configs])
    served = frozenset(config.name for config in configs if config.queue in queues) - {*without_code}
    now = broker.execute(server_time_ms(partition.clock))
    releases = {one.name: run_operation(broker, read_releases(partition, one.name)) for one in configs if one.pinned}
    changed = [one for one in flow_limits(configs, run_operation(broker, read_all_limits(partition))) if one.changed]
    if output == "json":
        print_json([_function_json(config, served, now, changed, releases.get(config.name)) for config in configs])
        return
    has_rates = any(config.rate_limit for config in configs)
    has_crons = any(config.crons for config in configs)
    headers = [
        "FUNCTION",
        "STARTED BY",
        *["NEXT"] * has_crons,
        "RETRIES",
        *["RATE LIMIT"] * has_rates,
        "QUEUE",
        "SERVED",
    ]
    rows = [_function_row(config, served, now, has_rates=has_rates, has_crons=has_crons) for config in configs]
    _print(headers, rows, right=("RETRIES",), wrapped=(1,), empty="no functions: start a worker")
    for one in changed:
        echo(change_text(one))
    for queue in sorted({config.queue for config in configs} - queues):
        echo(unserved(queue))
    for config in configs:
        if config.queue in queues and config.name not in served:
            echo(f"no live worker has the code of function {printable(config.name)}")
    for name, records in releases.items():
        echo(printable(f"{name} is pinned. {'; '.join(map(_release_text, records)) or 'No version is live'}"))


def _release_text(release: ReleaseRecord) -> str:
    runs = f"{release.runs:,} live run{'' if release.runs == 1 else 's'}"
    return f"Version {release.version}: {runs}{'' if release.live else ', no live worker'}"


@functions.command(epilog=EPILOG)
@click.argument("name")
@output_option
@server_options
def forget(name: str, *, output: str, redis_url: str | None) -> None:
    """Forget a function (APP/NAME) whose code was removed or renamed: no event and no schedule starts it any more.

    It is refused while a live worker has the code, for up to 90 s after the last one stopped, and while runs of the
    function live. A worker that has the code registers the function again.
    """
    broker, partition = find_server(redis_url, NO_ENCRYPTION)
    live = RunQuery(functions=(name,), statuses=LIVE)
    if run_operation(broker, find_page(partition, live, limit=1, known=[name])).runs:
        cancel = f"{NAME} runs cancel --function {name}"
        raise ConfigurationError(f"function {name} has live runs: wait for their end, or cancel them with '{cancel}'")
    first, *others = partition.all
    codes = broker.execute_all(
        [forget_function(first, name, who=actor()), *[forget_function(one, name) for one in others]]
    )
    if ScriptStatus.SERVED in codes:
        raise ConfigurationError(
            f"a live worker has the code of function {name}, or stopped less than 90 s ago: stop it, and try again"
        )
    if ScriptStatus.DONE not in codes:
        text = f"function {name} is not registered: '{NAME} functions' lists those that are"
        raise FunctionNotFoundError("", Failure("FunctionNotFoundError", text), function_id=name)
    if output == "json":
        print_json({"function": name, "forgotten": True})
    else:
        echo(f"function {name} is forgotten")


def _function_json(
    config: FunctionConfig,
    served: frozenset[str],
    now: int,
    changed: Sequence[FlowLimit] = (),
    releases: Sequence[ReleaseRecord] | None = None,
) -> dict[str, Any]:
    return {
        "app": config.app,
        "id": config.id,
        "queue": config.queue,
        "events": [event.name for event in config.events],
        "triggers": [
            *({"event": event.name, "if": event.condition or None} for event in config.events),
            *({"cron": cron.schedule, **_schedule_json(config.name, cron, now)} for cron in config.crons),
        ],
        "retries": config.retries,
        "rate_limit": asdict(config.rate_limit) if config.rate_limit else None,
        "changed_limits": [limit_json(one) for one in changed if one.function == config.name],
        "served": config.name in served,
        "pinned": None if releases is None else [one.to_json() for one in releases],
    }


def _schedule_json(function: str, cron: CronConfig, now: int) -> dict[str, Any]:
    return {
        "zone": cron.zone,
        "catch_up": cron.catch_up,
        "jitter_ms": cron.jitter_ms,
        "window": cron.window or None,
        "next_at": iso(next_start(cron, after_ms=now, name=cron.name_of(function))),
    }


def _function_row(
    config: FunctionConfig, served: frozenset[str], now: int, *, has_rates: bool, has_crons: bool
) -> list[Cell]:
    return [
        printable(config.name),
        printable(", ".join(config.triggers)) or "—",
        *[_next(config.name, config.crons, now)] * has_crons,
        str(config.retries),
        *[_rate(config.rate_limit)] * has_rates,
        printable(config.queue),
        "yes" if config.name in served else Text("no", style="yellow"),
    ]


def _next(function: str, crons: Sequence[CronConfig], now: int) -> str:
    """The next time that a cron schedule starts a function, in the local time zone: ``2025-01-31 09:30``."""
    starts = (next_start(cron, after_ms=now, name=cron.name_of(function)) for cron in crons)
    times = [time_ms for time_ms in starts if time_ms is not None]
    return local_time(min(times)).removesuffix(":00") if times else "—"


def _rate(rate: RateConfig | None) -> str:
    """A rate limit, such as ``2 in 1h per event.data.user``."""
    if rate is None:
        return "—"
    per = f" per {printable(rate.key)}" if rate.key else ""
    return f"{rate.limit} in {show_duration(rate.period_ms)}{per}"


@click.command(epilog=EPILOG)
@output_option
@server_options
def workers(*, output: str, redis_url: str | None) -> None:
    """List the workers. The state of one that has sent no heartbeat for 15 seconds is lost; it has probably died."""
    records = read_workers(*find_server(redis_url, NO_ENCRYPTION))
    if output == "json":
        print_json([{**asdict(record), "last_heartbeat": iso(record.last_heartbeat)} for record in records])
        return
    now = REAL_CLOCK.now_ms()
    rows = [
        (
            printable(record.name),
            state_text(record.state if record.live else "lost"),
            str(record.pid),
            str(record.finished),
            str(record.failed),
            since(record.last_heartbeat, now),
            printable(record.version) or "—",
            printable(", ".join(record.queues)),
        )
        for record in records
    ]
    headers = ("WORKER", "STATE", "PID", "DONE", "FAILED", "SEEN", "VERSION", "QUEUES")
    _print(headers, rows, right=("PID", "DONE", "FAILED"), empty=f"no workers: start one with {WORKER_PROGRAM}")


@click.command(epilog=EPILOG)
@output_option
@server_options
def queues(*, output: str, redis_url: str | None) -> None:
    """List the queues and the number of jobs on each."""
    records = read_queues(*find_partitions(redis_url, NO_ENCRYPTION))
    if output == "json":
        print_json([asdict(record) for record in records])
        return
    rows = [
        (printable(q.name), *[str(n) for n in (q.ready_new, q.ready_steps, q.executing, q.delayed, q.failed)])
        for q in records
    ]
    headers = ("QUEUE", "NEW", "STARTED", "EXECUTING", "DELAYED", "FAILED")
    _print(headers, rows, right=headers[1:], empty="no queues: no job was queued on this server yet")


def _print(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    right: Sequence[str],
    empty: str,
    wrapped: Sequence[int] = (),
) -> None:
    """Print a table, or the text ``empty`` if it has no rows. The columns in ``wrapped`` may take several lines."""
    if not rows:
        echo(empty)
        return
    grid = table(*headers, right=right)
    for column in wrapped:
        grid.columns[column].no_wrap, grid.columns[column].overflow = False, "fold"
    for row in rows:
        grid.add_row(*row)
    console().print(grid)
