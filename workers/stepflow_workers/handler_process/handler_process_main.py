"""The program of the process of a handler. See `process.py`.

The worker starts it by path. Before it imports anything else, it sees to it that it ends with the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys

__all__: list[str] = []

_PR_SET_PDEATHSIG = 1


def _end_with(worker_pid: int) -> None:
    """Let the kernel kill this process when the worker ends, also while a handler keeps the GIL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker_pid:  # it has ended before
        sys.exit(0)


def _prefer_for_out_of_memory() -> None:
    """If the system has no memory left, this process is killed, and not the worker."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123
        score.write("1000")


def _main() -> None:
    worker_pid, file = int(sys.argv[1]), int(sys.argv[2])
    _end_with(worker_pid)
    _prefer_for_out_of_memory()
    os.set_inheritable(file, False)
    connection = socket.socket(fileno=file)
    frames = connection.makefile("rb")
    line = frames.readline()
    if not line:  # the worker died before it sent the configuration
        return
    config = json.loads(line)
    sys.argv[:] = [sys.argv[0]]
    sys.path[:] = config["path"]
    from stepflow_workers.handler_process.child import Child

    Child(connection, frames, log_level=config["log_level"]).serve()


if __name__ == "__main__":
    _main()
