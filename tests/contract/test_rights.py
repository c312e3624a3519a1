"""A script for which its user lacks a right does nothing at all, whatever it would have done first."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis
from redis import exceptions

from stepflow_broker.access.acl import rules
from stepflow_broker.access.roles import WORKER
from stepflow_broker.protocol.keys import KEYS
from stepflow_broker.protocol.lua_rights import called_commands
from stepflow_broker.protocol.scripts import script, script_names
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.errors import is_permission_error
from stepflow_broker.registry.flow_control import RateConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.invokes.invokes import ChildStart
from stepflow_broker.transitions.invokes.remote_invokes import invoke_remote_child
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.errors import StepflowError
from stepflow_engine.state_machine import RunStatus
from tests.support.backends import real_store
from tests.support.driver import Driver
from tests.support.observed_moves import MoveRecorder

USER = "limited"
CHANNELS = {key.name: key.text for key in KEYS if key.type == "channel"}


@pytest.fixture
def admin(url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(url, decode_responses=True)
    yield client
    client.execute_command("ACL", "DELUSER", USER)
    client.close()


@pytest.fixture
def limited(admin: redis.Redis, url: str) -> Iterator[redis.Redis]:
    """A client of a user with the rights of a worker."""
    admin.execute_command("ACL", "SETUSER", USER, "on", ">secret", *rules(WORKER))
    with redis.Redis.from_url(url, username=USER, password="secret") as client:
        yield client


def checks_of(name: str) -> list[list[str]]:
    """The commands that each section of a script checks."""
    checks = re.findall(r"^do\n  local may, key.*?^end$", script(name).text, re.MULTILINE | re.DOTALL)
    return [[right.upper() for right in re.findall(r"run the '([a-z|]+)' command", check)] for check in checks]


def commands_of(name: str) -> list[str]:
    """The commands that a script may call, but for those that it calls before it writes, whatever it finds."""
    called = called_commands(script(name).text)
    return [command for command in called if name != "commit_step" or command == "RPUSH"] if len(called) > 1 else []


def refusal(client: redis.Redis, name: str, key: str) -> str:
    with pytest.raises(exceptions.ResponseError) as caught:
        client.eval(script(name).text, 1, key)
    assert is_permission_error(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", WORKER.scripts)
def test_a_script_that_may_not_call_one_of_its_commands_names_it_and_does_nothing(
    admin: redis.Redis, limited: redis.Redis, name: str
) -> None:
    checks = checks_of(name)
    if not checks:
        assert len(called_commands(script(name).text)) < 2
        return
    assert {command for check in checks for command in check} == set(commands_of(name))
    before = admin.dbsize()
    for command in checks[0]:
        right = command.lower()
        admin.execute_command("ACL", "SETUSER", USER, f"-{right}")
        assert f"'{right}'" in refusal(limited, name, "stepflow:run:r")
        admin.execute_command("ACL", "SETUSER", USER, f"+{right}")
    assert admin.dbsize() == before


def contents(client: redis.Redis) -> dict[str, object]:
    return {key: client.dump(key) if client.type(key) != "hash" else client.hgetall(key) for key in client.scan_iter()}


def item(driver: Driver, lease: Lease) -> Lease:
    """A claimed item of a map."""
    driver.begin_map(lease, count=1)
    return driver.claim_one(worker="w2")


def remote_child(_: Driver, lease: Lease) -> Callable[[Driver], object]:
    start = ChildStart(
        lease.key, "map[0]", "child1", b"{}", b'"id":1}', 1, b"{}", b"", FunctionConfig("a", "f", "q"), 1
    )
    return lambda driver: driver.send(
        invoke_remote_child(driver.partition, start, run_id=lease.run_id, fence=lease.fence, version=0)
    )


def ended_child(driver: Driver, lease: Lease) -> Callable[[Driver], object]:
    driver.invoke(lease)
    driver.finish(driver.claim_one())
    return lambda limited: limited.wake()


def parked_step(driver: Driver, lease: Lease) -> Lease:
    """A claimed step of a run that is parked."""
    driver.plan(lease, "a")
    driver.park(lease)
    return driver.claim_one(worker="w2")


def commit(lease: Lease, text: bytes) -> Callable[[Driver], object]:
    return lambda limited: limited.commit(lease, text=text)


RESTS: dict[str, Callable[[Driver, Lease], Callable[[Driver], object]]] = {
    "start_runs": lambda _, __: lambda driver: driver.start("r2", rate=RateConfig(1, 60_000)),
    "finish_run": lambda _, lease: lambda driver: driver.finish(lease, RunStatus.FAILED),
    "invoke_child": lambda _, lease: lambda driver: driver.invoke(lease, rate=RateConfig(1, 60_000)),
    "invoke_remote_child": lambda driver, lease: remote_child(driver, item(driver, lease)),
    "wake_parent": lambda driver, lease: ended_child(driver, item(driver, lease)),
    "commit_item": lambda driver, lease: commit(item(driver, lease), b'{"error":{}}'),
    "commit_planned_step": lambda driver, lease: commit(parked_step(driver, lease), b'{"data":1}'),
}
"""What makes a call of each divided script that needs all of its rest. It may arrange something before."""


def test_all_divided_scripts_are_tested() -> None:
    assert set(RESTS) == {name for name in script_names() if len(checks_of(name)) > 1}


@pytest.mark.parametrize("name", RESTS)
def test_a_rest_that_may_not_call_one_of_its_commands_names_it_and_the_script_does_nothing(
    admin: redis.Redis, limited: redis.Redis, url: str, name: str
) -> None:
    store = real_store(url)
    broker = MoveRecorder(Broker(url.replace("://", f"://{USER}:secret@")), store.client)
    try:
        call = RESTS[name](Driver(store), Driver(store).started("r1"))
        driver = Driver(replace(store, broker=broker))
        before = contents(store.client)
        for command in itertools.chain(*checks_of(name)[1:]):
            right = command.lower()
            admin.execute_command("ACL", "SETUSER", USER, f"-{right}")
            with pytest.raises(StepflowError, match=re.escape(f"'{right}'")):
                call(driver)
            admin.execute_command("ACL", "SETUSER", USER, f"+{right}")
        assert contents(store.client) == before
        call(driver)
        assert contents(store.client) != before
    finally:
        broker.close()
        store.client.close()
        store.broker.close()


def test_a_script_that_may_not_publish_what_it_may_have_to_does_nothing(
    admin: redis.Redis, limited: redis.Redis
) -> None:
    for channel in ("READY", "NOTIFICATIONS", "RUN_ENDED"):
        others = [rule for rule in rules(WORKER) if not rule.startswith(f"&{CHANNELS[channel]}")]
        admin.execute_command("ACL", "SETUSER", USER, "resetchannels", *[one for one in others if one[0] == "&"])
        assert CHANNELS[channel] in refusal(limited, "fire_timers", "stepflow:timeouts")


def test_a_step_is_stored_whole_or_not_at_all(url: str, admin: redis.Redis, limited: redis.Redis) -> None:
    store = real_store(url)
    try:
        driver = Driver(store)
        lease = driver.started("r1")
        admin.execute_command("ACL", "SETUSER", USER, "-rpush")
        keys = [driver.keys(kind, "r1") for kind in ("RUN", "MEMOS", "MEMO_ORDER")]
        with pytest.raises(exceptions.ResponseError, match="'rpush'"):
            limited.eval(script("commit_step").text, 3, *keys, lease.fence, "aa", '{"data":1}')
        assert not admin.exists(keys[1])
        admin.execute_command("ACL", "SETUSER", USER, "+rpush")
        assert limited.eval(script("commit_step").text, 3, *keys, lease.fence, "aa", '{"data":1}') == [1, 1]
    finally:
        store.client.close()
        store.broker.close()
