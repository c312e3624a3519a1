"""Signals, asks, timeouts, cancelled steps, dead workers and the end of a run, in random orders, against a model.

=====  =============================================================================================
``S1``   the signals that a run keeps and the waits that have received one are all that it was sent, each once
``S2``   signals of a name are received in the order of their arrival, by waits in the order of their beginning
``S3``   a step that asks has the first answer, or none after its time, for good
=====  =============================================================================================

The invariants of `tests.support.invariants` hold after each call, and the doctor finds nothing at the end.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import Phase
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from stepflow_broker.doctor.examine import examine
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.asks import AnswerStart, answer_ask, begin_ask
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_broker.transitions.steps.signals import begin_signal_wait, read_signals, send_signal
from stepflow_broker.transitions.steps.waits import WaitStart
from stepflow_engine.codec import dumps, loads
from stepflow_engine.ids import step_key
from stepflow_engine.state_machine import RunStatus
from tests.property.test_transitions import LATE, UNROUTED, examples
from tests.support.backends import Store, fake_store, real_store
from tests.support.driver import LEASE_MS, RETENTION_MS, Driver

RUN = "run1"
NAMES = ("go", "stop")
WAIT_MS = 3 * LEASE_MS


@dataclass(slots=True)
class Wait:
    """A wait that has begun and not ended; ``name`` is that of its signal, or ``""`` for an ask."""

    name: str
    due: int


@dataclass(slots=True)
class Model:
    """What must be true of one run.

    Attributes:
        kept: number and name of the signals that no wait has received.
        waits: the waits by step, in the order of their beginning.
        memos: what each ended step has: the number of its signal or answer; ``None``: its time was over.
    """

    status: RunStatus = RunStatus.QUEUED
    ids: set[int] = field(default_factory=set)
    kept: list[tuple[int, str]] = field(default_factory=list)
    waits: dict[str, Wait] = field(default_factory=dict)
    memos: dict[str, int | None] = field(default_factory=dict)

    def end_wait(self, step: str, value: int | None) -> None:
        del self.waits[step]
        self.memos[step] = value

    def send(self, number: int, name: str) -> ScriptStatus:
        if number in self.ids:
            return ScriptStatus.ALREADY
        if self.status.ended:
            return ScriptStatus.NO_RUN
        self.ids.add(number)
        step = next((step for step, wait in self.waits.items() if wait.name == name), None)
        if step is None:
            self.kept.append((number, name))
        else:
            self.end_wait(step, number)
        return ScriptStatus.DONE

    def begin(self, step: str, name: str, due: int) -> ScriptStatus:
        if step in self.waits or step in self.memos:
            return ScriptStatus.ALREADY
        first = next((one for one in self.kept if one[1] == name), None)
        if first is None:
            self.waits[step] = Wait(name, due)
            return ScriptStatus.DONE
        self.kept.remove(first)
        self.memos[step] = first[0]
        return ScriptStatus.RESOLVED


class Signals(RuleBasedStateMachine):
    """Calls scripts and the model alike."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.store.client.flushall()
        self.driver = Driver(self.store)
        self.model = Model()
        self.numbers = itertools.count(1)
        self.steps = itertools.count(1)
        self.lease: Lease | None = None
        self.stale: list[Lease] = []
        self.driver.start(RUN)

    def is_live(self) -> bool:
        return not self.model.status.ended

    # -- what others do ----------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), again=st.integers(0, 3), twice=st.booleans())
    def send(self, name: str, again: int, twice: bool) -> None:
        """A new signal, or one that was sent before, to any run that exists."""
        number = next(self.numbers) if again or not self.model.ids else max(self.model.ids)
        self.driver.twice = twice
        call = send_signal(self.driver.partition, run_id=RUN, name=name, signal_id=f"s{number}", data=dumps(number))
        expected = self.model.send(number, name)
        assert self.driver.send(call)[0] is expected

    @precondition(lambda self: any(not wait.name for wait in self.model.waits.values()) or self.model.memos)
    @rule(data=st.data(), twice=st.booleans())
    def answer(self, data: st.DataObject, twice: bool) -> None:
        open_ = [step for step, wait in self.model.waits.items() if not wait.name]
        step = data.draw(st.sampled_from([*open_, *self.model.memos]))
        number = next(self.numbers)
        self.driver.twice = twice
        answer = AnswerStart(step_key(step), _detail(step, ""), dumps(number), f"a{number}", "ada", "shop", b"{}")
        code = self.driver.send(answer_ask(self.driver.partition, answer, run_id=RUN))
        if step in open_:
            assert code is ScriptStatus.DONE
            self.model.end_wait(step, number)
        else:
            assert code is ScriptStatus.ALREADY

    @rule(milliseconds=st.sampled_from([1, LEASE_MS, WAIT_MS]), twice=st.booleans())
    def pass_time(self, milliseconds: int, twice: bool) -> None:
        """Time passes, timers fire, and the jobs of workers that do not extend their leases are reclaimed."""
        self.driver.twice = twice
        self.driver.now_ms += milliseconds
        self.driver.fire()
        for step, wait in list(self.model.waits.items()):
            if wait.due <= self.driver.now_ms:
                self.model.end_wait(step, None)
        if self.driver.reclaim() and self.lease is not None:
            self.stale.append(self.lease)
            self.lease = None

    # -- what the worker does ------------------------------------------------------------

    @precondition(lambda self: self.lease is None and self.is_live())
    @rule()
    def claim(self) -> None:
        """A worker takes the run, if something has queued it."""
        for lease in self.driver.claim() or ():
            self.lease = lease

    @precondition(lambda self: self.lease is not None)
    @rule(names=st.lists(st.sampled_from(("", *NAMES)), min_size=1, max_size=4), twice=st.booleans())
    def begin(self, names: list[str], twice: bool) -> None:
        """The code begins waits, several at once in a gather."""
        assert self.lease is not None
        for name in names:
            step = f"{name or 'ask'}-{next(self.steps)}"
            self.driver.twice = twice
            expected = self.model.begin(step, name, self.driver.now_ms + WAIT_MS)
            assert self.request(self.lease, step, name) is expected

    @precondition(lambda self: self.lease is not None and self.model.waits)
    @rule(data=st.data())
    def begin_again(self, data: st.DataObject) -> None:
        """After the death of its worker, the code requests again what it has requested before."""
        step = data.draw(st.sampled_from(list(self.model.waits)))
        assert self.lease is not None
        assert self.request(self.lease, step, self.model.waits[step].name) is ScriptStatus.ALREADY

    @precondition(lambda self: self.stale)
    @rule(name=st.sampled_from(("", *NAMES)))
    def begin_late(self, name: str) -> None:
        """A worker that has lost the run takes nothing."""
        assert self.request(self.stale[-1], "late", name) in (ScriptStatus.STALE_FENCE, ScriptStatus.NO_RUN)

    def request(self, lease: Lease, step: str, name: str) -> ScriptStatus:
        start = WaitStart(step_key(step), step, _detail(step, name), WAIT_MS)
        partition = self.driver.partition
        if not name:
            return self.driver.send(begin_ask(partition, start, run_id=RUN, fence=lease.fence))
        return self.driver.send(begin_signal_wait(partition, start, name, run_id=RUN, fence=lease.fence))[0]

    @precondition(lambda self: self.lease is not None and self.model.waits)
    @rule(data=st.data(), twice=st.booleans())
    def give_up(self, data: st.DataObject, twice: bool) -> None:
        """The code cancels a wait, such as the loser of a race."""
        step = data.draw(st.sampled_from(list(self.model.waits)))
        assert self.lease is not None
        self.driver.twice = twice
        call = cancel_steps(
            self.driver.partition,
            run_id=RUN,
            fence=self.lease.fence,
            keys=[step_key(step)],
            retention_ms=RETENTION_MS,
        )
        assert self.driver.send(call) is ScriptStatus.DONE
        del self.model.waits[step]

    @precondition(lambda self: self.lease is not None and self.model.waits)
    @rule(twice=st.booleans())
    def park(self, twice: bool) -> None:
        assert self.lease is not None
        self.driver.twice = twice
        assert self.driver.park(self.lease, len(self.model.memos)) is ScriptStatus.DONE
        self.stale.append(self.lease)
        self.lease = None

    @precondition(lambda self: self.is_live() and len(self.model.ids) + len(self.model.memos) > 6)
    @rule(twice=st.booleans())
    def end(self, twice: bool) -> None:
        """The code returns, or somebody cancels the run."""
        self.driver.twice = twice
        if self.lease is not None:
            self.driver.finish(self.lease)
            self.model.status = RunStatus.COMPLETED
        else:
            self.driver.cancel(RUN)
            self.model.status = RunStatus.CANCELLED
        self.lease = None
        self.model.waits.clear()

    # -- what holds ------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_and_nothing_is_received_twice(self) -> None:
        read = self.store.broker.execute(read_signals(self.driver.partition, RUN))
        assert [(one.data, one.name) for one in read] == self.model.kept
        memos = {memo["id"]: memo for memo in (loads(text) for _, text in self.driver.memos(RUN))}
        values = {step: _value(memo) for step, memo in memos.items()}
        assert values == self.model.memos
        received = [value for step, value in values.items() if value is not None and not step.startswith("ask")]
        assert sorted([*received, *(number for number, _ in self.model.kept)]) == sorted(self.model.ids)

    def teardown(self) -> None:
        found = examine(self.store.broker, self.driver.partition)
        assert [finding for finding in found if finding.code not in LATE | UNROUTED | {"group_missing"}] == []


def _detail(step: str, name: str) -> bytes:
    known: dict[str, Any] = {"kind": "signal", "signal": name} if name else {"kind": "ask", "schema": True}
    return dumps({"id": step, **known})[1:]


def _value(memo: dict[str, Any]) -> int | None:
    data = memo["data"]
    return data["data"] if isinstance(data, dict) else data


def run_machine(store: Store, how: Any) -> None:
    try:
        run_state_machine_as_test(type("SignalsHere", (Signals,), {"store": store}), settings=how)
    finally:
        store.client.close()
        store.broker.close()


@pytest.mark.slow
def test_signals_and_answers_are_received_once_whatever_happens_on_a_real_server(url: str) -> None:
    run_machine(real_store(url), examples(50, Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink))


def test_signals_and_answers_are_received_once_whatever_happens_on_fakeredis() -> None:
    run_machine(fake_store(), examples(5, Phase.explicit, Phase.reuse, Phase.generate))
