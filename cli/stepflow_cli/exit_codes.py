"""Exit codes, and how a command prints an error: one line that says what to do."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

import click

from stepflow_engine.errors import (
    AnswerError,
    BackendUnavailableError,
    BulkNotFoundError,
    ConfigurationError,
    CorruptDataError,
    EncryptionKeyMissingError,
    EventError,
    FilterError,
    ForkError,
    FunctionNotFoundError,
    HistoryFileError,
    ResultTimeoutError,
    RunEndedError,
    RunNotFoundError,
    ScheduleNotFoundError,
    SignalError,
    StepflowError,
    StepOutputError,
)
from stepflow_engine.product import DEBUG, NAME, OUTPUT, REDIS_URL, variable
from stepflow_engine.terminal_text import printable, printable_lines

__all__ = ["EPILOG", "ExitCode", "Session", "exit_code", "print_error", "report", "run"]


class ExitCode(IntEnum):
    """The exit code of a command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    NOT_FOUND = 4
    SERVER = 5
    TIMEOUT = 6
    INTERNAL = 70
    INTERRUPTED = 130


EPILOG = f"""\b
Exit codes:
  0    success
  1    the run failed or was cancelled (start --wait, invoke); check has findings
  2    usage error
  3    configuration error: no such module or app, a bad URL or password,
       a missing encryption key, a server that evicts keys, two functions
       with one id
  4    no such run, bulk, function, event or schedule
  5    the server is unavailable
  6    timed out waiting; the run continues
  70   internal error: a bug in {NAME}
  130  interrupted

\b
Every option can be set by an environment variable {variable("COMMAND_OPTION")}:
{variable("WORKER_CONCURRENCY")}, {variable("RUNS_LIST_LIMIT")}. For all commands:
{REDIS_URL}, {OUTPUT}, {DEBUG}.
"""


@dataclass
class Session:
    """The settings of one call of the program.

    Attributes:
        debug: whether to print the traceback of an error.
    """

    debug: bool = False


def exit_code(error: Exception) -> ExitCode:
    """The exit code for an error."""
    match error:
        case click.UsageError() | EventError() | FilterError() | ForkError() | HistoryFileError() | StepOutputError():
            return ExitCode.USAGE
        case RunNotFoundError() | FunctionNotFoundError() | BulkNotFoundError() | ScheduleNotFoundError():
            return ExitCode.NOT_FOUND
        case SignalError() | AnswerError() | RunEndedError():
            return ExitCode.USAGE
        case ConfigurationError() | EncryptionKeyMissingError():
            return ExitCode.CONFIGURATION
        case BackendUnavailableError():
            return ExitCode.SERVER
        case ResultTimeoutError():
            return ExitCode.TIMEOUT
        case StepflowError() | click.ClickException():
            return ExitCode.FAILED
        case _:
            return ExitCode.INTERNAL


def run(command: click.Command, *, name: str, prefix: str, server_note: Callable[[], str]) -> NoReturn:
    """Run a command, and exit.

    Args:
        name: the name of the program.
        prefix: the prefix of the environment variables of its options.
        server_note: returns what to add to an error about an unavailable server.
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
    except Exception as error:  # noqa: BLE001  the last handler: a traceback is printed only with --debug
        sys.exit(report(error, debug=session.debug, server_note=server_note))
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def report(error: Exception, *, debug: bool, server_note: Callable[[], str] = str) -> ExitCode:
    """Print an error on standard error in one line, and return its exit code.

    Args:
        debug: whether to print its traceback first.
        server_note: as of `run`.
    """
    if type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, click.UsageError):
        error.show()
        return ExitCode.USAGE
    if debug:
        click.echo(printable_lines("".join(traceback.format_exception(error))), err=True)
    is_unavailable = isinstance(error, BackendUnavailableError) and not isinstance(error, CorruptDataError)
    print_error(f"{_explain(error)}{server_note() if is_unavailable else ''}")
    return exit_code(error)


def print_error(message: str) -> None:
    """Print one line on standard error."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {printable(' '.join(message.split()))}", err=True)


def _explain(error: Exception) -> str:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.format_message().rstrip('.')}: see '{error.ctx.command_path} --help'"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, StepflowError):
        return f"{error}{_source_line(error.__cause__)}"
    return f"{type(error).__name__}: {error}: this is a bug in {NAME}; --debug shows the traceback"


def _source_line(cause: BaseException | None) -> str:
    """The line of user code that raised an error: `` (at shop/flows.py:12)``."""
    frames = traceback.extract_tb(cause.__traceback__) if cause is not None else []
    own = [frame for frame in frames if not frame.filename.startswith("<")]
    if isinstance(cause, SyntaxError) or not own:  # the message of a syntax error has the line
        return ""
    return f" (at {os.path.relpath(own[-1].filename)}:{own[-1].lineno})"
