"""Exit codes, and what a command that does not succeed prints: one line that says what to do."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

import click

from stepflow_engine.errors import (
    BackendUnavailableError,
    ConfigurationError,
    EventError,
    FunctionNotFoundError,
    ResultTimeoutError,
    RunNotFoundError,
    StepflowError,
)

__all__ = ["EPILOG", "ExitCode", "Session", "exit_code", "print_error", "report", "run"]


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    NOT_FOUND = 4
    SERVER = 5
    TIMEOUT = 6
    INTERNAL = 70
    INTERRUPTED = 130


EPILOG = """\b
Exit codes:
  0    done
  1    the run failed or was cancelled (start --wait, invoke)
  2    the command was given something that it cannot take
  3    configuration: no such module or app, a bad URL or password,
       a server that evicts keys, two functions with one id
  4    there is no such run or function
  5    the server does not answer
  6    the time given was over; the run goes on
  70   a fault of stepflow's
  130  interrupted

\b
Every option is also a variable: STEPFLOW_, the command, the option, as in
STEPFLOW_WORKER_CONCURRENCY or STEPFLOW_RUNS_LIST_LIMIT; for all commands:
STEPFLOW_REDIS_URL, STEPFLOW_OUTPUT, STEPFLOW_DEBUG.
"""


@dataclass
class Session:
    """What one call of the program was told about itself.

    Attributes:
        debug: whether errors are shown with their traceback.
    """

    debug: bool = False


def exit_code(error: Exception) -> ExitCode:
    """The exit code of an error."""
    match error:
        case click.UsageError() | EventError():
            return ExitCode.USAGE
        case ConfigurationError():
            return ExitCode.CONFIGURATION
        case RunNotFoundError() | FunctionNotFoundError():
            return ExitCode.NOT_FOUND
        case BackendUnavailableError():
            return ExitCode.SERVER
        case ResultTimeoutError():
            return ExitCode.TIMEOUT
        case StepflowError() | click.ClickException():
            return ExitCode.FAILED
        case _:
            return ExitCode.INTERNAL


def run(command: click.Command, *, name: str, prefix: str) -> NoReturn:
    """Run a command line to its end, and exit.

    Args:
        name: what the program is called.
        prefix: what the variables of its options start with.
    """
    session = Session()
    try:
        code = command.main(
            prog_name=name,
            auto_envvar_prefix=prefix,
            obj=session,
            standalone_mode=False,
            help_option_names=["-h", "--help"],
        )
    except click.Abort:
        print_error("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:  # noqa: BLE001  the last line of defence: no traceback reaches a person unasked
        sys.exit(report(error, debug=session.debug))
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def report(error: Exception, *, debug: bool) -> ExitCode:
    """Print an error on standard error, in one line, and give its exit code.

    Args:
        debug: whether to print its traceback before.
    """
    if type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, click.UsageError):
        error.show()
        return ExitCode.USAGE
    if debug:
        traceback.print_exception(error)
    print_error(_explain(error))
    return exit_code(error)


def print_error(message: str) -> None:
    """Print one line on standard error."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {' '.join(message.split())}", err=True)


def _explain(error: Exception) -> str:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.format_message().rstrip('.')}: see '{error.ctx.command_path} --help'"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, StepflowError):
        return f"{error}{_place(error.__cause__)}"
    return f"{type(error).__name__}: {error}: this is a fault of stepflow's; --debug shows where"


def _place(cause: BaseException | None) -> str:
    """Where in a person's own code an error came from: `` (at shop/flows.py:12)``."""
    frames = traceback.extract_tb(cause.__traceback__) if cause is not None else []
    own = [frame for frame in frames if not frame.filename.startswith("<")]
    if isinstance(cause, SyntaxError) or not own:  # a syntax error's message has its place
        return ""
    return f" (at {os.path.relpath(own[-1].filename)}:{own[-1].lineno})"
