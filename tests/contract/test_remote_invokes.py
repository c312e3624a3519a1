"""Invokes of children in other partitions: each is started once, and its end is told once, whoever dies in between."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.registry.flow_control import FlowConfig, RateConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import register_functions
from stepflow_broker.transitions.invokes.invokes import ChildStart, Resolved
from stepflow_broker.transitions.invokes.outbox import (
    ChildCancelled,
    Finished,
    Message,
    RemoteChildFinished,
    StartChild,
    read_finished,
)
from stepflow_broker.transitions.invokes.remote_invokes import deliver, invoke_remote_child, start_remote_child
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.pauses import pause
from stepflow_broker.transitions.runs.bulk_cancel import Operation
from stepflow_engine.codec import dumps
from stepflow_engine.ids import step_key
from stepflow_engine.state_machine import RunStatus
from tests.support.backends import Store
from tests.support.driver import LEASE_MS, NOBODY, RETENTION_MS, TIMEOUT_MEMO, Driver

KEY = step_key("call")
PARENT, CHILD = "0000run", "0001child"


@dataclass(frozen=True, slots=True)
class Pair:
    """The partition of a parent, and that of its child."""

    here: Driver
    there: Driver

    def invoke(
        self, lease: Lease, *, version: int = 0, timeout_ms: int = 60_000, rate: RateConfig | None = None
    ) -> tuple[ScriptStatus, StartChild | None]:
        start = ChildStart(
            key=KEY,
            step_id="call",
            child=CHILD,
            event=dumps({"name": "e", "id": CHILD, "ts": 1, "data": {"text": "è\n"}}),
            detail=dumps({"id": "call"})[1:],
            timeout_ms=timeout_ms,
            timeout_memo=TIMEOUT_MEMO,
            refusal=b"",
            config=FunctionConfig("shop", "sell", "shop", flow=FlowConfig(rate), retention_ms=RETENTION_MS),
            depth=1,
        )
        driver = self.here
        call = invoke_remote_child(driver.partition, start, run_id=lease.run_id, fence=lease.fence, version=version)
        return driver.send(call)

    def asked(self, **options: Any) -> tuple[Lease, StartChild]:
        """A held parent that waits for a child that nobody has started yet."""
        parent = self.here.started(PARENT)
        code, message = self.invoke(parent, **options)
        assert code is ScriptStatus.DONE
        assert message is not None
        return parent, message

    def waiting(self, **options: Any) -> tuple[Lease, Lease]:
        """A held parent that waits, and its child, held by another worker."""
        parent, message = self.asked(**options)
        self.deliver(message)
        return parent, self.there.claim_one(worker="w2")

    def deliver(self, message: Message, *, worker: str = "w1", calls: int = 99) -> Resolved | None:
        """Deliver a message, or make only the first calls for it, as one does who dies then."""
        partition = self.there.partition if isinstance(message, RemoteChildFinished) else self.here.partition
        return self.follow(deliver(partition, message, worker=worker), calls)

    def follow(self, dialogue: Operation[Resolved | None], calls: int) -> Resolved | None:
        try:
            asked = next(dialogue)
            for _ in range(calls):
                asked = dialogue.send([self.here.send(call) for call in asked])
        except StopIteration as end:
            return end.value
        return None

    def messages(self) -> list[Finished]:
        """The entries of both streams, taken by a worker of their own."""
        self._groups()
        found: list[Finished] = []
        for driver in (self.here, self.there):
            found += driver.send(read_finished(driver.partition, "reader"))
        return found

    def _groups(self) -> None:
        for driver in (self.here, self.there):
            if not driver.client.exists(driver.keys("FINISHED")) or not driver.client.xinfo_groups(
                driver.keys("FINISHED")
            ):
                driver.send(create_group(driver.keys, "FINISHED"))

    def left(self) -> int:
        """How many messages are on the streams."""
        return sum(driver.client.xlen(driver.keys("FINISHED")) for driver in (self.here, self.there))

    def outcome(self) -> tuple[str | None, Any, str | None]:
        """Of the parent's one memo: how its step ended, the data, the name of the error."""
        ((key, text),) = self.here.memos(PARENT)
        memo = json.loads(text)
        assert key == KEY
        return memo.get("outcome"), memo.get("data"), memo.get("error", {}).get("name")

    def is_kept(self) -> bool:
        """Whether the child has no expiry."""
        return self.there.client.pttl(self.there.keys("RUN", CHILD)) == -1

    def unchanged(self, do: Callable[[], object]) -> object:
        before = self.here.snapshot()
        answer = do()
        assert self.here.snapshot() == before
        return answer


@pytest.fixture
def pair(store: Store) -> Pair:
    here, there = Keys.over(2).all
    return Pair(Driver(store, keys=here), Driver(store, keys=there))


# -- the wait ------------------------------------------------------------------------


def test_the_wait_and_what_is_to_be_started_are_recorded_in_one_script(pair: Pair) -> None:
    _, message = pair.asked(timeout_ms=5_000)
    step = pair.here.steps(PARENT)["call"]
    assert (step.state, step.child, step.due_at) == ("waiting", CHILD, pair.here.now_ms + 5_000)
    assert not pair.there.client.exists(pair.there.keys("RUN", CHILD))
    assert pair.messages() == [message]


def test_a_wait_that_is_recorded_twice_names_the_same_message(pair: Pair) -> None:
    parent, message = pair.asked()
    assert pair.unchanged(lambda: pair.invoke(parent)) == (ScriptStatus.ALREADY, message)


def test_a_step_that_has_its_memo_asks_for_no_child(pair: Pair) -> None:
    parent, child = pair.waiting()
    pair.there.finish(child)
    pair.deliver(RemoteChildFinished(CHILD))
    assert pair.unchanged(lambda: pair.invoke(parent)) == (ScriptStatus.ALREADY, None)


def test_who_does_not_hold_the_parent_asks_for_no_child(pair: Pair) -> None:
    stale = pair.here.started(PARENT)
    pair.here.advance(LEASE_MS)
    pair.here.reclaim()
    pair.here.claim_one(worker="w2")
    assert pair.unchanged(lambda: pair.invoke(stale)) == (ScriptStatus.STALE_FENCE, None)
    assert pair.unchanged(lambda: pair.invoke(NOBODY)) == (ScriptStatus.NO_RUN, None)
    pair.here.cancel(PARENT)
    assert pair.unchanged(lambda: pair.invoke(stale)) == (ScriptStatus.NO_RUN, None)


def test_a_registry_that_has_changed_is_to_be_read_first(pair: Pair) -> None:
    parent = pair.here.started(PARENT)
    version = pair.here.send(register_functions(pair.here.keys, [FunctionConfig("shop", "sell", "shop")]))
    assert pair.unchanged(lambda: pair.invoke(parent)) == (ScriptStatus.STALE_REGISTRY, None)
    assert pair.invoke(parent, version=version)[0] is ScriptStatus.DONE


# -- the start -----------------------------------------------------------------------


def test_the_child_names_its_parent_and_its_depth(pair: Pair) -> None:
    _, child = pair.waiting()
    record = pair.there.run(CHILD)
    assert (record.parent, record.parent_step, record.event["data"]) == (PARENT, KEY, {"text": "è\n"})
    assert (child.parent, child.depth, child.function) == (PARENT, 1, "sell")
    assert pair.left() == 0


def test_a_message_that_is_delivered_again_starts_no_second_child(pair: Pair) -> None:
    _, message = pair.asked()
    pair.deliver(message)
    pair.unchanged(lambda: pair.deliver(message))
    assert pair.there.send(start_remote_child(pair.here.partition, message)) is ScriptStatus.ALREADY


@pytest.mark.parametrize("calls", range(4))
def test_who_dies_while_it_has_a_child_started_leaves_that_to_the_next(pair: Pair, calls: int) -> None:
    _, message = pair.asked()
    pair.deliver(message, calls=calls)
    for found in pair.messages():
        assert found == message
        pair.deliver(message)
    assert pair.there.queued("shop") == [CHILD]
    assert pair.left() == 0


def test_a_child_that_its_rate_limit_skips_resolves_the_step(pair: Pair) -> None:
    _, message = pair.asked(rate=RateConfig(0, 1_000))
    resolved = pair.deliver(message)
    assert resolved is not None
    assert (resolved.run_id, resolved.key, resolved.position) == (PARENT, KEY, 1)
    assert pair.outcome() == ("skipped", None, "RunSkippedError")
    assert json.loads(resolved.memo)["reason"] == "rate limited"
    assert not pair.is_kept()
    assert pair.left() == 0


def test_a_paused_function_skips_the_child(pair: Pair) -> None:
    _, message = pair.asked()
    pair.there.send(pause(pair.there.partition, "function", "shop/sell", reason=""))
    assert pair.deliver(message) is not None
    assert json.loads(pair.here.memos(PARENT)[0][1])["reason"] == "paused"


def test_a_child_that_had_ended_before_resolves_the_step_too(pair: Pair) -> None:
    """The parent's server has lost what it had been told, by a fail-over."""
    parent, message = pair.asked()
    pair.deliver(message)
    pair.there.finish(pair.there.claim_one())
    pair.here.client.delete(pair.here.keys("STEPS", PARENT), pair.here.keys("TIMEOUT", f"{PARENT}:{KEY}"))
    pair.here.client.zrem(pair.here.keys("TIMEOUTS"), f"wait:{PARENT}:{KEY}")
    assert pair.deliver(RemoteChildFinished(CHILD)) is None
    code, again = pair.invoke(parent)
    assert code is ScriptStatus.DONE
    assert again is not None
    assert pair.deliver(again) is not None
    assert pair.outcome() == ("completed", "done", None)
    assert pair.left() == 0


# -- the end -------------------------------------------------------------------------


def test_the_end_of_a_child_resolves_the_step_and_then_the_child_expires(pair: Pair) -> None:
    _, child = pair.waiting()
    pair.there.finish(child)
    assert pair.is_kept()
    assert pair.messages() == [RemoteChildFinished(CHILD)]
    resolved = pair.deliver(RemoteChildFinished(CHILD))
    assert resolved is not None
    assert pair.outcome() == ("completed", "done", None)
    assert pair.here.steps(PARENT) == {}
    assert not pair.is_kept()
    assert pair.left() == 0
    assert pair.unchanged(lambda: pair.deliver(RemoteChildFinished(CHILD))) is None


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED])
def test_the_memo_is_the_one_that_a_child_nearby_leaves(pair: Pair, store: Store, status: RunStatus) -> None:
    _, child = pair.waiting()
    pair.there.finish(child, status)
    pair.deliver(RemoteChildFinished(CHILD))
    near = Driver(store)
    near.invoke(near.started())
    near.finish(near.claim_one(worker="w2"), status)
    near.wake()
    assert pair.here.memos(PARENT) == near.memos()


@pytest.mark.parametrize("calls", range(5))
def test_who_dies_while_it_tells_of_an_end_leaves_that_to_the_next(pair: Pair, calls: int) -> None:
    _, child = pair.waiting()
    pair.there.finish(child)
    pair.deliver(RemoteChildFinished(CHILD), calls=calls)
    assert pair.is_kept() == bool(pair.left())
    for found in pair.messages():
        assert found == RemoteChildFinished(CHILD)
        pair.deliver(RemoteChildFinished(CHILD))
    assert pair.outcome() == ("completed", "done", None)
    assert not pair.is_kept()
    assert pair.left() == 0


def test_a_parked_parent_is_queued_again(pair: Pair) -> None:
    parent, child = pair.waiting()
    pair.here.park(parent)
    pair.there.finish(child)
    pair.deliver(RemoteChildFinished(CHILD))
    assert pair.here.queued("shop:steps") == [PARENT]


def test_another_worker_that_holds_the_parent_is_told_the_memo(pair: Pair) -> None:
    _, child = pair.waiting()
    heard = pair.here.listen("NOTIFICATIONS", "w1")
    pair.there.finish(child)
    pair.deliver(RemoteChildFinished(CHILD), worker="w2")
    (message,) = heard()
    assert message == f"memo {PARENT} 1 {KEY}"


def test_the_end_of_a_child_is_told_once_nobody_starts_it_again(pair: Pair) -> None:
    """Its message is still there, because who delivered it died; but the child may be forgotten soon."""
    _, message = pair.asked()
    pair.deliver(message, calls=1)
    pair.there.finish(pair.there.claim_one())
    assert pair.left() == 2
    pair.deliver(RemoteChildFinished(CHILD))
    assert pair.left() == 0


def test_the_time_is_over_first_and_the_end_of_the_child_changes_nothing(pair: Pair) -> None:
    _, child = pair.waiting(timeout_ms=1_000)
    pair.here.advance(1_000)
    pair.here.fire()
    memos = pair.here.memos(PARENT)
    assert memos == [(KEY, TIMEOUT_MEMO)]
    assert pair.there.run(CHILD).status is RunStatus.RUNNING
    pair.there.finish(child)
    assert pair.deliver(RemoteChildFinished(CHILD)) is None
    assert pair.here.memos(PARENT) == memos
    assert not pair.is_kept()


def test_an_end_comes_to_a_parent_that_is_gone(pair: Pair) -> None:
    parent, child = pair.waiting()
    pair.here.finish(parent)
    pair.there.finish(child)
    assert pair.deliver(RemoteChildFinished(CHILD)) is None
    assert pair.left() == 0
    assert not pair.is_kept()


def test_a_child_that_lives_is_not_told_of(pair: Pair) -> None:
    pair.waiting()
    assert pair.unchanged(lambda: pair.deliver(RemoteChildFinished(CHILD))) is None


# -- cancelling ----------------------------------------------------------------------


def cancelled(pair: Pair) -> ChildCancelled:
    """The message that a cancelled parent leaves."""
    pair.here.cancel(PARENT)
    (message,) = [one for one in pair.messages() if isinstance(one, ChildCancelled)]
    assert (message.child, message.retention_ms) == (CHILD, RETENTION_MS)
    return message


@pytest.mark.parametrize("calls", range(7))
def test_a_parent_that_is_cancelled_has_its_child_cancelled(pair: Pair, calls: int) -> None:
    pair.waiting()
    message = cancelled(pair)
    pair.deliver(message, calls=calls)
    if pair.left():
        pair.deliver(message)
        pair.deliver(RemoteChildFinished(CHILD))
    child = pair.there.run(CHILD)
    assert child.status is RunStatus.CANCELLED
    assert child.failure == pair.here.run(PARENT).failure
    assert pair.left() == 0
    assert not pair.is_kept()


def test_children_may_be_left_alone(pair: Pair) -> None:
    pair.waiting()
    pair.here.cancel(PARENT, children=False)
    assert pair.messages() == []
    assert pair.there.run(CHILD).status is RunStatus.RUNNING


def test_a_child_that_is_still_to_be_started_is_cancelled_after_that(pair: Pair) -> None:
    _, asked = pair.asked()
    message = cancelled(pair)
    pair.unchanged(lambda: pair.deliver(message))
    pair.deliver(asked)
    assert pair.there.run(CHILD).status is RunStatus.QUEUED
    pair.deliver(message)
    assert pair.there.run(CHILD).status is RunStatus.CANCELLED
    assert pair.left() == 0


@pytest.mark.parametrize("before", range(2))
def test_a_child_that_is_started_while_it_is_cancelled_does_not_stay(pair: Pair, before: int) -> None:
    """Between any two calls of who cancels it, another makes it, and takes the message off."""
    _, asked = pair.asked()
    message = cancelled(pair)
    dialogue = deliver(pair.here.partition, message, worker="w1")
    calls = next(dialogue)
    for n in range(2):
        if n == before:
            pair.deliver(asked)
        with contextlib.suppress(StopIteration):
            calls = dialogue.send([pair.here.send(call) for call in calls])
    if pair.left():
        pair.deliver(message)
    if pair.left():
        pair.deliver(RemoteChildFinished(CHILD))
    assert pair.there.run(CHILD).status is RunStatus.CANCELLED
    assert pair.left() == 0


def test_a_child_that_has_ended_stays_as_it_is(pair: Pair) -> None:
    _, child = pair.waiting()
    pair.there.finish(child)
    pair.deliver(cancelled(pair))
    assert pair.there.run(CHILD).status is RunStatus.COMPLETED
    assert pair.left() == 0


def test_a_child_that_is_cancelled_itself_tells_its_parent(pair: Pair) -> None:
    pair.waiting()
    pair.there.cancel(CHILD)
    pair.deliver(RemoteChildFinished(CHILD))
    assert pair.outcome()[0] == "cancelled"


# -- the stream ----------------------------------------------------------------------


def test_entries_that_nobody_knows_are_left_alone(pair: Pair) -> None:
    stream = pair.here.keys("FINISHED")
    for fields in ({"later": "1"}, {"start": CHILD}, {"cancel": CHILD, "start": "1-1", "retention_ms": "soon"}):
        pair.here.client.xadd(stream, fields)
    assert pair.messages() == []
    assert pair.here.client.xlen(stream) == 3
