"""``stepflow explain``: why a run is not moving."""

from __future__ import annotations

from collections.abc import Iterator

import click

from stepflow_broker.views.explain import Reason, explain_run
from stepflow_broker.views.times import iso
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import now_ms, print_json, span
from stepflow_cli.options import output_option, server_options
from stepflow_cli.server import find_server
from stepflow_engine.errors import RunNotFoundError

__all__ = ["explain"]


@click.command(epilog=EPILOG)
@click.argument("run_id", metavar="RUN")
@output_option
@server_options
def explain(run_id: str, *, output: str, redis_url: str | None) -> None:
    """Say why a run is not moving: what it waits for, and what that waits for."""
    broker, keys = find_server(redis_url)
    reason = explain_run(broker, keys, run_id)
    if reason is None:
        text = f"there is no run {run_id!r}: the id is wrong, or the run ended longer ago than the retention"
        raise RunNotFoundError(run_id, "unknown", text)
    if output == "json":
        print_json(reason.to_json())
        return
    now = now_ms()
    for line in _lines(reason, now, indent=""):
        click.echo(line)


def _lines(reason: Reason, now: int, *, indent: str) -> Iterator[str]:
    until = f", until {iso(reason.until)} (in {span(now, max(now, reason.until))})" if reason.until else ""
    yield f"{indent}{reason.text}{until}"
    for cause in reason.because:
        yield from _lines(cause, now, indent=f"{indent}  ")
