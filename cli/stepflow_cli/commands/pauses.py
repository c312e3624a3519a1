"""``stepflow pause``, ``stepflow resume``, ``stepflow pauses``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from stepflow_broker.transitions.pauses import PAUSE_KINDS, Pause
from stepflow_broker.views.times import iso
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import console, now_ms, print_json, printable, since, table
from stepflow_cli.options import output_option, server_options
from stepflow_cli.server import find_app

__all__ = ["pause", "pauses", "resume"]

C = TypeVar("C", bound=Callable[..., Any])


def _subject(command: C) -> C:
    """What is paused, as two arguments."""
    kind = click.argument("kind", type=click.Choice(PAUSE_KINDS))
    return kind(click.argument("name")(command))


@click.command(epilog=EPILOG)
@_subject
@click.option("--reason", default="", help="Why; 'stepflow explain' and 'stepflow pauses' tell it.")
@output_option
@server_options
def pause(kind: str, name: str, *, reason: str, output: str, redis_url: str | None) -> None:
    """Execute nothing more of a function (APP/NAME), from a queue, or for a key, until it is resumed.

    Nothing is lost: events still start runs, which wait. A step that is executing ends first. A key is one value of a
    concurrency's key, as 'stepflow explain' names it: shop/sync:event.data.shop=17.
    """
    new = find_app(redis_url).pause(**_target(kind, name), reason=reason)
    if output == "json":
        print_json({"kind": kind, "name": name, "paused": True, "new": new})
    else:
        click.echo(f"{kind} {name} is paused" if new else f"{kind} {name} was paused already, and has the new reason")


@click.command(epilog=EPILOG)
@_subject
@output_option
@server_options
def resume(kind: str, name: str, *, output: str, redis_url: str | None) -> None:
    """Let what was paused go on: a function (APP/NAME), a queue, or a key."""
    was = find_app(redis_url).resume(**_target(kind, name))
    if output == "json":
        print_json({"kind": kind, "name": name, "paused": False, "was_paused": was})
    else:
        click.echo(f"{kind} {name} goes on" if was else f"{kind} {name} was not paused")


@click.command(epilog=EPILOG)
@output_option
@server_options
def pauses(*, output: str, redis_url: str | None) -> None:
    """List what is paused."""
    found, now = find_app(redis_url).pauses(), now_ms()
    if output == "json":
        print_json([_pause_json(one) for one in found])
        return
    if not found:
        click.echo("nothing is paused")
        return
    made = table("WHAT", "NAME", "SINCE", "REASON")
    for one in found:
        made.add_row(one.kind, printable(one.name), since(one.since, now), printable(one.reason))
    console().print(made)
    for one in found:
        if not one.complete:
            text = f"{one.subject} is not paused everywhere, or not for one reason: pause or resume it once more"
            click.echo(printable(text), err=True)


def _pause_json(one: Pause) -> dict[str, Any]:
    told = {"kind": one.kind, "name": one.name, "since": iso(one.since), "reason": one.reason}
    return {**told, "complete": one.complete}


def _target(kind: str, name: str) -> dict[str, Any]:
    if kind == "function" and "/" not in name:
        raise click.BadParameter(f"a function is named APP/NAME, as 'stepflow functions' lists it; not {name!r}")
    return {kind: name}
