"""``stepflow runs accept``: let runs go on with code that differs from their history."""

from __future__ import annotations

import click

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.runs.mismatches import accept_mismatch
from stepflow_broker.transitions.runs.run_state import read_status
from stepflow_broker.views.run_view import run_ended, run_not_found
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import echo, print_json
from stepflow_cli.options import output_option, reason_option, server_options
from stepflow_cli.server import actor, find_server
from stepflow_engine.cipher import NO_ENCRYPTION

__all__ = ["accept"]


@click.command(epilog=EPILOG)
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@reason_option
@output_option
@server_options
def accept(*, run_ids: tuple[str, ...], reason: str, output: str, redis_url: str | None) -> None:
    """Let RUNS go on although their code does not request steps that their history records.

    For runs that on_mismatch="pause" has set aside; 'stepflow explain' says which steps differ. They continue with the
    present code: a step without a result is executed, a result that the code does not ask for is not used. A later
    version of the code that differs again needs another accept.
    """
    broker, partition = find_server(redis_url, NO_ENCRYPTION)
    accepted: list[str] = []
    for run_id in run_ids:
        code = broker.execute(accept_mismatch(partition, run_id, who=actor(), reason=reason))
        if code is ScriptStatus.NO_RUN:
            status = broker.execute(read_status(partition, run_id))
            raise run_not_found(run_id) if status is None else run_ended(run_id, status, "acceptance")
        if code is ScriptStatus.DONE:
            accepted.append(run_id)
    if output == "json":
        print_json({"accepted": accepted})
    else:
        echo(f"{len(accepted):,} run{'' if len(accepted) == 1 else 's'} accepted")
        if len(accepted) < len(run_ids):
            echo("note: the other runs do not differ from their history, or were accepted before", err=True)
