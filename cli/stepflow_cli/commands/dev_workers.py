"""The crew: the worker processes of ``stepflow dev`` for one version of the code."""

from __future__ import annotations

import multiprocessing
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence

from stepflow import Stepflow
from stepflow_broker.redis_client.connection import safe_url
from stepflow_cli.commands.worker import check_worker
from stepflow_cli.exit_codes import ExitCode, report
from stepflow_cli.formatting import say
from stepflow_workers.apps import load_apps
from stepflow_workers.pool import WorkerPool, WorkerSpec, ignore_sigint_in_children

__all__ = ["DevWorkers", "check_code"]

_WARM_S = 10.0
_LOOK_S = 1.2


class DevWorkers:
    """Worker processes that run from now on; one that dies is replaced.

    Args:
        spec: what each is started with.
        count: how many.
    """

    def __init__(self, spec: WorkerSpec, count: int) -> None:
        self._pool = WorkerPool(spec, count)
        self._pool.start()
        self._keeper = threading.Thread(target=self._pool.wait, name="stepflow-dev-pool", daemon=True)
        self._keeper.start()

    def stop(self, hurry: Callable[[], bool]) -> None:
        """Stop the workers after the steps at hand, and return when they have gone.

        Args:
            hurry: whether not to wait for the steps; they are not waited for longer than 10 seconds anyway.
        """
        self._pool.stop()
        deadline = time.monotonic() + _WARM_S
        while self._keeper.is_alive():
            self._keeper.join(_LOOK_S)
            if hurry() or time.monotonic() > deadline:
                self._pool.stop()


def check_code(spec: WorkerSpec, *, introduce: bool, debug: bool) -> ExitCode:
    """Import the apps in a process that is thrown away, and say what is wrong with them, if anything is.

    Args:
        introduce: whether to print what the apps have.
        debug: whether to print tracebacks.
    """
    process = multiprocessing.get_context("spawn").Process(target=_check, args=(spec, introduce, debug))
    with ignore_sigint_in_children():
        process.start()
    process.join()
    known = process.exitcode in list(ExitCode)
    return ExitCode(process.exitcode) if known and process.exitcode is not None else ExitCode.CONFIGURATION


def _check(spec: WorkerSpec, introduce: bool, debug: bool) -> None:
    try:
        check_worker(spec)
        if introduce:
            _introduce(load_apps(spec.apps), spec.settings.redis_url)
    except Exception as error:  # noqa: BLE001  the process ends here, with one line
        sys.exit(report(error, debug=debug))


def _introduce(apps: Sequence[Stepflow], url: str) -> None:
    """Print the functions and how to start one of them."""
    label = "functions"
    for function in [function for app in apps for function in app.functions.values()]:
        events = ", ".join(function.config.triggers)
        say(label, f"{function.name}  ← {events}" if events else function.name)
        label = ""
    say("try", _example(apps))
    for app in apps:
        if app.backend.url != url:
            say("note", f"app {app.id} names its own server {safe_url(app.backend.url)}: what it sends goes there")


def _example(apps: Sequence[Stepflow]) -> str:
    """A command that starts a run."""
    functions = [function for app in apps for function in app.functions.values()]
    events = [event.name for function in functions for event in function.config.events]
    if events:
        return f"stepflow send {shlex.quote(events[0].rstrip('*') or 'event')} --data '{{}}'"
    return f"stepflow start {shlex.quote(functions[0].name)} --data '{{}}'"
