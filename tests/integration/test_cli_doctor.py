"""``stepflow doctor``: on real servers, with real workers, and while they are killed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from stepflow import Context, Stepflow
from stepflow_broker.doctor.examine import examine
from stepflow_broker.doctor.findings import Finding, Severity
from stepflow_broker.doctor.node import examine_info
from stepflow_broker.doctor.server import examine_server
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.partitions import keys_for
from tests.integration.apps.busy import app as busy
from tests.integration.apps.busy import parent
from tests.support.command_line import as_json, call
from tests.support.plain import plain_partition
from tests.support.processes import WorkerProcess, WorkerThread, until
from tests.support.roles import as_role

BUSY = "tests.integration.apps.busy:app"


@pytest.fixture
def broker(url: str) -> Iterator[Broker]:
    broker = Broker(as_role(url, "operator"))
    yield broker
    broker.close()


def errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def of(findings: list[Finding], code: str) -> Finding:
    (found,) = [finding for finding in findings if finding.code == code]
    return found


# -- the command ---------------------------------------------------------------


def warnings(number: int) -> str:
    return "1 warning" if number == 1 else f"{number} warnings"


def usual_warnings(url: str) -> int:
    """Those of a server as the tests have it: none, but those of a cluster's primaries say that replicas may lag."""
    return int(call("doctor", "--redis-url", url).stdout.split()[-2])


@pytest.mark.single_server("the lines of one server; those of a cluster have their own test")
def test_a_server_that_is_well_ends_with_0_and_a_line_for_each_thing_looked_at(url: str) -> None:
    done = call("doctor", "--redis-url", url)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    looked_at = ["version", "eviction", "persistence", "replicas", "memory", "clock", "scripts", "rights"]
    assert [line.split()[:2] for line in lines[:-1]] == [["ok", code] for code in looked_at]
    assert lines[-1] == "0 errors, 0 warnings"


def test_json_has_the_findings(url: str) -> None:
    first = next(one for one in as_json("doctor", "--redis-url", url) if one["code"] == "version")
    assert (first["severity"], first["repaired"]) == ("ok", False)
    assert first["subject"] in ("server", *url.partition("://")[2].split(","))


def test_a_job_that_was_lost_is_an_error_until_it_is_repaired_and_then_its_run_completes(
    app: Stepflow, url: str, client: redis.Redis, run_worker: Callable[..., WorkerThread]
) -> None:
    @app.function("hello")
    async def hello(ctx: Context) -> str:
        return "hello"

    run, usual = app.start(hello), usual_warnings(url)
    client.delete("rq:queue:shop")
    found = call("doctor", "--redis-url", url)
    assert found.returncode == 1
    assert f"the entry of job {run.id} in queue shop or shop:steps is missing" in found.stdout
    assert "--repair adds it" in found.stdout
    assert found.stdout.endswith(f"1 error, {warnings(usual)}\n")
    repaired = call("doctor", "--repair", "--redis-url", url, "-o", "json")
    assert repaired.returncode == 0
    (finding,) = [finding for finding in json.loads(repaired.stdout) if finding["severity"] == "error"]
    assert (finding["code"], finding["where"], finding["subject"]) == ("missing", "rq_queue", run.id)
    assert finding["repaired"]
    (line,) = as_json("audit", "--redis-url", url)
    assert (line["action"], line["subject"], line["details"]) == ("repair", "all data", {"missing": 1})
    again = call("doctor", "--repair", "--redis-url", url)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, f"0 errors, {warnings(usual)}")
    run_worker(app)
    assert run.result(timeout=20) == "hello"


def test_warnings_alone_end_with_0(url: str, client: redis.Redis) -> None:
    usual = usual_warnings(url)
    client.set(keys_for(url)("RQ_SUSPENDED"), 1)
    done = call("doctor", "--redis-url", url)
    assert done.returncode == 0
    assert "RQ is suspended" in done.stdout
    assert done.stdout.endswith(f"0 errors, {warnings(usual + 1)}\n")


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_exit_code_5() -> None:
    done = call("doctor", "--redis-url", "redis://127.0.0.1:1/0")
    assert done.returncode == 5


# -- the server ----------------------------------------------------------------


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server that may be spoilt."""
    with EmbeddedServer(tmp_path / "other") as server:
        yield server


def looked_at(server: EmbeddedServer) -> list[Finding]:
    broker = Broker(server.url)
    try:
        return examine_server(broker, keys_for(server.url))
    finally:
        broker.close()


def test_a_server_that_evicts_keys_and_keeps_nothing_is_found_out(other_server: EmbeddedServer) -> None:
    with redis.Redis.from_url(other_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        client.config_set("maxmemory", str(int(client.info("memory")["used_memory"] * 1.1)))
    findings = looked_at(other_server)
    assert of(findings, "eviction").severity is Severity.ERROR
    assert "allkeys-lru" in of(findings, "eviction").text
    assert of(findings, "persistence").severity is Severity.WARNING
    assert of(findings, "memory").severity in (Severity.WARNING, Severity.ERROR)
    assert call("doctor", "--redis-url", other_server.url).returncode == 1


def test_a_clock_that_has_gone_back_behind_what_is_stored_is_found_out(url: str, client: redis.Redis) -> None:
    later_ms = (client.time()[0] + 3_600) * 1_000
    client.zadd(keys_for(url)("LIVE"), {"run1": later_ms})
    broker = Broker(as_role(url, "operator"))
    (found,) = errors(examine_server(broker, keys_for(url)))
    broker.close()
    assert found.code == "clock"
    assert "3600 s behind" in found.text or "3599 s behind" in found.text


def test_a_user_without_the_rights_of_a_worker_is_told_which(other_server: EmbeddedServer) -> None:
    with redis.Redis.from_url(other_server.url) as client:
        client.execute_command("ACL", "SETUSER", "clerk", "on", ">secret", "~*", "&*", "+@all", "-zadd", "-publish")
        client.execute_command("ACL", "SETUSER", "guest", "on", ">secret", "~stepflow:*", "&*", "+@all")
    address = f"127.0.0.1:{other_server.port}/0"
    for user, refused in (("clerk", "ZADD"), ("guest", "PERSIST rq:queue:doctor")):
        broker = Broker(f"redis://{user}:secret@{address}")
        found = of(examine_server(broker, keys_for(other_server.url)), "rights")
        broker.close()
        assert found.severity is Severity.ERROR
        assert refused in found.text
    with redis.Redis.from_url(other_server.url) as client:
        assert client.keys("*") == []


@pytest.mark.parametrize(
    ("info", "code", "severity", "part"),
    [
        ({"redis_version": "6.0.9"}, "version", Severity.ERROR, "needs Redis 6.2"),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.1"}, "version", Severity.OK, "Valkey 8.1.1"),
        ({"role": "slave"}, "replicas", Severity.ERROR, "is a replica"),
        ({"role": "master", "connected_slaves": "2"}, "replicas", Severity.WARNING, "min-replicas-to-write"),
        ({"used_memory": "85", "maxmemory": "100"}, "memory", Severity.WARNING, "85% of maxmemory"),
        ({"used_memory": "97", "maxmemory": "100"}, "memory", Severity.ERROR, "writes will fail soon"),
        ({"used_memory": "1", "maxmemory": "0", "total_system_memory": "100"}, "memory", Severity.OK, "machine"),
    ],
)
def test_what_a_server_says_of_itself_is_judged(info: dict[str, str], code: str, severity: Severity, part: str) -> None:
    found = of(examine_info({"redis_version": "7.0.0"} | info, {"min-replicas-to-write": "0"}), code)
    assert found.severity is severity
    assert part in found.text


@pytest.mark.parametrize(
    ("policy", "part"), [("always", "no acknowledged write is lost"), ("everysec", "about 2 s"), ("no", "30 s")]
)
def test_each_fsync_policy_says_what_it_loses(policy: str, part: str) -> None:
    found = of(examine_info({"aof_enabled": "1"}, {"appendfsync": policy}), "persistence")
    assert part in found.text
    assert found.severity is (Severity.WARNING if policy == "no" else Severity.OK)


def test_a_failed_write_of_the_file_is_an_error() -> None:
    found = examine_info({"aof_enabled": "1", "aof_last_write_status": "err"}, {"appendfsync": "always"})
    assert "failed" in [finding for finding in found if finding.severity is Severity.ERROR][-1].text


# -- busy servers --------------------------------------------------------------


@pytest.mark.slow
def test_a_busy_server_whose_workers_are_killed_gives_no_false_alarm(
    url: str, broker: Broker, client: redis.Redis, start_worker: Callable[..., WorkerProcess]
) -> None:
    dice = random.Random(6)
    producer = Stepflow("tests", redis_url=url)
    workers = [start_worker(BUSY, concurrency=20, sticky=3) for _ in range(2)]
    until(lambda: client.hlen("stepflow:functions") == len(busy.functions), what="the registration")
    runs = [producer.start(f"busy/{parent.id}", {"number": number}) for number in range(150)]
    killed = looks = 0

    def look() -> bool:
        nonlocal killed, looks
        found = errors(examine(broker, plain_partition(url)))
        assert not found, found
        looks += 1
        if looks % 4 == 0 and killed < 5:
            victim = workers.pop(dice.randrange(len(workers)))
            victim.kill()
            killed += 1
            workers.append(start_worker(BUSY, concurrency=20, sticky=3))
        return not client.zcard("stepflow:live")

    until(look, seconds=90, what="the end of all runs")
    assert killed == 5, f"only {killed} workers were killed in {looks} looks"
    assert {run.status().value for run in runs} == {"completed"}
    assert errors(examine(broker, plain_partition(url))) == []
    producer.close()


@pytest.mark.slow
def test_repairing_a_busy_server_disturbs_nobody(
    url: str, broker: Broker, client: redis.Redis, start_worker: Callable[..., WorkerProcess]
) -> None:
    producer = Stepflow("tests", redis_url=url)
    start_worker(BUSY, concurrency=20, sticky=3)
    until(lambda: client.hlen("stepflow:functions") == len(busy.functions), what="the registration")
    runs = [producer.start(f"busy/{parent.id}", {"number": number}) for number in range(100)]

    def look() -> bool:
        found = errors(examine(broker, plain_partition(url), repair=True))
        assert not found, found
        return not client.zcard("stepflow:live")

    until(look, seconds=90, what="the end of all runs")
    assert [run.result(timeout=5) for run in runs] == [["done", "done"]] * 100
    producer.close()
