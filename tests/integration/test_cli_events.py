"""``stepflow events``: list the events that are set aside, and resend them."""

from __future__ import annotations

from typing import Any

import pytest

from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.partitions import partition_for
from stepflow_broker.transitions.events.aside_events import set_aside_event
from stepflow_broker.transitions.events.event_stream import StreamedEvent, add_event
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.steps import event_text
from tests.support.command_line import as_json, assert_refused, call
from tests.support.roles import as_role


def set_aside(url: str, event_id: str) -> str:
    """Set an event aside, as a worker does; its entry."""
    broker, partition = Broker(as_role(url, "worker")), partition_for(url, NO_ENCRYPTION)
    event = event_text("order", id=event_id, ts=1, data=b"{}")
    entry = broker.execute(add_event(partition, event, event_id=event_id, dedupe=True))
    broker.execute(set_aside_event(partition, StreamedEvent(entry, event, event_id, dedupe=True), ["too long"]))
    broker.close()
    return str(as_json("events", "aside", "--redis-url", url)[-1]["entry"])


def test_events_are_resent_once_also_if_their_entry_is_given_twice_or_beside_unknown_ones(url: str) -> None:
    first, second = set_aside(url, "order-1"), set_aside(url, "order-2")
    assert as_json("events", "resend", first, first, "--redis-url", url) == [{"entry": first, "sent": True}]
    mixed = call("events", "resend", "1-1", second, "--redis-url", url)
    assert mixed.returncode == 4
    assert mixed.stdout == f"no event 1-1 is set aside\nevent {second} is sent again\n"
    assert as_json("events", "aside", "--redis-url", url) == []


@pytest.mark.parametrize("entry", ["", "-", "*", "1", "1-", "1-1-1", "-1-1", "\u0661-\u0661", "1-1\n", "9" * 19 + "-1"])
def test_what_is_no_entry_of_an_event_is_refused(url: str, entry: str) -> None:
    done = call("events", "resend", "--redis-url", url, "--", entry)
    assert_refused(done, 2, "entry must be one that 'stepflow events aside' lists")


def test_entries_of_other_programs_among_the_events_aside_are_listed_and_can_be_resent(url: str, client: Any) -> None:
    entry = set_aside(url, "order-1")
    for fields in ({"x": "y"}, {"event": b"\xff", "id": b"\xff\x1b[31m"}, {"event": "{}", "reason": "\x1b]0;x"}):
        client.xadd("stepflow:events-aside", fields)
    listed = as_json("events", "aside", "--redis-url", url)
    assert [(one["event"], one["reason"]) for one in listed] == [
        ("order", "too long"),
        ("", ""),
        ("", ""),
        ("", "\x1b]0;x"),
    ]
    assert listed[0]["entry"] == entry
    assert "\x1b" not in call("events", "aside", "--redis-url", url).stdout
    assert as_json("events", "resend", *[one["entry"] for one in listed], "--redis-url", url)[1]["sent"] is True
    assert as_json("events", "aside", "--redis-url", url) == []
