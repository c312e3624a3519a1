"""``stepflow check``: searches the code of functions for what a replay would change."""

from __future__ import annotations

from pathlib import Path

import click

from stepflow.functions.replay_lint import ReplayFinding, has_source, lint_function
from stepflow_cli.exit_codes import EPILOG, ExitCode
from stepflow_cli.formatting import echo, print_json
from stepflow_cli.options import debug_option, output_option
from stepflow_engine.terminal_text import printable
from stepflow_workers.apps import load_apps

__all__ = ["check"]


@click.command(epilog=EPILOG)
@click.argument("apps", metavar="MODULE:APP...", nargs=-1, required=True)
@output_option
@debug_option
def check(*, apps: tuple[str, ...], output: str) -> int:
    """Search the code of all functions of the apps for calls that give another value on each replay.

    Such calls are the clock, random numbers and new ids between steps. ctx.now(), ctx.random() and ctx.uuid() give the
    same values on every replay; in the handler of a step every call is right. A comment "# replay: ok" on the line
    allows a call. Without findings the exit code is 0, else 1. The command does not connect to Redis.
    """
    loaded = load_apps(apps)
    functions = [function for app in loaded for function in app.functions.values()]
    for function in functions:
        if not has_source(function):
            echo(f"note: {function.name} was not checked: its source cannot be read", err=True)
    findings = [finding for function in functions for finding in lint_function(function)]
    if output == "json":
        print_json([_to_json(finding) for finding in findings])
    else:
        for finding in findings:
            echo(printable(f"{_shown_path(finding.path)}:{finding.line}: {finding.message}"))
        count = f"{len(functions)} function{'' if len(functions) == 1 else 's'}"
        echo(f"{count} checked, {len(findings)} finding{'' if len(findings) == 1 else 's'}")
    return ExitCode.FAILED if findings else ExitCode.OK


def _to_json(finding: ReplayFinding) -> dict[str, object]:
    return {
        "path": _shown_path(finding.path),
        "line": finding.line,
        "function": finding.function,
        "call": f"{finding.call}()",
        "message": finding.message,
    }


def _shown_path(path: str) -> str:
    """A path from the current folder, if it is in it."""
    whole, here = Path(path).resolve(), Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
