"""``stepflow worker`` and the ``stepflow-worker`` program: worker processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from stepflow_cli.exit_codes import EPILOG, run
from stepflow_cli.options import debug_option, duration, lease, queue_name, size
from stepflow_cli.server import server_note, url_of_apps
from stepflow_engine.product import REDIS_URL, WORKER_PROGRAM, variable
from stepflow_workers.apps import load_apps
from stepflow_workers.pool import WorkerPool, WorkerSpec, run_worker
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.worker import StepWorker

__all__ = ["check_worker", "main", "process_options", "worker"]

C = TypeVar("C", bound=Callable[..., Any])
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def process_options(command: C) -> C:
    """``--processes``, ``--concurrency`` and ``--log-level``: the options that ``worker`` and ``dev`` share."""
    for option in (
        click.option(
            "--log-level",
            type=click.Choice(_LEVELS, case_sensitive=False),
            default="INFO",
            show_default=True,
            help="The minimum level of log events, which go to standard error.",
        ),
        click.option(
            "--concurrency",
            metavar="M",
            type=click.IntRange(min=1),
            default=100,
            show_default=True,
            help="The number of jobs that a process executes at the same time.",
        ),
        click.option(
            "--processes",
            metavar="N",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="The number of processes.",
        ),
    ):
        command = option(command)
    return command


@click.command("worker", epilog=EPILOG)
@click.argument("apps", metavar="MODULE:APP...", nargs=-1, required=True)
@process_options
@click.option(
    "--queue",
    "queues",
    envvar=variable("WORKER_QUEUE"),
    metavar="NAME",
    type=queue_name,
    multiple=True,
    help="Serve only this queue; may be repeated, highest priority first.",
)
@click.option("--burst", is_flag=True, help="Stop when no job is ready.")
@click.option(
    "--name",
    default="",
    help="The worker's name in RQ. A number is appended with several processes, .db<n> in database n other than 0.",
)
@click.option(
    "--sticky",
    metavar="N",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="The maximum number of steps that a run executes in a row before it returns to its queue.",
)
@click.option(
    "--lease",
    metavar="TIME",
    type=lease,
    default="10s",
    show_default=True,
    help="How long a job stays with a process that sends no heartbeat; at least 2s.",
)
@click.option(
    "--grace",
    metavar="TIME",
    type=duration,
    default="30s",
    show_default=True,
    help="How long a stop waits for handlers; after that, their jobs return to the queue.",
)
@click.option(
    "--cancel-grace",
    metavar="TIME",
    type=duration,
    default="5s",
    show_default=True,
    help="How long an async or isolated handler may go on after its run was cancelled; then it is ended.",
)
@click.option(
    "--isolated-processes",
    metavar="N",
    type=click.IntRange(min=1),
    help="How many isolated handlers a process executes at once, each in a process of its own. Default: the CPUs.",
)
@click.option(
    "--max-jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Replace a process by a new one after this many jobs, or up to a tenth fewer, so that not all end at once.",
)
@click.option(
    "--max-memory",
    metavar="SIZE",
    type=size,
    help="Replace a process by a new one when it uses more resident memory, as in 500M or 2G.",
)
@click.option(
    "--redis-url",
    metavar="URL",
    envvar=REDIS_URL,
    help=f"The server. Default: {REDIS_URL}, else the server of the app.",
)
@debug_option
def worker(
    apps: tuple[str, ...],
    *,
    processes: int,
    concurrency: int,
    log_level: str,
    queues: tuple[str, ...],
    burst: bool,
    name: str,
    sticky: int,
    lease: float,
    grace: float,
    cancel_grace: float,
    isolated_processes: int | None,
    max_jobs: int | None,
    max_memory: int | None,
    redis_url: str | None,
) -> None:
    """Execute the functions of apps.

    An app is a module and the name of a variable in it: shop.flows:app.

    SIGTERM or Ctrl+C stops the worker when its running steps have ended. A second signal stops it at once; no data is
    lost, another worker takes over.
    """
    if redis_url:
        os.environ[REDIS_URL] = redis_url  # apps send events to this server too
    settings = WorkerSettings(
        url_of_apps(redis_url, load_apps(apps)),
        queues=queues,
        name=name,
        concurrency=concurrency,
        burst=burst,
        sticky=sticky,
        lease_ms=round(lease * 1000),
        grace_s=grace,
        cancel_grace_s=cancel_grace,
        max_jobs=max_jobs or 0,
        max_memory_bytes=max_memory or 0,
        isolated_processes=isolated_processes or 0,
    )
    spec = WorkerSpec(apps, settings, log_level)
    if processes == 1 and not settings.recycles:
        run_worker(spec)
        return
    check_worker(spec)
    sys.exit(WorkerPool(spec, processes).run())


def check_worker(spec: WorkerSpec) -> None:
    """Create a worker without starting it, so that an error is printed once and not by every process.

    Raises:
        ConfigurationError, BackendUnavailableError: the worker cannot start.
    """
    StepWorker(load_apps(spec.apps), spec.settings).connection.close()


def main() -> None:
    """The program ``stepflow-worker``."""
    run(worker, name=WORKER_PROGRAM, prefix=variable("WORKER"), server_note=server_note)


if __name__ == "__main__":
    main()
