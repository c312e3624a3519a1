"""LeaseSidecar: a process beside each worker that extends its leases while no thread of the worker can run.

A handler that calls C code which keeps the GIL stops every thread of its process, including the lease renewer. The
lease sidecar reads in shared memory when the leases were last renewed. It takes over when that is too long ago, unless
the worker is stopped or dead: then the leases expire. Its program is in `lease_sidecar_process.py`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from stepflow_engine.product import WORKER_LOGGER
from stepflow_workers.liveness.lease_table import LeaseTable

__all__ = ["LeaseSidecar"]

_log = logging.getLogger(WORKER_LOGGER)
_PROGRAM = Path(__file__).with_name("lease_sidecar_process.py")


class LeaseSidecar:
    """The sidecar process of a worker.

    Args:
        url: the URL of the server.
        worker: the name of the worker.
        rq_worker_key: RQ's key of the worker. The sidecar extends its expiry with the leases.
        lease_ms: the length of a lease.
        is_wanted: whether there is a process at all.

    Attributes:
        table: the leases, which the worker writes.
    """

    def __init__(self, url: str, *, worker: str, rq_worker_key: str, lease_ms: int, is_wanted: bool = True) -> None:
        self.table = LeaseTable(LeaseTable.make_file())
        self._config = {"url": url, "worker": worker, "rq_worker_key": rq_worker_key, "lease_s": lease_ms / 1000}
        self._is_wanted = is_wanted
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, without waiting for it. A worker without a lease sidecar works, and logs a warning."""
        if not self._is_wanted:
            return
        args = [sys.executable, "-I", "-S", str(_PROGRAM), str(os.getpid())]
        config = {**self._config, "worker_pid": os.getpid(), "table": self.table.file, "path": sys.path}
        try:
            self._process = process = subprocess.Popen(
                args, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(self.table.file,)
            )
            if process.stdin is not None:  # not in the arguments, which every user can see: a URL may have a password
                process.stdin.write(json.dumps(config).encode() + b"\n")
                process.stdin.flush()
        except OSError as error:
            _log.warning("lease_sidecar_not_started", extra={"error": str(error)})

    def restart_if_dead(self) -> None:
        """Start the process again if it has died."""
        process = self._process
        if self._is_wanted and (process is None or process.poll() is not None):
            _log.warning("lease_sidecar_died", extra={"exit_code": None if process is None else process.returncode})
            self._close()
            self.start()

    def stop(self) -> None:
        """Kill the process. It has nothing to finish."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._close()
        self.table.close()

    def _close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
