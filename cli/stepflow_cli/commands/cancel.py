"""``stepflow runs cancel``: cancel runs by id or by filter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from stepflow import Run, Stepflow
from stepflow.client.bulk_cancel import cancel_action, cancelling, select_runs
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.transitions.runs.bulk_cancel import RunFilter, cancel_runs, find_live
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_cli.exit_codes import EPILOG, ExitCode, print_error
from stepflow_cli.filters import (
    TimeArgument,
    condition_option,
    function_option,
    resolve_time,
    status_option,
    time_option,
)
from stepflow_cli.formatting import echo, print_json
from stepflow_cli.options import output_option, reason_option, server_options
from stepflow_cli.server import find_app
from stepflow_engine.errors import RunNotFoundError
from stepflow_engine.product import variable
from stepflow_engine.state_machine import RunStatus

__all__ = ["cancel"]

_FILTERS = "--function, --status, --created-before, --created-after, --if"


@dataclass(frozen=True, slots=True)
class Filters:
    """The filter options of the command; ``function`` is an app id or ``None``, and a function id."""

    function: tuple[str | None, str] | None
    statuses: tuple[str, ...]
    created_before: TimeArgument | None
    created_after: TimeArgument | None
    condition: str | None
    limit: int | None

    @property
    def any(self) -> bool:
        """Whether a filter is set; ``--limit`` is not a filter."""
        filters = (self.function, self.statuses or None, self.created_before, self.created_after, self.condition)
        return any(value is not None for value in filters)

    def selection(self, now_ms: int) -> RunFilter:
        """The filter for the server, with ages resolved at this time."""
        app, name = self.function or (None, None)
        return select_runs(
            app,
            name,
            statuses=self.statuses,
            created_before=resolve_time(self.created_before, now_ms),
            created_after=resolve_time(self.created_after, now_ms),
            if_=self.condition,
            limit=self.limit,
        )


@dataclass(frozen=True, slots=True)
class CancelOptions:
    """The other options of the command.

    Attributes:
        children: whether to cancel the children that the runs wait for.
    """

    app: Stepflow
    reason: str
    children: bool
    dry_run: bool
    output: str


@click.command(epilog=EPILOG)
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@function_option()
@status_option("RUNS_CANCEL", [status for status in RunStatus if not status.ended])
@time_option("--created-before", "Only runs created before this")
@time_option("--created-after", "Only runs created after this")
@condition_option("RUNS_CANCEL")
@click.option("--all", "every", envvar=variable("RUNS_CANCEL_ALL"), is_flag=True, help="All live runs, of all apps.")
@click.option("--limit", type=click.IntRange(min=1), help="The maximum number of runs, oldest first.")
@reason_option
@click.option("--leave-children", is_flag=True, help="Do not cancel the child runs that they wait for.")
@click.option("--dry-run", is_flag=True, help="Print the runs that would be cancelled, and cancel none.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@output_option
@server_options
def cancel(
    run_ids: tuple[str, ...],
    *,
    function: tuple[str | None, str] | None,
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
    """Cancel RUNs, or all live runs that match the filters, oldest first, and the child runs that they wait for.

    The result of a step that is executing is dropped. With filters, the command asks for confirmation
    with the number of runs. Without a terminal, it needs --yes or --dry-run.
    """
    filters = Filters(function, statuses, created_before, created_after, condition, limit)
    _check(run_ids, filters, every)
    if not (run_ids or dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError(
            "confirmation needs a terminal: use --yes, or --dry-run to print what would be cancelled"
        )
    options = CancelOptions(find_app(redis_url), reason, not leave_children, dry_run, output)
    if run_ids:
        _cancel_by_id(list(dict.fromkeys(run_ids)), options)
    else:
        _cancel_matching(filters, options, confirm=not yes)


def _check(run_ids: Sequence[str], filters: Filters, every: bool) -> None:
    if run_ids and (filters.any or every or filters.limit):
        raise click.UsageError(f"run ids cannot be combined with filters: {_FILTERS}, --all, --limit")
    if filters.any and every:
        raise click.UsageError(f"--all cannot be combined with filters: {_FILTERS}")
    if not (run_ids or filters.any or every):
        raise click.UsageError(f"no runs are selected: pass run ids, a filter ({_FILTERS}), or --all")


# -- by id ---------------------------------------------------------------------


def _cancel_by_id(run_ids: Sequence[str], options: CancelOptions) -> None:
    done: list[dict[str, object]] = []
    unknown = False
    for run_id in run_ids:
        try:
            done.append(_cancel_one(options.app.run(run_id), options))
        except RunNotFoundError as error:
            print_error(str(error))
            unknown = True
    if options.output == "json" and done:
        print_json(done if len(run_ids) > 1 else done[0])
    if unknown:
        click.get_current_context().exit(ExitCode.NOT_FOUND)


def _cancel_one(run: Run, options: CancelOptions) -> dict[str, object]:
    """Cancel a run, unless this is a dry run. Print the outcome, or return it for the JSON output."""
    cancelled = not options.dry_run and run.cancel(options.reason, children=options.children)
    status, backend = run.status(), options.app.backend
    record = backend.broker.execute(read_run(backend.partition, run.id))
    undoing = record.undoing if record else ""
    if options.output == "json":
        return {"run_id": run.id, "cancelled": cancelled, "status": status, "undoing": undoing or None}
    if undoing and not options.dry_run:
        echo(f"{run.id} is undoing its steps, and ends as {undoing}")
    elif status.ended and not cancelled:
        echo(f"{run.id} had already ended: {status}")
    else:
        echo(f"{run.id} {_verb(options)}")
    return {}


def _verb(options: CancelOptions) -> str:
    return "would be cancelled" if options.dry_run else "is cancelled"


# -- by filter -----------------------------------------------------------------


def _cancel_matching(filters: Filters, options: CancelOptions, *, confirm: bool) -> None:
    backend = options.app.backend
    selection = filters.selection(backend.broker.execute(server_time_ms(backend.partition.clock)))
    run_ids = run_operation(backend.broker, find_live(backend.partition, selection))
    if options.dry_run or not run_ids:
        _print_runs(run_ids, options)
    elif confirm and not click.confirm(f"Cancel {_count(run_ids)}?", err=True):
        _print_runs([], options)
    else:
        action = cancel_action(backend.actor, selection, len(run_ids), options.reason)
        cancellation = cancelling(options.reason, retention_ms=backend.retention_ms, children=options.children)
        _print_runs(
            run_operation(backend.broker, cancel_runs(backend.partition, run_ids, cancellation, action=action)), options
        )


def _print_runs(run_ids: Sequence[str], options: CancelOptions) -> None:
    if options.output == "json":
        print_json({"dry_run": options.dry_run, "runs": run_ids})
        return
    for run_id in run_ids:
        echo(f"{run_id} {_verb(options)}")
    echo(f"{_count(run_ids)} {'would be cancelled' if options.dry_run else 'cancelled'}")


def _count(run_ids: Sequence[str]) -> str:
    return "1 run" if len(run_ids) == 1 else f"{len(run_ids):,} runs"
