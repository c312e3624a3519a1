"""The lease sidecar's program. See `lease_sidecar.py`.

It is started by path, in an interpreter that has the standard library only, and imports next to nothing: in 10 ms and
10 MB. The broker is imported when it takes over for the first time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from typing import Any

    from stepflow_broker.protocol.command import Command
    from stepflow_broker.redis_client.broker import Broker
    from stepflow_workers.liveness.lease_table import LeaseTable

__all__ = ["SidecarConfig", "is_stopped", "watch"]

_PATIENCE = 0.6
"""How much of a lease may pass at most before the lease sidecar takes over, which takes it a moment."""
_LATE_S = 0.8
"""How late a lease renewer may be that is well: it extends after a third of a lease, at its next beat."""
_LOOK = 0.1
"""How often to look at a worker that is held up, or stopped, as part of a lease."""
_SHOWN_S = 30
_CHUNK = 500
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class SidecarConfig:
    """What a worker tells its lease sidecar: see `LeaseSidecar`; times in seconds."""

    url: str
    worker: str
    rq_worker_key: str
    lease_s: float
    worker_pid: int
    table: int


def watch(told: SidecarConfig, table: LeaseTable) -> None:
    """Watch a worker until it has gone."""
    stand_in: _Takeover | None = None
    retry_for_s, wait_s = min(told.lease_s / 3 + _LATE_S, told.lease_s * _PATIENCE), 0.0
    while not _has_gone(told.worker_pid, wait_s):
        left_s = table.tended_at + retry_for_s - time.monotonic()
        wait_s = max(left_s, told.lease_s * _LOOK)
        if left_s > 0:
            if stand_in is not None:
                stand_in.leave()
                stand_in = None
        elif not is_stopped(told.worker_pid):
            leases = table.leases()
            if leases and stand_in is None:
                stand_in = _Takeover(told, len(leases))
            if stand_in is not None:
                stand_in.extend(leases)


def _has_gone(worker_pid: int, wait_s: float) -> bool:
    """Whether the worker is dead, or says that it needs no lease_sidecar, which closes the pipe; waits for that."""
    closed, _, _ = select.select([sys.stdin.fileno()], [], [], wait_s)
    return bool(closed) or os.getppid() != worker_pid


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by a signal or a debugger, or dead, or nothing is known of it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123  pathlib would double what this imports
            state = stat.read().rpartition(b")")[2].split()[0]
    except OSError:
        state = _state_by_ps(pid)
    return state[:1] in (b"T", b"t", b"Z", b"X", b"")


def _state_by_ps(pid: int) -> bytes:
    """The state of a process where there is no /proc."""
    import subprocess

    words = ["ps", "-o", "state=", "-p", str(pid)]
    try:
        return subprocess.run(words, capture_output=True, check=False).stdout.strip()
    except OSError:
        return b""


class _Takeover:
    """Extends leases in place of a worker that is held up.

    Args:
        jobs: how many leases the worker has.
    """

    def __init__(self, told: SidecarConfig, jobs: int) -> None:
        self._told = told
        self._since = time.monotonic()
        self._extend_at = 0.0
        self._log = _logger()
        self._broker = _connect(told.url)
        fields = {"worker": told.worker, "worker_pid": told.worker_pid, "jobs": jobs}
        self._log.warning("worker_blocked", extra=fields)

    def extend(self, leases: list[tuple[str, int]]) -> None:
        """Extend the leases when it is time to, and keep the worker among those that RQ shows."""
        from stepflow_broker.protocol.command import command
        from stepflow_broker.redis_client.partitions import keys_for
        from stepflow_broker.transitions.jobs import by_partition, extend_leases
        from stepflow_engine.errors import StepflowError

        now = time.monotonic()
        if now < self._extend_at:
            return
        lease_ms = round(self._told.lease_s * 1000)
        calls: list[Command[Any]] = [
            extend_leases(keys, part[first : first + _CHUNK], lease_ms=lease_ms)
            for keys, part in by_partition(keys_for(self._told.url), leases)
            for first in range(0, len(part), _CHUNK)
        ]
        self._extend_at = now + self._told.lease_s / 3
        for call in (*calls, command(int, "EXPIRE", self._told.rq_worker_key, _SHOWN_S)):
            try:
                self._broker.execute(call)
            except StepflowError as error:  # of one partition, perhaps
                self._extend_at = now + _PAUSE_S
                self._log.warning("lease_not_extended", extra={"error": str(error)})

    def leave(self) -> None:
        """The worker extends its leases itself again."""
        self._broker.close()
        held_s = round(time.monotonic() - self._since, 1)
        self._log.warning("worker_recovered", extra={"worker": self._told.worker, "held_s": held_s})


def _logger() -> logging.Logger:
    import logging

    from stepflow_workers.logs import configure_logging

    configure_logging("WARNING")
    return logging.getLogger("stepflow.worker")


def _connect(url: str) -> Broker:
    from stepflow_broker.redis_client.broker import Broker

    return Broker(url, retry_for_s=0.0)


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they reach whole groups; it ends with its worker
        signal.signal(number, signal.SIG_IGN)
    line = sys.stdin.readline()
    if not line:  # the worker died in between
        return
    told = json.loads(line)
    sys.path[:] = told.pop("path")
    from stepflow_workers.liveness.lease_table import LeaseTable

    watch(SidecarConfig(**told), LeaseTable(told["table"]))


if __name__ == "__main__":
    _main()
