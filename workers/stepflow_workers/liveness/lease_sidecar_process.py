"""The program of the lease sidecar. See `lease_sidecar.py`.

The worker starts it by path, in an interpreter with the standard library only. It imports very little, so it starts in
10 ms and takes 10 MB. It imports the broker when it takes over for the first time.
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

_MAX_AGE = 0.6
"""The part of a lease after which the lease sidecar takes over at the latest. Taking over takes time too."""
_LATE_S = 0.8
"""How late a healthy renewer may be. Renewals are due every third of a lease, at the next heartbeat."""
_POLL = 0.1
"""The poll interval for a blocked or stopped worker, as a part of a lease."""
_RQ_TTL_S = 30
_CHUNK = 500
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class SidecarConfig:
    """The configuration that a worker sends to its lease sidecar: see `LeaseSidecar`. Times are in seconds."""

    url: str
    worker: str
    rq_worker_key: str
    lease_s: float
    worker_pid: int
    table: int


def watch(config: SidecarConfig, table: LeaseTable) -> None:
    """Watch a worker until it is gone."""
    takeover: _Takeover | None = None
    max_age_s, wait_s = min(config.lease_s / 3 + _LATE_S, config.lease_s * _MAX_AGE), 0.0
    while not _is_gone(config.worker_pid, wait_s):
        left_s = table.renewed_at + max_age_s - time.monotonic()
        wait_s = max(left_s, config.lease_s * _POLL)
        if left_s > 0:
            if takeover is not None:
                takeover.end()
                takeover = None
        elif not is_stopped(config.worker_pid):
            leases = table.leases()
            if leases and takeover is None:
                takeover = _Takeover(config, len(leases))
            if takeover is not None:
                takeover.extend(leases)


def _is_gone(worker_pid: int, wait_s: float) -> bool:
    """Wait; true if the worker is dead, or has closed the pipe because it no longer needs the sidecar."""
    closed, _, _ = select.select([sys.stdin.fileno()], [], [], wait_s)
    return bool(closed) or os.getppid() != worker_pid


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by a signal or a debugger, or dead, or its state is unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123  pathlib would double what this imports
            state = stat.read().rpartition(b")")[2].split()[0]
    except OSError:
        state = _state_by_ps(pid)
    return state[:1] in (b"T", b"t", b"Z", b"X", b"")


def _state_by_ps(pid: int) -> bytes:
    """The state of a process on a system without /proc."""
    import subprocess

    args = ["ps", "-o", "state=", "-p", str(pid)]
    try:
        return subprocess.run(args, capture_output=True, check=False).stdout.strip()
    except OSError:
        return b""


class _Takeover:
    """Extends leases in place of a blocked worker.

    Args:
        jobs: the number of leases of the worker.
    """

    def __init__(self, config: SidecarConfig, jobs: int) -> None:
        self._config = config
        self._since = time.monotonic()
        self._extend_at = 0.0
        self._gave_up = False
        self._log = _logger()
        self._broker = _connect(config.url)
        self._log.warning(
            "worker_blocked", extra={"worker": config.worker, "worker_pid": config.worker_pid, "jobs": jobs}
        )

    def extend(self, leases: list[tuple[str, int]]) -> None:
        """Extend the leases when that is due, and the registration of the worker in RQ."""
        from stepflow_broker.protocol.command import command
        from stepflow_broker.redis_client.partitions import partition_for
        from stepflow_broker.transitions.jobs.leases import by_partition, extend_leases
        from stepflow_engine.cipher import NO_ENCRYPTION
        from stepflow_engine.errors import StepflowError
        from stepflow_workers.liveness.lease_table import BLOCKED_LIMIT_S

        now = time.monotonic()
        if now < self._extend_at or self._gave_up:
            return
        if now - self._since > BLOCKED_LIMIT_S:
            self._gave_up = True
            self._log.error("leases_given_up", extra={"jobs": len(leases), "blocked_s": round(now - self._since, 1)})
            return
        lease_ms = round(self._config.lease_s * 1000)
        first_partition = partition_for(self._config.url, NO_ENCRYPTION)  # leases have no payload
        calls: list[Command[Any]] = [
            extend_leases(partition, part[first : first + _CHUNK], lease_ms=lease_ms)
            for partition, part in by_partition(first_partition, leases)
            for first in range(0, len(part), _CHUNK)
        ]
        self._extend_at = now + self._config.lease_s / 3
        for call in (*calls, command(int, "EXPIRE", self._config.rq_worker_key, _RQ_TTL_S)):
            try:
                self._broker.execute(call)
            except StepflowError as error:  # perhaps of one partition only
                self._extend_at = now + _PAUSE_S
                self._log.warning("lease_not_extended", extra={"error": str(error)})

    def end(self) -> None:
        """Stop: the worker extends its leases itself again."""
        self._broker.close()
        held_s = round(time.monotonic() - self._since, 1)
        self._log.warning("worker_recovered", extra={"worker": self._config.worker, "held_s": held_s})


def _logger() -> logging.Logger:
    import logging

    from stepflow_engine.product import WORKER_LOGGER
    from stepflow_workers.logs import configure_logging

    configure_logging("WARNING")
    return logging.getLogger(WORKER_LOGGER)


def _connect(url: str) -> Broker:
    from stepflow_broker.redis_client.broker import Broker

    return Broker(url, retry_for_s=0.0)


def _main() -> None:
    # a signal may reach the whole process group; the sidecar ends with its worker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    line = sys.stdin.readline()
    if not line:  # the worker died before it sent the configuration
        return
    config = json.loads(line)
    sys.path[:] = config.pop("path")
    from stepflow_workers.liveness.lease_table import LeaseTable

    watch(SidecarConfig(**config), LeaseTable(config["table"]))


if __name__ == "__main__":
    _main()
