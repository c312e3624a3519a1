"""Each role can do its work on a server with the users of the ACL file, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import pytest
import redis

from stepflow import ConfigurationError, PermissionDeniedError, RunStatus, Stepflow
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.keys import without_tag
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.partitions import check_partitions, keys_for
from stepflow_broker.registry.functions import register_functions
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.worker import StepWorker
from tests.support.command_line import SHOP, assert_refused, call, register
from tests.support.processes import WorkerThread, until
from tests.support.roles import as_role, knows_users, password_of, users_option

pytestmark = [pytest.mark.single_server("a single server of its own, with users"), pytest.mark.slow]


@pytest.fixture(scope="module", params=[1, 4], ids=["whole", "divided"])
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server with users, as a producer."""
    folder = tmp_path_factory.mktemp("users")
    with EmbeddedServer(folder, **users_option(folder, divided=request.param > 1)) as server:
        knows_users(server.url)
        url = as_role(server.url, "producer")
        yield url if request.param == 1 else f"{url}?partitions={request.param}"


@pytest.fixture
def admin(site: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(as_role(site, "admin").partition("?")[0], decode_responses=True) as client:
        client.flushall()
        client.acl_log_reset()
        yield client


def shop(url: str) -> Stepflow:
    app = Stepflow("shop", redis_url=url)

    @app.function("pay", event="shop/paid")
    async def pay(ctx):
        return await ctx.step.run("charge", lambda: "charged")

    @app.function("approve")
    async def approve(ctx):
        ctx.set("stage", "asks")
        signal = await ctx.step.wait_for_signal("go", "go")
        return [signal.data, await ctx.step.ask("sure", schema=bool, timeout="1h")]

    return app


@contextlib.contextmanager
def serving(url: str) -> Iterator[None]:
    worker = WorkerThread(shop(url), WorkerSettings(as_role(url, "worker"), lease_ms=3_000))
    try:
        yield
    finally:
        worker.stop()


def refusals(admin: redis.Redis) -> list[tuple[str, str, str]]:
    """Who was refused what, as the server has noted it; but for how the client names its library."""
    return [
        (entry["username"], entry["reason"], entry["object"])
        for entry in admin.acl_log()
        if not entry["object"].startswith("client|setinfo")
    ]


def test_each_role_does_its_work_and_the_server_refuses_none_of_it(site: str, admin: redis.Redis) -> None:
    producer = shop(site)
    with serving(site):
        run = producer.start("pay", {"n": 1})
        assert run.result(timeout=30) == "charged"
        assert asyncio.run(producer.run(run.id).aresult(timeout=30)) == "charged"
        producer.send("shop/paid", {"n": 2})
        assert call("pause", "function", "shop/pay", "--redis-url", site).returncode == 0
        held = producer.start("pay", {"n": 3})
        assert held.status() is not RunStatus.COMPLETED
        assert held.cancel()
        assert call("resume", "function", "shop/pay", "--redis-url", site).returncode == 0
        for words in (["runs", "list"], ["runs", "show", run.id], ["explain", run.id], ["functions"], ["workers"]):
            done = call(*words, "--redis-url", site)
            assert done.returncode == 0, done.stderr
        asked = producer.start("approve")
        asked.signal("go", 1)
        until(lambda: call("asks", "--redis-url", as_role(site, "read-only")).stdout.startswith("RUN"), what="the ask")
        assert asked.values() == {"stage": "asks"}
        with_rights_of(site, "operator").answer(asked, "sure", data=True)
        assert asked.result(timeout=30) == [1, True]
        signalled = producer.start("approve")
        for words in (["runs", "signal", signalled.id, "go"], ["asks"], ["queues"], ["pauses"]):
            assert call(*words, "--redis-url", site).returncode == 0
    assert refusals(admin) == []


def test_the_doctor_knows_the_role_of_its_user_and_finds_nothing_missing(site: str, admin: redis.Redis) -> None:
    producer = shop(site)
    with serving(site):
        assert producer.start("pay").result(timeout=30) == "charged"
        for words, role in ((["doctor"], "read-only"), (["doctor", "--repair"], "operator")):
            done = call(*words, "--redis-url", site)
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"this user has the rights of role {role}" in done.stdout


def with_rights_of(site: str, role: str) -> Stepflow:
    return shop(as_role(site, role))


_RUN = "a" * 32


def _retry(app: Stepflow) -> object:
    return app.run(_RUN).retry()


@pytest.mark.parametrize(
    ("role", "action", "roles", "does"),
    [
        ("producer", "pause", ["operator"], lambda app: app.pause("pay")),
        ("producer", "zrangebyscore stepflow:live", ["operator", "read-only"], lambda app: app.cancel_many(all=True)),
        ("producer", "register_functions", ["worker"], lambda app: register_as(app)),
        ("producer", "load_run", ["worker", "operator", "read-only"], _retry),
        ("operator", "xadd stepflow:events", ["producer", "worker"], lambda app: app.send("shop/paid")),
        ("operator", "register_functions", ["worker"], lambda app: register_as(app)),
        ("read-only", "start_runs", ["producer", "worker"], lambda app: app.start("pay")),
        ("read-only", "xadd stepflow:events", ["producer", "worker"], lambda app: app.send("shop/paid")),
        ("read-only", "pause", ["operator"], lambda app: app.pause("pay")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_role_may_not_do_is_refused_and_the_error_names_who_may(
    site: str, admin: redis.Redis, role: str, action: str, roles: list[str], does: Callable[[Stepflow], object]
) -> None:
    producer = shop(site).backend
    register(site, shop(site))
    check_partitions(producer.broker, producer.partition.keys)  # now it is decided how many there are
    before = {key: admin.dump(key) for key in admin.keys("*")}
    app = with_rights_of(site, role)
    with pytest.raises(PermissionDeniedError) as caught:
        does(app)
    error = caught.value
    tried = " ".join(without_tag(word) for word in error.action.split(" "))
    assert (error.user, tried, error.roles) == (f"stepflow-{role}", action, roles)
    assert " or ".join(roles) in str(error)
    assert password_of(role) not in str(error)
    assert {key: admin.dump(key) for key in admin.keys("*")} == before


@pytest.mark.parametrize("role", ["producer", "worker", "operator", "read-only"])
@pytest.mark.parametrize(
    "words",
    ["FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "CLIENT LIST", "SHUTDOWN", "GET shop:basket", "SUBSCRIBE shop"],
)
def test_no_role_reaches_beyond_stepflow(site: str, admin: redis.Redis, role: str, words: str) -> None:
    broker = Broker(as_role(site, role))
    with pytest.raises(PermissionDeniedError):
        broker.execute(command(bytes, *words.split()))
    broker.close()


def register_as(app: Stepflow) -> None:
    broker = app.backend.broker
    configs = [function.config for function in app.functions.values()]
    broker.execute(register_functions(keys_for(broker.url), configs))


async def test_the_asyncio_broker_says_the_same(site: str, admin: redis.Redis) -> None:
    register(site, shop(site))
    app = with_rights_of(site, "read-only")
    with pytest.raises(PermissionDeniedError, match="start_runs is for role producer or worker"):
        await app.astart("pay")
    await app.aclose()


def test_who_only_looks_cannot_wait_for_a_result(site: str, admin: redis.Redis) -> None:
    register(site, shop(site))
    run = with_rights_of(site, "producer").start("pay")
    looker = with_rights_of(site, "read-only")
    assert looker.run(run.id).status() is RunStatus.QUEUED
    with pytest.raises(PermissionDeniedError, match="subscribe is for role producer"):
        looker.run(run.id).result(timeout=30)

    async def wait() -> None:
        try:
            await looker.run(run.id).aresult(timeout=30)
        finally:
            await looker.aclose()

    with pytest.raises(PermissionDeniedError, match="subscribe is for role producer"):
        asyncio.run(wait())


def test_a_worker_with_another_role_s_user_does_not_start(site: str, admin: redis.Redis) -> None:
    for role, action, text in (
        ("producer", "info", "is for role worker"),
        ("read-only", "check_rights", r"lacks rights of role worker: \+client\|info \+del .* and \d+ more; extend"),
    ):
        with pytest.raises(PermissionDeniedError, match=text) as caught:
            StepWorker([shop(site)], WorkerSettings(as_role(site, role))).work()
        assert caught.value.action == action
    assert admin.keys("*") == []


def test_the_command_line_says_which_role_is_needed(site: str, admin: redis.Redis) -> None:
    register(site, shop(site))
    as_it_is = site.replace("127.0.0.1", "localhost")  # not a URL that `call` gives the right user
    done = call("pause", "function", "shop/pay", "--redis-url", as_it_is)
    assert_refused(done, 3, "user stepflow-producer", "pause is for role operator")
    done = call(SHOP, "--redis-url", as_it_is, program="worker")
    assert_refused(done, 3, "user stepflow-producer", "is for role worker")
    assert password_of("producer") not in done.stderr


def test_a_password_that_is_wrong_and_no_user_at_all_are_refused(site: str) -> None:
    address = site.rpartition("@")[2]
    for url in (f"redis://stepflow-worker:guess@{address}", f"redis://{address}"):
        with pytest.raises(ConfigurationError, match="refuses the user or password") as caught:
            Broker(url).execute(command(bytes, "PING"))
        assert "guess" not in str(caught.value)
