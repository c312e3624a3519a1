"""``stepflow asks`` and ``stepflow answer``: what waits for a person, and the answers."""

from __future__ import annotations

from typing import Any

import click

from stepflow.options.encryption import cipher_of
from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.views.asks import AskView, find_asks
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.filters import function_names, function_option
from stepflow_cli.formatting import Cell, brief, console, echo, print_json, printable, since, table, waits_until
from stepflow_cli.options import data_option, output_option, server_options
from stepflow_cli.server import actor, find_app, find_partitions
from stepflow_engine.product import NAME, variable

__all__ = ["answer", "asks"]


@click.command(epilog=EPILOG)
@function_option("Only asks of this function: NAME or APP/NAME.")
@click.option("--to", envvar=variable("ASKS_TO"), metavar="WHOM", help="Only asks for this person or group.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The largest number of asks.")
@output_option
@server_options
def asks(
    *, function: tuple[str | None, str] | None, to: str | None, limit: int, output: str, redis_url: str | None
) -> None:
    """List the steps that wait for the answer of a person, the oldest first.

    'stepflow answer' answers one. The JSON output has the JSON schema that the answer must fit.
    """
    broker, partition = find_partitions(redis_url, cipher_of(None))
    functions = function_names(broker, partition, function)
    listed = run_operation(broker, find_asks(partition, functions=functions, to=to, limit=limit))
    if output == "json":
        print_json([ask.to_json() for ask in listed])
        return
    if not listed:
        echo("nothing waits for an answer")
        return
    grid = table("RUN", "STEP", "TO", "FUNCTION", "SINCE", "UNTIL", "SCHEMA")
    grid.columns[0].min_width = max(len(ask.run_id) for ask in listed)  # `answer` needs all of it
    grid.columns[-1].ratio, grid.expand = 1, True
    now = REAL_CLOCK.now_ms()
    for ask in listed:
        grid.add_row(*_cells(ask, now))
    console().print(grid)
    echo(f"answer one with: {NAME} answer RUN STEP --data JSON")


def _cells(ask: AskView, now: int) -> list[Cell]:
    texts = [printable(text) for text in (ask.step, ask.to or "—", ask.function)]
    return [ask.run_id, *texts, since(ask.since, now), waits_until(ask.until, now), printable(brief(ask.schema))]


@click.command(epilog=EPILOG)
@click.argument("run_id", metavar="RUN")
@click.argument("step")
@data_option
@click.option("--by", metavar="WHO", help="Who answers. Default: the user of this machine.")
@output_option
@server_options
def answer(run_id: str, step: str, *, data: Any, by: str | None, output: str, redis_url: str | None) -> None:
    """Answer a STEP of a RUN that waits for a person. The first answer counts, and the run continues with it.

    The answer must fit the JSON schema of the step. Without --data, it is null.
    """
    find_app(redis_url).answer(run_id, step, data, by=by)
    who = by or actor()
    if output == "json":
        print_json({"run_id": run_id, "step": step, "answered_by": who})
    else:
        echo(f"step {printable(step)} of run {run_id} is answered by {printable(who)}")
