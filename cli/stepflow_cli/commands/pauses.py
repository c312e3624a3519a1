"""``stepflow pause``, ``resume`` and ``pauses``: stop the execution of a function, a queue or a key."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from stepflow import Stepflow
from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.registry.functions import read_functions
from stepflow_broker.transitions.pauses import PAUSE_KINDS, Pause
from stepflow_broker.views.times import iso
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import console, echo, print_json, printable, since, table
from stepflow_cli.options import output_option, server_options
from stepflow_cli.server import find_app
from stepflow_engine.codec import loads
from stepflow_engine.product import NAME

__all__ = ["pause", "pauses", "resume"]

_DIGEST = re.compile("[0-9a-f]{16,}")
C = TypeVar("C", bound=Callable[..., Any])


def _subject(command: C) -> C:
    """The two arguments that name what to pause: its kind and its name."""
    kind = click.argument("kind", type=click.Choice(PAUSE_KINDS))
    return kind(click.argument("name")(command))


@click.command(epilog=EPILOG)
@_subject
@click.option("--reason", default="", help=f"The reason, which '{NAME} explain' and '{NAME} pauses' print.")
@output_option
@server_options
def pause(kind: str, name: str, *, reason: str, output: str, redis_url: str | None) -> None:
    """Pause a function (APP/NAME), a queue, or a key: workers execute no more of its jobs until it is resumed.

    Nothing is lost: events still start runs, and the runs wait. A step that is executing is not interrupted. A key is
    one value of a concurrency key, in the form that 'stepflow explain' prints: shop/sync:event.data.shop=17. A note
    says which queues or keys there are if no function has this one.
    """
    app = find_app(redis_url)
    new = app.pause(**_target(kind, name), reason=reason)
    if output == "json":
        print_json({"kind": kind, "name": name, "paused": True, "new": new})
    else:
        echo(f"{kind} {name} is paused" if new else f"{kind} {name} was already paused; its reason is updated")
    if note := _unknown(app, kind, name):
        echo(f"note: {note}", err=True)


@click.command(epilog=EPILOG)
@_subject
@output_option
@server_options
def resume(kind: str, name: str, *, output: str, redis_url: str | None) -> None:
    """Resume a function (APP/NAME), a queue, or a key."""
    app = find_app(redis_url)
    was = app.resume(**_target(kind, name))
    if output == "json":
        print_json({"kind": kind, "name": name, "paused": False, "was_paused": was})
    else:
        echo(f"{kind} {name} is resumed" if was else f"{kind} {name} was not paused")
    if not was:
        paused = ", ".join(pause.subject for pause in app.pauses()) or "nothing"
        echo(f"note: {paused} is paused", err=True)


@click.command(epilog=EPILOG)
@output_option
@server_options
def pauses(*, output: str, redis_url: str | None) -> None:
    """List the paused functions, queues and keys."""
    listed, now = find_app(redis_url).pauses(), REAL_CLOCK.now_ms()
    if output == "json":
        print_json([_pause_json(paused) for paused in listed])
        return
    if not listed:
        echo("nothing is paused")
        return
    grid = table("WHAT", "NAME", "SINCE", "REASON")
    for paused in listed:
        grid.add_row(paused.kind, printable(paused.name), since(paused.since, now), printable(paused.reason))
    console().print(grid)
    for paused in listed:
        if not paused.complete:
            text = f"{paused.subject} is not paused in every partition, or for different reasons"
            echo(f"{text}: pause or resume it again", err=True)


def _pause_json(paused: Pause) -> dict[str, Any]:
    fields = {"kind": paused.kind, "name": paused.name, "since": iso(paused.since), "reason": paused.reason}
    return {**fields, "complete": paused.complete}


def _target(kind: str, name: str) -> dict[str, Any]:
    if kind == "function" and "/" not in name:
        raise click.BadParameter(f"function must be APP/NAME, as '{NAME} functions' lists it, got {name!r}")
    return {kind: name}


def _unknown(app: Stepflow, kind: str, name: str) -> str:
    """The note on a queue or a key that no registered function has, and which there are; ``""`` if one has it."""
    functions = app.backend.broker.execute(read_functions(app.backend.partition.keys))
    if kind == "queue":
        queues = sorted({function.queue for function in functions})
        known = f"queues: {', '.join(queues)}" if queues else "there are no functions yet"
        return "" if name in queues else f"no function has queue {name}; {known}"
    if kind == "key":
        forms = sorted({form for one in functions if one.flow for form in one.flow.limit_forms(one.name, one.app)})
        known = f"keys: {', '.join(_key_text(form) for form in forms)}" if forms else "no function has a concurrency"
        return "" if any(_is_value(name, form) for form in forms) else f"no function has key {name}; {known}"
    return ""


def _key_text(form: str) -> str:
    return f"{form}VALUE" if form.endswith("=") else form


def _is_value(name: str, form: str) -> bool:
    """Whether a name is a limit of this form: its value is JSON, or the digest of a long value."""
    if not form.endswith("="):
        return name == form
    value = name.removeprefix(form)
    with contextlib.suppress(ValueError):
        return name.startswith(form) and (_DIGEST.fullmatch(value) is not None or loads(value) is not Ellipsis)
    return False
