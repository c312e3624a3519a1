"""Restate: ``python -m benchmarks.restate`` prints JSON, a line a sample.

A client of ours, which costs about 10 µs a step, keeps the runs in flight over HTTP. The worker speaks HTTP/2 in both
directions, on uvloop. Two setups: as documented (Hypercorn, and the server's defaults), and the fastest that was found
on 2 cores: Granian, and 2 partitions, which cost the server half. Both wait for the disk at each commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import durable
from benchmarks.durable import DEADLINE_S, Load, Setup
from benchmarks.servers import ProcessError, free_port, serving, wait_until

_FIRST_CALLS = 1_000
"""Uncounted calls to a fresh server, whose first ones are slow; by so many connections at once as below."""
_FIRST_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class RestateServer:
    """A running server.

    Attributes:
        ingress, admin: its ports.
        process: it.
        version: ``restate 1.7.12``.
    """

    ingress: int
    admin: int
    process: subprocess.Popen[bytes]
    version: str

    def register(self, port: int) -> None:
        """Make a worker's services known.

        Raises:
            ProcessError: the server refuses.
        """
        body = json.dumps({"uri": f"http://127.0.0.1:{port}"}).encode()
        url, headers = f"http://127.0.0.1:{self.admin}/deployments", {"content-type": "application/json"}
        try:
            urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60).close()
        except OSError as error:
            raise ProcessError(f"Restate does not take the worker at port {port}: {error}") from None


@contextlib.contextmanager
def restate_server(folder: Path, *, partitions: int) -> Iterator[RestateServer]:
    """A fresh server that keeps its files in a folder."""
    program, log = find_restate(), folder / "server.log"
    ingress, admin, node = free_port(), free_port(), free_port()
    env = {
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_DEFAULT_NUM_PARTITIONS": str(partitions),
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LOG_FILTER": "warn",
    }
    command = [program, "--base-dir", folder, "--node-name", "bench", "--listen-mode", "tcp", "--no-logo"]
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    with serving(command, port=ingress, log=log, cwd=folder, env=env) as process:
        wait_until(lambda: _is_healthy(admin), process=process, log=log, what="the health of Restate")
        yield RestateServer(ingress, admin, process, f"restate {said.split()[1]}")


def find_restate() -> Path:
    """The server program: `restate-server` from PATH; npm's is a script beside the package that has the program.

    Raises:
        ProcessError: there is none.
    """
    found = shutil.which("restate-server")
    if found is None:
        raise ProcessError("no Restate server was found: npm install @restatedev/restate-server")
    path = Path(found).resolve()
    if path.suffix != ".js":
        return path
    for program in path.parents[2].glob("restate-server-*/bin/restate-server"):
        return program
    raise ProcessError(f"npm did not install the program of {path}: its optional dependencies are missing")


def _is_healthy(admin: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{admin}/health", timeout=5).close()
    except OSError:
        return False
    return True


def execute(load: Load, *, serve: Callable[[int], list[str]], stop: signal.Signals, partitions: int) -> str:
    """Start a server and a worker, keep runs in flight until all have ended, and give the server's version."""
    port, at_once = free_port(), 1 if load.function == "fan" else load.in_flight
    with restate_server(load.folder, partitions=partitions) as server:
        env = load.env(server.process.pid)
        with serving(serve(port), port=port, log=load.log, env=env, stop=stop) as process:
            server.register(port)
            asyncio.run(call(server.ingress, "child", 0, _FIRST_CALLS, _FIRST_AT_ONCE))
            asyncio.run(call(server.ingress, load.function, load.size, load.runs, at_once))
            load.wait(process)
        return server.version


async def call(port: int, handler: str, value: int, times: int, at_once: int) -> None:
    """Command a handler so many times, with so many calls at once, each on a connection of its own.

    Raises:
        ProcessError: a call failed.
        TimeoutError: they took too long.
    """
    body = str(value)
    head = f"POST /bench/{handler} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    numbers = itertools.islice(itertools.count(), times)

    async def lane() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in numbers:
            writer.write(request)
            await _read_success(reader)
        writer.close()

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as lanes:
        for _ in range(at_once):
            lanes.create_task(lane())


async def _read_success(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    status, *fields = head.splitlines()
    length = int(_field(fields, "content-length"))
    body = await reader.readexactly(length)
    if status.split()[1] != "200":
        raise ProcessError(f"a run failed: {status}: {body.decode(errors='replace')}")


def _field(fields: list[str], name: str) -> str:
    return next((field.partition(":")[2] for field in fields if field.startswith(f"{name}:")), "0")


def hypercorn(port: int) -> list[str]:
    """A worker that is served by Hypercorn, in one process."""
    return [sys.executable, "-m", "benchmarks.restate_flows", str(port)]


def granian(port: int) -> list[str]:
    """A worker that is served by Granian: one process does the work, and another looks after it."""
    options = {"interface": "asginl", "http": "2", "loop": "uvloop", "workers": "1", "workers-kill-timeout": "1"}
    options |= {"host": "127.0.0.1", "port": str(port), "backpressure": "1024", "log-level": "warning"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "granian", *words, "benchmarks.restate_flows:app"]


COUNTS: Mapping[tuple[str, int], int] = {
    ("seq10", 1): 2_000,
    ("seq10", 200): 20_000,
    ("fan1000", 200): 5_000,
    ("invoke", 1): 500,
    ("invoke", 200): 4_000,
}
# The SDK takes SIGTERM away from Hypercorn, which then does not end: only a kill ends it.
SETUPS = (
    Setup(
        "as documented: Hypercorn, 24 partitions, commits wait for the disk",
        functools.partial(execute, serve=hypercorn, stop=signal.SIGKILL, partitions=24),
        COUNTS,
    ),
    Setup(
        "tuned: Granian, 2 partitions, commits wait for the disk",
        functools.partial(execute, serve=granian, stop=signal.SIGTERM, partitions=2),
        COUNTS,
    ),
)

if __name__ == "__main__":
    durable.run(__doc__, "restate", "restate-sdk", SETUPS)
