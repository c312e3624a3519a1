"""begin_wait, deliver_event, send_events, route_event, fire_timers: what ends a wait, once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.registry.event_filter import wait_index
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.events.event_stream import (
    Routed,
    StreamedEvent,
    add_event,
    drop_event,
    read_events,
    route_event,
)
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.forks import ForkStart, fork_run
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.steps.step_record import read_steps
from stepflow_broker.transitions.steps.waits import (
    BegunWait,
    SentEvent,
    WaitStart,
    begin_wait,
    deliver_event,
    early_events_matched,
    read_condition,
    read_early_events,
    read_waits,
    send_events,
)
from stepflow_engine.codec import dumps, loads
from stepflow_engine.ids import step_key
from stepflow_engine.memo import read_memo
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import START_MS, Driver
from tests.support.invariants import check_invariants

HOUR_MS = 3_600_000


def wait_for(
    name: str, *, step_id: str = "w", paths: str = "", values: object = (), condition: bytes = b""
) -> WaitStart:
    """A wait of an hour for an event."""
    index = wait_index(name, paths=paths, values=dumps(list(values)), has_condition=bool(condition))
    detail = dumps({"id": step_id, "kind": "wait"})[1:]
    return WaitStart(step_key(step_id), step_id, detail, HOUR_MS, event=name, index=index, condition=condition)


def sleep(*, delay_ms: int = 0, until_ms: int = 0) -> WaitStart:
    return WaitStart(step_key("w"), "w", dumps({"id": "w", "kind": "sleep"})[1:], delay_ms, until_ms)


def begin(driver: Driver, lease: Lease, start: WaitStart) -> ScriptStatus:
    begun = begin_wait(driver.partition, start, run_id=lease.run_id, fence=lease.fence)
    return driver.send(begun).code


def came(driver: Driver, name: str, data: object, *, paths: tuple[str, ...] = (), event_id: str = "e1") -> Routed:
    """An event that has come, and what became of it."""
    text = dumps({"name": name, "id": event_id, "ts": 1, "data": data})
    driver.store.broker.execute(add_event(driver.partition, text, event_id=event_id, dedupe=True))
    (event,) = driver.store.broker.execute(read_events(driver.partition, "w1"))
    return routed(driver, event, paths)


def routed(driver: Driver, event: StreamedEvent, paths: tuple[str, ...] = ()) -> Routed:
    answer = driver.store.broker.execute(route_event(driver.partition, event, [], version=0, paths=paths))
    check_invariants(driver.client)
    return answer


def memo_of(driver: Driver, run: str = "run1") -> object:
    """The only memo of a run."""
    ((_, text),) = driver.store.broker.execute(read_memos(driver.partition, run))
    return read_memo(text)


@pytest.fixture(autouse=True)
def group(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "EVENTS"))


def test_a_sleep_ends_at_its_time_and_wakes_its_run(driver: Driver) -> None:
    lease = driver.started()
    assert begin(driver, lease, sleep(delay_ms=5_000)) is ScriptStatus.DONE
    driver.park(lease)
    driver.now_ms += 4_999
    assert driver.fire() == (0, 1)
    assert driver.queued("shop:steps") == []
    driver.now_ms += 1
    assert driver.fire()[0] == 1
    assert driver.queued("shop:steps") == ["run1"]
    memo = memo_of(driver)
    assert (memo.data, memo.detail["ended_at"], memo.detail["outcome"]) == (None, START_MS + 5_000, "time")


def test_a_sleep_that_is_asked_for_again_does_not_begin_again(driver: Driver) -> None:
    lease = driver.started()
    begin(driver, lease, sleep(delay_ms=5_000))
    before = driver.snapshot()
    driver.now_ms += 3_000
    assert begin(driver, lease, sleep(delay_ms=5_000)) is ScriptStatus.ALREADY
    assert driver.snapshot() == before


def test_a_time_that_is_past_resolves_the_step_at_once(driver: Driver) -> None:
    lease = driver.started()
    assert begin(driver, lease, sleep(until_ms=START_MS - 1)) is ScriptStatus.RESOLVED
    assert memo_of(driver).detail["ended_at"] == START_MS


def test_a_stale_worker_begins_no_wait(driver: Driver) -> None:
    lease = driver.started()
    driver.yield_run(lease)
    driver.claim_one()
    assert begin(driver, lease, sleep(delay_ms=1)) is ScriptStatus.STALE_FENCE
    driver.cancel()
    assert begin(driver, lease, sleep(delay_ms=1)) is ScriptStatus.NO_RUN


def test_an_event_without_wait_and_function_changes_nothing_but_the_log(driver: Driver) -> None:
    assert came(driver, "paid", {}).started == 0
    assert driver.client.xlen(driver.keys("EVENTS")) == 0
    assert driver.client.xlen(driver.keys("EVENT_HISTORY", "paid")) == 1


def test_any_event_of_the_name_ends_a_wait_without_values(driver: Driver) -> None:
    lease = driver.started()
    begin(driver, lease, wait_for("paid"))
    driver.park(lease)
    came(driver, "other", {})
    assert driver.queued("shop:steps") == []
    came(driver, "paid", {"n": 1})
    assert driver.queued("shop:steps") == ["run1"]
    memo = memo_of(driver)
    assert (memo.data["data"], memo.detail["outcome"]) == ({"n": 1}, "came")


def test_an_event_is_asked_for_the_values_that_waits_want(driver: Driver) -> None:
    leases = [driver.started(run) for run in ("run1", "run2")]
    for n, lease in enumerate(leases):
        begin(driver, lease, wait_for("paid", paths="data.order", values=[n]))
        driver.park(lease)
    before = driver.client.xlen(driver.keys("EVENT_HISTORY", "paid"))
    refused = came(driver, "paid", {"order": 1})
    assert (refused.code, refused.paths) == (ScriptStatus.MORE_VALUES, ("data.order",))
    assert driver.client.xlen(driver.keys("EVENT_HISTORY", "paid")) == before
    (event,) = _pending(driver)
    assert routed(driver, event, refused.paths).code is ScriptStatus.DONE
    assert driver.queued("shop:steps") == ["run2"]


def test_paths_that_nobody_waits_for_any_more_do_no_harm(driver: Driver) -> None:
    assert came(driver, "paid", {"order": 1}, paths=("data.order", "data.user")).code is ScriptStatus.DONE


def test_an_event_that_is_routed_again_ends_nothing_twice(driver: Driver) -> None:
    lease = driver.started()
    begin(driver, lease, wait_for("paid"))
    came(driver, "paid", {"n": 1})
    before = driver.snapshot()
    assert routed(driver, StreamedEvent("0-1", dumps({"name": "paid", "id": "e1", "ts": 1, "data": {}}), "e1", True))
    assert driver.snapshot() == before


def test_the_time_and_the_event_end_a_wait_once_whichever_is_first(driver: Driver) -> None:
    for first in ("time", "event"):
        lease = driver.started(first)
        begin(driver, lease, wait_for(first))
        driver.now_ms += HOUR_MS
        steps = [driver.fire, lambda first=first: came(driver, first, {"n": 1}, event_id=first)]
        for step in steps if first == "time" else steps[::-1]:
            step()
        memo = memo_of(driver, first)
        assert (memo.detail["outcome"], memo.data is None) == (("time", True) if first == "time" else ("came", False))


def test_a_wait_with_a_condition_is_left_to_a_worker(driver: Driver) -> None:
    lease = driver.started()
    begin(driver, lease, wait_for("paid", condition=b'"looked at"'))
    answer = came(driver, "paid", {"n": 1})
    assert (answer.code, answer.paths) == (ScriptStatus.DONE, ("?",))
    (event,) = _pending(driver)
    (wait,) = driver.store.broker.execute(read_waits(driver.partition, "paid"))
    assert wait == ("run1", step_key("w"))
    assert loads(driver.store.broker.execute(read_condition(driver.partition, *wait))) == "looked at"
    assert driver.send(deliver_event(driver.partition, *wait, event.event, event_id="e1")) is True
    assert driver.send(deliver_event(driver.partition, *wait, event.event, event_id="e1")) is False
    assert driver.store.broker.execute(read_waits(driver.partition, "paid")) == []
    for call in drop_event(driver.partition, event):
        driver.store.broker.execute(call)
    assert driver.client.xlen(driver.keys("EVENTS")) == 0


def begun(driver: Driver, lease: Lease, start: WaitStart) -> BegunWait:
    return driver.send(begin_wait(driver.partition, start, run_id=lease.run_id, fence=lease.fence))


def early(driver: Driver, *, run: str = "run1") -> Lease:
    """A started run, of a time before the events that come next. The history has the server's own times."""
    driver.now_ms = 0
    lease = driver.started(run)
    for n in range(3):
        came(driver, "paid", {"n": n}, paths=("data.n",), event_id=f"e{n}")
    return lease


def of_value(n: int, step_id: str = "w", lookback_ms: int | None = None, **more: Any) -> WaitStart:
    start = wait_for("paid", step_id=step_id, paths="data.n", values=[n])
    return replace(start, lookback_ms=lookback_ms, **more)


def know_paths(driver: Driver) -> None:
    """Let a wait compare values once, so that the events that come later are in the index."""
    begin(driver, driver.started("first"), of_value(99))
    seconds, _ = driver.client.time()
    driver.client.hset(driver.keys("COMPARED_PATHS", "paid"), "data.n", f"{seconds - 300}000 {seconds}000")


@pytest.mark.parametrize("lookback_ms", [None, 60_000])
def test_the_first_wait_that_compares_values_leaves_the_early_events_to_a_worker(driver: Driver, lookback_ms) -> None:
    lease = early(driver)
    first = begun(driver, lease, of_value(1, lookback_ms=lookback_ms))
    assert first.code is ScriptStatus.DONE
    assert [loads(event)["data"]["n"] for event in first.early] == [0, 1, 2]
    again = begun(driver, lease, of_value(1, lookback_ms=lookback_ms))
    assert (again.code, again.since_ms) == (ScriptStatus.ALREADY, first.since_ms), "whoever matched first may have died"
    driver.send(early_events_matched(driver.partition, "run1", step_key("w")))
    assert begun(driver, lease, of_value(1)) == BegunWait(ScriptStatus.ALREADY, None, [], 0)


def test_an_early_event_ends_a_wait_at_once(driver: Driver) -> None:
    know_paths(driver)
    lease = early(driver)
    reply = begun(driver, lease, of_value(1))
    assert (reply.code, reply.early) == (ScriptStatus.RESOLVED, [])
    assert reply.resolved is not None
    memo = memo_of(driver)
    assert (memo.data["id"], memo.detail["outcome"]) == ("e1", "came")
    assert begun(driver, lease, of_value(7)) == BegunWait(ScriptStatus.ALREADY, None, [], 0)
    assert driver.send(read_steps(driver.partition, "run1")) == []
    check_invariants(driver.client)


def test_an_early_event_ends_one_wait_after_the_other(driver: Driver) -> None:
    know_paths(driver)
    lease = early(driver)
    came(driver, "paid", {"n": 1}, paths=("data.n",), event_id="later")
    came(driver, "paid", {"n": 1}, paths=("data.n",), event_id="e1")
    for number, expected in enumerate(("e1", "later", None)):
        reply = begun(driver, lease, of_value(1, f"w{number}", since=number))
        memos = dict(driver.store.broker.execute(read_memos(driver.partition, "run1")))
        memo = memos.get(step_key(f"w{number}"))
        assert (memo and read_memo(memo).data["id"]) == expected
        assert (reply.code is ScriptStatus.RESOLVED) == (expected is not None)


def test_an_event_that_has_ended_a_cancelled_wait_ends_a_later_one(driver: Driver) -> None:
    know_paths(driver)
    lease = early(driver)
    begun(driver, lease, of_value(1, "cancelled"))
    driver.commit(lease, "a")
    assert begun(driver, lease, of_value(1, "next", since=2)).code is ScriptStatus.DONE
    assert begun(driver, lease, of_value(1, "wrong", since=2, unread=[("e1", 2)])).code is ScriptStatus.DONE
    assert begun(driver, lease, of_value(1, "later", since=2, unread=[("e1", 1)])).code is ScriptStatus.RESOLVED
    assert begun(driver, lease, of_value(1, "last", since=3, unread=[("e1", 1)])).code is ScriptStatus.DONE


def test_an_event_that_came_before_the_run_ends_no_wait(driver: Driver) -> None:
    know_paths(driver)
    early(driver, run="other")
    seconds, _ = driver.client.time()
    driver.now_ms = (seconds + 5) * 1000
    lease = driver.started()
    assert begun(driver, lease, of_value(1)).code is ScriptStatus.DONE
    assert begun(driver, lease, of_value(1, "back", lookback_ms=60_000)).code is ScriptStatus.RESOLVED


def test_the_event_that_has_started_the_run_ends_no_wait_of_it(driver: Driver) -> None:
    know_paths(driver)
    lease = early(driver)
    assert begun(driver, lease, of_value(1, own_event="e1")).code is ScriptStatus.DONE
    assert begun(driver, lease, of_value(2, "w2", own_event="e1")).code is ScriptStatus.RESOLVED


def test_no_lookback_means_only_later_events(driver: Driver) -> None:
    know_paths(driver)
    lease = early(driver)
    assert begun(driver, lease, of_value(1, lookback_ms=0)) == BegunWait(ScriptStatus.DONE, None, [], 0)
    assert matched_values(driver, 1) == [step_key("w")]


def fork(driver: Driver, *keys: str, takes_events: bool) -> Lease:
    """A fork of a run that has failed, with these memos. It is created 5 s after all events."""
    event = dumps({"name": "e", "id": "run1", "ts": 1, "data": {}})
    start = ForkStart("fork", "run1", event, memos=[(key, b"") for key in keys], takes_events=takes_events)
    seconds, _ = driver.client.time()
    driver.now_ms = (seconds + 5) * 1000
    driver.send(fork_run(driver.partition, FunctionConfig("shop", "buy", "shop"), start))
    return driver.claim_one()


def test_the_waits_of_a_retry_also_take_what_came_since_the_first_run_was_created(driver: Driver) -> None:
    know_paths(driver)
    driver.finish(early(driver), RunStatus.FAILED)
    lease = fork(driver, takes_events=True)
    assert begun(driver, lease, of_value(1)).code is ScriptStatus.RESOLVED
    assert begun(driver, lease, of_value(1, "later", since=1)).code is ScriptStatus.DONE


def test_the_waits_of_another_fork_do_not(driver: Driver) -> None:
    know_paths(driver)
    driver.finish(early(driver), RunStatus.FAILED)
    assert begun(driver, fork(driver, takes_events=False), of_value(1)).code is ScriptStatus.DONE


@pytest.mark.parametrize("lookback_ms", [0, 60_000])
def test_an_event_that_has_ended_a_kept_wait_ends_no_later_wait_of_a_fork(driver: Driver, lookback_ms: int) -> None:
    know_paths(driver)
    lease = early(driver)
    driver.commit(lease, "a")
    begun(driver, lease, of_value(1, "first", since=1))
    begun(driver, lease, of_value(2, "cut off", since=2))
    driver.finish(lease, RunStatus.FAILED)
    lease = fork(driver, step_key("first"), takes_events=False)
    assert begun(driver, lease, of_value(2, "cut off", since=1, lookback_ms=60_000)).code is ScriptStatus.RESOLVED
    assert begun(driver, lease, of_value(1, "later", since=2, lookback_ms=lookback_ms)).code is ScriptStatus.DONE
    came(driver, "paid", {"n": 1}, paths=("data.n",), event_id="e1")
    assert [key for key, _ in driver.store.broker.execute(read_memos(driver.partition, "fork"))] == [
        step_key("first"),
        step_key("cut off"),
    ]


def matched_values(driver: Driver, n: int) -> list[str]:
    came(driver, "paid", {"n": n}, paths=("data.n",), event_id="new")
    return [key for key, _ in driver.store.broker.execute(read_memos(driver.partition, "run1"))]


def test_the_router_sends_the_values_that_waits_have_compared_of_late(driver: Driver) -> None:
    know_paths(driver)
    driver.now_ms = 0
    driver.cancel("first")
    driver.client.xtrim(driver.keys("EVENTS"), maxlen=0)  # the event of the cancelled run
    assert came(driver, "paid", {"n": 1}).paths == ("data.n",)
    (event,) = _pending(driver)
    assert routed(driver, event, ("data.n",)).code is ScriptStatus.DONE


def test_the_history_of_a_name_is_bounded_and_so_is_its_index(driver: Driver) -> None:
    know_paths(driver)
    driver.now_ms = 0
    lease = driver.started()
    large = "x" * 200_000  # of which 16 MB hold fewer than 100: then 100 are kept
    for n in range(103):
        came(driver, "paid", {"n": n, "text": large}, paths=("data.n",), event_id=f"e{n}")
    assert driver.client.xlen(driver.keys("EVENT_HISTORY", "paid")) == 100
    assert driver.client.zcard(driver.keys("EVENT_INDEX", "data.n\npaid")) == 100
    assert len(begun(driver, lease, replace(wait_for("paid", step_id="any"), lookback_ms=None)).early) == 42, "8 MiB"
    assert begun(driver, lease, of_value(2)).code is ScriptStatus.DONE
    assert begun(driver, lease, of_value(3, "w2")).code is ScriptStatus.RESOLVED


def test_another_partition_reads_early_events_by_the_index_of_the_wait(driver: Driver) -> None:
    index = of_value(1).index
    early(driver)
    seconds, _ = driver.client.time()
    since_ms = (seconds - 100) * 1000
    assert len(driver.send(read_early_events(driver.partition, index, since_ms=since_ms))) == 3, "by a search"
    know_paths(driver)
    early(driver, run="run2")
    found = driver.send(read_early_events(driver.partition, index, since_ms=since_ms))
    assert [loads(event)["data"]["n"] for event in found] == [1]
    assert driver.send(read_early_events(driver.partition, index, since_ms=9_999_999_999_999)) == []


@pytest.mark.parametrize("condition", [b"", b'"looked at"'], ids=["indexed", "condition"])
def test_an_event_that_is_sent_again_ends_no_wait_that_began_after_it(driver: Driver, condition: bytes) -> None:
    lease = driver.started()
    begin(driver, lease, wait_for("paid", step_id="first", condition=condition))
    assert matched(driver, "e1") == [step_key("first")]
    later = replace(wait_for("paid", step_id="second", condition=condition), since=1)
    begin(driver, lease, later)
    assert matched(driver, "e1") == []
    assert matched(driver, "e2") == [step_key("second")]
    begin(driver, lease, replace(wait_for("paid", step_id="third", condition=condition), since=2))
    assert matched(driver, "e2") == matched(driver, "e1") == []


@pytest.mark.parametrize("condition", [b"", b'"looked at"'], ids=["indexed", "condition"])
def test_an_event_ends_all_waits_of_a_run_that_began_before_it(driver: Driver, condition: bytes) -> None:
    lease = driver.started()
    for name in ("left", "right"):
        begin(driver, lease, wait_for("paid", step_id=name, condition=condition))
    assert matched(driver, "e1") == sorted(map(step_key, ("left", "right")))


def test_an_event_ends_a_wait_that_began_beside_the_one_that_it_has_ended(driver: Driver) -> None:
    """Two waits of a gather with a look-back: the first has the event before the second begins."""
    lease = driver.started()
    begin(driver, lease, wait_for("paid", step_id="left"))
    assert matched(driver, "e1") == [step_key("left")]
    begin(driver, lease, wait_for("paid", step_id="right"))
    text = dumps({"name": "paid", "id": "e1", "ts": 1, "data": {}})
    assert driver.send(deliver_event(driver.partition, "run1", step_key("right"), text, event_id="e1"))


def test_an_event_of_one_run_is_new_to_another(driver: Driver) -> None:
    for run in ("run1", "run2"):
        begin(driver, driver.started(run), replace(wait_for("paid"), since=5))
        assert matched(driver, "e1", run) == [step_key("w")]


def test_events_without_an_id_are_not_taken_for_one(driver: Driver) -> None:
    lease = driver.started()
    for number, name in enumerate(("first", "second")):
        begin(driver, lease, replace(wait_for("paid", step_id=name), since=number))
        assert matched(driver, "") == [step_key(name)]


def matched(driver: Driver, event_id: str, run: str = "run1") -> list[str]:
    """The steps that an event ends: by the index, or as a worker that finds each condition true."""
    before = {key for key, _ in driver.store.broker.execute(read_memos(driver.partition, run))}
    answer = came(driver, "paid", {"n": 1}, event_id=event_id)
    if answer.paths:
        (event,) = _pending(driver)
        for wait in driver.store.broker.execute(read_waits(driver.partition, "paid")):
            driver.send(deliver_event(driver.partition, *wait, event.event, event_id=event.event_id))
        for call in drop_event(driver.partition, event):
            driver.store.broker.execute(call)
    memos = driver.store.broker.execute(read_memos(driver.partition, run))
    return sorted(key for key, _ in memos if key not in before)


def test_the_end_of_a_run_ends_its_waits(driver: Driver) -> None:
    lease = driver.started()
    begin(driver, lease, wait_for("paid", paths="data.order", values=[1]))
    begin(driver, lease, wait_for("paid", step_id="any"))
    driver.finish(lease)
    assert came(driver, "paid", {"order": 1}).code is ScriptStatus.DONE
    assert not list(driver.client.scan_iter("stepflow:wait*"))


def test_events_of_a_step_are_sent_with_its_memo_and_once(driver: Driver) -> None:
    lease = driver.started()
    told = [dumps({"name": "told", "id": f"e{n}", "ts": 1, "data": n}) for n in range(2)]
    events = [SentEvent(one, f"e{n}", dedupe=bool(n)) for n, one in enumerate(told)]
    text = b'{"data":["e0","e1"],"id":"send"}'

    def send(fence: int) -> tuple[ScriptStatus, int]:
        return driver.send(
            send_events(driver.partition, run_id="run1", fence=fence, key=step_key("send"), memo=text, events=events)
        )

    assert send(lease.fence) == (ScriptStatus.DONE, 1)
    assert send(lease.fence) == (ScriptStatus.ALREADY, 1)
    assert send(lease.fence + 1)[0] is ScriptStatus.ALREADY
    sent = driver.store.broker.execute(read_events(driver.partition, "w1"))
    assert [(event.event_id, event.dedupe) for event in sent] == [("e0", False), ("e1", True)]


def test_a_stale_worker_sends_nothing(driver: Driver) -> None:
    lease = driver.started()
    call = send_events(
        driver.partition,
        run_id="run1",
        fence=lease.fence + 1,
        key=step_key("send"),
        memo=b"{}",
        events=[SentEvent(b"{}", "e", dedupe=False)],
    )
    assert driver.send(call) == (ScriptStatus.STALE_FENCE, 0)
    assert driver.client.xlen(driver.keys("EVENTS")) == 0


def _pending(driver: Driver) -> list[StreamedEvent]:
    """Events that a worker has taken and that are still on the stream."""
    entries = driver.client.xrange(driver.keys("EVENTS"))
    return [
        StreamedEvent(entry, fields["event"].encode(), fields["id"], fields["dedupe"] == "1")
        for entry, fields in entries
    ]
