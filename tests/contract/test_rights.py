"""A script for which its user lacks a right does nothing at all, whatever it would have done first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redis import exceptions

from stepflow_broker.access.acl import rules
from stepflow_broker.access.roles import WORKER
from stepflow_broker.protocol.keys import KEYS
from stepflow_broker.protocol.lua_rights import called_commands
from stepflow_broker.protocol.scripts import script
from stepflow_broker.redis_client.errors import is_permission_error
from tests.support.backends import real_store
from tests.support.driver import Driver

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
    if "acl_check_cmd" not in script(name).text:
        assert len(called_commands(script(name).text)) < 2
        return
    before = admin.dbsize()
    for command in commands_of(name):
        right = command.lower()
        admin.execute_command("ACL", "SETUSER", USER, f"-{right}")
        assert f"'{right}'" in refusal(limited, name, "stepflow:run:r")
        admin.execute_command("ACL", "SETUSER", USER, f"+{right}")
    assert admin.dbsize() == before


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
