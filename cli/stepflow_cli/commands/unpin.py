"""``stepflow runs unpin``: let workers of any version execute pinned runs."""

from __future__ import annotations

from collections.abc import Iterator

import click

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.transitions.runs.run_control import unpin_run
from stepflow_broker.transitions.runs.run_index import RunQuery
from stepflow_broker.transitions.runs.run_state import read_status
from stepflow_broker.views.find_runs import find_page
from stepflow_broker.views.run_view import run_not_found
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import echo, print_json
from stepflow_cli.options import output_option, reason_option, server_options
from stepflow_cli.server import actor, find_server
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.errors import RunEndedError
from stepflow_engine.product import variable
from stepflow_engine.state_machine import LIVE

__all__ = ["unpin"]

_PAGE = 500


@click.command(epilog=EPILOG)
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option("--function", metavar="APP/NAME", help="All pinned live runs of this function.")
@click.option(
    "--version",
    envvar=variable("RUNS_UNPIN_VERSION"),
    metavar="VERSION",
    help="With --function: only those that are pinned to this version of the code.",
)
@reason_option
@output_option
@server_options
def unpin(
    *,
    run_ids: tuple[str, ...],
    function: str | None,
    version: str | None,
    reason: str,
    output: str,
    redis_url: str | None,
) -> None:
    """Let workers with any version of the code execute pinned RUNs, when no worker has their version any more.

    New code continues them as it continues runs that are not pinned: by their stored results. A run that is retried,
    rerun or forked needs no unpin: the new run is pinned to the version that starts it.
    """
    if bool(run_ids) == bool(function):
        raise click.UsageError("name runs, or a function with --function")
    if version and not function:
        raise click.UsageError("--version goes with --function")
    broker, partition = find_server(redis_url, NO_ENCRYPTION)
    ids = run_ids if function is None else _pinned(broker, partition, function, version)
    unpinned = [run_id for run_id in ids if _unpin(broker, partition, run_id, reason, is_named=function is None)]
    if output == "json":
        print_json({"unpinned": unpinned})
    else:
        echo(f"{len(unpinned):,} run{'' if len(unpinned) == 1 else 's'} unpinned")


def _pinned(broker: Broker, partition: Partition, function: str, version: str | None) -> Iterator[str]:
    """The pinned live runs of a function."""
    wanted, cursor = RunQuery(functions=(function,), statuses=LIVE), ""
    while True:
        page = run_operation(broker, find_page(partition, wanted, cursor=cursor, limit=_PAGE))
        yield from (run.id for run in page.runs if run.pinned and version in (None, run.version))
        if not (cursor := page.next_cursor):
            return


def _unpin(broker: Broker, partition: Partition, run_id: str, reason: str, *, is_named: bool) -> bool:
    """Unpin a run; whether it was pinned."""
    code = broker.execute(unpin_run(partition, run_id, who=actor(), reason=reason))
    if code is ScriptStatus.NO_RUN and is_named:
        status = broker.execute(read_status(partition, run_id))
        if status is None:
            raise run_not_found(run_id)
        raise RunEndedError(run_id, status, f"run {run_id} has ended ({status}), so no worker executes it any more")
    return code is ScriptStatus.DONE
