"""The worker processes of ``stepflow dev``, for one version of the code."""

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
from stepflow_cli.formatting import print_status
from stepflow_engine.product import NAME
from stepflow_workers.apps import load_apps
from stepflow_workers.pool import WorkerPool, WorkerSpec, ignore_sigint_in_children

__all__ = ["DevWorkers", "check_code"]

_STOP_TIMEOUT_S = 10.0
_POLL_S = 1.2


class DevWorkers:
    """Starts worker processes, and replaces one that dies.

    Args:
        spec: what each process executes.
        count: the number of processes.
    """

    def __init__(self, spec: WorkerSpec, count: int) -> None:
        self._pool = WorkerPool(spec, count)
        self._pool.start()
        self._waiter = threading.Thread(target=self._pool.wait, name=f"{NAME}-dev-pool", daemon=True)
        self._waiter.start()

    def stop(self, stop_at_once: Callable[[], bool]) -> None:
        """Stop the workers when the running steps have ended, and wait for their end.

        Args:
            stop_at_once: returns whether to stop at once. The workers stop at once after 10 seconds in any case.
        """
        self._pool.stop()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while self._waiter.is_alive():
            self._waiter.join(_POLL_S)
            if stop_at_once() or time.monotonic() > deadline:
                self._pool.stop()


def check_code(spec: WorkerSpec, *, describe: bool, debug: bool) -> ExitCode:
    """Import the apps in a separate process, and print the error if the import fails.

    Args:
        describe: whether to print the functions of the apps.
        debug: whether to print the traceback of an error.
    """
    process = multiprocessing.get_context("spawn").Process(target=_check, args=(spec, describe, debug))
    with ignore_sigint_in_children():
        process.start()
    process.join()
    known = process.exitcode in list(ExitCode)
    return ExitCode(process.exitcode) if known and process.exitcode is not None else ExitCode.CONFIGURATION


def _check(spec: WorkerSpec, describe: bool, debug: bool) -> None:
    try:
        check_worker(spec)
        if describe:
            _describe(load_apps(spec.apps), spec.settings.redis_url)
    except Exception as error:  # noqa: BLE001  the process ends with an error line
        sys.exit(report(error, debug=debug))


def _describe(apps: Sequence[Stepflow], url: str) -> None:
    """Print the functions of the apps, and a command that starts one of them."""
    label = "functions"
    for function in [function for app in apps for function in app.functions.values()]:
        events = ", ".join(function.config.triggers)
        print_status(label, f"{function.name}  ← {events}" if events else function.name)
        label = ""
    print_status("try", _example(apps))
    for app in apps:
        if app.backend.url != url:
            print_status("note", f"app {app.id} has its own server {safe_url(app.backend.url)}: it sends events there")


def _example(apps: Sequence[Stepflow]) -> str:
    """A command that starts a run."""
    functions = [function for app in apps for function in app.functions.values()]
    events = [event.name for function in functions for event in function.config.events]
    if events:
        return f"{NAME} send {shlex.quote(events[0].rstrip('*') or 'event')} --data '{{}}'"
    return f"{NAME} start {shlex.quote(functions[0].name)} --data '{{}}'"
