"""``stepflow runs diff``: the first step in which two runs differ."""

from __future__ import annotations

import click
from rich.text import Text

from stepflow.options.encryption import cipher_of
from stepflow_broker.views.run_details import read_run_details
from stepflow_broker.views.run_diff import diff_runs
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import brief, console, echo, print_json, printable, table
from stepflow_cli.options import output_option, server_options
from stepflow_cli.server import find_server

__all__ = ["diff"]


@click.command(epilog=EPILOG)
@click.argument("run_a", metavar="A")
@click.argument("run_b", metavar="B")
@output_option
@server_options
def diff(run_a: str, run_b: str, *, output: str, redis_url: str | None) -> None:
    """Show how run B differs from run A: their data, the first step that differs, and their ends.

    Steps are compared by their ids, in the order in which A has stored their results.
    """
    broker, partition = find_server(redis_url, cipher_of(None))
    left, right = (read_run_details(broker, partition, run, depth=0) for run in (run_a, run_b))
    differences = diff_runs(left, right)
    if output == "json":
        print_json([one.to_json() for one in differences])
    elif not differences:
        echo("no difference")
    else:
        grid = table("STEP", "WHAT", "A", "B")
        for one in differences:
            values = [Text(brief(value)) for value in (one.left, one.right)]
            grid.add_row(printable(one.step), printable(one.what + one.path), *values)
        console().print(grid)
