"""LeaseRenewer: a thread that keeps the worker alive on the server, whatever its event loop does.

It extends the leases of the worker's jobs, reports which steps execute for longer than a second, sends RQ's heartbeat,
and reports an event loop that a handler blocks, with the line that blocks it. The lease sidecar takes over when this
thread cannot run either: see `lease_sidecar.py`.
"""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import stepflow
import stepflow_broker
import stepflow_engine
from stepflow_broker.protocol.heartbeat import HEARTBEAT_S
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.jobs.leases import by_partition, extend_leases
from stepflow_broker.transitions.runs.attempts import executing_report
from stepflow_engine.errors import PermissionDeniedError, StepflowError
from stepflow_engine.product import NAME, WORKER_LOGGER
from stepflow_workers.liveness.held_leases import HeldLeases
from stepflow_workers.liveness.lease_sidecar import LeaseSidecar
from stepflow_workers.liveness.lease_table import BLOCKED_LIMIT_S
from stepflow_workers.state.log_throttle import LogThrottle

__all__ = ["LeaseRenewer", "blocking_line"]

_log = logging.getLogger(WORKER_LOGGER)
_TICK_S = 0.5
_BLOCKED_S = 1.0
_REPORTED_AFTER = 3
"""After how many ticks of execution a step is reported: it has executed for 1 to 1.5 s then."""
_CHUNK = 500


class LeaseRenewer:
    """Renews the leases of a worker.

    Args:
        url: the URL of the server. The renewer has a connection of its own.
        leases: the leases.
        executing: job of a continuation → the step that the worker executes in it; see `WorkerState`.
        lease_sidecar: extends the leases while no thread of the worker can run. The renewer starts and stops it.
        lease_ms: the length of a lease. The renewer extends it three times in that time.
        heartbeat: called every ten seconds, in the thread of the renewer.
        lost: called in the event loop with the leases that are lost: job → fence.
        call_in_loop: calls a function in the event loop.
    """

    def __init__(
        self,
        url: str,
        partition: Partition,
        leases: HeldLeases,
        *,
        executing: Mapping[str, tuple[str, str, int]],
        lease_sidecar: LeaseSidecar,
        lease_ms: int,
        heartbeat: Callable[[], None],
        lost: Callable[[dict[str, int]], None],
        call_in_loop: Callable[[Callable[[], None]], None],
    ) -> None:
        self._leases = leases
        self._executing = executing
        self._seen: dict[str, tuple[tuple[str, str, int], int]] = {}
        self._lease_sidecar = lease_sidecar
        self._broker = Broker(url, retry_for_s=0.0)
        self._partition = partition
        self._lease_ms = lease_ms
        self._heartbeat = heartbeat
        self._lost = lost
        self._call_in_loop = call_in_loop
        self._loop_thread = threading.get_ident()
        self._loop_alive_at = time.monotonic()
        self._probed_at = 0.0
        self._blocked_since = 0.0
        self._gave_up = False
        self._refusals = LogThrottle()
        self._running: dict[str, threading.Thread] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{NAME}-lease-renewer", daemon=True)

    def start(self) -> None:
        """Start the thread and the lease sidecar. Call it in the thread of the event loop."""
        self._loop_thread = threading.get_ident()
        self._loop_alive_at = time.monotonic()
        self._lease_sidecar.table.renewed(self._loop_alive_at)
        self._lease_sidecar.start()
        self._thread.start()

    def loop_alive(self) -> None:
        """Record that the event loop runs. Called in the loop."""
        now = time.monotonic()
        if self._blocked_since:
            _log.warning("loop_unblocked", extra={"blocked_s": round(now - self._blocked_since, 1)})
            self._blocked_since = 0.0
            self._gave_up = False
        self._loop_alive_at = now
        self._probed_at = 0.0

    def stop(self) -> None:
        """Stop the thread and the lease sidecar, and wait for them."""
        self._stop.set()
        self._thread.join(timeout=5)
        self._lease_sidecar.stop()
        self._broker.close()

    def _run(self) -> None:
        extend_at = heartbeat_at = 0.0
        while not self._stop.wait(_TICK_S):
            now = time.monotonic()
            self._watch(now)
            self._probed_at = self._probed_at or now
            self._call_in_loop(self.loop_alive)
            try:
                self._see_steps()
                if now >= extend_at:
                    self._extend()
                    extend_at = now + self._lease_ms / 3000
                else:
                    self._report_steps()
                if now >= heartbeat_at:
                    self._lease_sidecar.restart_if_dead()
                    self._in_background("heartbeat", self._heartbeat)
                    heartbeat_at = now + HEARTBEAT_S
            except StepflowError as error:
                self._report(error)

    def _extend(self) -> None:
        """Extend all leases, unless the event loop has not run for `BLOCKED_LIMIT_S`: it may never run again."""
        if self._blocked_for_s() > BLOCKED_LIMIT_S:
            self._give_up(self._blocked_for_s())
            return
        parts = by_partition(self._partition, [(lease.job, lease.fence) for lease in list(self._leases.values())])
        try:
            for partition, leases in parts:
                self._in_background(partition.tag, partial(self._extend_part, partition, leases))
        finally:  # also when the server refuses: the lease sidecar could not do better
            self._lease_sidecar.table.renewed(time.monotonic())

    def _blocked_for_s(self) -> float:
        """For how long the event loop has not run; 0: it runs."""
        return time.monotonic() - self._blocked_since if self._blocked_since else 0.0

    def _give_up(self, blocked_s: float) -> None:
        self._lease_sidecar.table.renewed(time.monotonic())  # the lease sidecar must not extend them either
        if not self._gave_up:
            self._gave_up = True
            _log.error("leases_given_up", extra={"jobs": len(self._leases), "blocked_s": round(blocked_s, 1)})

    def _extend_part(self, partition: Partition, leases: list[tuple[str, int]]) -> None:
        for first in range(0, len(leases), _CHUNK):
            part = leases[first : first + _CHUNK]
            reports = {job: report for job, _ in part if (report := self._report_on(job))}
            lost = self._broker.execute(extend_leases(partition, part, lease_ms=self._lease_ms, executing=reports))
            if lost:
                fences = dict(part)
                self._call_in_loop(partial(self._lost, {job: fences[job] for job in lost}))

    # -- steps that execute --------------------------------------------------------

    def _see_steps(self) -> None:
        """Count at how many ticks each step was seen. The ticks count, not a clock, which may be set."""
        seen: dict[str, tuple[tuple[str, str, int], int]] = {}
        for job, step in dict(self._executing).items():
            last, ticks = self._seen.get(job, (step, 0))
            seen[job] = (step, ticks + 1 if last is step else 1)
        self._seen = seen

    def _report_steps(self) -> None:
        """Report the steps that have just executed for longer than a second. Each extension repeats the report."""
        if self._blocked_for_s() > BLOCKED_LIMIT_S:
            return
        jobs = [job for job, (_, ticks) in self._seen.items() if ticks == _REPORTED_AFTER]
        held = [(job, lease.fence) for job in jobs if (lease := self._leases.get(job)) is not None]
        for partition, leases in by_partition(self._partition, held):
            self._in_background(f"steps {partition.tag}", partial(self._extend_part, partition, leases))

    def _report_on(self, job: str) -> str:
        """The report on the step that a job executes; ``""`` if it has executed for a short time only."""
        seen = self._seen.get(job)
        if seen is None or seen[1] < _REPORTED_AFTER:
            return ""
        return executing_report(*seen[0])

    def _in_background(self, name: str, work: Callable[[], None]) -> None:
        """Run something; with several partitions, in a thread, because the node of one may be unreachable.

        Something that still runs is not started again.
        """
        if len(self._partition.all) == 1:
            work()
            return
        last = self._running.get(name)
        if last is None or not last.is_alive():
            self._running[name] = threading.Thread(
                target=self._try, args=(work,), name=f"{NAME}-lease-renewer", daemon=True
            )
            self._running[name].start()

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except StepflowError as error:
            self._report(error)

    def _report(self, error: StepflowError) -> None:
        """Log that the leases were not extended; once a minute, if the server refuses it."""
        if not isinstance(error, PermissionDeniedError) or self._refusals.allows(str(error)):
            _log.warning("lease_not_extended", extra={"error": str(error)})

    def _watch(self, now: float) -> None:
        """Report, once, a loop that has not answered for a second. This thread may have waited for the server."""
        if not self._probed_at or now - self._probed_at < _BLOCKED_S or self._blocked_since:
            return
        self._blocked_since = self._loop_alive_at
        frame = sys._current_frames().get(self._loop_thread)
        if frame is None:
            return
        where, inner = blocking_line(traceback.extract_stack(frame))
        _log.warning(
            "loop_blocked at %s:%s in %s: %s",
            where.filename,
            where.lineno,
            where.name,
            where.line,
            extra={
                "file": where.filename,
                "line": where.lineno,
                "function_name": where.name,
                "calls": f"{inner.name} in {inner.filename}:{inner.lineno}",
            },
        )


def blocking_line(stack: Sequence[traceback.FrameSummary]) -> tuple[traceback.FrameSummary, traceback.FrameSummary]:
    """The innermost line of user code in a stack, and the line that it waits in, in a library or there.

    Args:
        stack: the lines, from the outermost.
    """
    inner = stack[-1]
    users = (line for line in reversed(stack) if not _is_library(line.filename))
    return next(users, inner), inner


def _is_library(filename: str) -> bool:
    return filename.startswith(("<frozen", *_LIBRARIES))


_LIBRARIES = tuple(
    {f"{folder}{os.sep}" for folder in sysconfig.get_paths().values() if folder != sys.prefix}
    | {f"{folder}{os.sep}" for module in (stepflow, stepflow_broker, stepflow_engine) for folder in module.__path__}
    | {f"{Path(__file__).parents[1]}{os.sep}"}
)
"""The folders of the standard library, of installed packages, and of stepflow."""
