"""What a cluster does while a slot moves from one primary to another: the facts on which the scripts rely."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis
from redis import exceptions

from tests.support.cluster import ClusterNode, LocalCluster, slot_of
from tests.support.processes import until

SLOT = slot_of("{s}")
NOWHERE = "{s}nowhere"
"""A key that never exists, as every script of stepflow declares one."""
WRITE_BOTH = "redis.call('SET', ARGV[1], 'written') redis.call('SET', ARGV[2], 'written')"
NEW = "{s}new"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two primaries."""
    with LocalCluster(tmp_path_factory.mktemp("cluster"), primaries=2, replicas=0) as running:
        yield running


@pytest.fixture
def cluster(whole: LocalCluster) -> LocalCluster:
    """The same, with ten keys in one slot and nothing else."""
    whole.flush()
    for n in range(10):
        whole.owner(SLOT).client.set(f"{{s}}{n}", "as it was")
    return whole


@pytest.fixture
def target(cluster: LocalCluster) -> ClusterNode:
    """The primary that does not have the slot."""
    (other,) = set(cluster.primaries()) - {cluster.owner(SLOT)}
    return other


def left_behind(source: ClusterNode) -> str:
    """A key that has not been moved yet."""
    return str(source.cluster("GETKEYSINSLOT", SLOT, 1)[0])


def test_a_script_with_one_key_that_is_there_and_one_that_never_is_is_refused_before_it_does_anything(
    cluster: LocalCluster, target: ClusterNode
) -> None:
    with cluster.moving_slot(SLOT, target) as source:
        key = left_behind(source)
        with pytest.raises((exceptions.TryAgainError, exceptions.AskError)):  # ASK: before Redis 7
            source.client.eval(WRITE_BOTH, 2, key, NOWHERE, key, NEW)
        assert (source.client.get(key), source.cluster("COUNTKEYSINSLOT", SLOT)) == ("as it was", 5)
    assert target.client.eval(WRITE_BOTH, 2, key, NOWHERE, key, NEW) is None
    assert target.client.mget(key, NEW) == ["written", "written"]


def test_a_script_whose_keys_are_all_missing_is_refused_with_the_other_primarys_address(
    cluster: LocalCluster, target: ClusterNode
) -> None:
    with cluster.moving_slot(SLOT, target) as source:
        with pytest.raises(exceptions.AskError) as refused:
            source.client.eval(WRITE_BOTH, 1, NOWHERE, NEW, NEW)
        assert refused.value.port == target.port
        assert source.cluster("COUNTKEYSINSLOT", SLOT) == target.cluster("COUNTKEYSINSLOT", SLOT) == 5


def test_the_other_primary_refuses_the_script_too_whether_or_not_it_is_asked_for_the_slot(
    cluster: LocalCluster, target: ClusterNode
) -> None:
    with cluster.moving_slot(SLOT, target), target.client.pipeline(transaction=False) as pipeline:
        key = str(target.cluster("GETKEYSINSLOT", SLOT, 1)[0])
        pipeline.eval(WRITE_BOTH, 2, key, NOWHERE, key, NEW)
        pipeline.execute_command("ASKING")
        pipeline.eval(WRITE_BOTH, 2, key, NOWHERE, key, NEW)
        without, _, asking = pipeline.execute(raise_on_error=False)
        assert isinstance(without, exceptions.MovedError)
        assert isinstance(asking, exceptions.TryAgainError)


def test_a_script_without_such_a_key_fails_half_way_when_it_makes_a_new_one(
    cluster: LocalCluster, target: ClusterNode
) -> None:
    with cluster.moving_slot(SLOT, target) as source:
        key = left_behind(source)
        with pytest.raises(exceptions.ResponseError, match="non local key"):
            source.client.eval(WRITE_BOTH, 1, key, key, NEW)
        assert source.client.get(key) == "written"
    assert target.client.get(NEW) is None


def test_a_blocked_reader_of_a_stream_is_answered_when_the_stream_moves(
    cluster: LocalCluster, target: ClusterNode
) -> None:
    source, answers = cluster.owner(SLOT), []
    source.client.xgroup_create("{s}stream", "group", mkstream=True)

    def read() -> None:
        with redis.Redis(port=source.port, socket_timeout=60) as client:
            try:
                answers.append(client.xreadgroup("group", "reader", {"{s}stream": ">"}, block=0))
            except redis.RedisError as error:
                answers.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    until(lambda: source.client.info("clients")["blocked_clients"] == 1, what="the reader")
    cluster.migrate_slot(SLOT, target)
    reader.join(20)
    (answer,) = answers
    assert isinstance(answer, exceptions.AskError) or str(answer).startswith(("UNBLOCKED", "NOGROUP"))


def test_the_primary_that_had_the_slot_names_the_one_that_has_it(cluster: LocalCluster, target: ClusterNode) -> None:
    source = cluster.owner(SLOT)
    cluster.migrate_slot(SLOT, target)
    with pytest.raises(exceptions.MovedError) as refused:
        source.client.get("{s}1")
    assert (refused.value.slot_id, refused.value.port) == (SLOT, target.port)


def test_times_to_live_and_consumer_groups_move_with_their_keys(cluster: LocalCluster, target: ClusterNode) -> None:
    with cluster.owner(SLOT).client as client:
        client.pexpire("{s}1", 3_600_000)
        client.xgroup_create("{s}stream", "group", mkstream=True)
        first, second = client.xadd("{s}stream", {"n": 1}), client.xadd("{s}stream", {"n": 2})
        client.xreadgroup("group", "reader", {"{s}stream": ">"}, count=1)
    cluster.migrate_slot(SLOT, target)
    with target.client as client:
        assert 0 < client.pttl("{s}1") <= 3_600_000
        (pending,) = client.xpending_range("{s}stream", "group", "-", "+", 10)
        assert (pending["message_id"], pending["consumer"]) == (first, "reader")
        assert client.xreadgroup("group", "other", {"{s}stream": ">"}) == [["{s}stream", [(second, {"n": "2"})]]]
