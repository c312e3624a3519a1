"""``stepflow runs retry``: run again from the failure, by id, or many runs by filter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from stepflow import Bulk, Stepflow
from stepflow.client.fork_request import ForkRequest
from stepflow_cli.commands.forks import create, print_forks
from stepflow_cli.exit_codes import EPILOG, ExitCode, exit_code, print_error
from stepflow_cli.filters import (
    TimeArgument,
    condition_option,
    function_names,
    function_option,
    named_as_options,
    note_unreadable,
    parse_tag,
    resolve_time,
    since_option,
    status_option,
    tag_filter,
    time_option,
)
from stepflow_cli.formatting import echo, print_json
from stepflow_cli.options import output_option, reason_option, server_options
from stepflow_cli.server import find_app
from stepflow_engine.errors import BackendUnavailableError, StepflowError
from stepflow_engine.product import NAME, variable
from stepflow_engine.state_machine import RunStatus

__all__ = ["retry"]

_FILTERS = "--function, --status, --error, --if, --since, --until, --tag, --before, --rate, --limit, --dry-run, --yes"


@dataclass(frozen=True, slots=True)
class Filters:
    """The options of the command that select runs, and say how they are run again."""

    function: tuple[str | None, str] | None
    statuses: tuple[str, ...]
    error: str | None
    condition: str | None
    after: TimeArgument | None
    until: TimeArgument | None
    tags: tuple[tuple[str, str], ...]
    before: str | None
    rate: float | None
    limit: int | None

    @property
    def any(self) -> bool:
        """Whether one is given."""
        filters = (self.function, self.statuses or None, self.error, self.condition, self.after, self.until)
        return any(one is not None for one in (*filters, self.tags or None, self.before, self.rate, self.limit))

    def start(self, app: Stepflow, *, reason: str, dry_run: bool) -> Bulk:
        """Start the bulk, or count its runs.

        Raises:
            click.UsageError: several apps have the function.
        """
        name, *others = function_names(app.backend.broker, app.backend.partition, self.function)
        if others:
            raise click.UsageError(f"several apps have this function: pass --function {' or '.join((name, *others))}")
        with named_as_options():
            return app.fork_many(
                name,
                status=self.statuses or RunStatus.FAILED,
                error=self.error,
                if_=self.condition,
                since=resolve_time(self.after),
                until=resolve_time(self.until),
                tags=tag_filter(self.tags),
                before=self.before,
                per_second=50 if self.rate is None else self.rate,
                limit=self.limit,
                reason=reason,
                dry_run=dry_run,
            )


@click.command(epilog=EPILOG)
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@function_option("Many: the runs of this function, NAME or APP/NAME, that match the filters.")
@status_option("RUNS_RETRY", [status for status in RunStatus if status.ended])
@click.option(
    "--error",
    metavar="TEXT",
    help="Only runs that failed with this error: its name, a part of its message, or a group of 'errors'.",
)
@condition_option("RUNS_RETRY")
@since_option("RUNS_RETRY", "Only runs that ended since this")
@time_option("--until", "Only runs that ended before this")
@click.option(
    "--tag",
    "tags",
    envvar=variable("RUNS_RETRY_TAG"),
    type=parse_tag,
    multiple=True,
    metavar="NAME=VALUE",
    help="Only runs with this tag; may be repeated.",
)
@click.option("--before", metavar="STEP", help="Run them again from this step on, not from the failure.")
@click.option("--rate", type=click.FloatRange(0.01, 1_000), metavar="N", help="How many runs in a second. Default: 50.")
@click.option("--limit", type=click.IntRange(min=1), help="The maximum number of runs, those that ended last.")
@reason_option
@click.option("--dry-run", is_flag=True, help="Count the runs that match, and retry none.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@output_option
@server_options
def retry(
    run_ids: tuple[str, ...],
    *,
    function: tuple[str | None, str] | None,
    statuses: tuple[str, ...],
    error: str | None,
    condition: str | None,
    after: TimeArgument | None,
    until: TimeArgument | None,
    tags: tuple[tuple[str, str], ...],
    before: str | None,
    rate: float | None,
    limit: int | None,
    reason: str,
    dry_run: bool,
    yes: bool,
    output: str,
    redis_url: str | None,
) -> None:
    """Run each RUN again from its failure, as a new run, and print the ids of the new runs.

    Steps that succeeded keep their results; all others are executed, with the idempotency keys of RUN. RUN itself is
    not changed.

    With --function, all runs that match the filters are retried, by a bulk that the workers execute: the command prints
    its id and does not wait for it. Runs that were retried already are skipped. The command asks for confirmation with
    the number of runs. Without a terminal, it needs --yes or --dry-run.
    """
    filters = Filters(function, statuses, error, condition, after, until, tags, before, rate, limit)
    _check(run_ids, filters, is_bulk=filters.any or dry_run or yes)
    if run_ids:
        _retry_by_id(find_app(redis_url), run_ids, reason, output)
        return
    if not (dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError("confirmation needs a terminal: use --yes, or --dry-run to count the runs")
    app = find_app(redis_url)
    bulk = filters.start(app, reason=reason, dry_run=not yes)
    if not dry_run and not yes and bulk.matched and click.confirm(f"Retry {_count(bulk.matched)}?", err=True):
        bulk = filters.start(app, reason=reason, dry_run=False)
    _print_bulk(bulk, output, dry_run=dry_run)
    note_unreadable(bulk.unreadable)


def _check(run_ids: Sequence[str], filters: Filters, *, is_bulk: bool) -> None:
    if run_ids and is_bulk:
        raise click.UsageError(f"run ids cannot be combined with {_FILTERS}")
    if not run_ids and filters.function is None:
        what = "the filters need --function" if is_bulk else "no runs are selected: pass run ids, or --function"
        raise click.UsageError(f"{what} with the function whose runs are retried")


# -- by id ---------------------------------------------------------------------


def _retry_by_id(app: Stepflow, run_ids: Sequence[str], reason: str, output: str) -> None:
    code, done = ExitCode.OK, list[dict[str, Any]]()
    for run_id in dict.fromkeys(run_ids):
        try:
            done.append(create(app, run_id, ForkRequest(failed=True, reason=reason, action="retry")))
        except BackendUnavailableError:
            print_forks(done, output, single=False)
            raise
        except StepflowError as error:  # the other runs are retried
            print_error(str(error))
            code = code or exit_code(error)
    print_forks(done, output, single=len(run_ids) == 1)
    if code:
        click.get_current_context().exit(code)


# -- by filter -----------------------------------------------------------------


def _print_bulk(bulk: Bulk, output: str, *, dry_run: bool) -> None:
    if output == "json":
        print_json({"bulk": bulk.id or None, "dry_run": dry_run, "matched": bulk.matched, "sample": bulk.sample})
    elif not bulk.dry_run:
        echo(bulk.id)
        echo(f"{_count(bulk.matched)}: see '{NAME} bulk show {bulk.id}'", err=True)
    else:
        for run_id in bulk.sample if dry_run else ():
            echo(run_id)
        more = bulk.matched - len(bulk.sample)
        if dry_run and more > 0:
            echo(f"and {more:,} more")
        echo(f"{_count(bulk.matched)} would be retried" if dry_run else "no runs retried")


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs:,} runs"
