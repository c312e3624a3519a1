"""``stepflow runs signal``: send a run a signal."""

from __future__ import annotations

from typing import Any

import click

from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import echo, print_json, printable
from stepflow_cli.options import data_option, output_option, server_options
from stepflow_cli.server import find_app
from stepflow_engine.product import variable

__all__ = ["signal"]


@click.command(epilog=EPILOG)
@click.argument("run_id", metavar="RUN")
@click.argument("name")
@data_option
@click.option(
    "--id",
    "signal_id",
    envvar=variable("RUNS_SIGNAL_ID"),
    metavar="ID",
    help="Makes the call repeatable: a run receives one signal with this id.",
)
@output_option
@server_options
def signal(run_id: str, name: str, *, data: Any, signal_id: str | None, output: str, redis_url: str | None) -> None:
    """Send a RUN the signal NAME, which one wait of its code for this name receives.

    A signal that arrives before the wait is kept, in the order of arrival.
    """
    sent = find_app(redis_url).run(run_id).signal(name, data, id=signal_id)
    if output == "json":
        print_json({"run_id": run_id, "signal": name, "id": signal_id, "sent": sent})
    elif sent:
        echo(f"run {run_id} was sent signal {printable(name)}")
    else:
        echo(f"run {run_id} was sent a signal with id {printable(signal_id or '')} before")
