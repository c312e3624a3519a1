"""``stepflow audit``: who has done what to runs, and why."""

from __future__ import annotations

import click

from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.transitions.audit import ACTIONS
from stepflow_broker.views.audit import audit_json
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.filters import TimeArgument, named_as_options, resolve_time, since_option
from stepflow_cli.formatting import console, cut, echo, print_json, printable, since, table
from stepflow_cli.options import output_option, server_options
from stepflow_cli.server import find_app

__all__ = ["audit"]


_WIDEST = 100
"""How many characters of a text the table shows."""


@click.command(epilog=EPILOG)
@click.option("--action", type=click.Choice(ACTIONS), help="Only this action.")
@click.option("--subject", metavar="TEXT", help="Only what was done to this: a run id, or as in 'function shop/order'.")
@since_option("AUDIT", "Only what was done since this")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The maximum number.")
@output_option
@server_options
def audit(
    *,
    action: str | None,
    subject: str | None,
    after: TimeArgument | None,
    limit: int,
    output: str,
    redis_url: str | None,
) -> None:
    """List who has forked, answered, cancelled, paused, resumed, forgotten, resent or repaired what, newest first.

    The log has what the command line and Python have done, not what flow control, deadlines and events did. It keeps
    about 100,000 actions of each partition.
    """
    with named_as_options():
        actions = find_app(redis_url).audit(action=action, subject=subject, since=resolve_time(after), limit=limit)
    lines = [audit_json(one) for one in actions]
    if output == "json":
        print_json(lines)
        return
    if not actions:
        echo("no actions")
        return
    grid, now = table("WHEN", "WHO", "ACTION", "SUBJECT", "DETAILS", "REASON"), REAL_CLOCK.now_ms()
    for one, entry in zip(actions, lines, strict=True):
        details = " ".join(f"{name}={value}" for name, value in entry["details"].items())
        texts = (printable(cut(text, _WIDEST)) for text in (one.who, one.action, one.subject, details, one.reason))
        grid.add_row(since(one.at, now), *texts)
    console().print(grid)
