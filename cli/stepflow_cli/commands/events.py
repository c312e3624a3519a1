"""``stepflow events``: the events that are set aside, and those that are delayed."""

from __future__ import annotations

import re

import click

from stepflow.options.encryption import cipher_of
from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.transitions.events.aside_events import read_aside_events, resend_event
from stepflow_broker.transitions.events.delayed_events import find_delayed_events
from stepflow_broker.views.times import iso
from stepflow_cli.exit_codes import EPILOG, ExitCode
from stepflow_cli.formatting import brief, console, echo, print_json, printable, since, table, waits_until
from stepflow_cli.options import output_option, reason_option, server_options
from stepflow_cli.server import actor, find_app, find_server
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.product import NAME

__all__ = ["events"]

_ENTRY = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")


@click.group(epilog=EPILOG)
def events() -> None:
    """List and cancel delayed events. List and resend events that workers have set aside."""


@events.command("aside", epilog=EPILOG)
@output_option
@server_options
def aside(*, output: str, redis_url: str | None) -> None:
    """List the events that are set aside, oldest first, with the reason.

    A worker sets an event aside that makes a condition or a key too expensive to evaluate. The event has started the
    other functions and ended the other waits. A worker also sets an event aside that has ended three workers while they
    routed it, or that cannot be decrypted. Such an event has started and ended nothing.
    """
    broker, partition = find_server(redis_url, NO_ENCRYPTION)
    read = broker.execute_all([read_aside_events(one) for one in partition.all])
    listed, now = sorted((event for part in read for event in part), key=lambda event: event.at_ms), REAL_CLOCK.now_ms()
    if output == "json":
        print_json(
            [
                {"entry": one.entry, "event": one.name, "id": one.event_id, "at": iso(one.at_ms), "reason": one.reason}
                for one in listed
            ]
        )
        return
    if not listed:
        echo("no event is set aside")
        return
    grid = table("ENTRY", "EVENT", "ID", "SINCE", "REASON")
    grid.columns[0].min_width = max(len(one.entry) for one in listed)  # `resend` needs all of it
    grid.columns[4].no_wrap, grid.columns[4].overflow = False, "fold"
    for one in listed:
        texts = (printable(text) for text in (one.name, one.event_id))
        grid.add_row(one.entry, *texts, since(one.at_ms, now), printable(one.reason))
    console().print(grid)


@events.command("resend", epilog=EPILOG)
@click.argument("entries", metavar="ENTRY...", nargs=-1, required=True)
@output_option
@server_options
def resend(entries: tuple[str, ...], *, output: str, redis_url: str | None) -> ExitCode:
    """Send events that are set aside again, with their ids.

    What an event has started already it does not start again. Correct the condition, restart the workers, then resend.
    If one of the entries is not set aside, the others are sent, and the exit code is 4.
    """
    wrong = next((entry for entry in entries if not _ENTRY.fullmatch(entry)), None)
    if wrong is not None:
        raise click.BadParameter(f"entry must be one that '{NAME} events aside' lists, got {wrong!r}")
    broker, partition = find_server(redis_url, NO_ENCRYPTION)
    sent = {}
    for entry in dict.fromkeys(entries):
        of_partitions = broker.execute_all([resend_event(one, entry, who=actor()) for one in partition.all])
        sent[entry] = any(of_partitions)
    if output == "json":
        print_json([{"entry": entry, "sent": was_sent} for entry, was_sent in sent.items()])
    else:
        for entry, was_sent in sent.items():
            echo(f"event {entry} is sent again" if was_sent else f"no event {entry} is set aside")
    return ExitCode.OK if all(sent.values()) else ExitCode.NOT_FOUND


# -- delayed -------------------------------------------------------------------


@events.command("delayed", epilog=EPILOG)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The maximum number of events."
)
@output_option
@server_options
def delayed(*, limit: int, output: str, redis_url: str | None) -> None:
    """List the events that are sent at a later time, those that are due first."""
    broker, partition = find_server(redis_url, cipher_of(None))
    listed, now = run_operation(broker, find_delayed_events(partition, limit=limit)), REAL_CLOCK.now_ms()
    if output == "json":
        print_json([{"id": one.id, "event": one.name, "data": one.data, "due_at": iso(one.due_at)} for one in listed])
        return
    if not listed:
        echo("no event is delayed")
        return
    grid = table("ID", "EVENT", "DUE", "DATA")
    grid.columns[0].min_width = max(len(printable(one.id)) for one in listed)  # `cancel` needs all of it
    for one in listed:
        grid.add_row(
            printable(one.id), printable(one.name), waits_until(one.due_at, now), printable(brief(one.data, 100))
        )
    console().print(grid)


@events.command("cancel", epilog=EPILOG)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@reason_option
@output_option
@server_options
def cancel(ids: tuple[str, ...], *, reason: str, output: str, redis_url: str | None) -> ExitCode:
    """Cancel delayed events before they are sent.

    If one of them is not delayed, the others are cancelled, and the exit code is 4.
    """
    app = find_app(redis_url)
    cancelled = {id: app.cancel_event(id, reason=reason) for id in dict.fromkeys(ids)}
    if output == "json":
        print_json([{"id": id, "cancelled": was_cancelled} for id, was_cancelled in cancelled.items()])
    else:
        for id, was_cancelled in cancelled.items():
            echo(f"event {id} is cancelled" if was_cancelled else f"no event {id} is delayed")
    return ExitCode.OK if all(cancelled.values()) else ExitCode.NOT_FOUND
