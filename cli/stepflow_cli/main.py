"""The ``stepflow`` program: the group of all commands."""

from __future__ import annotations

import click

from stepflow_cli.commands.asks import answer, asks
from stepflow_cli.commands.audit import audit
from stepflow_cli.commands.bulk import bulk
from stepflow_cli.commands.check import check
from stepflow_cli.commands.debug import debug
from stepflow_cli.commands.dev import dev
from stepflow_cli.commands.doctor import doctor
from stepflow_cli.commands.errors import errors
from stepflow_cli.commands.events import events
from stepflow_cli.commands.explain import explain
from stepflow_cli.commands.export import export
from stepflow_cli.commands.flow_limits import flow_limits
from stepflow_cli.commands.listings import functions, queues, workers
from stepflow_cli.commands.pauses import pause, pauses, resume
from stepflow_cli.commands.runs import runs
from stepflow_cli.commands.schedules import schedules
from stepflow_cli.commands.send import invoke, send, start
from stepflow_cli.commands.worker import worker
from stepflow_cli.exit_codes import EPILOG, run
from stepflow_cli.server import server_note
from stepflow_engine.product import ENV_PREFIX, NAME
from stepflow_engine.version import __version__

__all__ = ["main", "stepflow"]


@click.group(epilog=EPILOG)
# without a variable of its own: STEPFLOW_VERSION is the version of the code that a worker executes
@click.version_option(__version__, message=f"{NAME} %(version)s", allow_from_autoenv=False)
def stepflow() -> None:
    """Durable step functions on Redis."""


_COMMANDS = (
    dev,
    worker,
    send,
    start,
    invoke,
    runs,
    bulk,
    errors,
    events,
    schedules,
    explain,
    asks,
    answer,
    doctor,
    check,
    export,
    debug,
    pause,
    resume,
    pauses,
    flow_limits,
    audit,
    functions,
    workers,
    queues,
)
for _command in _COMMANDS:
    stepflow.add_command(_command)


def main() -> None:
    """The program ``stepflow``."""
    run(stepflow, name=NAME, prefix=ENV_PREFIX, server_note=server_note)


if __name__ == "__main__":
    main()
