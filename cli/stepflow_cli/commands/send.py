"""``stepflow send``, ``start`` and ``invoke``: send events and start runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from stepflow import Run
from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.registry.function_config import FunctionConfig, starts
from stepflow_broker.registry.functions import read_functions
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import echo, print_json
from stepflow_cli.options import data_option, duration, output_option, server_options
from stepflow_cli.server import find_app
from stepflow_engine.expression import ExpressionCostError
from stepflow_engine.product import NAME

__all__ = ["invoke", "send", "start"]

C = TypeVar("C", bound=Callable[..., Any])
app_option = click.option(
    "--app", metavar="APP", help="The app of the function, if the argument is FUNCTION without APP/."
)


def later_options(command: C) -> C:
    """The options ``--delay`` and ``--at``."""
    delay = click.option("--delay", type=duration, metavar="TIME", help="Start after this time: 30s, 10m, 3d.")
    at = click.option("--at", metavar="TIME", help="Start at this time: ISO 8601 with an offset. A past time: now.")
    return delay(at(command))


@click.command(epilog=EPILOG)
@click.argument("event")
@data_option
@click.option("--id", help="The event id. An event with the same id within 24 hours starts nothing.")
@later_options
@output_option
@server_options
def send(
    event: str,
    *,
    data: Any,
    id: str | None,
    delay: float | None,
    at: str | None,
    output: str,
    redis_url: str | None,
) -> None:
    """Send an event, and print its id.

    The event starts a run of every function whose trigger matches, and resumes every step that waits for it. With
    --delay or --at, it does so later; until then 'events delayed' lists it, and 'events cancel' cancels it.
    """
    producer = find_app(redis_url)
    event_id = producer.send(event, data, id=id, delay=delay, at=at)
    functions = producer.backend.broker.execute(read_functions(producer.backend.partition.keys))
    sent = {"name": event, "data": {} if data is None else data, "id": event_id, "ts": REAL_CLOCK.now_ms()}
    names = [config.name for config in functions if _starts(config, sent)]
    if output == "json":
        print_json({"event_id": event_id, "event": event, "functions": names})
        return
    echo(event_id)
    if not names:
        text = f"note: event {event!r} with this data starts no registered function: see '{NAME} functions'. "
        echo(f"{text}Runs that wait for it receive it", err=True)


def _starts(config: FunctionConfig, sent: dict[str, Any]) -> bool:
    """Whether the event starts a function. One that makes its condition too expensive does not."""
    try:
        return starts(config, sent)
    except ExpressionCostError:
        return False


@click.command(epilog=EPILOG)
@click.argument("function", metavar="APP/FUNCTION")
@app_option
@data_option
@click.option("--id", help="Makes the start idempotent: within 24 hours, the same id names the same run.")
@later_options
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option(
    "--timeout", type=duration, metavar="TIME", help="Wait for the result, but no longer than this: 30s, 5m, 1h."
)
@click.option(
    "--priority", type=float, metavar="SECONDS", help="Queue it as if it had been created earlier: -600 to 600."
)
@click.option("--queue", help="The queue of its jobs, in place of that of the function.")
@click.option("--retention", type=duration, metavar="TIME", help="How long it is kept when it has ended: 12h, 30d.")
@click.option("--run-timeout", type=duration, metavar="TIME", help="Cancel it if it takes longer than this: 5m, 1h.")
@output_option
@server_options
def start(
    function: str,
    *,
    app: str | None,
    data: Any,
    id: str | None,
    delay: float | None,
    at: str | None,
    wait: bool,
    timeout: float | None,
    priority: float | None,
    queue: str | None,
    retention: float | None,
    run_timeout: float | None,
    output: str,
    redis_url: str | None,
) -> None:
    """Start a run and print its id.

    With --wait or --timeout, it waits for the end of the run and prints the result. With --delay or --at, the run
    starts later; until then it is waiting, and 'runs cancel' cancels it.
    """
    options = {"priority": priority, "queue": queue, "retention": retention, "timeout": run_timeout}
    run = _start(function, app, data, id, redis_url, delay=delay, at=at, **options)
    if not wait and timeout is None:
        _print_run(run, output)
        return
    result = run.result(timeout)
    print_json({"run_id": run.id, "status": "completed", "output": result} if output == "json" else result)


@click.command(epilog=EPILOG)
@click.argument("function", metavar="APP/FUNCTION")
@app_option
@data_option
@click.option(
    "--timeout", type=duration, metavar="TIME", help="The maximum wait: 30s, 5m, 1h. The run continues after it."
)
@server_options
def invoke(function: str, *, app: str | None, data: Any, timeout: float | None, redis_url: str | None) -> None:
    """Start a run, wait for its end, and print its result.

    The result is JSON.
    """
    print_json(_start(function, app, data, None, redis_url).result(timeout))


def _start(
    function: str,
    app: str | None,
    data: Any,
    id: str | None,
    redis_url: str | None,
    **options: Any,
) -> Run[Any]:
    if "/" not in function and not app:
        hint = f"function must be APP/FUNCTION, got {function!r}: write APP/{function}, or use --app"
        raise click.BadParameter(hint, param_hint="APP/FUNCTION")
    name = function if "/" in function else f"{app}/{function}"
    return find_app(redis_url).start(name, data, id=id, **options)


def _print_run(run: Run[Any], output: str) -> None:
    if output == "json":
        print_json({"run_id": run.id, "status": run.status(), "attached": run.attached})
        return
    echo(run.id)
    if run.attached:
        echo("note: this run was live, and none was started (singleton)", err=True)
