"""What ``stepflow runs show`` prints of the steps and attempts of a run."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from stepflow_broker.transitions.runs.attempts import FAILED
from stepflow_broker.transitions.runs.run_record import RunRecord, parse_run
from stepflow_broker.views.attempt_view import AttemptView
from stepflow_broker.views.run_details import RunDetails
from stepflow_broker.views.run_tree import RunTree
from stepflow_broker.views.run_view import view_run
from stepflow_broker.views.step_view import StepView
from stepflow_cli.run_view.timeline import timeline
from stepflow_engine.failure import Failure

CREATED = 1_735_689_600_000
FIELDS = {
    "status": b"failed",
    "app": b"shop",
    "function": b"order",
    "queue": b"shop",
    "event": b'{"name":"e","id":"e","ts":1,"data":null}',
    "created_at": b"%d" % CREATED,
    "started_at": b"%d" % (CREATED + 10),
    "ended_at": b"%d" % (CREATED + 1_010),
    "error": b'{"name":"KeyError","message":"order","traceback":"","cause":null}',
}


def shown(details: RunDetails) -> dict[str, list[str]]:
    """The words of each line by the first of them, on a wide terminal."""
    out = Console(file=StringIO(), width=200)
    out.print(timeline(details, 200))
    assert isinstance(out.file, StringIO)
    lines = (line.split() for line in out.file.getvalue().splitlines())
    return {line[0]: line[1:] for line in lines if line}


def details(*steps: StepView, run: RunRecord | None = None, history: tuple[AttemptView, ...] = ()) -> RunDetails:
    found = run or parse_run("run1", FIELDS)
    assert found is not None
    return RunDetails(found, list(steps), RunTree(view_run(found)), history=history)


def test_the_times_of_a_fork_begin_with_the_fork() -> None:
    run = parse_run("run1", {**FIELDS, "forked_from": b"run0"})
    hour = 3_600_000
    kept = StepView("price", "k1", "done", 1, started_at=CREATED - hour, ended_at=CREATED - hour + 7)
    given = StepView("stock", "k2", "done", 0, started_at=CREATED - 5, ended_at=CREATED - 5)
    executed = StepView("charge", "k3", "done", 1, started_at=CREATED + 510, ended_at=CREATED + 1_010)
    lines = shown(details(kept, given, executed, run=run))
    assert lines["price"][:4] == ["done", "1", "kept", "7ms"]
    assert lines["stock"][:4] == ["done", "0", "given", "0ms"]
    assert lines["charge"][2:4] == ["+500ms", "500ms"]
    bar = lines["charge"][4]
    assert bar.count("━") == bar.count("·") == 16, "the second half of the time of the fork"


def test_the_steps_of_a_run_that_is_no_fork_are_its_own() -> None:
    """A worker whose clock is behind gives times before the start of the run."""
    early = StepView("price", "k1", "done", 1, started_at=CREATED - 20, ended_at=CREATED - 10)
    assert shown(details(early))["price"][2] == "+0ms"


def test_the_last_attempt_of_the_code_between_steps_is_listed_after_the_others() -> None:
    error = Failure("KeyError", "order")
    first = AttemptView(1, FAILED, CREATED + 10, CREATED + 20, failure=error)
    last = AttemptView(2, FAILED, CREATED + 1_000, CREATED + 1_010, failure=error)
    run = parse_run("run1", {**FIELDS, "attempt": b"1"})
    assert run is not None
    out = Console(file=StringIO(), width=200)
    out.print(timeline(details(run=run, history=(first, last)), 200))
    assert isinstance(out.file, StringIO)
    assert out.file.getvalue().count("(code between steps)") == 2
    alone = details(run=replace(run, attempt=0), history=(replace(last, number=1),))
    assert "ATTEMPT" not in shown(alone)
