"""Passwords are where they are needed, and nowhere else: not in logs, errors, process lists, Redis or output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from stepflow import BackendUnavailableError, ConfigurationError, RunFailedError, Stepflow, StepflowError
from stepflow_broker.access.acl import ADMIN, acl_file
from stepflow_broker.access.roles import ROLES
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker
from stepflow_workers.liveness.lease_sidecar import LeaseSidecar
from stepflow_workers.pool import WorkerSpec
from stepflow_workers.state.settings import WorkerSettings
from tests.support.command_line import call, running
from tests.support.processes import until
from tests.support.tls import TlsSite

GUARDED = "tests.integration.apps.guarded:app"
pytestmark = pytest.mark.single_server("a single server of its own, with users and TLS")
PASSWORD = "marker-of-the-password-6f1c"
KEY_PASSWORD = "marker-of-the-key-password-9b2e"
SECRETS = (PASSWORD, KEY_PASSWORD)


def assert_no_secret(text: object, *, where: str) -> None:
    for secret in SECRETS:
        assert secret not in str(text), where
        assert secret.encode().hex() not in str(text), where


@dataclass(frozen=True)
class Guarded:
    """A server that wants users, passwords and certificates."""

    tls: TlsSite

    def url(self, role: str, *, password: str = PASSWORD) -> str:
        files = self.tls.client_files(password=KEY_PASSWORD)
        return self.tls.url(user=f"stepflow-{role}:{password}@", **files, ssl_password=KEY_PASSWORD)

    def admin(self) -> redis.Redis:
        return redis.Redis(port=self.tls.server.port, username=ADMIN, password=PASSWORD, decode_responses=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("secrets")
    users = folder / "users.acl"
    users.write_text(acl_file(dict.fromkeys((ADMIN, *(role.name for role in ROLES)), PASSWORD)))
    with TlsSite(folder / "tls", tls_auth_clients="yes", aclfile=str(users)) as tls:
        yield Guarded(tls)


def command_lines(session: int) -> dict[int, str]:
    """What the process list shows of a session's processes."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                if os.getsid(int(entry.name)) == session:
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    return found


def test_nothing_that_a_worker_leaves_behind_has_a_password(site: Guarded, tmp_path: Path) -> None:
    log, words = tmp_path / "worker.log", [GUARDED, "--processes", "2", "--log-level", "DEBUG", "--lease", "2s"]
    admin, app = site.admin(), Stepflow("guarded", redis_url=site.url("producer"))
    with running(*words, log=log, program="worker", STEPFLOW_REDIS_URL=site.url("worker")) as worker:
        until(lambda: admin.scard("rq:workers") == 2, what="the workers' start")
        until(lambda: str(command_lines(worker.pid)).count("lease_sidecar_process") == 2, what="the deputies' start")
        seen = command_lines(worker.pid)
        assert_no_secret(seen, where="the process list")
        grab = app.start("grab", {"seconds": 4})
        with pytest.raises(RunFailedError) as failed:
            app.start("tells").result(timeout=30)
        assert app.start("passes-on").result(timeout=30) == "sent"
        assert grab.result(timeout=30) in seen
        assert_no_secret("".join(traceback.format_exception(failed.value)), where="a failed run")
        for role, line in _looks(failed.value.run_id):
            done = call(*line, STEPFLOW_REDIS_URL=site.url(role))
            assert done.returncode == 0, done.stderr
            assert_no_secret(done.stdout + done.stderr, where=" ".join(line))
    logged = log.read_text()
    assert " worker_blocked " in logged, "the lease_sidecar did not log"
    assert_no_secret(logged, where="the log")
    _assert_nothing_stored(site, admin)
    admin.close()


def _looks(run_id: str) -> list[tuple[str, list[str]]]:
    """What the command line can show, and in which role."""
    lines = [["runs", "list"], ["runs", "show", run_id], ["explain", run_id], ["functions"], ["workers"], ["queues"]]
    lines += [["pauses"], ["doctor"]]
    return [
        *[("read-only", [*line, "--debug"]) for line in lines],
        *[("read-only", [*line, "-o", "json"]) for line in lines],
        ("operator", ["doctor", "--repair", "--debug"]),
    ]


def _assert_nothing_stored(site: Guarded, admin: redis.Redis) -> None:
    """Whatever was ever written stands in the append-only file, as it was sent."""
    folder = site.tls.server.folder
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".key"]
    assert any(b"guarded/tells" in path.read_bytes() for path in files), "the append-only file was not looked at"
    for path in files:
        assert_no_secret(path.read_bytes(), where=path.name)
    assert_no_secret(admin.acl_log(), where="ACL LOG")
    assert_no_secret(admin.client_list(), where="CLIENT LIST")


# -- errors --------------------------------------------------------------------------------


def told(error: BaseException | None) -> str:
    """All that an error and those behind it say of themselves."""
    text = ""
    while error is not None:
        text += f"{error!r} {error.args} {vars(error)} {''.join(traceback.format_exception(error))}"
        error = error.__cause__ or error.__context__
    return text


def wrong_urls(site: Guarded, port: int) -> list[tuple[str, type[StepflowError]]]:
    """URLs with the marked passwords that do not work, each for another reason."""
    right = site.url("worker")
    other_key = right.replace(KEY_PASSWORD, f"{KEY_PASSWORD}x")
    return [
        (right.replace("stepflow-worker", "nobody"), ConfigurationError),
        (right.replace("localhost", "127.0.0.1"), ConfigurationError),
        (right.replace(str(site.tls.port), str(port)), BackendUnavailableError),
        (right.replace(str(site.tls.port), "redis"), ConfigurationError),
        (right.replace(PASSWORD, f"{PASSWORD}/x"), ConfigurationError),
        (other_key, ConfigurationError),
        (f"{right}&no_such_option=1", ConfigurationError),
        (right.replace("rediss://", "http://"), ConfigurationError),
        (right.replace("ca.pem", "none.pem"), ConfigurationError),
    ]


@pytest.mark.parametrize("number", range(9))
def test_no_error_has_a_password(site: Guarded, unused_tcp_port: int, number: int) -> None:
    url, expected = wrong_urls(site, unused_tcp_port)[number]
    with pytest.raises(expected) as caught:
        Broker(url, retry_for_s=0).execute(command(bytes, "PING"))
    assert_no_secret(told(caught.value), where="the blocking broker's error")

    async def single() -> None:
        broker = AsyncBroker(url, retry_for_s=0)
        try:
            await broker.execute(command(bytes, "PING"))
        finally:
            await broker.close()

    with pytest.raises(expected) as caught:
        asyncio.run(single())
    assert_no_secret(told(caught.value), where="the asyncio broker's error")


@pytest.mark.parametrize("number", [0, 2, 4, 5])
def test_no_program_prints_a_password_when_it_fails(site: Guarded, unused_tcp_port: int, number: int) -> None:
    url, _ = wrong_urls(site, unused_tcp_port)[number]
    for program, words in (("main", ["queues", "--debug"]), ("worker", [GUARDED, "--log-level", "DEBUG", "--debug"])):
        done = call(*words, program=program, STEPFLOW_REDIS_URL=url)
        assert done.returncode != 0
        assert "Traceback" in done.stderr
        assert_no_secret(done.stdout + done.stderr, where=program)


def test_no_repr_has_a_password(site: Guarded) -> None:
    url = site.url("worker")
    app, settings, broker = Stepflow("guarded", redis_url=url), WorkerSettings(url), Broker(url)
    lease_sidecar = LeaseSidecar(url, worker="w", rq_worker_key="rq:worker:w", lease_ms=1_000)
    for shown in (app, app.backend, app.run("r"), settings, WorkerSpec((GUARDED,), settings), broker, lease_sidecar):
        assert_no_secret(repr(shown), where=type(shown).__name__)
    client = broker.client(Keys())
    connections = (client, client.connection_pool, client.connection_pool.make_connection())
    for shown in connections:
        assert_no_secret(repr(shown), where=type(shown).__name__)
    lease_sidecar.table.close()
