"""The end of a child and the timeout of the wait for it, within two milliseconds of one another, on a real server."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.invokes import invokes
from stepflow_broker.transitions.invokes.invokes import ChildStart
from stepflow_broker.transitions.jobs import continuations, job_claims, timers
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs import run_ends, run_memos, run_starts
from stepflow_broker.transitions.steps import step_record
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.ids import step_key
from stepflow_engine.memo import memo_of_failure
from stepflow_engine.state_machine import RunStatus
from tests.support.invariants import check_invariants
from tests.support.plain import PLAIN

KEYS = Keys()
KEY = step_key("call")
BATCH = 500
LEAD_MS = 400
SPACING_MS = 1
AROUND_S = 0.002
PARENT, CHILD = (FunctionConfig("shop", name, name, retention_ms=600_000) for name in ("parent", "child"))


@dataclass(frozen=True, slots=True)
class Trial:
    """A parent, its child, and when the wait is over, in ms since the epoch."""

    parent: Lease
    child: Lease
    due_ms: int


class Race:
    """One batch of trials. Half of the parents are parked; the others are held by a worker meanwhile.

    Args:
        broker, other: two connections, for the two sides of the race.
    """

    def __init__(self, broker: Broker, other: Broker, client: redis.Redis, chance: random.Random) -> None:
        self._broker = broker
        self._other = other
        self._client = client
        self._chance = chance

    def run(self) -> Counter[str]:
        """Have the trials happen, and count their outcomes."""
        self._client.flushdb()
        self._broker.execute(create_group(KEYS, "FINISHED"))
        trials = self._prepare()
        finisher = threading.Thread(target=self._finish_all, args=(trials,))
        timer = threading.Thread(target=self._fire_all)
        for thread in (finisher, timer):
            thread.start()
        for thread in (finisher, timer):
            thread.join(60)
            assert not thread.is_alive(), "a side of the race did not come to its end"
        check_invariants(self._client)
        return self._outcomes(trials)

    def _prepare(self) -> list[Trial]:
        names = [f"parent{n}" for n in range(BATCH)]
        self._broker.execute_all(
            [run_starts.start_run(PLAIN, PARENT, run_id=name, event=_event(name), dedupe=False) for name in names]
        )
        parents = self._claim("parent")
        self._broker.execute_all([self._invoke(parent, LEAD_MS + n * SPACING_MS) for n, parent in enumerate(parents)])
        children = {child.parent: child for child in self._claim("child")}
        self._broker.execute_all([_park(parent) for parent in parents[::2]])
        steps = self._broker.execute_all([step_record.read_steps(PLAIN, parent.run_id) for parent in parents])
        return [
            Trial(parent, children[parent.run_id], step.due_at or 0)
            for parent, (step,) in zip(parents, steps, strict=True)
        ]

    def _claim(self, queue: str) -> list[Lease]:
        lists = job_claims.queue_lists([queue])
        claimed = self._broker.execute(
            job_claims.claim_jobs(PLAIN, lists=lists, worker="w", limit=BATCH * 2, lease_ms=600_000)
        )
        return claimed.leases if claimed else []

    @staticmethod
    def _invoke(parent: Lease, timeout_ms: int) -> Command[Any]:
        child = f"childof{parent.run_id}"
        start = ChildStart(
            key=KEY,
            step_id="call",
            child=child,
            event=_event(child),
            detail=dumps({"id": "call"})[1:],
            timeout_ms=timeout_ms,
            timeout_memo=memo_of_failure(Failure("InvokeTimeoutError", "too late"), {"outcome": "timeout"}),
            refusal=b"",
            config=CHILD,
            depth=1,
        )
        return invokes.invoke_child(PLAIN, start, run_id=parent.run_id, fence=parent.fence, version=0)

    # -- the two sides -------------------------------------------------------------

    def _finish_all(self, trials: Sequence[Trial]) -> None:
        """As a worker does: end the child and wake its parent in one round trip."""
        times = {
            trial.child.run_id: trial.due_ms / 1000 + self._chance.uniform(-AROUND_S, AROUND_S) for trial in trials
        }
        for trial in sorted(trials, key=lambda trial: times[trial.child.run_id]):
            time.sleep(max(0.0, times[trial.child.run_id] - time.time()))
            calls: list[Command[Any]] = [
                _finish(trial.child),
                invokes.wake_parent(PLAIN, trial.child.run_id, worker="w"),
            ]
            code, _ = self._broker.execute_all(calls)
            assert code is ScriptStatus.DONE

    def _fire_all(self) -> None:
        """As a worker does: sleep until something is due, and have it happen."""
        next_ms = 0
        while next_ms >= 0:
            time.sleep(next_ms / 1000)
            _, next_ms = self._other.execute(timers.fire_timers(PLAIN))

    # -- what came of it -----------------------------------------------------------

    def _outcomes(self, trials: Sequence[Trial]) -> Counter[str]:
        """Each step has one outcome, and each parent goes on once, and ends."""
        memos = self._broker.execute_all([run_memos.read_memos(PLAIN, trial.parent.run_id) for trial in trials])
        held = [trial.parent for trial in trials[1::2]]
        assert self._broker.execute_all([_park(parent) for parent in held]) == [ScriptStatus.MORE] * len(held)
        woken = self._claim("parent")
        assert sorted(lease.run_id for lease in woken) == sorted(trial.parent.run_id for trial in trials[::2])
        assert {lease.applied for lease in woken} == {1}
        assert set(self._broker.execute_all([_finish(lease) for lease in [*held, *woken]])) == {ScriptStatus.DONE}
        check_invariants(self._client)
        assert not self._client.exists(KEYS("LIVE"), KEYS("TIMEOUTS"), KEYS("LEASES")), "something is left over"
        assert self._client.xlen(KEYS("FINISHED")) == 0, "a finished event is left over"
        return Counter(self._outcome(*found) for found in memos)

    @staticmethod
    def _outcome(*memos: tuple[str, bytes]) -> str:
        ((key, text),) = memos
        assert key == KEY
        memo = json.loads(text)
        assert (memo.get("data"), memo["outcome"]) in [("done", "completed"), (None, "timeout")]
        return str(memo["outcome"])


def _event(run: str) -> bytes:
    return dumps({"name": "e", "id": run, "ts": 1, "data": {}})


def _park(parent: Lease) -> Command[ScriptStatus]:
    return continuations.park_run(PLAIN, run_id=parent.run_id, fence=parent.fence, applied=0)


def _finish(lease: Lease) -> Command[ScriptStatus]:
    return run_ends.finish_run(
        PLAIN,
        run_id=lease.run_id,
        fence=lease.fence,
        status=RunStatus.COMPLETED,
        payload=b'"done"',
        retention_ms=600_000,
    )


@pytest.mark.timeout(3600)
def test_a_timeout_and_a_finish_that_meet_have_one_outcome_and_the_parent_ends(
    url: str, client: redis.Redis, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(1_000_000)
    race = Race(Broker(url), Broker(url), client, random.Random(seed))
    trials = 100_000 if long else 2_000
    outcomes: Counter[str] = Counter()
    for _ in range(trials // BATCH):
        outcomes += race.run()
    with capsys.disabled():
        print(f"\n{trials} timeouts within 2 ms of the finish (seed {seed}): {dict(outcomes)}")
    assert outcomes.total() == trials
    assert set(outcomes) == {"completed", "timeout"}, "the race was not close: one side always won"
