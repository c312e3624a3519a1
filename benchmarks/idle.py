"""Idle: what a worker of stepflow costs that has nothing to do."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.command import Case
from benchmarks.drains import SEQ10, drain_load
from benchmarks.ours import sampled
from benchmarks.rig import rig
from benchmarks.sample import Sample
from stepflow_workers.state.settings import WorkerSettings

__all__ = ["idle", "lines_within"]

_WARM_UP = 1000
_IN_SCRIPT = b" lua] "


def idle(case: Case, sticky: int) -> tuple[Sample, Sample]:
    """A worker that has worked and is idle now, watched for as many seconds as the case says.

    The server's MONITOR tells of each command: those that the worker has sent, and with them those that its scripts
    have called. The harness sends none meanwhile.
    """
    with rig(concurrency=WorkerSettings("").concurrency, sticky=sticky) as bench:
        drain_load(bench, SEQ10, _WARM_UP)
        bench.let_go()
        bench.wait(lambda: bench.states() == ["idle"], "the worker did not become idle", pause_s=0.1)
        with socket.create_connection(("127.0.0.1", bench.server.port)) as connection:
            connection.sendall(b"MONITOR\r\n")
            connection.recv(len(b"+OK\r\n"))
            first = bench.note(0)
            lines = list(lines_within(connection, case.count))
            last = bench.note(0)
        sent = sum(_IN_SCRIPT not in line for line in lines)
        return (
            sampled(case, (first, replace(last, count=sent)), bench.server, "sent"),
            sampled(case, (first, replace(last, count=len(lines))), bench.server, "sent, and called by scripts"),
        )


def lines_within(connection: socket.socket, seconds: float) -> Iterator[bytes]:
    """What comes on a connection within some seconds."""
    until, rest = time.monotonic() + seconds, b""
    while (left_s := until - time.monotonic()) > 0:
        connection.settimeout(left_s)
        try:
            data = connection.recv(65536)
        except TimeoutError:
            return
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
