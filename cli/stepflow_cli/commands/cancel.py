"""``stepflow runs cancel``: end runs, by their ids or by what they have in common."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import click

from stepflow import Run, Stepflow
from stepflow.client.bulk_cancel import cancelling, select_runs
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.transitions.bulk_cancel import RunFilter, cancel_runs, find_live, server_ms
from stepflow_cli.exit_codes import EPILOG, ExitCode, print_error
from stepflow_cli.formatting import print_json
from stepflow_cli.options import duration, output_option, server_options
from stepflow_cli.server import find_app
from stepflow_engine.errors import ConfigurationError, RunNotFoundError
from stepflow_engine.expression import expression
from stepflow_engine.limits import check_id
from stepflow_engine.states import RunStatus

__all__ = ["cancel"]

_FORMS = "give how long ago, as 2h or 3d, or a time with its zone, as 2026-01-31T09:30:00Z"
_WHAT = "give the ids of runs, or --function, --status, --created-before, --created-after or --if, or --all"

TimeArgument = timedelta | datetime
"""A time on the command line: how long ago, or when."""


def _moment(value: str) -> TimeArgument:
    try:
        return timedelta(seconds=duration(value))
    except click.BadParameter:
        pass
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time: {_FORMS}") from None
    if when.utcoffset() is None:
        raise click.BadParameter(f"{value!r} has no time zone: {_FORMS}")
    return when


def _condition(value: str) -> str:
    try:
        return expression(value).text
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None


def _name(value: str) -> str:
    app, slash, function = value.rpartition("/")
    if not function or (slash and not app):
        raise click.BadParameter(f"{value!r} names no function: write NAME or APP/NAME")
    return value


def _reason(value: str) -> str:
    try:
        return check_id(value, "a reason") if value else ""
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@dataclass(frozen=True, slots=True)
class Filters:
    """What runs must have in common, as it was given."""

    function: str | None
    statuses: tuple[str, ...]
    created_before: TimeArgument | None
    created_after: TimeArgument | None
    condition: str | None
    limit: int | None

    @property
    def any(self) -> bool:
        """Whether one was given; a limit alone is none."""
        given = (self.function, self.statuses or None, self.created_before, self.created_after, self.condition)
        return any(one is not None for one in given)

    def selection(self, now_ms: int) -> RunFilter:
        """The runs that fit at this time of the server."""
        app, slash, name = (self.function or "").rpartition("/")
        return select_runs(
            app if slash else None,
            name or None,
            statuses=self.statuses,
            created_before=_when(self.created_before, now_ms),
            created_after=_when(self.created_after, now_ms),
            if_=self.condition,
            limit=self.limit,
        )


def _when(moment: TimeArgument | None, now_ms: int) -> datetime | None:
    return datetime.fromtimestamp(now_ms / 1000, UTC) - moment if isinstance(moment, timedelta) else moment


@dataclass(frozen=True, slots=True)
class CancelOptions:
    """CancelOptions the runs are cancelled, and how that is told."""

    app: Stepflow
    reason: str
    children: bool
    dry_run: bool
    output: str


@click.command(epilog=EPILOG)
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option("--function", type=_name, metavar="NAME", help="Only runs of this function: NAME or APP/NAME.")
@click.option(
    "--status",
    "statuses",
    type=click.Choice([status.value for status in RunStatus if not status.ended]),
    multiple=True,
    help="Only runs that are this; may be repeated.",
)
@click.option("--created-before", type=_moment, metavar="TIME", help="Only runs made before: 2h ago, or an ISO time.")
@click.option("--created-after", type=_moment, metavar="TIME", help="Only runs made since then.")
@click.option(
    "--if",
    "condition",
    type=_condition,
    metavar="CEL",
    help="Only runs for whose event this holds: 'event.data.n > 1'.",
)
@click.option("--all", "every", is_flag=True, help="All live runs, of all apps.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many, the oldest.")
@click.option("--reason", type=_reason, metavar="TEXT", default="", help="Why; it is kept with the runs.")
@click.option("--leave-children", is_flag=True, help="Let the runs that they wait for go on.")
@click.option("--dry-run", is_flag=True, help="Say which runs would be cancelled, and cancel none.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
@server_options
def cancel(
    run_ids: tuple[str, ...],
    *,
    function: str | None,
    statuses: tuple[str, ...],
    created_before: TimeArgument | None,
    created_after: TimeArgument | None,
    condition: str | None,
    every: bool,
    limit: int | None,
    reason: str,
    leave_children: bool,
    dry_run: bool,
    yes: bool,
    output: str,
    redis_url: str | None,
) -> None:
    """Cancel RUNs, or all live runs that fit, oldest first; and the runs that they wait for.

    A step that is executing is not interrupted; its result is dropped. Runs that fit are shown on a terminal as a
    number, and cancelled when that is confirmed; without a terminal, --yes or --dry-run is needed.
    """
    filters = Filters(function, statuses, created_before, created_after, condition, limit)
    _check(run_ids, filters, every)
    if not (run_ids or dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError(
            "there is no terminal to ask on: give --yes, or --dry-run to see what would be cancelled"
        )
    how = CancelOptions(find_app(redis_url), reason, not leave_children, dry_run, output)
    if run_ids:
        _cancel_named(list(dict.fromkeys(run_ids)), how)
    else:
        _cancel_fitting(filters, how, ask=not yes)


def _check(run_ids: Sequence[str], filters: Filters, every: bool) -> None:
    if run_ids and (filters.any or every or filters.limit):
        raise click.UsageError(f"ids of runs are given, and what runs have in common too: {_WHAT}")
    if filters.any and every:
        raise click.UsageError("--all is for no filter at all: leave it out, or leave the filters out")
    if not (run_ids or filters.any or every):
        raise click.UsageError(f"nothing says which runs: {_WHAT}")


# -- by id ---------------------------------------------------------------------


def _cancel_named(run_ids: Sequence[str], how: CancelOptions) -> None:
    done: list[dict[str, object]] = []
    unknown = False
    for run_id in run_ids:
        try:
            done.append(_cancel_one(how.app.run(run_id), how))
        except RunNotFoundError as error:
            print_error(str(error))
            unknown = True
    if how.output == "json" and done:
        print_json(done if len(run_ids) > 1 else done[0])
    if unknown:
        click.get_current_context().exit(ExitCode.NOT_FOUND)


def _cancel_one(run: Run, how: CancelOptions) -> dict[str, object]:
    """Cancel a run, unless it is a dry run, and say what became of it."""
    cancelled = not how.dry_run and run.cancel(how.reason, children=how.children)
    status = RunStatus.CANCELLED if cancelled else run.status()
    if how.output == "json":
        return {"run_id": run.id, "cancelled": cancelled, "status": status}
    if status.ended and not cancelled:
        click.echo(f"{run.id} had ended already: {status}")
    else:
        click.echo(f"{run.id} {_verb(how)}")
    return {}


def _verb(how: CancelOptions) -> str:
    return "would be cancelled" if how.dry_run else "is cancelled"


# -- by what they have in common -----------------------------------------------


def _cancel_fitting(filters: Filters, how: CancelOptions, *, ask: bool) -> None:
    producer = how.app.backend
    selection = replace(filters.selection(producer.broker.execute(server_ms())), cipher=producer.cipher)
    found = run_operation(producer.broker, find_live(producer.keys, selection))
    if how.dry_run or not found:
        _print_runs(found, how)
    elif ask and not click.confirm(f"Cancel {_count(found)}?", err=True):
        _print_runs([], how)
    else:
        this = cancelling(how.reason, retention_ms=producer.retention_ms, children=how.children)
        _print_runs(run_operation(producer.broker, cancel_runs(producer.keys, found, this)), how)


def _print_runs(run_ids: Sequence[str], how: CancelOptions) -> None:
    if how.output == "json":
        print_json({"dry_run": how.dry_run, "runs": run_ids})
        return
    for run_id in run_ids:
        click.echo(f"{run_id} {_verb(how)}")
    click.echo(f"{_count(run_ids)} {'would be cancelled' if how.dry_run else 'cancelled'}")


def _count(run_ids: Sequence[str]) -> str:
    return "1 run" if len(run_ids) == 1 else f"{len(run_ids):,} runs"
