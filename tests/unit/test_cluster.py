"""URLs of clusters, and who has which slots."""

from __future__ import annotations

import pytest
from redis import exceptions

from stepflow_broker.redis_client import cluster
from stepflow_broker.redis_client.cluster import ClusterUrl, NodeUnavailableError, NotInClusterError, SlotMap
from stepflow_broker.redis_client.connection import connect, connect_async
from stepflow_broker.redis_client.errors import server_error
from stepflow_engine.errors import BackendUnavailableError, ConfigurationError

A, B, C = ("10.0.0.1", 6379), ("10.0.0.2", 6379), ("10.0.0.3", 7000)
SLOTS = [
    [0, 8191, [b"10.0.0.2", 6379, b"id-b"], [b"10.0.0.9", 6379, b"id-r"]],
    [8192, 16383, [b"10.0.0.3", 7000, b"id-c"]],
]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(cluster, "time", clock)
    return clock


# -- URLs ------------------------------------------------------------------------


def test_a_url_names_nodes_and_what_connections_to_all_of_them_need() -> None:
    found = ClusterUrl.parse("redis+cluster://al:open%20sesame@10.0.0.1,10.0.0.3:7000?socket_timeout=3")
    assert found.nodes == (A, C)
    assert found.options == {"username": "al", "password": "open sesame", "socket_timeout": 3.0}


def test_tls_is_for_all_nodes() -> None:
    assert ClusterUrl.parse("rediss+cluster://h:1?ssl_check_hostname=false").options["ssl"] is True


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("redis+cluster://h:1/5", "a cluster has no databases"),
        ("redis+cluster://h:one", "the port of one of its nodes is no number"),
        ("redis+cluster://h:1,", "one of its nodes has no host"),
        ("redis+cluster://", "one of its nodes has no host"),
        ("redis+cluster://h:1?colour=red", "unexpected keyword argument 'colour'"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, part: str) -> None:
    for make in (connect, connect_async):
        with pytest.raises(ConfigurationError, match=part):
            make(url)


# -- who has a slot --------------------------------------------------------------


def test_a_slot_is_its_primary_s(clock: Clock) -> None:
    found = SlotMap([A])
    found.update(A, SLOTS)
    assert [found.owner(slot) for slot in (0, 8191, 8192, 16383)] == [B, B, C, C]


def test_a_node_that_does_not_say_its_own_address_is_the_one_that_was_asked(clock: Clock) -> None:
    found = SlotMap([A])
    found.update(A, [[0, 16383, [b"", 6379, b"id"]]])
    assert found.owner(5) == A


def test_nobody_is_asked_while_what_was_heard_is_fresh_and_then_those_that_are_known_before_those_named(
    clock: Clock,
) -> None:
    found = SlotMap([A, B])
    assert found.to_query() == [A, B]
    found.update(A, SLOTS)
    assert found.to_query() == []
    clock.now += 0.6
    assert found.to_query() == [B, C, A]


def test_a_slot_that_nobody_has_is_asked_for_again_at_once(clock: Clock) -> None:
    found = SlotMap([A])
    found.update(A, SLOTS[:1])
    with pytest.raises(NodeUnavailableError, match="no node of the cluster has slot 9000"):
        found.owner(9000)
    assert found.to_query() != []


def test_what_was_heard_counts_no_more_when_no_node_answers(clock: Clock) -> None:
    found = SlotMap([A])
    found.update(A, SLOTS)
    clock.now += 0.6
    for _ in found.to_query():
        found.failed(exceptions.ConnectionError("refused"))
    with pytest.raises(NodeUnavailableError, match="no node answers: refused; refused; refused"):
        found.owner(0)


def test_one_node_that_does_not_answer_is_no_matter_when_another_does(clock: Clock) -> None:
    found = SlotMap([A, B])
    found.failed(exceptions.ConnectionError("refused"))
    found.update(B, SLOTS)
    assert found.owner(0) == B


@pytest.mark.parametrize(
    ("error", "kind", "shown", "part"),
    [
        (exceptions.AuthenticationError("WRONGPASS"), exceptions.AuthenticationError, ConfigurationError, "password"),
        (
            exceptions.ResponseError("ERR This instance has cluster support disabled"),
            NotInClusterError,
            ConfigurationError,
            r"write redis://… for a single server",
        ),
        (
            exceptions.ConnectionError("refused"),
            NodeUnavailableError,
            BackendUnavailableError,
            "cluster running",
        ),
    ],
)
def test_why_no_node_says_who_has_a_slot_is_said(
    clock: Clock, error: Exception, kind: type[Exception], shown: type[Exception], part: str
) -> None:
    found = SlotMap([A, B])
    found.failed(exceptions.TimeoutError("slow"))
    found.failed(error)
    with pytest.raises(kind) as caught:
        found.owner(0)
    told = server_error(caught.value, "redis+cluster://al:sesame@h:1")
    assert isinstance(told, shown)
    with pytest.raises(shown, match=part):
        raise told
    assert "sesame" not in str(told)
