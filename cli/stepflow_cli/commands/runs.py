"""``stepflow runs``: list them, and look into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from stepflow.options.encryption import cipher_of
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.runs import read_steps
from stepflow_broker.views.listings import RunSummary, find_runs
from stepflow_broker.views.run_tree import DEPTH
from stepflow_broker.views.run_view import read_run_view
from stepflow_broker.views.times import iso
from stepflow_broker.views.wait_view import Wait, find_waits
from stepflow_cli.commands.cancel import cancel
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import (
    Cell,
    brief_failure,
    console,
    now_ms,
    print_json,
    printable,
    since,
    span,
    state_text,
    table,
)
from stepflow_cli.options import output_option, server_options
from stepflow_cli.run_view.timeline import timeline
from stepflow_cli.run_view.wait_text import wait_texts
from stepflow_cli.server import find_server
from stepflow_engine.encryption_scopes import end_scopes, redacted_failure
from stepflow_engine.limits import MAX_DEPTH
from stepflow_engine.states import RunStatus

__all__ = ["runs"]

_CHUNK = 25


@click.group(epilog=EPILOG)
def runs() -> None:
    """List runs, look into one, cancel some."""


# -- list ----------------------------------------------------------------------


@runs.command("list", epilog=EPILOG)
@click.option(
    "--status",
    "statuses",
    type=click.Choice([status.value for status in RunStatus]),
    multiple=True,
    help="Only runs that are this; may be repeated.",
)
@click.option("--function", default="", metavar="NAME", help="Only runs of this function: NAME or APP/NAME.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@output_option
@server_options
def list_runs(*, statuses: tuple[str, ...], function: str, limit: int, output: str, redis_url: str | None) -> None:
    """List the newest runs."""
    wanted = frozenset(RunStatus(status) for status in statuses)
    broker, keys = find_server(redis_url)
    found = [_shown(run) for run in find_runs(broker, keys, statuses=wanted, function=function, limit=limit)]
    waits = _read_waits(broker, keys, found)
    if output == "json":
        print_json([_summary_json(run, waits.get(run.id, ())) for run in found])
    elif found:
        _print_runs(found, waits)
    else:
        click.echo("no runs")


def _read_waits(broker: Broker, keys: Keys, found: Sequence[RunSummary]) -> dict[str, tuple[Wait, ...]]:
    """What waiting runs wait for besides children, by run. A round trip for each 25 of them."""
    waiting = [run.id for run in found if run.status is RunStatus.WAITING]
    waits: dict[str, tuple[Wait, ...]] = {}
    for first in range(0, len(waiting), _CHUNK):
        part = waiting[first : first + _CHUNK]
        steps = broker.execute_all([read_steps(keys, run_id) for run_id in part])
        waits |= {run_id: find_waits(pending) for run_id, pending in zip(part, steps, strict=True)}
    return waits


def _shown(run: RunSummary) -> RunSummary:
    """A run with its failure, if this process has the key."""
    failure = redacted_failure(cipher_of(None), run.failure, *end_scopes(run.id, run.name, failed=True))
    return replace(run, failure=failure)


def _summary_json(run: RunSummary, waits: Sequence[Wait]) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "app": run.app,
        "function": run.function,
        "queue": run.queue,
        "status": run.status,
        "attempt": run.attempt,
        "created_at": iso(run.created_at),
        "started_at": iso(run.started_at),
        "ended_at": iso(run.ended_at),
        "blocked": run.blocked or None,
        "blocked_by": run.blocked_by or None,
        "waits": [wait.named_json() for wait in waits],
        "error": run.failure.to_json() if run.failure else None,
    }


def _print_runs(found: Sequence[RunSummary], waits: Mapping[str, Sequence[Wait]]) -> None:
    out, now = console(), now_ms()
    wide = out.width >= 100
    made = table("RUN", "STATUS", "FUNCTION", "CREATED", "TOOK", *(["WHY"] if wide else []), right=("TOOK",))
    made.columns[0].min_width = 32
    if wide:
        made.columns[-1].ratio, made.expand = 1, True
    for run in found:
        took = span(run.started_at, run.ended_at or now)
        cells: list[Cell] = [run.id, state_text(run.status), printable(run.name), since(run.created_at, now), took]
        if wide:
            cells.append(_why(run, waits.get(run.id, ()), now))
        made.add_row(*cells)
    out.print(made)


def _why(run: RunSummary, waits: Sequence[Wait], now: int) -> str:
    """Why a run is as it is, in one line."""
    return (
        printable(run.blocked or run.blocked_by)
        or "; ".join(wait_texts(waits, now))
        or printable(brief_failure(run.failure))
    )


# -- show ----------------------------------------------------------------------


@runs.command(epilog=EPILOG)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--depth",
    type=click.IntRange(0, MAX_DEPTH),
    default=DEPTH,
    show_default=True,
    help="How many levels of invoked runs to show.",
)
@output_option
@server_options
def show(run_id: str, *, depth: int, output: str, redis_url: str | None) -> None:
    """Show a RUN: its facts, its steps with attempts, times and results, who invoked it, and whom it invoked."""
    broker, keys = find_server(redis_url)
    detail = read_run_view(broker, keys, run_id, depth=depth, cipher=cipher_of(None))
    if output == "json":
        print_json(detail.to_json())
        return
    out = console()
    out.print(timeline(detail, out.width))


runs.add_command(cancel)
