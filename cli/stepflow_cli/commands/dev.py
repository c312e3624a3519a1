"""``stepflow dev``: a server, and workers that restart when the code changes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click
from click.core import ParameterSource
from watchfiles import Change, DefaultFilter, watch

from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.redis_client.connection import safe_url
from stepflow_cli.commands.dev_server import DevServer
from stepflow_cli.commands.dev_workers import DevWorkers, check_code
from stepflow_cli.commands.worker import process_options
from stepflow_cli.exit_codes import EPILOG, ExitCode, Session
from stepflow_cli.formatting import print_status
from stepflow_cli.options import debug_option
from stepflow_cli.server import DEV_FOLDER, announce_url, last_port, lock_folder, withdraw_url
from stepflow_engine.product import REDIS_URL, variable
from stepflow_workers.pool import WorkerSpec
from stepflow_workers.state.settings import WorkerSettings

__all__ = ["dev"]

_POLL_MS = 200
_GRACE_S = 5.0
"""How long a reload waits for handlers. After that, their jobs return to the queue, and the new code executes them."""


@click.command(epilog=EPILOG)
@click.argument("apps", metavar="MODULE:APP...", nargs=-1, required=True)
@process_options
@click.option(
    "--watch",
    "folders",
    envvar=variable("DEV_WATCH"),
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="Reload when a *.py file in this folder changes; may be repeated. Default: the current folder.",
)
@click.option(
    "--redis-url",
    metavar="URL",
    envvar=REDIS_URL,
    help=f"The server. Default: {REDIS_URL}, else a new server in {DEV_FOLDER}/.",
)
@debug_option
def dev(
    apps: tuple[str, ...],
    *,
    processes: int,
    concurrency: int,
    log_level: str,
    folders: tuple[Path, ...],
    redis_url: str | None,
) -> None:
    """Run apps for development.

    An app is a module and the name of a variable in it: shop.flows:app.

    Without --redis-url and STEPFLOW_REDIS_URL, the command starts a server with its data in .stepflow/. Other commands
    in this folder use that server, which has the same port at each start if that is free. If the server ends, it is
    started again with its data. Workers restart when the code changes. breakpoint() opens a debugger in this terminal.
    Ctrl+C stops the command.
    """
    stop = _Stop()
    with stop.on_signals(), contextlib.ExitStack() as stack:
        if redis_url and _is_from_variable("redis_url"):
            print_status("note", f"{REDIS_URL} is set, so no server is started: unset it to start one in {DEV_FOLDER}/")
        server = None if redis_url else stack.enter_context(_own_server())
        url = redis_url or (server.url if server else "")
        os.environ[REDIS_URL] = url  # apps send events to this server too
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a .pyc hides a second change within one second
        settings = WorkerSettings(url, concurrency=concurrency, grace_s=_GRACE_S)
        spec = WorkerSpec(apps, settings, log_level, has_terminal_debugger=True)
        _reload_until(stop, spec, processes, folders or (Path.cwd(),), DevServer(server) if server else None)
        print_status("stopped")


def _is_from_variable(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is ParameterSource.ENVIRONMENT


@contextlib.contextmanager
def _own_server() -> Iterator[EmbeddedServer]:
    with lock_folder(), EmbeddedServer(DEV_FOLDER, port=last_port()) as server:
        (DEV_FOLDER / ".gitignore").write_text("*\n")
        announce_url(server.url, server.port)
        try:
            yield server
        finally:
            withdraw_url()


# -- reloading -----------------------------------------------------------------


def _reload_until(
    stop: _Stop, spec: WorkerSpec, processes: int, folders: tuple[Path, ...], server: DevServer | None
) -> None:
    """Run workers with the current code until ``stop`` is set. The watch starts before the code is imported."""
    print_status("server", safe_url(spec.settings.redis_url))
    print_status("reload", f"when a *.py file in {', '.join(str(folder) for folder in folders)} changes")
    debug = click.get_current_context().ensure_object(Session).debug
    dev_workers: DevWorkers | None = None
    first = True
    try:
        for changes in watch(
            *folders, watch_filter=PythonFiles(), stop_event=stop, rust_timeout=_POLL_MS, yield_on_timeout=True
        ):
            if server is not None:
                server.restart_if_ended()
            if not changes and not first:
                continue
            if changes:
                print_status("changed", ", ".join(sorted({_relative(path) for _, path in changes})))
            if dev_workers is not None:
                dev_workers.stop(stop.again)
            dev_workers = _start_workers(spec, processes, first=first, debug=debug)
            first = False
    finally:
        if dev_workers is not None:
            print_status("stopping", "the workers finish the running steps; Ctrl+C again stops them at once")
            dev_workers.stop(stop.again)


def _start_workers(spec: WorkerSpec, processes: int, *, first: bool, debug: bool) -> DevWorkers | None:
    """Start the workers; ``None`` if the code cannot be imported.

    Raises:
        Exit: the first import failed, so an argument of the command is wrong.
    """
    code = check_code(spec, describe=first, debug=debug)
    if code is ExitCode.OK:
        return DevWorkers(spec, processes)
    if first:
        raise click.exceptions.Exit(code)
    print_status("waiting", "no workers run until the code is fixed and saved")
    return None


class PythonFiles(DefaultFilter):
    """Accepts changes of ``*.py`` files outside virtual environments and the data folder."""

    def __init__(self) -> None:
        super().__init__(ignore_dirs=(*DefaultFilter.ignore_dirs, "venv", str(DEV_FOLDER)))

    def __call__(self, change: Change, path: str) -> bool:
        """Whether a change is accepted."""
        return path.endswith(".py") and super().__call__(change, path)


class _Stop:
    """The stop signal: set by SIGINT, SIGTERM and SIGHUP (a closed terminal). ``again`` is set by the second signal."""

    def __init__(self) -> None:
        self._signals = 0

    def is_set(self) -> bool:
        """See `threading.Event`; the watch calls it."""
        return self._signals > 0

    def again(self) -> bool:
        """Whether there was a second signal."""
        return self._signals > 1

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Handle signals inside this context."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1


def _relative(path: str) -> str:
    return os.path.relpath(path)
