"""``stepflow flow-limits``: list, change and reset the limits of flow control at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

import click

from stepflow import FlowLimit
from stepflow.options.flow_control import CountOf
from stepflow_broker.views.times import iso, local_time
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import console, echo, print_json, printable, table
from stepflow_cli.options import duration, output_option, server_options
from stepflow_cli.server import find_app
from stepflow_engine.product import variable

__all__ = ["change_text", "flow_limits", "limit_json"]


@click.group(epilog=EPILOG)
def flow_limits() -> None:
    """List, change and reset limits of flow control: concurrency, rate limits and throttles."""


@flow_limits.command("list", epilog=EPILOG)
@click.argument("function", metavar="[APP/FUNCTION]", required=False)
@output_option
@server_options
def list_(function: str | None, *, output: str, redis_url: str | None) -> None:
    """List the limits of a function, or of all, and which were changed."""
    listed = find_app(redis_url).flow_limits.list(_name(function))
    if not listed and output != "json":
        echo("no function has a limit")
    else:
        _print(listed, output)


@flow_limits.command("set", epilog=EPILOG)
@click.argument("function", metavar="APP/FUNCTION")
@click.option("--concurrency", type=int, help="How many steps execute at once, or how many runs are live.")
@click.option("--rate-limit", type=int, help="How many runs start in a period; more are skipped.")
@click.option("--throttle", type=int, help="How many runs start in a period; more are delayed.")
@click.option("--key", help="Of several concurrency limits: the one with this key.")
@click.option("--of", type=click.Choice(get_args(CountOf)), help="Of several concurrency limits: the one of these.")
@click.option(
    "--for",
    "for_",
    envvar=variable("FLOW_LIMITS_SET_FOR"),
    type=duration,
    metavar="TIME",
    help="For how long: 30m, 2h. Without it, until a reset.",
)
@click.option("--reason", default="", help="The reason, which 'flow-limits list' prints and the audit log keeps.")
@output_option
@server_options
def set_(
    function: str,
    *,
    concurrency: int | None,
    rate_limit: int | None,
    throttle: int | None,
    key: str | None,
    of: str | None,
    for_: float | None,
    reason: str,
    output: str,
    redis_url: str | None,
) -> None:
    """Change limits that a function declares, without a deployment. What has started is not interrupted."""
    changed = find_app(redis_url).flow_limits.set(
        _name(function) or "",
        concurrency=concurrency,
        rate_limit=rate_limit,
        throttle=throttle,
        key=key,
        of=of,
        for_=for_,
        reason=reason,
    )
    _print(changed, output)


@flow_limits.command("reset", epilog=EPILOG)
@click.argument("function", metavar="APP/FUNCTION")
@output_option
@server_options
def reset(function: str, *, output: str, redis_url: str | None) -> None:
    """End all changes of the limits of a function: they are again what its code declares."""
    ended = find_app(redis_url).flow_limits.reset(_name(function) or "")
    if not ended and output != "json":
        echo(f"no limit of function {printable(function)} was changed")
    else:
        _print(ended, output)


def _name(function: str | None) -> str | None:
    if function is not None and "/" not in function:
        raise click.BadParameter(f"function must be APP/FUNCTION, got {function!r}", param_hint="APP/FUNCTION")
    return function


def _print(listed: Sequence[FlowLimit], output: str) -> None:
    if output == "json":
        print_json([limit_json(one) for one in listed])
        return
    grid = table("FUNCTION", "LIMIT", "KEY", "DECLARED", "NOW", "CHANGED", right=("DECLARED", "NOW"))
    for one in listed:
        grid.add_row(
            printable(one.function),
            _kind(one),
            printable(one.key) or "—",
            str(one.declared),
            str(one.limit),
            _until(one) if one.changed else "—",
        )
    console().print(grid)


def limit_json(one: FlowLimit) -> dict[str, Any]:
    """The fields of the JSON output."""
    return {**asdict(one), "until": iso(one.until)}


def _kind(one: FlowLimit) -> str:
    return f"{one.kind} of {one.of}"


def _until(one: FlowLimit) -> str:
    until = f"until {local_time(one.until)}" if one.until else "until it is reset"
    return f"{until}: {printable(one.reason)}" if one.reason else until


def change_text(one: FlowLimit) -> str:
    """What a limit was changed to, and until when, as a line for people."""
    key = f" per {printable(one.key)}" if one.key else ""
    return f"{printable(one.function)}: {_kind(one)}{key} is {one.limit} in place of {one.declared}, {_until(one)}"
