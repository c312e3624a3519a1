"""Searches for the server to connect to: the questions they ask and what they conclude. No sockets."""

from __future__ import annotations

from typing import Any

import pytest
from redis import exceptions

from stepflow_broker.redis_client import sentinel
from stepflow_broker.redis_client.cluster import ClusterLocator, NodeUnavailableError
from stepflow_broker.redis_client.locator import Address, Locator, Question
from stepflow_broker.redis_client.sentinel import PrimaryUnavailableError, SentinelLocator, UnknownPrimaryError

ONE, TWO, THREE = ("10.0.0.1", 26379), ("10.0.0.2", 26379), ("10.0.0.3", 26379)
PRIMARY = ("10.0.0.9", 6379)
REFUSED = exceptions.ConnectionError("refused")
WRONGPASS = exceptions.AuthenticationError("WRONGPASS")


def state(**flags: bool) -> dict[str, Any]:
    return {
        "ip": PRIMARY[0],
        "port": PRIMARY[1],
        "is_master": True,
        "is_sdown": False,
        "is_odown": False,
        **flags,
    }


def locate(locator: Locator, replies: dict[Address, Any]) -> tuple[Address, list[Address]]:
    """Run a search on these replies: the address that it returns, and the servers that it asked."""
    search, reply, asked = locator.search(), None, []
    while True:
        try:
            question = search.send(reply)
        except StopIteration as end:
            return end.value, asked
        assert isinstance(question, Question)
        asked.append(question.address)
        reply = replies[question.address]


def sentinels() -> SentinelLocator:
    return SentinelLocator((ONE, TWO, THREE), "mymaster", {})


OTHER = ("10.0.0.8", 6379)
NAMES = {"mymaster": state()}
NAMES_OTHER = {"mymaster": state() | {"ip": OTHER[0]}}
NAMES_NEWER = {"mymaster": state() | {"ip": OTHER[0], "config-epoch": 7}}
DOWN = {"mymaster": state(is_sdown=True)}


@pytest.fixture(autouse=True)
def nothing_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinel, "_reported", {})


def test_two_of_three_sentinels_that_agree_end_the_search() -> None:
    assert locate(sentinels(), {ONE: NAMES, TWO: NAMES}) == (PRIMARY, [ONE, TWO])


@pytest.mark.parametrize("reply", [REFUSED, {}, DOWN, {"mymaster": state(is_master=False)}, NAMES_OTHER])
def test_those_that_agree_are_the_first_the_next_time(reply: Any) -> None:
    locator = sentinels()
    replies = {ONE: reply, TWO: NAMES, THREE: NAMES}
    address, asked = locate(locator, replies)
    assert (address, asked[:2]) == (PRIMARY, [ONE, TWO])
    first = [TWO, THREE] if reply in (REFUSED, {}, NAMES_OTHER) else [ONE, TWO]
    assert locate(locator, replies)[1][:2] == first


def test_a_wrong_sentinel_does_not_outvote_the_others_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert locate(sentinels(), {ONE: NAMES_NEWER, TWO: NAMES, THREE: NAMES})[0] == PRIMARY
    (record,) = caplog.records
    assert record.getMessage() == "sentinel_disagrees"
    assert vars(record).items() >= {
        ("sentinel", "10.0.0.1:26379"),
        ("primary", "mymaster"),
        ("named", "10.0.0.8:6379"),
        ("used", "10.0.0.9:6379"),
    }


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([NAMES, REFUSED, {}], PRIMARY),
        ([NAMES, NAMES_NEWER, REFUSED], OTHER),  # a fail-over that one has not heard of
        ([NAMES_NEWER, NAMES, REFUSED], OTHER),
        ([DOWN, NAMES_OTHER, REFUSED], OTHER),
    ],
)
def test_without_a_majority_the_newest_address_that_is_up_counts(replies: list[Any], expected: Address) -> None:
    assert locate(sentinels(), dict(zip((ONE, TWO, THREE), replies, strict=True)))[0] == expected


@pytest.mark.parametrize(
    ("replies", "kind", "part"),
    [
        ([REFUSED] * 3, PrimaryUnavailableError, "no sentinel answers: refused; refused; refused"),
        ([REFUSED, {"mymaster": state(is_odown=True)}, {}], PrimaryUnavailableError, "'mymaster' is down"),
        (
            [REFUSED, {"other": state()}, {}],
            PrimaryUnavailableError,
            "no sentinel that answers knows of primary",
        ),
        (
            [{"b": state()}, {"a": state()}, {}],
            UnknownPrimaryError,
            "no primary 'mymaster'; they know: 'a', 'b'",
        ),
        ([{}] * 3, UnknownPrimaryError, "they know: none"),
        ([NAMES_OTHER, DOWN, DOWN], PrimaryUnavailableError, "'mymaster' is down"),
        ([WRONGPASS] * 3, exceptions.AuthenticationError, "the sentinels: WRONGPASS"),
        ([WRONGPASS, REFUSED, REFUSED], PrimaryUnavailableError, "no sentinel answers"),
    ],
)
def test_the_error_says_why_no_sentinel_names_a_primary(replies: list[Any], kind: type[Exception], part: str) -> None:
    with pytest.raises(kind, match=part):
        locate(sentinels(), dict(zip((ONE, TWO, THREE), replies, strict=True)))


def test_a_node_that_does_not_answer_is_followed_by_the_next_and_a_fresh_answer_is_used_again() -> None:
    locator = ClusterLocator([ONE, TWO], 5, {})
    slots = [[0, 16383, [PRIMARY[0].encode(), PRIMARY[1], b"id"]]]
    assert locate(locator, {ONE: REFUSED, TWO: slots}) == (PRIMARY, [ONE, TWO])
    assert locate(locator, {}) == (PRIMARY, [])


def test_a_search_fails_when_no_node_owns_the_slot() -> None:
    with pytest.raises(NodeUnavailableError, match="no node of the cluster has slot 5"):
        locate(ClusterLocator([ONE], 5, {}), {ONE: [[6, 16383, [b"h", 1, b"id"]]]})
