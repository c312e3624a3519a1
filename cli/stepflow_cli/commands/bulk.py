"""``stepflow bulk``: the jobs of the workers that run many runs again."""

from __future__ import annotations

import time

import click
from rich.table import Table

from stepflow import Bulk, BulkInfo
from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import console, echo, print_json, printable, since, span, state_text, table
from stepflow_cli.options import output_option, reason_option, server_options
from stepflow_cli.server import find_app
from stepflow_engine.times import epoch_ms

__all__ = ["bulk"]

_UNHELD_MS = 15_000
_FOLLOW_S = 1.0


@click.group(epilog=EPILOG)
def bulk() -> None:
    """List, show and stop bulks, which run many runs again ('runs retry --function')."""


@bulk.command("list", epilog=EPILOG)
@output_option
@server_options
def list_bulks(*, output: str, redis_url: str | None) -> None:
    """List the bulks that go on, and those of the last 7 days, the newest first."""
    bulks, now = find_app(redis_url).bulks(), REAL_CLOCK.now_ms()
    if output == "json":
        print_json([one.to_json() for one in bulks])
        return
    if not bulks:
        echo("no bulks")
        return
    right = ("RUNS", "DONE", "SKIPPED", "REFUSED")
    grid = table("BULK", "STATE", "FUNCTION", *right, "CREATED", "WHO", right=right)
    for one in bulks:
        counts = (f"{number:,}" for number in (one.matched, one.done, one.skipped, one.refused))
        texts = (since(one.created_at, now), printable(one.who))
        grid.add_row(one.id, state_text(one.state), printable(one.function), *counts, *texts)
    console().print(grid)


@bulk.command(epilog=EPILOG)
@click.argument("bulk_id", metavar="BULK")
@click.option("--follow", is_flag=True, help="Wait until the bulk has ended, and print how far it is.")
@output_option
@server_options
def show(bulk_id: str, *, follow: bool, output: str, redis_url: str | None) -> None:
    """Show how far a BULK is, and why runs were skipped or refused."""
    handle = find_app(redis_url).bulk(bulk_id)
    info = _followed(handle, output) if follow else handle.info()
    if output == "json":
        print_json(info.to_json())
        return
    _print(info)


def _followed(handle: Bulk, output: str) -> BulkInfo:
    last = -1
    while not (info := handle.info()).ended:
        if info.settled != last and output != "json":
            echo(f"{info.settled:,} of {info.matched:,}")
        last = info.settled
        time.sleep(_FOLLOW_S)
    return info


def _print(info: BulkInfo) -> None:
    now = REAL_CLOCK.now_ms()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    by = f" by {printable(info.stopped_by)}" if info.stopped_by else ""
    rate = f"{info.rate:,g} in a second, at most {info.per_second:,g}"
    grid.add_row("bulk", info.id)
    grid.add_row("function", printable(info.function))
    grid.add_row("state", state_text(info.state).append(by))
    grid.add_row("runs", f"{info.matched:,}: {info.done:,} done, {info.skipped:,} skipped, {info.refused:,} refused")
    grid.add_row("rate", rate)
    grid.add_row("created", f"{since(info.created_at, now)} by {printable(info.who)}")
    if info.reason:
        grid.add_row("reason", printable(info.reason))
    if info.started_at:
        grid.add_row("took", span(info.started_at, info.ended_at or now))
    if info.worker:
        grid.add_row("worker", printable(info.worker))
    out = console()
    out.print(grid)
    if info.reasons:
        reasons = table("RUNS", "OUTCOME", "WHY", "ONE OF THEM", right=("RUNS",))
        for one in info.reasons:
            reasons.add_row(f"{one.count:,}", one.outcome, printable(one.text), printable(one.run))
        out.print("", reasons, sep="\n")
    if not info.ended and not info.worker and now - epoch_ms(info.created_at) > _UNHELD_MS:
        echo(f"note: no worker executes it: start one that has function {info.function}", err=True)


@bulk.command(epilog=EPILOG)
@click.argument("bulk_id", metavar="BULK")
@reason_option
@output_option
@server_options
def stop(bulk_id: str, *, reason: str, output: str, redis_url: str | None) -> None:
    """Stop a BULK. Runs that a worker has just taken are still run again, all others are left alone."""
    handle = find_app(redis_url).bulk(bulk_id)
    has_stopped = handle.stop(reason)
    info = handle.info()
    if output == "json":
        print_json({"id": info.id, "stopped": has_stopped, "state": info.state})
    else:
        echo(f"bulk {info.id} is {info.state}" if has_stopped else f"bulk {info.id} was {info.state} already")
