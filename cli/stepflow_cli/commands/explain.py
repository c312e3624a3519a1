"""``stepflow explain``: why a run does not progress."""

from __future__ import annotations

from collections.abc import Iterator

import click

from stepflow.options.encryption import cipher_of
from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.views.explain import Reason, explain_run
from stepflow_broker.views.run_view import run_not_found
from stepflow_broker.views.times import local_time
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import echo, print_json, since, waits_until
from stepflow_cli.options import output_option, server_options
from stepflow_cli.server import find_server

__all__ = ["explain"]


@click.command(epilog=EPILOG)
@click.argument("run_id", metavar="RUN")
@output_option
@server_options
def explain(run_id: str, *, output: str, redis_url: str | None) -> None:
    """Explain why a run does not progress: what it waits for, and what that waits for in turn."""
    broker, partition = find_server(redis_url, cipher_of(None))
    reason = explain_run(broker, partition, run_id)
    if reason is None:
        raise run_not_found(run_id)
    if output == "json":
        print_json(reason.to_json())
        return
    now = REAL_CLOCK.now_ms()
    for line in _lines(reason, now, indent=""):
        echo(line)


def _lines(reason: Reason, now: int, *, indent: str) -> Iterator[str]:
    until = f", {waits_until(reason.until, now)}" if reason.until else ""
    begun = f", since {local_time(reason.since)} ({since(reason.since, now)})" if reason.since else ""
    yield f"{indent}{reason.text}{begun}{until}"
    for cause in reason.because:
        yield from _lines(cause, now, indent=f"{indent}  ")
