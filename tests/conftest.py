"""Fixtures: a real server, and real workers."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from stepflow import Stepflow
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_engine.retry_policy import Backoff
from stepflow_workers.state.settings import WorkerSettings
from tests.support.cluster import LocalCluster
from tests.support.partition_merging_client import whole_client
from tests.support.processes import WorkerProcess, WorkerThread
from tests.support.roles import as_role, as_roles, knows_users, users_option
from tests.support.selection import Quick, Requires, Rest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sticky", type=int, help="stickiness of the workers whose test does not say: make test-unsticky")
    parser.addoption("--acl", action="store_true", help="each process has only its role's rights: make test-acl")
    parser.addoption(
        "--cluster", action="store_true", help="on a cluster of 3 primaries and 3 replicas: make test-cluster"
    )
    parser.addoption(
        "--partitions", type=int, default=1, help="on one server, its keys divided into so many partitions"
    )
    parser.addoption("--moves", type=Path, help="a file for the moves that the scripts of contract tests have made")
    parser.addoption("--quick", action="store_true", help="what a machine with Python alone can run: make test")
    parser.addoption("--rest", action="store_true", help="what --quick leaves out")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "roles(*names): the roles of the test's own process, with --acl; else producer")
    config.addinivalue_line("markers", "single_server(reason): makes no sense where keys are divided into partitions")
    config.addinivalue_line("markers", "slow: takes seconds, and is not the main flow of a feature: make test-all")
    config.addinivalue_line("markers", "needs(*names): what a test needs, of tests/support/requirements.py")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell that started us in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else the programs under test inherit it
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each program under test compiles all modules anew
    config.pluginmanager.register(Requires(), "requires")
    if config.getoption("--quick"):
        config.pluginmanager.register(Quick(), "quick")
    if config.getoption("--rest"):
        config.pluginmanager.register(Rest(), "rest")


def pytest_report_header(config: pytest.Config) -> str | None:
    """What the tests run on, if not on a plain server."""
    if not _is_divided(config):
        return None
    partitions = config.getoption("--partitions")
    where = "a cluster" if config.getoption("--cluster") else f"a server whose keys are divided into {partitions}"
    return f"on {where}, without the tests that are marked single_server"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where keys are divided, leave out the tests that make no sense there."""
    if not _is_divided(config):
        return
    left_out = [item for item in items if item.get_closest_marker("single_server")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_divided(config: pytest.Config) -> bool:
    return bool(config.getoption("--cluster")) or int(config.getoption("--partitions")) > 1


@pytest.fixture(scope="session")
def worker_defaults(request: pytest.FixtureRequest) -> dict[str, object]:
    """Settings of workers that a test does not set itself."""
    sticky = request.config.getoption("--sticky")
    return {} if sticky is None else {"sticky": sticky}


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[EmbeddedServer | LocalCluster]:
    """A real server, or a cluster, for the whole session; a missing one is a failure, not a skip."""
    folder = tmp_path_factory.mktemp("server")
    if request.config.getoption("--cluster"):
        with LocalCluster(folder) as cluster:
            yield cluster
            assert cluster.errors()["CROSSSLOT"] == 0
        return
    acl = request.config.getoption("--acl")
    with EmbeddedServer(folder, **users_option(folder) if acl else {}) as running:
        if acl:
            knows_users(running.url)
        yield running


@pytest.fixture
def partitions(request: pytest.FixtureRequest) -> int:
    """Into how many partitions the keys of a single server are divided; a test may say it itself."""
    return int(request.config.getoption("--partitions"))


@pytest.fixture
def url(server: EmbeddedServer | LocalCluster, request: pytest.FixtureRequest, partitions: int) -> str:
    """The URL of the server, emptied; with ``--acl`` it has a producer's rights, or those of the test's mark."""
    if isinstance(server, LocalCluster):
        server.flush()
        return server.url
    with redis.Redis.from_url(as_role(server.url, "admin")) as client:
        client.flushall()
    marked = request.node.get_closest_marker("roles")
    url = as_roles(server.url, marked.args if marked else ("producer",))
    return f"{url}?partitions={partitions}" if partitions > 1 else url


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    """A client of the server, to look at what is there; it shows the keys of all partitions as those of one."""
    with whole_client(url) as client:
        yield client


@pytest.fixture
def app(url: str) -> Stepflow:
    """An app on the server."""
    return Stepflow("shop", redis_url=url)


@pytest.fixture
def start_worker(
    url: str, tmp_path: Path, worker_defaults: dict[str, object]
) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts worker processes: ``start_worker("tests.integration.apps.basic:app", concurrency=1)``."""
    started: list[WorkerProcess] = []
    numbers = itertools.count(1)

    def start(*apps: str, **settings: object) -> WorkerProcess:
        options = worker_defaults | settings
        started.append(WorkerProcess(url, *apps, log=tmp_path / f"worker-{next(numbers)}.log", **options))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()
        print(f"--- {worker.log.name}\n{worker.log.read_text()}")


@pytest.fixture
def run_worker(url: str, worker_defaults: dict[str, object]) -> Iterator[Callable[..., WorkerThread]]:
    """Starts workers in threads, for apps that a test declares: ``run_worker(app, concurrency=1)``."""
    started: list[WorkerThread] = []

    def run(app: Stepflow, **settings: object) -> WorkerThread:
        options = {"backoff": Backoff(20, 100), "lease_ms": 3_000} | worker_defaults | settings
        started.append(WorkerThread(app, WorkerSettings(as_role(url, "worker"), **options)))  # type: ignore[arg-type]
        return started[-1]

    yield run
    for worker in started:
        if worker.thread.is_alive():
            worker.stop()
