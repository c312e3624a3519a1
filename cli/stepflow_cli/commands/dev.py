"""``stepflow dev``: a server, workers, and their restart when the code changes, in one command."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click
from watchfiles import Change, DefaultFilter, watch

from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.redis_client.connection import safe_url
from stepflow_cli.commands.dev_workers import DevWorkers, check_code
from stepflow_cli.commands.worker import pace_options
from stepflow_cli.exit_codes import EPILOG, ExitCode, Session
from stepflow_cli.formatting import say
from stepflow_cli.options import debug_option
from stepflow_cli.server import DEV_FOLDER, announce_url, check_folder, withdraw_url
from stepflow_workers.pool import WorkerSpec
from stepflow_workers.state.settings import WorkerSettings

__all__ = ["dev"]

_LOOK_MS = 200
_GRACE_S = 5.0
"""How long a reload waits for handlers; then their jobs are handed back, and are executed again by the new code."""


@click.command(epilog=EPILOG)
@click.argument("apps", metavar="MODULE:APP...", nargs=-1, required=True)
@pace_options
@click.option(
    "--watch",
    "folders",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="Reload when a *.py file in this folder changes; may be repeated. Default: the current folder.",
)
@click.option(
    "--redis-url",
    metavar="URL",
    envvar="STEPFLOW_REDIS_URL",
    help="The server; else STEPFLOW_REDIS_URL, else one of its own.",
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

    An app is named by its module and its name there, as in shop.flows:app.

    Without --redis-url and STEPFLOW_REDIS_URL it starts a server of its own that keeps its data in .stepflow/; the
    other commands find it when they are started in this folder. Workers restart when the code changes. Ctrl+C ends it.
    """
    stop = _Stop()
    with stop.on_signals(), contextlib.ExitStack() as stack:
        url = redis_url or stack.enter_context(_own_server())
        os.environ["STEPFLOW_REDIS_URL"] = url  # for what the apps themselves send
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a .pyc hides a second change within one second
        settings = WorkerSettings(url, concurrency=concurrency, grace_s=_GRACE_S)
        _reload_until(stop, WorkerSpec(apps, settings, log_level), processes, folders or (Path.cwd(),))
        say("stopped")


@contextlib.contextmanager
def _own_server() -> Iterator[str]:
    check_folder()
    server = EmbeddedServer(DEV_FOLDER)
    with server:
        (DEV_FOLDER / ".gitignore").write_text("*\n")
        announce_url(server.url)
        try:
            yield server.url
        finally:
            withdraw_url()


# -- reloading -----------------------------------------------------------------


def _reload_until(stop: _Stop, spec: WorkerSpec, processes: int, folders: tuple[Path, ...]) -> None:
    """Run workers with the code as it is on disk, until told to stop. The watch begins before the code is read."""
    say("server", safe_url(spec.settings.redis_url))
    say("reload", f"when a *.py file in {', '.join(str(folder) for folder in folders)} changes")
    debug = click.get_current_context().ensure_object(Session).debug
    crew: DevWorkers | None = None
    first = True
    try:
        for changes in watch(
            *folders, watch_filter=PythonFiles(), stop_event=stop, rust_timeout=_LOOK_MS, yield_on_timeout=True
        ):
            if not changes and not first:
                continue
            if changes:
                say("changed", ", ".join(sorted({_relative(path) for _, path in changes})))
            if crew is not None:
                crew.stop(stop.again)
            crew = _start_crew(spec, processes, first=first, debug=debug)
            first = False
    finally:
        if crew is not None:
            say("stopping", "the workers finish the steps at hand; Ctrl+C again stops them at once")
            crew.stop(stop.again)


def _start_crew(spec: WorkerSpec, processes: int, *, first: bool, debug: bool) -> DevWorkers | None:
    """Start the workers; ``None`` if the code cannot be used.

    Raises:
        Exit: it is the first code, so the command was given the wrong thing.
    """
    code = check_code(spec, introduce=first, debug=debug)
    if code is ExitCode.OK:
        return DevWorkers(spec, processes)
    if first:
        raise click.exceptions.Exit(code)
    say("waiting", "no workers run until the code is corrected and saved")
    return None


class PythonFiles(DefaultFilter):
    """Lets the changes of ``*.py`` files through, but not those of installed packages or of our own data."""

    def __init__(self) -> None:
        super().__init__(ignore_dirs=(*DefaultFilter.ignore_dirs, "venv", str(DEV_FOLDER)))

    def __call__(self, change: Change, path: str) -> bool:
        """Whether this change matters."""
        return path.endswith(".py") and super().__call__(change, path)


class _Stop:
    """Whether to stop: set by SIGINT and SIGTERM; ``again`` by the second of them."""

    def __init__(self) -> None:
        self._signals = 0

    def is_set(self) -> bool:
        """See `threading.Event`; asked by the watch."""
        return self._signals > 0

    def again(self) -> bool:
        """Whether there was a second signal."""
        return self._signals > 1

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to signals meanwhile."""
        numbers = (signal.SIGINT, signal.SIGTERM)
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
