"""The timeline of a run: its properties, its steps with a bar for the time of their execution, and its tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.transitions.runs.attempts import FAILED, UNFINISHED, WORKER_DIED
from stepflow_broker.transitions.runs.run_record import RunRecord
from stepflow_broker.transitions.steps.signals import WaitingSignal
from stepflow_broker.views.attempt_view import RUNNING, AttemptView
from stepflow_broker.views.map_view import MapProgress
from stepflow_broker.views.mismatch_view import mismatch_text
from stepflow_broker.views.run_details import RunDetails
from stepflow_broker.views.run_pauses import pause_text
from stepflow_broker.views.step_view import StepView
from stepflow_broker.views.times import local_time
from stepflow_broker.views.wait_view import WAITING
from stepflow_cli.formatting import (
    Cell,
    brief,
    brief_failure,
    cut,
    printable,
    since,
    span,
    state_text,
    table,
    unserved,
    waits_until,
)
from stepflow_cli.run_view.run_tree_view import run_tree
from stepflow_cli.run_view.wait_text import ended_text, wait_text
from stepflow_engine.durations import show_duration
from stepflow_engine.steps import StepKind
from stepflow_engine.terminal_text import traceback_text

__all__ = ["timeline"]

_WORKER_WIDTH = 100
_BAR_WIDTH = 120
_LONGEST_BAR = 32
_LONGEST_ID = 32
_LONGEST_WORKER = 24
_SHOWN_FORKS = 5
_SHOWN_SIGNALS = 5
_LONGEST_VALUE = 60
_BAR_STYLES = {"done": "green", "failed": "red"}
_MOST_ATTEMPTS = 20
_NO_RESULT = (FAILED, WORKER_DIED, UNFINISHED)


def timeline(details: RunDetails, width: int, *, whole_tracebacks: bool = False) -> RenderableType:
    """The details of a run for a terminal of this width in cells."""
    now = REAL_CLOCK.now_ms()
    parts: list[RenderableType] = [_properties(details, now)]
    if details.steps:
        parts += ["", _steps(details.run, details.steps, width, now)]
    if history := list(_history(details)):
        parts += ["", _attempts(details, history, width)]
    if (tree := run_tree(details.tree, width)) is not None:
        parts += ["", tree]
    if text := _traceback(details, whole=whole_tracebacks):
        style = "red" if details.run.ended_at else "yellow"
        parts += ["", Padding(Text(text, style=style, overflow="fold"), (0, 0, 0, 2))]
    return Group(*parts)


# -- the run -------------------------------------------------------------------


def _properties(details: RunDetails, now: int) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _rows(details, now):
        grid.add_row(name, value)
    return grid


def _rows(details: RunDetails, now: int) -> Iterator[tuple[str, RenderableType]]:
    run = details.run
    yield "run", run.id
    yield "function", run.name
    yield "status", _status(run, now)
    if run.tags:
        yield "tags", printable("  ".join(f"{name}={value}" for name, value in run.tags.items()))
    if run.patches:
        ways = (f"{name}={'yes' if patched else 'no'}" for name, patched in run.patched.items())
        yield "patches", printable("  ".join(ways))
    if run.values is not None:
        yield "values", printable(_values(run.values))
    yield "event", printable(f"{run.event['name']}  {brief(run.event['data'], 120)}")
    yield "created", f"{local_time(run.created_at)}  ({since(run.created_at, now)})"
    if run.started_at is not None:
        yield "started", f"after {span(run.created_at, run.started_at)}"
        yield "took" if run.ended_at else "so far", span(run.started_at, run.ended_at or now)
    yield from _execution(run)
    if run.forked_from:
        yield "fork of", _source(run, is_forgotten=run.forked_from in details.forgotten)
    if details.forks:
        yield "forks", " ".join(details.forks[:_SHOWN_FORKS])
    if details.signals:
        yield "signals", Text(printable(_signals(details.signals, now)), style="yellow")
    for pause in details.pauses:
        yield "paused", Text(printable(pause_text(pause)), style="yellow")
    if text := mismatch_text(run):
        yield "history", Text(printable(text), style="yellow")
    if run.blocked:
        yield "blocked", Text(printable(run.blocked), style="yellow")
    if details.tree.served is False:
        yield "", Text(unserved(run.queue), style="yellow")
    yield from _end(run)


def _values(values: Any) -> str:
    """What the code of the run has set; ``encrypted`` without the key."""
    if not isinstance(values, dict):
        return str(values)
    return "  ".join(f"{name}={brief(value, _LONGEST_VALUE)}" for name, value in values.items())


def _signals(signals: Sequence[WaitingSignal], now: int) -> str:
    """The signals that no wait has received."""
    texts = [
        f"{one.name} {brief(one.data, _LONGEST_VALUE)} ({since(one.at_ms, now)})" for one in signals[:_SHOWN_SIGNALS]
    ]
    more = len(signals) - len(texts)
    return "not received yet: " + ", ".join(texts) + (f" and {more:,} more" if more else "")


def _end(run: RunRecord) -> Iterator[tuple[str, RenderableType]]:
    """How the run has ended, or why its last attempt failed."""
    if run.status == "completed":
        yield "result", printable(brief(run.output))
    elif run.status == "skipped":
        yield "reason", Text(printable(run.reason), style="magenta")
    elif run.status == "cancelled" and run.failure is not None and run.failure.message:
        yield "reason", Text(cut(printable(run.failure.message), 600), style="magenta")
    elif run.failure is not None:
        yield "error", Text(printable(brief_failure(run.failure, 600)), style="red")


def _source(run: RunRecord, *, is_forgotten: bool) -> str:
    """The run that this one repeats, from which step on, and who wanted it."""
    forgotten = " (forgotten)" if is_forgotten else ""
    before = f", before step {run.forked_at}" if run.forked_at else ""
    by = f"  ({run.forked_by})" if run.forked_by else ""
    return printable(f"{run.forked_from}{forgotten}{before}{by}")


def _execution(run: RunRecord) -> Iterator[tuple[str, str]]:
    """What executes a run, or executed it: its batch, version, attempt and worker."""
    if run.batch:
        yield "batch", run.batch if run.batch != run.id else "this run executes a batch of runs"
    if run.version:
        ended = f", ended with {run.ended_version}" if run.ended_at and run.ended_version != run.version else ""
        pinned = " (pinned)" if run.pinned and not run.ended_at else ""
        yield "version", printable(f"{run.version}{pinned}{ended}")
    if run.round:
        yield "round", f"{run.round}, after {run.round} that {'has' if run.round == 1 else 'have'} ended"
    if run.attempt:
        yield "attempt", f"{run.attempt + 1} of the code between steps"
    if run.owner or run.ended_by:
        yield "worker", printable(run.owner or run.ended_by)


def _status(run: RunRecord, now: int) -> Text:
    text = state_text(run.status)
    if run.undoing:
        text.append(f"  undoing its steps, ends as {run.undoing}", style="yellow")
    if run.due_at is not None:
        what = "next attempt" if run.started_at else "starts"
        text.append(f"  {what} in {show_duration(max(0, run.due_at - now))}", style="yellow")
    return text


def _traceback(details: RunDetails, *, whole: bool) -> str:
    """The traceback of the run, else of its first step that is tried again; ``""`` if there is none."""
    if details.run.status == "cancelled":
        return ""
    retried = (step.failure for step in details.steps if step.state == "retrying")
    failure = details.run.failure or next(retried, None)
    return "" if failure is None else traceback_text(failure, whole=whole)


# -- steps ---------------------------------------------------------------------


def _steps(run: RunRecord, steps: Sequence[StepView], width: int, now: int) -> Table:
    with_worker, with_bar = width >= _WORKER_WIDTH, width >= _BAR_WIDTH
    headers = ["STEP", "STATE", "TRIES", "START", "TOOK"]
    headers += ["WORKER"] * with_worker + [""] * with_bar + ["RESULT"]
    made = table(*headers, right=("TRIES", "START", "TOOK"))
    made.columns[0].max_width = _LONGEST_ID
    if with_worker:
        made.columns[5].max_width = _LONGEST_WORKER
    made.columns[-1].ratio = 1
    made.expand = True
    executed = [step for step in steps if not _inherited(run, step)]
    begin, end = _time_axis(run, executed, now)
    for step in steps:
        inherited = _inherited(run, step)
        cells: list[Cell] = [Text(printable(step.id)), state_text(step.state), str(step.attempts)]
        cells += [Text(inherited, style="dim") if inherited else _start(step, begin, now)]
        cells += [span(step.started_at, step.ended_at or (now if _is_live(step) else None))]
        cells += [printable(step.worker)] * with_worker
        cells += [Text() if inherited else _bar(step, begin, end)] * with_bar
        made.add_row(*cells, _result(step, now))
    return made


def _inherited(run: RunRecord, step: StepView) -> str:
    """What a fork has of a step that it has not executed: ``kept`` or ``given`` results; ``""``: none."""
    if not run.forked_from or step.ended_at is None or step.state not in ("done", "failed"):
        return ""
    if not step.attempts:
        return "given"
    return "kept" if step.ended_at < run.created_at else ""


# -- attempts that gave no result ---------------------------------------------------


def _history(details: RunDetails) -> Iterator[tuple[str, AttemptView]]:
    """The step and the attempt of each attempt that gave no result; ``""``: of the code between steps.

    The only attempt of the code between steps is left out: its error is that of the run.
    """
    for attempt in details.history:
        if attempt.outcome in _NO_RESULT and (attempt.ended_at != details.run.ended_at or details.run.attempt):
            yield "", attempt
    for step in details.steps:
        for attempt in step.history:
            if attempt.outcome in _NO_RESULT and (attempt.outcome != UNFINISHED or step.state != UNFINISHED):
                yield step.id, attempt


def _attempts(details: RunDetails, history: Sequence[tuple[str, AttemptView]], width: int) -> Table:
    """The latest attempts that gave no result, in the order of their ends."""
    with_worker, with_version = width >= _WORKER_WIDTH, any(one.version != details.run.version for _, one in history)
    headers = ["ATTEMPT OF", "TRY", "START", "TOOK", *["WORKER"] * with_worker, *["VERSION"] * with_version, "ERROR"]
    made = table(*headers, right=("TRY", "START", "TOOK"))
    made.columns[0].max_width = _LONGEST_ID
    if with_worker:
        made.columns[4].max_width = _LONGEST_WORKER
    made.columns[-1].ratio, made.expand = 1, True
    begin = details.run.started_at or details.run.created_at
    for step_id, attempt in sorted(history, key=lambda one: one[1].ended_at or 0)[-_MOST_ATTEMPTS:]:
        start = "" if attempt.started_at is None else f"+{show_duration(max(0, attempt.started_at - begin))}"
        cells: list[Cell] = [printable(step_id) if step_id else Text("(code between steps)", style="dim")]
        cells += [str(attempt.number), start, span(attempt.started_at, attempt.ended_at)]
        cells += [printable(attempt.worker)] * with_worker
        cells += [printable(attempt.version)] * with_version
        made.add_row(*cells, Text(printable(brief_failure(attempt.failure)) or attempt.outcome, style="yellow"))
    return made


def _time_axis(run: RunRecord, steps: Sequence[StepView], now: int) -> tuple[int, int]:
    """Start and end of the time axis. It includes steps of workers whose clocks differ from the server's."""
    starts = [step.started_at for step in steps if step.started_at is not None]
    ends = [step.ended_at for step in steps if step.ended_at is not None]
    begin = min([run.started_at or run.created_at, *starts])
    return begin, max([run.ended_at or now, begin + 1, *ends])


def _start(step: StepView, begin: int, now: int) -> str:
    if step.started_at is not None and step.due_at is None:
        return f"+{show_duration(max(0, step.started_at - begin))}"
    return f"in {show_duration(max(0, step.due_at - now))}" if step.due_at is not None else ""


def _is_live(step: StepView) -> bool:
    """Whether a worker executes the step now."""
    return step.state == "running"


def _bar(step: StepView, begin: int, end: int) -> Text:
    """The step's share of the run's time: ``     ━━━━   ``."""
    if step.started_at is None or step.ended_at is None:
        return Text(" " * _LONGEST_BAR)
    scale = _LONGEST_BAR / (end - begin)
    first = min(int((step.started_at - begin) * scale), _LONGEST_BAR - 1)
    last = min(max(first + 1, round((step.ended_at - begin) * scale)), _LONGEST_BAR)
    bar = Text("·" * first, style="dim")
    bar.append("━" * (last - first), style=f"not dim {_BAR_STYLES.get(step.state, 'yellow')}")
    return bar.append("·" * (_LONGEST_BAR - last))


def _result(step: StepView, now: int) -> Text:
    if step.failure is not None:
        return Text(printable(brief_failure(step.failure)), style="red" if step.state == "failed" else "yellow")
    if step.invoke is not None and step.invoke.waits_until is not None:
        return Text(waits_until(step.invoke.waits_until, now), style="yellow")
    if step.wait is not None and step.wait.outcome == WAITING:
        return Text(wait_text(step.wait, now), style="yellow", no_wrap=False, overflow="fold")
    if step.map is not None and step.state == RUNNING:
        return Text(_progress(step.map), style="yellow")
    return Text(_result_text(step)) if step.state in ("done", UNFINISHED) else Text()


def _progress(progress: MapProgress) -> str:
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    return f"{progress.completed:,} of {progress.count:,} items{failed}, {progress.open:,} open"


def _result_text(step: StepView) -> str:
    """The result of a step that succeeded, in one line."""
    if step.wait is not None:
        return ended_text(step.wait, step.result)
    if step.state == UNFINISHED:
        return "had not ended when the run ended"
    text = printable(brief(step.result))
    if step.cached_from:
        text += f"  (cached, of run {step.cached_from})"
    return f"sent {text}" if step.kind == StepKind.SEND else text
