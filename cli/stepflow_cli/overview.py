"""``stepflow functions``, ``workers`` and ``queues``: what there is on a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from stepflow_broker.broker import Broker
from stepflow_broker.functions import read_functions
from stepflow_broker.keys import Keys
from stepflow_broker.overview import read_queues, read_workers
from stepflow_cli.exits import EPILOG
from stepflow_cli.options import output_option, server_options
from stepflow_cli.show import Cell, console, iso, now_ms, plain, print_json, since, state_text, table
from stepflow_cli.url import find_url

__all__ = ["functions", "queues", "workers"]


@click.command(epilog=EPILOG)
@output_option
@server_options
def functions(*, output: str, redis_url: str | None) -> None:
    """List the functions that workers have registered."""
    found = Broker(find_url(redis_url)).run(read_functions(Keys()))
    if output == "json":
        fields = ("app", "id", "queue", "events", "retries")
        print_json([{name: getattr(config, name) for name in fields} for config in found])
        return
    rows = [
        (plain(config.name), plain(", ".join(config.events)) or "—", str(config.retries), plain(config.queue))
        for config in found
    ]
    _print(
        ("FUNCTION", "STARTED BY", "RETRIES", "QUEUE"), rows, right=("RETRIES",), none="no functions: start a worker"
    )


@click.command(epilog=EPILOG)
@output_option
@server_options
def workers(*, output: str, redis_url: str | None) -> None:
    """List the workers that live."""
    found = read_workers(Broker(find_url(redis_url)), Keys())
    if output == "json":
        print_json([{**asdict(record), "last_heartbeat": iso(record.last_heartbeat)} for record in found])
        return
    now = now_ms()
    rows = [
        (
            plain(record.name),
            state_text(record.state),
            str(record.pid),
            str(record.finished),
            str(record.failed),
            since(record.last_heartbeat, now),
            plain(", ".join(record.queues)),
        )
        for record in found
    ]
    headers = ("WORKER", "STATE", "PID", "DONE", "FAILED", "SEEN", "QUEUES")
    _print(headers, rows, right=("PID", "DONE", "FAILED"), none="no workers: start one with stepflow-worker")


@click.command(epilog=EPILOG)
@output_option
@server_options
def queues(*, output: str, redis_url: str | None) -> None:
    """List the queues and how much is on each."""
    found = read_queues(Broker(find_url(redis_url)), Keys())
    if output == "json":
        print_json([asdict(record) for record in found])
        return
    rows = [
        (plain(q.name), *[str(n) for n in (q.ready_new, q.ready_steps, q.executing, q.delayed, q.failed)])
        for q in found
    ]
    headers = ("QUEUE", "NEW", "STARTED", "EXECUTING", "DELAYED", "FAILED")
    _print(headers, rows, right=headers[1:], none="no queues: nothing was ever queued here")


def _print(headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: Sequence[str], none: str) -> None:
    """Print a table, or say that there is nothing and what to do."""
    if not rows:
        click.echo(none)
        return
    made = table(*headers, right=right)
    for row in rows:
        made.add_row(*row)
    console().print(made)
