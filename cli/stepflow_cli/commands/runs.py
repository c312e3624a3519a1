"""``stepflow runs``: list runs, and show one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from stepflow.options.encryption import cipher_of
from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.views.find_runs import cursor_after, read_page
from stepflow_broker.views.run_details import read_run_details
from stepflow_broker.views.run_tree import DEPTH
from stepflow_broker.views.run_view import RunView
from stepflow_cli.commands.accept import accept
from stepflow_cli.commands.cancel import cancel
from stepflow_cli.commands.diff import diff
from stepflow_cli.commands.forks import fork, rerun
from stepflow_cli.commands.retry import retry
from stepflow_cli.commands.signal import signal
from stepflow_cli.commands.unpin import unpin
from stepflow_cli.exit_codes import EPILOG, Session
from stepflow_cli.filters import RunFilters, named_as_options, note_unreadable, run_filter_options
from stepflow_cli.formatting import (
    Cell,
    brief_failure,
    console,
    echo,
    print_json,
    printable,
    since,
    span,
    state_text,
    table,
    waits_until,
)
from stepflow_cli.options import output_option, server_options
from stepflow_cli.run_view.timeline import timeline
from stepflow_cli.run_view.wait_text import wait_texts
from stepflow_cli.server import find_partitions, find_server
from stepflow_engine.limits import MAX_DEPTH
from stepflow_engine.state_machine import RunStatus

__all__ = ["runs"]

_ID_WIDTH = 32
_REASON_WIDTH = 120


@click.group(epilog=EPILOG)
def runs() -> None:
    """List, show, signal, cancel and repeat runs."""


# -- list ----------------------------------------------------------------------


@runs.command("list", epilog=EPILOG)
@run_filter_options("RUNS_LIST")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The maximum number of runs.")
@click.option("--cursor", metavar="CURSOR", help="Continue a list: the cursor that it ended with.")
@output_option
@server_options
def list_runs(*, filters: RunFilters, limit: int, cursor: str | None, output: str, redis_url: str | None) -> None:
    """List runs, the newest first.

    The order is that of their creation. If only runs that have ended are wanted, and no tags, it is that of their end.
    --since and --until refer to the same time.
    """
    broker, partition = find_partitions(redis_url, cipher_of(None))
    with named_as_options():
        wanted = filters.query(broker, partition)
        page = run_operation(broker, read_page(partition, wanted, cursor=cursor or "", limit=limit))
    if output == "json":
        print_json([{**run.to_json(), "cursor": cursor_after(run, wanted)} for run in page.runs])
    elif page.runs:
        _print_runs(page.runs)
    else:
        echo("no runs")
    note_unreadable(page.unreadable)
    if page.next_cursor and (output != "json" or page.is_cut):
        cut = f", after {page.compared:,} runs were compared" if page.is_cut else ""
        echo(f"there may be more runs{cut}: --cursor {page.next_cursor}", err=output == "json")


def _print_runs(listed: Sequence[RunView]) -> None:
    """Print the table. On a narrow terminal, the reason of a run is on a line of its own."""
    out, now = console(), REAL_CLOCK.now_ms()
    if out.width < _REASON_WIDTH:
        out.print(*_narrow_rows(listed, out.width, now), sep="\n")
        return
    grid = table("RUN", "STATUS", "FUNCTION", "CREATED", "TOOK", "WHY", right=("TOOK",))
    grid.columns[0].min_width = _ID_WIDTH
    grid.columns[-1].ratio, grid.expand = 1, True
    for run in listed:
        grid.add_row(*_cells(run, now), _why(run, now))
    out.print(grid)


def _narrow_rows(listed: Sequence[RunView], width: int, now: int) -> Iterator[RenderableType]:
    rows = [_cells(run, now) for run in listed]
    headers = ("RUN", "STATUS", "FUNCTION", "CREATED", "TOOK")
    widths = [max(len(header), *(len(row[at]) for row in rows)) for at, header in enumerate(headers)]
    widths[2] = max(8, min(widths[2], width - sum(widths) + widths[2] - 2 * len(headers)))
    for number, (run, row) in enumerate(zip(listed, rows, strict=True)):
        grid = table(*headers, right=("TOOK",))
        grid.show_header = number == 0
        for column, cells in zip(grid.columns, widths, strict=True):
            column.width = cells
        grid.add_row(*row)
        yield grid
        if why := _why(run, now):
            yield Padding(Text(why, style="yellow", no_wrap=True, overflow="ellipsis"), (0, 0, 0, 2))


def _cells(run: RunView, now: int) -> list[Cell]:
    took = span(run.started_at, run.ended_at or now)
    return [run.id, state_text(run.status), printable(run.name), since(run.created_at, now), took]


def _why(run: RunView, now: int) -> str:
    """What a run waits for, or why it failed, in one line."""
    if run.starts_at is not None and not run.paused:
        return f"{printable(run.blocked_by)} {waits_until(run.starts_at, now)}".strip()
    undoing = f"is undoing its steps, ends as {run.undoing}: {_end(run)}" if run.undoing else ""
    return (
        printable(run.paused or run.blocked or run.blocked_by)
        or undoing
        or "; ".join(wait_texts(run.waits, now))
        or _end(run)
    )


def _end(run: RunView) -> str:
    """Why a run failed, or was cancelled, and whether it was run again."""
    again = "(run again) " if run.forks and run.status in (RunStatus.FAILED, RunStatus.CANCELLED) else ""
    if run.failure is not None and run.status == RunStatus.CANCELLED:
        return again + printable(" ".join(run.failure.message.split()))
    return again + printable(brief_failure(run.failure))


# -- show ----------------------------------------------------------------------


@runs.command(epilog=EPILOG)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--depth",
    type=click.IntRange(0, MAX_DEPTH),
    default=DEPTH,
    show_default=True,
    help="How many levels of children to show.",
)
@output_option
@server_options
def show(run_id: str, *, depth: int, output: str, redis_url: str | None) -> None:
    """Show a RUN: its properties, its steps with attempts, times and results, its parent, and its children.

    A step that a worker executes in a row with others is stored, and shown, when it has ended. A failed run has its
    traceback, without the frames of libraries; --debug shows all frames.
    """
    broker, partition = find_server(redis_url, cipher_of(None))
    details = read_run_details(broker, partition, run_id, depth=depth)
    if output == "json":
        print_json(details.to_json())
        return
    out = console()
    debug = click.get_current_context().ensure_object(Session).debug
    out.print(timeline(details, out.width, whole_tracebacks=debug))


for _command in (cancel, signal, retry, rerun, fork, diff, unpin, accept):
    runs.add_command(_command)
