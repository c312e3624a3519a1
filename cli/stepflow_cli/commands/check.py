"""``stepflow check``: searches the code of functions for what a replay would change, and for patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from stepflow.functions.code_calls import has_source
from stepflow.functions.patch_uses import PatchUse, patch_uses
from stepflow.functions.replay_lint import ReplayFinding, lint_function
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.views.patch_counts import PatchCounts, read_patch_counts
from stepflow_cli.exit_codes import EPILOG, ExitCode
from stepflow_cli.formatting import echo, print_json
from stepflow_cli.options import debug_option, output_option
from stepflow_cli.server import find_partitions
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.product import variable
from stepflow_engine.terminal_text import printable
from stepflow_workers.apps import load_apps

__all__ = ["check"]

_Counts = dict[tuple[str, str], PatchCounts]


@click.command(epilog=EPILOG)
@click.argument("apps", metavar="MODULE:APP...", nargs=-1, required=True)
@click.option(
    "--from",
    "source",
    metavar="URL",
    envvar=variable("CHECK_FROM"),
    help="A server: count its live runs at each patch.",
)
@output_option
@debug_option
def check(*, apps: tuple[str, ...], source: str | None, output: str) -> int:
    """Search the code of all functions of the apps for calls that give another value on each replay, and for patches.

    Such calls are the clock, random numbers and new ids between steps. ctx.now(), ctx.random() and ctx.uuid() give the
    same values on every replay; in the handler of a step every call is right. A comment "# replay: ok" on the line
    allows a call. Without findings the exit code is 0, else 1.

    Patches are the calls of ctx.patched() and ctx.deprecate_patch(). With --from, the command says for each whether a
    live run needs the old way. Without --from, it does not connect to a server.
    """
    loaded = load_apps(apps)
    functions = [function for app in loaded for function in app.functions.values()]
    for function in functions:
        if not has_source(function):
            echo(f"note: {function.name} was not checked: its source cannot be read", err=True)
    findings = [finding for function in functions for finding in lint_function(function)]
    patches = [use for function in functions for use in patch_uses(function)]
    counts = _count(source, patches) if source is not None and patches else {}
    if output == "json":
        calls = [_finding_json(finding) for finding in findings]
        print_json({"findings": calls, "patches": [_patch_json(use, counts) for use in patches]})
    else:
        for finding in findings:
            echo(printable(f"{_shown_path(finding.path)}:{finding.line}: {finding.message}"))
        for use in patches:
            echo(printable(f"{_shown_path(use.path)}:{use.line}: {_patch_text(use, counts)}"))
        count = f"{len(functions)} function{'' if len(functions) == 1 else 's'}"
        echo(f"{count} checked, {len(findings)} finding{'' if len(findings) == 1 else 's'}")
    return ExitCode.FAILED if findings else ExitCode.OK


def _count(url: str, patches: Sequence[PatchUse]) -> _Counts:
    """The counts by function and patch."""
    broker, partition = find_partitions(url, NO_ENCRYPTION)
    counts: _Counts = {}
    for function in dict.fromkeys(use.function for use in patches):
        ids = {use.id for use in patches if use.function == function and use.id}
        by_patch = run_operation(broker, read_patch_counts(partition, function, ids))
        counts |= {(function, patch_id): count for patch_id, count in by_patch.items()}
    return counts


def _patch_text(use: PatchUse, counts: _Counts) -> str:
    """A patch for people, with what can be removed from the code."""
    if not use.id:
        return f"a patch of {use.function}, whose id the code computes"
    text = f"patch {use.id!r} of {use.function}" + (", deprecated" if use.is_deprecated else "")
    if (count := counts.get((use.function, use.id))) is None:
        return text
    text += f": live runs: {count.new:,} new way, {count.old:,} old way, {count.undecided:,} undecided: "
    match use.is_deprecated, count.needs_old_way:
        case False, True:
            return text + "keep the old way"
        case False, False:
            return text + "no live run needs the old way: use ctx.deprecate_patch"
        case True, True:
            return text + "bring the old way back, or cancel these runs"
        case _:
            return text + "no live run needs the old way"


def _finding_json(finding: ReplayFinding) -> dict[str, object]:
    return {
        "path": _shown_path(finding.path),
        "line": finding.line,
        "function": finding.function,
        "call": f"{finding.call}()",
        "message": finding.message,
    }


def _patch_json(use: PatchUse, counts: _Counts) -> dict[str, object]:
    count = counts.get((use.function, use.id))
    return {
        "path": _shown_path(use.path),
        "line": use.line,
        "function": use.function,
        "patch": use.id or None,
        "deprecated": use.is_deprecated,
        "new": count.new if count else None,
        "old": count.old if count else None,
        "undecided": count.undecided if count else None,
    }


def _shown_path(path: str) -> str:
    """A path from the current folder, if it is in it."""
    whole, here = Path(path).resolve(), Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
