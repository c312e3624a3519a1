"""Partitions: which keys are in which, and to which node of a cluster a call goes."""

from __future__ import annotations

import ast
from collections import Counter

import pytest
from redis.crc import key_slot

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import MOVING, Keys, partition_tags, routing_key_of, slot_of, without_tag
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.partitions import keys_for
from stepflow_broker.transitions.events.event_stream import add_event, read_events
from stepflow_broker.transitions.pauses import pause
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.transitions.runs.run_state import read_status
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.ids import partition_prefix_for, run_id_for, with_partition_prefix
from tests.support.pages import ROOT
from tests.support.plain import PLAIN, SetClock

RUN = run_id_for("order-17", "shop/buy")


# -- how many, and where ---------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4, 12, 256])
def test_partitions_lie_evenly_over_the_slots(count: int) -> None:
    tags = partition_tags(count)
    assert len(set(tags)) == count
    assert [slot_of(tag) * count // 16_384 for tag in tags] == list(range(count))


@pytest.mark.parametrize("primaries", [1, 2, 3, 4, 6, 12])
def test_of_twelve_partitions_so_many_primaries_have_as_many_each(primaries: int) -> None:
    shares = Counter(slot_of(tag) * primaries // 16_384 for tag in partition_tags(12))
    assert set(shares.values()) == {12 // primaries}


def test_one_partition_has_the_keys_of_a_server_that_is_not_divided() -> None:
    keys = Keys.over(1)
    assert keys.all == (keys,)
    assert keys.of(RUN) is keys.at("shop/buy") is keys
    assert keys("RUN", "r1") == Keys()("RUN", "r1")


def test_a_run_lives_where_its_first_digits_say_and_its_jobs_with_it() -> None:
    keys = Keys.over(4)
    for number, digits in enumerate(("0000", "0001", "fffe", "ffff")):
        run = with_partition_prefix(digits, RUN)
        assert keys.of(run) is keys.of(f"{run}-{'a' * 40}") is keys.all[number]
    assert {one.of(RUN) for one in keys.all} == {keys.of(RUN)}


def test_every_partition_has_its_share_of_runs() -> None:
    keys = Keys.over(4)
    shares = Counter(keys.of(run_id_for(str(n))) for n in range(2_000))
    assert set(shares) == set(keys.all)
    assert min(shares.values()) > 400


@pytest.mark.parametrize("name", ["order-17", "", "b00", "no hex at all", "ünïcode"])
def test_what_is_no_id_of_ours_is_at_home_somewhere_too(name: str) -> None:
    keys = Keys.over(4)
    assert keys.of(name) in keys.all
    assert keys.at(name) is keys.of(partition_prefix_for(name))


def test_all_keys_of_a_partition_start_with_its_tag_but_for_those_that_all_share() -> None:
    for keys in Keys.over(3).all:
        assert keys("RUN", "r1") == f"{keys.partition}stepflow:run:r1"
        assert keys("RQ_WORKERS") == "rq:workers"
        assert keys("PARTITIONS") == "stepflow:partitions"
        assert without_tag(keys("RUN", "r1")) == "stepflow:run:r1"
    assert without_tag("stepflow:live") == "stepflow:live"


@pytest.mark.parametrize(
    ("url", "count"),
    [
        ("redis://h/0", 1),
        ("redis://h/0?partitions=4", 4),
        ("unix:///tmp/r.sock?partitions=2", 2),
        ("redis+sentinel://h/main/0?partitions=8", 8),
        ("redis+cluster://h", 12),
        ("rediss+cluster://h?partitions=3", 3),
        ("redis+cluster://h?partitions=1", 1),
    ],
)
def test_a_url_says_how_many_there_are(url: str, count: int) -> None:
    assert len(keys_for(url).all) == count


@pytest.mark.parametrize("count", ["0", "257", "-1", "four", "1.5", "٣x"])
def test_a_number_that_cannot_be_is_refused_without_the_password(count: str) -> None:
    with pytest.raises(ConfigurationError, match="is no number from 1 to 256") as caught:
        keys_for(f"redis://al:sesame@h/0?partitions={count}")
    assert "sesame" not in str(caught.value)


# -- slots and places ------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "stepflow:live",
        "{sf:3}:stepflow:live",
        "{}x",
        "a{b}c{d}",
        "{{b}}",
        "{}a{b}",
        "ünï",
        "{",
        "a}b{c}",
        *partition_tags(12),
    ],
)
def test_slots_are_those_of_the_server(key: str) -> None:
    assert slot_of(key) == key_slot(key.encode())


def test_the_place_of_a_key_is_its_partition() -> None:
    for keys in Keys.over(4).all:
        assert routing_key_of(keys("RUN", "{sf:9}:x")) == keys.partition
        assert slot_of(routing_key_of(keys("LIVE"))) == slot_of(keys("LIVE"))
    assert routing_key_of("rq:workers") == "rq:workers"


@pytest.mark.parametrize("count", [1, 4])
def test_a_partition_finds_the_others_and_shares_its_cipher_and_clock(count: int) -> None:
    cipher = Cipher([bytes(32)])
    first = Partition.first_of(Keys.over(count), cipher, clock := SetClock(lambda: 17))
    assert len(first.all) == count
    assert first.all[0] is first
    for number, one in enumerate(first.all):
        assert one.keys is first.keys.all[number]
        assert (one.cipher, one.clock) == (cipher, clock)
        assert one.of(RUN) is first.of(RUN)
        assert one.at("shop/buy") is first.at("shop/buy")
        assert one.run_key("RUN", RUN) == first.of(RUN).keys("RUN", RUN)
        assert one.run_keys(RUN, "RUN", "MEMOS") == (one.run_key("RUN", RUN), one.run_key("MEMOS", RUN))


def test_a_partition_leaves_the_time_to_the_server_and_must_be_given_a_cipher() -> None:
    assert Partition.first_of(Keys(), NO_ENCRYPTION).clock.script_ms() == 0
    with pytest.raises(TypeError):
        Partition.first_of(Keys())  # type: ignore[call-arg]


@pytest.mark.parametrize("package", ["engine", "broker", "sdk", "workers", "cli"])
def test_no_parameter_defaults_to_no_encryption_or_to_a_time_of_zero(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.arguments():
                    last = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
                    pairs = [
                        *zip(last, node.defaults, strict=True),
                        *zip(node.kwonlyargs, node.kw_defaults, strict=True),
                    ]
                    given = [(one.arg, ast.unparse(value)) for one, value in pairs if value is not None]
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    given = [(name, ast.unparse(value))]
                case _:
                    continue
            found += [f"{path.name}: {one}" for one in given if "NO_ENCRYPTION" in one[1] or one == ("now_ms", "0")]
    assert found == []


def test_a_call_goes_to_the_partition_of_its_keys() -> None:
    first = Partition.first_of(Keys.over(4), NO_ENCRYPTION)
    of_run, third = first.of(RUN).tag, first.all[2]
    calls: dict[str, list[Command]] = {
        of_run: [read_run(first, RUN), read_status(first, RUN)],
        third.tag: [
            pause(third, "queue", "shop", reason=""),
            add_event(third, b"{}", event_id="e", dedupe=False),
            read_events(third, "w1"),
            create_group(third.keys, "EVENTS"),
            command(list, "XINFO", "GROUPS", third.keys("EVENTS")),
            command(list, "SCAN", 0, "MATCH", f"{third.tag}*", "COUNT", 5),
        ],
        "rq:workers": [command(set, "SMEMBERS", first.keys("RQ_WORKERS"))],
        "": [
            command(bytes, "PING"),
            command(list, "TIME"),
            command(bytes, "INFO", "server"),
            command(list, "SCAN", 0, "COUNT", 5),
            command(list, "SCAN", 0, "MATCH", "stepflow:run:*", "COUNT", 5),
            command(list, "CLUSTER", "SLOTS"),
            command(list, "CONFIG", "GET", "appendfsync"),
        ],
    }
    for place, some in calls.items():
        assert [call.routing_key for call in some] == [place] * len(some)
    flat = [call for some in calls.values() for call in some]
    together = Broker("redis+cluster://h").by_server(flat)
    assert [[flat[n].routing_key for n in at] for at in together] == [
        [place] * len(some) for place, some in calls.items()
    ]
    assert Broker("redis://h").by_server(flat) == [list(range(len(flat)))]


def test_a_script_in_a_partition_declares_the_key_that_is_never_written() -> None:
    third = Partition.first_of(Keys.over(4), NO_ENCRYPTION).all[2]
    declared = third.tag + MOVING
    assert declared in pause(third, "queue", "shop", reason="").args
    assert not any(MOVING in str(word) for word in pause(PLAIN, "queue", "shop", reason="").args)
