"""``stepflow errors``: the groups of errors with which runs have failed."""

from __future__ import annotations

import click

from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.views.error_groups import ErrorGroup, read_error_groups
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.filters import TimeArgument, function_names, function_option, resolve_time, since_option
from stepflow_cli.formatting import Cell, console, echo, print_json, printable, since, table
from stepflow_cli.options import output_option, server_options
from stepflow_cli.server import find_partitions
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.product import NAME
from stepflow_engine.terminal_text import cut

__all__ = ["errors"]


@click.command(epilog=EPILOG)
@function_option("Only errors of this function: NAME or APP/NAME.")
@since_option("ERRORS", "Only errors since this")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The largest number of groups."
)
@output_option
@server_options
def errors(
    *,
    function: tuple[str | None, str] | None,
    after: TimeArgument | None,
    limit: int,
    output: str,
    redis_url: str | None,
) -> None:
    """List the errors with which runs have failed, those that are alike as one group, the latest first.

    A group is kept for 30 days after its last failure, also if its runs are forgotten.
    """
    broker, partition = find_partitions(redis_url, NO_ENCRYPTION)
    functions = function_names(broker, partition, function)
    moment = resolve_time(after)
    since_ms = round(moment.timestamp() * 1000) if moment else 0
    groups = run_operation(broker, read_error_groups(partition, functions=functions, since_ms=since_ms, limit=limit))
    if output == "json":
        print_json([group.to_json() for group in groups])
        return
    if not groups:
        echo("no errors")
        return
    grid = table("GROUP", "COUNT", "LAST", "FUNCTION", "STEP", "ERROR", right=("COUNT",))
    grid.columns[-1].ratio, grid.expand = 1, True
    now = REAL_CLOCK.now_ms()
    for group in groups:
        grid.add_row(*_cells(group, now))
    console().print(grid)
    echo(f"the runs of a group: {NAME} runs list --error {groups[0].id}")


def _cells(group: ErrorGroup, now: int) -> list[Cell]:
    text = f"{group.name}: {group.message}" if group.message else group.name
    return [
        group.id,
        f"{group.count:,}",
        since(group.last_at, now),
        printable(group.function),
        printable(cut(group.step, 40)) or "—",
        printable(" ".join(text.split())),
    ]
