"""A call on a run acts in the partition of the run, whichever partition of the server it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.events import event_stream as events
from stepflow_broker.transitions.invokes import invokes, remote_invokes
from stepflow_broker.transitions.invokes.outbox import StartChild
from stepflow_broker.transitions.jobs import continuations
from stepflow_broker.transitions.runs import (
    batches,
    run_control,
    run_ends,
    run_memos,
    run_notes,
    run_record,
    run_starts,
    run_state,
)
from stepflow_broker.transitions.steps import step_jobs, step_record, waits
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.state_machine import RunStatus

RUN, PARENT = "0002" + "a" * 28, "0003" + "b" * 28
PARTITIONS = Partition.first_of(Keys.over(4), NO_ENCRYPTION).all
CONFIG = FunctionConfig("shop", "buy", "shop")
EVENT = b'{"name":"e","id":"1","ts":1,"data":{}}'
STREAMED = events.StreamedEvent("1-1", EVENT, "1", dedupe=False)
CHILD = invokes.ChildStart("k", "a", RUN, EVENT, b'"id":"a"}', 1, b"{}", b"", CONFIG, 1)
HELD: dict[str, Any] = {"run_id": RUN, "fence": 3}
CALLS: dict[str, Callable[[Partition], Command[Any]]] = {
    "begin_wait": lambda at: waits.begin_wait(at, waits.WaitStart("k", "a", b"", 1), **HELD),
    "cancel_run": lambda at: run_control.cancel_run(at, run_id=RUN, failure=b"{}", retention_ms=1),
    "commit_planned_step": lambda at: step_jobs.commit_planned_step(at, **HELD, key="k", memo=b"{}", worker="w"),
    "commit_step": lambda at: step_jobs.commit_step(at, **HELD, key="k", memo=b"{}"),
    "count_steps": lambda at: run_state.count_steps(at, RUN),
    "deliver_event": lambda at: waits.deliver_event(at, RUN, "k", EVENT, event_id="e1"),
    "end_batch": lambda at: batches.end_batch(at, RUN),
    "fail_attempt": lambda at: step_jobs.fail_attempt(
        at, **HELD, job_key="", key="k", step_id="a", attempts=1, error=b"{}", delay_ms=1
    ),
    "finish_run": lambda at: run_ends.finish_run(
        at, **HELD, status=RunStatus.COMPLETED, payload=b"1", retention_ms=1, failed_event=(EVENT, "1")
    ),
    "forget_deaths": lambda at: run_notes.forget_deaths(at, RUN),
    "invoke_child": lambda at: invokes.invoke_child(at, CHILD, **HELD, version=1),
    "invoke_remote_child": lambda at: remote_invokes.invoke_remote_child(at, CHILD, **HELD, version=1),
    "load_batch": lambda at: batches.load_batch(at, RUN),
    "load_run": lambda at: run_memos.load_run(at, RUN, 0),
    "park_run": lambda at: continuations.park_run(at, **HELD, applied=1),
    "plan_steps": lambda at: step_jobs.plan_steps(at, **HELD, steps=[("k", "a")]),
    "read_condition": lambda at: waits.read_condition(at, RUN, "k"),
    "read_condition of a cancel event": lambda at: waits.read_condition(at, RUN, "!1"),
    "read_end": lambda at: remote_invokes.read_end(at, RUN),
    "read_memos": lambda at: run_memos.read_memos(at, RUN),
    "read_run": lambda at: run_record.read_run(at, RUN),
    "read_status": lambda at: run_state.read_status(at, RUN),
    "read_steps": lambda at: step_record.read_steps(at, RUN),
    "retry_run": lambda at: continuations.retry_run(at, **HELD, attempts=1, error=b"{}", delay_ms=1),
    "send_events": lambda at: waits.send_events(
        at, **HELD, key="k", memo=b"{}", events=[waits.SentEvent(EVENT, "1", dedupe=True)]
    ),
    "start_by_event": lambda at: events.start_by_event(at, RUN, CONFIG, STREAMED),
    "start_remote_child": lambda at: remote_invokes.start_remote_child(at, StartChild("1-1", RUN, EVENT, ())),
    "start_run": lambda at: run_starts.start_run(at, CONFIG, run_id=RUN, event=EVENT, dedupe=True),
    "start_runs": lambda at: run_starts.start_runs(at, CONFIG, [(RUN, EVENT)]),
    "wake_parent": lambda at: invokes.wake_parent(at, RUN, worker="w"),
    "wake_remote_parent": lambda at: remote_invokes.wake_remote_parent(
        at, remote_invokes.RemoteChildResult(PARENT, RUN, "k", "completed", b"1", b"", "1-1", "2-1"), worker="w"
    ),
    "yield_run": lambda at: continuations.yield_run(at, **HELD),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_on_a_run_names_keys_of_its_partition_only(name: str) -> None:
    home = PARTITIONS[2]
    for given in PARTITIONS:
        command = CALLS[name](given)
        assert command.args == CALLS[name](home).args
        tagged = [arg for arg in command.args if isinstance(arg, str) and arg.startswith("{sf:")]
        assert tagged
        assert all(arg.startswith(home.tag) for arg in tagged)
