"""The demo: ``python -m examples.census.demo [--kill] [package …]``.

Starts an embedded server and two worker processes, sends the event, shows the progress, and prints the report. With
``--kill``, it kills one of the workers half-way, and the other worker finishes the run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from examples.census.flow import census
from examples.census.progress import Crash, Progress, format_progress
from examples.census.report import Report, format_table
from examples.census.workers import DemoError, Worker, started_workers
from stepflow import Stepflow, StepflowError
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.redis_client.broker import Broker
from stepflow_engine.ids import run_id_by_event

__all__ = ["main"]

_WORKERS = ("worker-1", "worker-2")
_POLL_S = 0.05
_TIMEOUT_S = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    options = _parse(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="stepflow-census-") as folder:
            _run(Path(folder), options.packages, kill=options.kill, output=options.output)
    except (DemoError, StepflowError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.census.demo", description="A census of the stdlib.")
    parser.add_argument("packages", nargs="*", help="packages to count; default: the whole standard library")
    parser.add_argument("--kill", action="store_true", help="kill one of the two workers half-way")
    parser.add_argument("--output", type=Path, default=Path("census-report.json"), help="file of the report")
    return parser.parse_args(arguments)


def _run(folder: Path, packages: list[str], *, kill: bool, output: Path) -> None:
    with EmbeddedServer(folder / "server") as server, started_workers(_WORKERS, server.url, folder) as workers:
        print(f"Server {server.url}\nWorkers {' and '.join(_WORKERS)}, separate processes\n", flush=True)
        client, began = Stepflow("census", redis_url=server.url), time.monotonic()
        event_id = client.send("census/requested", {"packages": packages})
        run = client.run(run_id_by_event(event_id, census.name))
        progress = Progress(Broker(server.url), run.id)
        crash = _watch(progress, workers, kill=kill)
        report = Report.model_validate(run.result(timeout=_TIMEOUT_S))
        took_s = time.monotonic() - began
    width = shutil.get_terminal_size((120, 24)).columns
    output.write_text(report.model_dump_json(indent=2) + "\n")
    print(f"\nPython {report.python}, {report.folder}\n\n{format_table(report, width=width)}\n")
    _print_end(progress, crash, took_s)
    print(f"The report is in {output}.")


def _watch(progress: Progress, workers: list[Worker], *, kill: bool) -> Crash | None:
    """Show the progress until the run has ended; with ``kill``, kill a worker half-way."""
    crash, shown = None, ""
    deadline = time.monotonic() + _TIMEOUT_S
    while not progress.ended:
        progress.refresh()
        shown = _show(progress, shown)
        if kill and crash is None and progress.total and progress.done >= progress.total // 2:
            crash = _kill_one(progress, workers)
        if crash is not None and crash.reclaimed_at_ms is None and not progress.in_hand(crash.worker):
            crash = replace(crash, reclaimed_at_ms=REAL_CLOCK.now_ms())
        _check(workers, crash, deadline)
        time.sleep(_POLL_S)
    progress.refresh()
    _show(progress, shown, last=True)
    if kill and crash is None:
        raise DemoError("the run ended before a worker was killed: count more packages")
    return crash


def _show(progress: Progress, shown: str, *, last: bool = False) -> str:
    """Print the progress, on a terminal over the last line, else at each quarter; return what is shown."""
    line = format_progress(progress, list(_WORKERS))
    if sys.stdout.isatty():
        print(f"\r{line}", end="\n" if last else "", flush=True)
        return line
    quarter = str(4 * progress.done // progress.total) if progress.total else ""
    if quarter != shown:
        print(line, flush=True)
    return quarter


def _kill_one(progress: Progress, workers: list[Worker]) -> Crash | None:
    """Kill the first worker that is executing something; ``None`` if no worker is."""
    worker = next((worker for worker in workers if progress.in_hand(worker.name)), None)
    if worker is None:
        return None
    worker.kill()
    crash = Crash(worker.name, REAL_CLOCK.now_ms(), progress.in_hand(worker.name))
    print(f"\n{worker.name} was killed (SIGKILL) after {progress.done} of {progress.total} steps.")
    print(f"It was executing: {', '.join(crash.in_hand) or 'nothing'}.\n", flush=True)
    return crash


def _check(workers: list[Worker], crash: Crash | None, deadline: float) -> None:
    for worker in workers:
        if not worker.alive and (crash is None or crash.worker != worker.name):
            raise DemoError(f"{worker.name} has ended; its log:\n{worker.log.read_text()}")
    if time.monotonic() > deadline:
        raise DemoError(f"the run has not ended within {_TIMEOUT_S:.0f} s")


def _print_end(progress: Progress, crash: Crash | None, took_s: float) -> None:
    shares = ", ".join(f"{name} executed {progress.by_worker[name]}" for name in _WORKERS)
    print(f"{progress.done} steps of {len(progress.runs)} runs in {took_s:.1f} s: {shares}.")
    if crash is not None and crash.in_hand:
        print(f"Recovery: the work of {crash.worker} was {_recovery(progress, crash)}.")


def _recovery(progress: Progress, crash: Crash) -> str:
    parts = []
    if crash.reclaimed_at_ms is not None:
        parts.append(
            f"available to the other worker {(crash.reclaimed_at_ms - crash.at_ms) / 1000:.1f} s after the kill"
        )
    if (again := progress.started_again_at_ms(crash)) is not None:
        parts.append(f"started again {(again - crash.at_ms) / 1000:.1f} s after it")
    return ", and ".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
