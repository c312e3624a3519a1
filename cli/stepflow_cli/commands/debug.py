"""``stepflow debug``: replays the history of a run under a debugger."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from stepflow import Function
from stepflow.options.encryption import cipher_of
from stepflow.replay.history import RunHistory
from stepflow.replay.history_file import read_history_file
from stepflow.replay.replayed import Replayed, ReplayOutcome
from stepflow_cli.commands.export import read_history
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import echo
from stepflow_cli.options import server_options
from stepflow_cli.server import find_server
from stepflow_engine.errors import HistoryFileError
from stepflow_engine.product import NAME, variable
from stepflow_engine.terminal_text import printable
from stepflow_workers.apps import load_app
from stepflow_workers.replay_debugger import debug_replay, open_debugger

__all__ = ["debug"]

_WIDTH = 200


@click.command(epilog=EPILOG)
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--app", "app_name", metavar="MODULE:APP", required=True, envvar=variable("DEBUG_APP"), help="The code.")
@click.option(
    "--break",
    "before",
    metavar="STEP",
    envvar=variable("DEBUG_BREAK"),
    help="Stop where this step is requested; charge#2 is the second. Default: the first step without a result.",
)
@click.option(
    "--history",
    "file",
    metavar="FILE",
    envvar=variable("DEBUG_HISTORY"),
    type=click.Path(path_type=Path),
    help=f"A file of '{NAME} export', in place of a run of a server.",
)
@server_options
def debug(*, run_id: str | None, app_name: str, before: str | None, file: Path | None, redis_url: str | None) -> None:
    """Replay a run in this terminal, with the code of this folder, and open the debugger where it needs something new.

    The code receives the results that RUN has stored. At the first step without a result, the local variables are
    printed and the Python debugger opens in that frame: 'p NAME' prints a value, 'up' goes to the caller, 'c' ends. No
    handler is executed and nothing is stored, so it is safe with a run of a production server. breakpoint() in the
    code opens the debugger too.
    """
    if (run_id is None) == (file is None):
        raise click.UsageError("name a run, or a file with --history")
    if not sys.stdin.isatty():
        raise click.UsageError("the debugger needs a terminal as its standard input")
    history, version = _history(run_id, file, redis_url)
    function = _function(app_name, history)
    of = f" of version {version}" if version else ""
    echo(f"run {history.run_id} of {history.function}{of}: {len(history.memos):,} results")
    replayed, was_stopped = debug_replay(function, history, before=before, stop=_stop)
    if before is not None and not was_stopped:
        requested = ", ".join(step.id for step in replayed.requested) or "none"
        raise click.UsageError(f"step {before!r:.100} is not requested; the steps that are: {requested[:_WIDTH]}")
    echo(_end(replayed))


def _history(run_id: str | None, file: Path | None, redis_url: str | None) -> tuple[RunHistory, str]:
    if file is not None:
        return read_history_file(file), ""
    broker, partition = find_server(redis_url, cipher_of(None))
    return read_history(broker, partition, run_id or "")


def _function(app_name: str, history: RunHistory) -> Function:
    """The function of a history.

    Raises:
        HistoryFileError: the app does not have it.
    """
    app = load_app(app_name)
    app_id, _, name = history.function.partition("/")
    function = app.functions.get(name) if app_id == app.id else None
    if function is None:
        known = ", ".join(one.name for one in app.functions.values()) or "none"
        raise HistoryFileError(
            f"the run is of function {history.function}, which {app_name} does not have; its functions: {known}"
        )
    return function


def _stop(step_id: str, kind: str, frame: FrameType) -> None:
    echo(printable(f"step {step_id!r} ({kind}) is requested here"))
    for line in _locals(frame):
        echo(line)
    open_debugger(frame)


def _locals(frame: FrameType) -> Iterator[str]:
    for name, value in frame.f_locals.items():
        if name.isidentifier():
            yield printable(f"  {name} = {_shown(value)}")


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)[:_WIDTH]
    except Exception as error:  # noqa: BLE001  user code: a __repr__
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def _end(replayed: Replayed) -> str:
    """How the replay has ended, for people."""
    at = f" ({site})" if (site := replayed.error_site) else ""
    match replayed.outcome:
        case ReplayOutcome.WAITING:
            return "the history ends here: " + (
                f"the code waits for {', '.join(repr(step.id) for step in replayed.requested if not step.received)}"
            )
        case ReplayOutcome.RAISED | ReplayOutcome.REFUSED:
            return f"the code raises {replayed.error}{at}"
        case ReplayOutcome.CONTINUED:
            return "the code continues as new"
        case _:
            return "the code returns"
