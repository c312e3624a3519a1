"""DBOS: ``python -m benchmarks.dbos`` prints JSON, a line a sample.

DBOS is a library: the worker starts the workflows itself, and keeps 200 of them started and not ended. Workflows and
steps are sync functions in 8 threads, which was the fastest: async ones, and more threads, cost more Python for each
step. All else is the default: a pool of 20 connections; SQLite and PostgreSQL wait for the disk at each commit. With
SQLite the server is in the worker's process.
"""

from __future__ import annotations

import sqlite3
import sys

from benchmarks import durable
from benchmarks.dbos_flows import THREADS
from benchmarks.durable import DEADLINE_S, Load, Setup
from benchmarks.postgres import find_postgres, postgres_server
from benchmarks.servers import started, wait_until


def on_sqlite(load: Load) -> str:
    """Do a load on a fresh SQLite file."""
    work(load, f"sqlite:///{load.folder / 'bench.sqlite'}", server=None)
    return f"sqlite {sqlite3.sqlite_version}"


def on_postgres(load: Load) -> str:
    """Do a load on a fresh PostgreSQL."""
    with postgres_server() as server:
        work(load, f"postgresql+psycopg://{server.host}/bench", server=server.pid)
        return server.version


def work(load: Load, url: str, *, server: int | None) -> None:
    """Start a worker, and wait until it has done its load and ended well."""
    numbers = map(str, (load.size, load.runs, load.in_flight))
    worker = [sys.executable, "-m", "benchmarks.dbos_flows", url, load.function, *numbers]
    with started(worker, log=load.log, env=load.env(server)) as process:
        load.wait(process)
        wait_until(
            lambda: process.poll() == 0,
            process=process,
            log=load.log,
            what=f"the end of {load.runs} runs",
            deadline_s=DEADLINE_S,
        )


COUNTS = {
    ("seq10", 1): 1_000,
    ("seq10", 200): 4_000,
    ("fan1000", 200): 3_000,
    ("invoke", 1): 300,
    ("invoke", 200): 1_000,
}
SETUPS = [Setup(f"SQLite, {THREADS} threads, commits wait for the disk", on_sqlite, COUNTS)]
if find_postgres():
    SETUPS.append(Setup(f"PostgreSQL, {THREADS} threads, commits wait for the disk", on_postgres, COUNTS))
else:
    print("PostgreSQL is not installed: DBOS is measured on SQLite only", file=sys.stderr)

if __name__ == "__main__":
    durable.run(__doc__, "dbos", "dbos", SETUPS)
