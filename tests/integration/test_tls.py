"""TLS: every connection of producers, workers and the command line is encrypted, and the server is who it says."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from stepflow import BackendUnavailableError, ConfigurationError, Stepflow, StepflowError
from stepflow_broker.protocol.command import command
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker
from tests.support.command_line import SHOP, assert_refused, call, running
from tests.support.processes import WorkerProcess, until
from tests.support.tls import TlsSite

GUARDED = "tests.integration.apps.guarded:app"
pytestmark = pytest.mark.single_server("a single server of its own, with TLS")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsSite]:
    with TlsSite(tmp_path_factory.mktemp("tls")) as site:
        yield site


@pytest.fixture
def client(site: TlsSite) -> Iterator[redis.Redis]:
    """Without TLS, to look at what is there."""
    with redis.Redis.from_url(site.server.url, decode_responses=True) as client:
        client.flushall()
        yield client


def plain_clients(client: redis.Redis, site: TlsSite) -> list[str]:
    """The connections to the port without TLS, but for the one that asks."""
    local = f":{site.server.port}"
    own = client.client_info()["id"]
    return [str(one) for one in client.client_list() if one["laddr"].endswith(local) and int(one["id"]) != own]


def single(url: str) -> None:
    broker = Broker(url)
    try:
        broker.execute(command(bytes, "PING"))
    finally:
        broker.close()


async def aask(url: str) -> None:
    broker = AsyncBroker(url)
    try:
        await broker.execute(command(bytes, "PING"))
    finally:
        await broker.close()


def assert_no_tls(url: str, part: str) -> None:
    """Both brokers and the command line refuse the URL, and say why."""
    with pytest.raises(ConfigurationError, match=part):
        single(url)
    with pytest.raises(ConfigurationError, match=part):
        asyncio.run(aask(url))
    for words in (["queues", "--redis-url", url], [SHOP, "--redis-url", url]):
        done = call(*words, program="worker" if words[0] == SHOP else "main")
        assert done.returncode == 3, done.stderr
        assert re.search(part, done.stderr)


def test_runs_are_started_executed_and_waited_for_over_tls_alone(
    site: TlsSite, client: redis.Redis, tmp_path: Path
) -> None:
    url = site.url()
    app = Stepflow("shop", redis_url=url)
    with running(SHOP, "--redis-url", url, "--processes", "2", log=tmp_path / "worker.log", program="worker"):
        until(lambda: client.scard("rq:workers") == 2, what="the workers' start")
        run = app.start("order", {"number": 7})
        assert run.result(timeout=30)["number"] == 7

        async def start() -> object:
            started = await app.astart("order", {"number": 8})
            try:
                return await started.aresult(timeout=30)
            finally:
                await app.aclose()

        assert asyncio.run(start())["number"] == 8
        app.send("shop/order.placed", {"number": 9})
        for words in (["runs", "list"], ["runs", "show", run.id], ["workers"], ["doctor"]):
            done = call(*words, "--redis-url", url)
            assert done.returncode == 0, done.stderr
        assert plain_clients(client, site) == []


@pytest.mark.slow
def test_the_deputy_extends_leases_over_tls(site: TlsSite, client: redis.Redis, tmp_path: Path) -> None:
    worker = WorkerProcess(site.url(), GUARDED, log=tmp_path / "worker.log", lease_ms=2_000)
    until(lambda: client.hexists("stepflow:functions", "guarded/grab"), what="the registration")
    app = Stepflow("guarded", redis_url=site.url())
    run = app.start("grab", {"seconds": 8})
    assert run.result(timeout=40) == worker.pid
    log = worker.log.read_text()
    worker.kill()
    assert " worker_blocked " in log, "the lease_sidecar was not needed"
    assert "lease_not_extended" not in log
    assert "lease_lost" not in log
    assert plain_clients(client, site) == []


@pytest.mark.slow
def test_a_certificate_of_another_authority_is_refused(site: TlsSite, tmp_path: Path) -> None:
    other = TlsSite(tmp_path / "other")
    assert_no_tls(site.url(ssl_ca_certs=other.ca), "certificate is not accepted .*ssl_ca_certs=")
    assert_no_tls(site.url(ssl_ca_certs=None), "certificate is not accepted .*ssl_ca_certs=")


@pytest.mark.slow
def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    with TlsSite(tmp_path / "tls", host="redis.example") as site:
        assert_no_tls(site.url(), "certificate is not accepted .*localhost.*the host in redis_url as the certificate")
        assert_no_tls(site.url(host="127.0.0.1"), "certificate is not accepted .*the host in redis_url")


@pytest.mark.slow
def test_a_port_that_does_not_speak_tls_is_found_out(site: TlsSite) -> None:
    """A Redis waits for the rest of a command that it takes the greeting for; others answer in plain text."""
    with pytest.raises(BackendUnavailableError, match="is this its tls-port"):
        single(site.url().replace(str(site.port), str(site.server.port)))
    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=_answer_plainly, args=(other,), daemon=True).start()
        url = site.url(host="127.0.0.1").replace(str(site.port), str(other.getsockname()[1]))
        assert_no_tls(url, "this port does not speak TLS")


def _answer_plainly(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_client_without_tls_at_a_port_with_it_is_told(site: TlsSite) -> None:
    with pytest.raises(BackendUnavailableError, match="does not answer"):
        single(f"redis://localhost:{site.port}/0")


@pytest.mark.slow
def test_a_server_that_wants_certificates_of_clients_gets_them(tmp_path: Path) -> None:
    with TlsSite(tmp_path / "tls", tls_auth_clients="yes") as site:
        single(site.url(**site.client_files()))
        with pytest.raises(StepflowError, match="ssl_certfile="):  # which one depends on what the server gets to say
            single(site.url())
        with pytest.raises(StepflowError, match="ssl_certfile="):
            asyncio.run(aask(site.url()))
        files = site.client_files(password="open sesame")
        secret = tmp_path / "key-password"
        secret.write_text("open sesame\n")
        single(site.url(**files, ssl_password_file=secret))
        single(site.url(**files, ssl_password="open sesame"))
        asyncio.run(aask(site.url(**files, ssl_password_file=secret)))
        assert_no_tls(site.url(**files), "cannot be used .*ssl_password_file=")
        secret.write_text("open barley\n")
        assert_no_tls(site.url(**files, ssl_password_file=secret), "cannot be used")


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password_file"])
def test_a_file_that_is_not_there_is_named(site: TlsSite, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*'/nowhere/it.pem'.*"):
        single(site.url(**{name: "/nowhere/it.pem"}))


def test_an_option_of_tls_that_nobody_knows_is_refused(site: TlsSite) -> None:
    done = call("queues", "--redis-url", site.url(ssl_ca_file="ca.pem"))
    assert_refused(done, 3, "is not a server's URL", "ssl_ca_file")
