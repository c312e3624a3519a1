"""Why a run does not progress.

The reasons are read from the state that the scripts write, not guessed from logs. They are exact at the time of the
read.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.flow_control import RUNS
from stepflow_broker.registry.functions import read_function
from stepflow_broker.transitions.jobs.job_claims import queue_lists
from stepflow_broker.transitions.limits import change_of, read_limits
from stepflow_broker.transitions.pauses import Pause, pause_subject, read_pauses
from stepflow_broker.transitions.runs.run_record import RunRecord, read_run
from stepflow_broker.transitions.steps.step_record import StepRecord, read_steps
from stepflow_broker.views.listings import WorkerRecord, read_workers
from stepflow_broker.views.map_view import MapProgress, pending_map
from stepflow_broker.views.mismatch_view import accept_command, is_set_aside, mismatch_text
from stepflow_broker.views.opened import opened_run, opened_step
from stepflow_broker.views.releases import read_live_releases
from stepflow_broker.views.run_pauses import limits_of, pause_text, pauses_of
from stepflow_broker.views.step_view import executing_step
from stepflow_broker.views.times import iso
from stepflow_broker.views.wait_view import WaitView, pending_wait
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import redacted_memo
from stepflow_engine.ids import numbered_id, split_item_key, split_job_id
from stepflow_engine.memo import read_memo
from stepflow_engine.product import NAME
from stepflow_engine.state_machine import RunStatus, StepState
from stepflow_engine.steps import StepKind
from stepflow_engine.terminal_text import cut, one_line_failure
from stepflow_engine.times import utc_time_or_none as _time

__all__ = ["Reason", "explain_run"]

_DEPTH = 20
DELAYED = "delayed"
"""What delays a run that a client has started for a later time."""
_LATEST_MEMOS = 100
_SHOWN_ITEMS = 5


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, and the reasons behind it.

    Attributes:
        kind: of a run: ended, undoing, closing (it waits for its children before it ends), paused, executing, queued,
            waitlisted, delayed, retrying, waiting, batch, code_missing, not_readable, history_differs. Behind it:
            child, event, signal, ask, command (which ends it), sleep, step, map, code, release (of a pinned run),
            retrying, waitlisted, pause, queue, concurrency, history_differs.
        subject: a run, a step, a queue, or a concurrency limit.
        text: a sentence without a full stop.
        until: when it ends by itself, in UTC; ``None``: it does not end by time.
        because: the reasons for this reason.
        since: since when a worker executes it, or it waits for a signal or an answer, in UTC; ``None``: neither, or the
            time is unknown.
    """

    kind: str
    subject: str
    text: str
    until: datetime | None = None
    because: tuple[Reason, ...] = ()
    since: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "text": self.text,
            "until": iso(self.until),
            "because": [one.to_json() for one in self.because],
            "since": iso(self.since),
        }


def explain_run(broker: Broker, partition: Partition, run_id: str) -> Reason | None:
    """Why a run does not progress; ``None`` if there is no such run."""
    return _Explainer(broker, partition).run(run_id, depth=0)


_WAITS = ("child", "event", "signal", "ask", "sleep")
_OWN_CODE = "its code runs between steps, or executes a step that has just begun or keeps the GIL"


@dataclass(slots=True)
class _Explainer:
    """Reads the state that a reason needs. Live workers and pauses are read once per explanation."""

    broker: Broker
    partition: Partition
    _workers: list[WorkerRecord] | None = field(default=None)
    _pauses: dict[Partition, dict[str, Pause]] = field(default_factory=dict)

    def run(self, run_id: str, *, depth: int) -> Reason | None:
        """The reason for one run."""
        record = self.broker.execute(read_run(self.partition, run_id))
        if record is None:
            return None
        cipher = self.partition.cipher
        record = opened_run(cipher, record)
        steps = [opened_step(cipher, run_id, one) for one in self.broker.execute(read_steps(self.partition, run_id))]
        limits, delayed_by = self.broker.execute(
            command(replies.texts, "HMGET", self.partition.run_key("RUN", run_id), "concurrency", "delayed_by")
        )
        names = limits_of(limits.encode())
        if record.status.ended:
            text = f"{record.name} {record.status.value}{_end(record)}"
            return Reason("ended", run_id, text, None, (*self._failed_steps(record), *_mismatch(record)))
        reason = self._live_run(record, steps, names, delayed_by, depth=depth)
        reason = replace(reason, because=(*reason.because, *_mismatch(record)))
        if record.undoing:
            text = f"{record.name} is undoing its steps after it {_reason_of_undo(record)}"
            reason = Reason("undoing", run_id, text, None, (reason,))
        elif record.closing:
            text = f"the code of {record.name} has {record.closing}: the run ends when its children have ended"
            reason = Reason("closing", run_id, text, None, (reason,))
        if paused := tuple(self._paused(record, names)):
            return Reason("paused", run_id, f"{record.name} is paused", None, (*paused, reason))
        return reason

    def _live_run(
        self, record: RunRecord, steps: list[StepRecord], names: list[tuple[int, str]], delayed_by: str, *, depth: int
    ) -> Reason:
        """The reason for a run that has not ended, without pauses."""
        run_id, name = record.id, _named(record)
        match record.continuation:
            case "leased":
                executing = tuple(self._executing(record, steps))
                because = (*executing, *self._steps(run_id, steps, names, record, depth=depth))
                if because and all(reason.kind in _WAITS for reason in because):
                    text = f"{name} waits, in the memory of {self._holder(record.owner)}"
                    return Reason("waiting", run_id, text, None, because)
                text = f"{name} is executed by {self._holder(record.owner)}"
                code = Reason("code", record.name, _OWN_CODE)
                return Reason("executing", run_id, text, None, because or (code,), _time(record.leased_at))
            case "queued":
                because = (self._queued(record.queue, run_id, started=record.started_at is not None),)
                return Reason("queued", run_id, f"{name} is ready, and no worker has taken it", None, because)
            case "batched":
                batch = self.broker.execute(
                    command(replies.texts, "HMGET", self.partition.run_key("RUN", run_id), "batch")
                )[0]
                batch_reason = self.run(batch, depth=depth + 1)
                text = f"{name} is part of batch {batch}"
                return Reason("batch", run_id, text, None, (batch_reason,) if batch_reason else ())
            case "waitlisted":
                because = tuple(self._positions(run_id, names, record))
                if because and because[0].kind == "code_missing":
                    return replace(because[0], subject=run_id)
                return Reason("waitlisted", run_id, f"{name} waits in a wait list", None, because)
            case "delayed":
                return self._delayed(record, delayed_by)
        because = tuple(self._steps(run_id, steps, names, record, depth=depth))
        return Reason("waiting", run_id, f"{name} waits for its steps", None, because)

    def _executing(self, record: RunRecord, steps: list[StepRecord]) -> Iterator[Reason]:
        """The step that the worker of a run executes in it, if it has executed for over a second."""
        found = executing_step(record, {step.key for step in steps})
        if found is None:
            return
        key, step_id, since = found
        ended = self.broker.execute(command(int, "HEXISTS", self.partition.run_key("MEMOS", record.id), key))
        if not ended:
            text = f"step {step_id!r} is executed by {self._holder(record.owner)}"
            yield Reason("step", step_id, text, since=_time(since))

    def _failed_steps(self, record: RunRecord) -> Iterator[Reason]:
        """The latest step of a failed run that failed, which is why it failed, unless its code handled that."""
        if record.status is not RunStatus.FAILED:
            return
        order, memos = (self.partition.run_key(kind, record.id) for kind in ("MEMO_ORDER", "MEMOS"))
        keys = self.broker.execute(command(replies.texts, "LRANGE", order, -_LATEST_MEMOS, -1))
        for key in reversed(keys):
            memo = self.broker.execute(command(replies.bytes_or_empty, "HGET", memos, key))
            if not memo.startswith(b'{"error":'):
                continue
            found = redacted_memo(self.partition.cipher, record.id, key, read_memo(memo))
            if found.failure is not None:
                count = found.detail.get("attempts", 1)
                after = f" after {count} attempts" if count > 1 else ""
                text = f"step {found.id!r} failed{after}: {one_line_failure(found.failure)}"
                yield Reason("step", found.id, text)
            return

    def _paused(self, record: RunRecord, limits: list[tuple[int, str]]) -> Iterator[Reason]:
        """The pauses that stop a run, as its partition has them."""
        for pause in pauses_of(self._read_pauses(record), record.name, record.queue, limits):
            yield Reason("pause", pause.subject, pause_text(pause))

    def _paused_queue(self, record: RunRecord, queue: str) -> Iterator[Reason]:
        """The pause of the queue of a step, if that is not the queue of its run."""
        pause = self._read_pauses(record).get(pause_subject("queue", queue))
        if pause is not None and queue != record.queue:
            yield Reason("pause", pause.subject, pause_text(pause))

    def _read_pauses(self, record: RunRecord) -> dict[str, Pause]:
        partition = self.partition.of(record.id)
        if partition not in self._pauses:
            self._pauses[partition] = self.broker.execute(read_pauses(partition))
        return self._pauses[partition]

    def _delayed(self, record: RunRecord, delayed_by: str) -> Reason:
        if is_set_aside(record):
            text = f"{record.name} is set aside: its code differs from its history, and is tried again"
            return Reason("history_differs", record.id, text, _time(record.due_at))
        if record.blocked:
            kind = "code_missing" if record.blocked.startswith("the code of") else "not_readable"
            return Reason(kind, record.id, record.blocked, _time(record.due_at))
        if record.attempt:
            failure = f": {record.failure.name}: {record.failure.message}" if record.failure else ""
            text = f"the code of {record.name} failed, and is tried again (retry {record.attempt}){failure}"
            return Reason("retrying", record.id, text, _time(record.due_at))
        if delayed_by == DELAYED and record.due_at is not None:
            return Reason("delayed", record.id, f"{record.name} starts at {iso(record.due_at)}", _time(record.due_at))
        return Reason("delayed", record.id, f"{record.name} is {delayed_by or DELAYED}", _time(record.due_at))

    def _map(
        self,
        run_id: str,
        step: StepRecord,
        items: list[StepRecord],
        limits: list[tuple[int, str]],
        record: RunRecord,
        *,
        depth: int,
    ) -> Reason:
        """How far a map is, and what its first items do that workers have taken; else what those do that are ready."""
        progress = pending_map(step) or MapProgress(0, 0, 0)
        text = f"step {step.id!r} has {progress.completed:,} of {progress.count:,} results, {progress.failed:,} failed"
        text += f"; {progress.open:,} items are open, {progress.left:,} are left"
        taken = [one for one in items if one.state != "queued"] or items
        shown = sorted(taken, key=lambda one: one.key)[:_SHOWN_ITEMS]
        because = tuple(self._steps(run_id, shown, limits, record, depth=depth))
        return Reason("map", step.id, text, None, because)

    def _steps(
        self, run_id: str, steps: list[StepRecord], limits: list[tuple[int, str]], record: RunRecord, *, depth: int
    ) -> Iterator[Reason]:
        maps = {step.key for step in steps if step.items is not None}
        of_maps = [step for step in steps if step.is_item and split_item_key(step.key)[0] in maps]
        for step in sorted(steps, key=lambda step: step.id):
            if step.state == StepState.MAPPING:
                items = [one for one in of_maps if split_item_key(one.key)[0] == step.key]
                yield self._map(run_id, step, items, limits, record, depth=depth)
            elif step not in of_maps:  # its map shows it
                yield from self._step(run_id, step, limits, record, depth=depth)

    def _step(
        self, run_id: str, step: StepRecord, limits: list[tuple[int, str]], record: RunRecord, *, depth: int
    ) -> Iterator[Reason]:
        job, queue = f"{run_id}-{step.key}", step.queue or record.queue
        match step.state:
            case "waiting" if step.child:
                child = self.run(step.child, depth=depth + 1) if depth < _DEPTH else None
                because = (child,) if child else ()
                yield Reason("child", step.id, _child(step), _time(step.due_at), because)
            case "waiting" if step.kind == StepKind.SIGNAL:
                yield _signal(run_id, step)
            case "waiting" if step.kind == StepKind.ASK:
                yield _ask(run_id, step)
            case "waiting" if step.index:
                yield Reason("event", step.id, f"step {step.id!r} waits for {_event(step)}", _time(step.due_at))
            case "waiting":
                yield Reason("sleep", step.id, f"step {step.id!r} sleeps", _time(step.due_at))
            case "queued":
                why = (self._queued(queue, job, started=True), *self._paused_queue(record, queue))
                text = f"step {step.id!r} is ready, and no worker has taken it"
                yield Reason("step", step.id, text, None, why)
            case "waitlisted":
                positions = tuple(self._positions(job, limits, replace(record, queue=queue)))
                yield Reason("waitlisted", step.id, f"step {step.id!r} waits in a wait list", None, positions)
            case "leased":
                text = f"step {step.id!r} is executed by {self._holder(step.owner)}"
                yield Reason("step", step.id, text, since=_time(step.leased_at))
            case "delayed" if step.deferred and step.failure:
                kind = "code_missing" if step.failure.name == "CodeMissing" else "not_readable"
                yield Reason(kind, step.id, f"step {step.id!r}: {step.failure.message}", _time(step.due_at))
            case "delayed":
                failure = f": {step.failure.name}: {step.failure.message}" if step.failure else ""
                text = f"step {step.id!r} failed, and is tried again (retry {step.attempts}){failure}"
                yield Reason("retrying", step.id, text, _time(step.due_at))

    def _queued(self, queue: str, job: str, *, started: bool) -> Reason:
        """The position of a job on the queue of its partition, and the workers that serve the queue."""
        name, partition = f"{queue}:steps" if started else queue, self.partition.of(job)
        place = self.broker.execute(command(replies.integer_or_none, "LPOS", partition.keys("RQ_QUEUE", name), job))
        suspended = self.broker.execute(command(int, "EXISTS", partition.keys("RQ_SUSPENDED")))
        serving = [worker for worker in self._live_workers() if queue in worker.queues]
        where = f"number {place + 1} on queue {name}" if place is not None else f"on its way to queue {name}"
        where += " of its partition" if partition.tag else ""
        if suspended:
            return Reason("queue", name, f"{where}; RQ is suspended: rq resume")
        if not serving:
            return Reason("queue", name, f"{where}; no live worker serves queue {queue}: start one")
        count = "1 live worker serves" if len(serving) == 1 else f"{len(serving)} live workers serve"
        return Reason("queue", name, f"{where}; {count} queue {queue}")

    def _live_workers(self) -> list[WorkerRecord]:
        if self._workers is None:
            self._workers = [worker for worker in read_workers(self.broker, self.partition) if worker.live]
        return self._workers

    def _holder(self, worker: str) -> str:
        """A worker with a lease, and whether it has probably died."""
        if any(one.name == worker for one in self._live_workers()):
            return f"worker {worker}"
        return f"worker {worker}, which sends no heartbeat: another one takes the job when its lease expires"

    def _left_by(self, job: str) -> str:
        """The versions of the code that have left a job to others; ``""``: none."""
        run_id, key = split_job_id(job)
        kind, field = ("STEPS", f"{key}:left_by") if key else ("RUN", "left_by")
        return self.broker.execute(command(replies.texts, "HMGET", self.partition.run_key(kind, run_id), field))[0]

    def _pinned(self, job: str, record: RunRecord) -> Reason | None:
        """The version for whose workers the job of a pinned run waits; ``None``: it does not wait for one."""
        config = self.broker.execute(read_function(self.partition.keys, record.app, record.function))
        release = record.version or (config.release if config else "")
        partition = self.partition.of(job)
        lists = [f"code {name}\n{record.name}\n={release}" for name in queue_lists([record.queue])]
        ranks = [command(replies.integer_or_none, "ZRANK", partition.keys("WAIT_LIST", one), job) for one in lists]
        if all(place is None for place in self.broker.execute_all(ranks)):
            return None
        if release in run_operation(self.broker, read_live_releases(partition, record.name)):
            return Reason("release", release, f"only workers with version {release} of its code execute it")
        unpin = f"{NAME} runs unpin {record.id}"
        text = f"it is pinned to version {release} of its code, and no live worker has it: start one, or: {unpin}"
        return Reason(
            "release", release, text, None, (Reason("command", unpin, f"let any version execute it: {unpin}"),)
        )

    def _positions(self, job: str, limits: list[tuple[int, str]], record: RunRecord) -> Iterator[Reason]:
        """The positions of a job in the wait lists of its queue and its limits, and the runs that hold the slots."""
        partition = self.partition.of(job)
        queued = self.broker.execute(command(replies.texts, "HMGET", partition.keys("RUN", job), "queue"))[0]
        place = self.broker.execute(
            command(replies.integer_or_none, "ZRANK", partition.keys("WAIT_LIST", f"queue {queued}"), job)
        )
        if place is not None:
            yield Reason("queue", queued, f"number {place + 1} by priority on queue {queued}")
        left_by = self._left_by(job)
        for name in queue_lists([record.queue]):
            code = partition.keys("WAIT_LIST", f"code {name}\n{record.name}")
            if self.broker.execute(command(replies.integer_or_none, "ZRANK", code, job)) is not None:
                text = f"it waits for a worker that has the code of {record.name}: start one, or cancel the run"
                yield Reason("code_missing", record.name, text)
                return
            code = partition.keys("WAIT_LIST", f"code {name}\n{record.name}\n{left_by}")
            if left_by and self.broker.execute(command(replies.integer_or_none, "ZRANK", code, job)) is not None:
                text = (
                    f"it waits for a worker with another version of the code of {record.name}: start one, or cancel it"
                )
                yield Reason("code_missing", record.name, text)
                return
        if record.pinned and (pinned := self._pinned(job, record)) is not None:
            yield pinned
            return
        for limit, name in limits:
            place = self.broker.execute(
                command(replies.integer_or_none, "ZRANK", partition.keys("WAIT_LIST", name), job)
            )
            if place is not None:
                holders = self.broker.execute(
                    command(replies.texts, "ZRANGE", partition.keys("CONCURRENCY_SLOTS", name), 0, 9)
                )
                held = ", ".join(holder.partition("-")[0] for holder in holders)
                counted = " live runs" if name.startswith(f"{RUNS} ") else ""
                now = f"{self._changed_limit(partition, name, limit)}{counted}"
                yield Reason(
                    "concurrency", name, f"number {place + 1} for {name}, limit {now}, held by {held or 'nobody'}"
                )

    def _changed_limit(self, partition: Partition, name: str, declared: int) -> str:
        """A concurrency limit as it is now, and what it was changed from."""
        changes = self.broker.execute(read_limits(partition))
        change = change_of(changes, "concurrency", name)
        if change is None:
            return str(declared)
        until = f" until {iso(change.until_ms)}" if change.until_ms else ""
        return f"{change.limit} (set in place of {declared}{until})"


def _named(record: RunRecord) -> str:
    """The function of a run, and its round if the run has continued as new."""
    return f"{record.name} (round {record.round})" if record.round else record.name


def _reason_of_undo(record: RunRecord) -> str:
    """Why a run undoes its steps."""
    if record.undoing == RunStatus.CANCELLED:
        message = record.failure.message if record.failure else ""
        return f"was cancelled: {message}" if message else "was cancelled"
    return "failed" + (f": {one_line_failure(record.failure)}" if record.failure else "")


def _mismatch(record: RunRecord) -> Iterator[Reason]:
    """How the code of a run differs from its history, and the command that lets a run go on that was set aside."""
    if text := mismatch_text(record):
        accept = accept_command(record.id)
        way_out = (Reason("command", accept, f"let it go on with this code: {accept}"),) if is_set_aside(record) else ()
        yield Reason("history_differs", record.id, text, None, way_out)


def _end(record: RunRecord) -> str:
    """Why a run ended: the reason of a skip or a cancel, or the failure."""
    if record.reason:
        return f" ({record.reason})"
    if record.failure is None:
        return ""
    if record.status is RunStatus.CANCELLED:
        return f": {record.failure.message}" if record.failure.message else ""
    return f": {one_line_failure(record.failure)}"


def _child(step: StepRecord) -> str:
    """That a child has not ended. If the code has a handle of it, the code may wait for it or not."""
    if not step.parent_close:
        return f"step {step.id!r} waits for run {step.child}"
    return f"run {step.child}, which step {step.id!r} has started, has not ended (parent_close={step.parent_close!r})"


def _signal(run_id: str, step: StepRecord) -> Reason:
    """The signal that a step waits for, and how to send it."""
    wait = pending_wait(step)
    name = wait.signal if wait else ""
    send = f"{NAME} runs signal {run_id} {shlex.quote(name)}"
    text = f"step {step.id!r} waits for signal {name!r}"
    return Reason(
        "signal", step.id, text, _time(step.due_at), (Reason("command", send, f"send it with: {send}"),), _since(wait)
    )


def _ask(run_id: str, step: StepRecord) -> Reason:
    """Whose answer a step waits for, and how to give it."""
    wait, name = pending_wait(step), numbered_id(step.id, step.key)
    answer = f"{NAME} answer {run_id} {shlex.quote(name)} --data JSON"
    text = f"step {step.id!r} waits for an answer" + (f" of {wait.to}" if wait and wait.to else "")
    return Reason(
        "ask", step.id, text, _time(step.due_at), (Reason("command", answer, f"give it with: {answer}"),), _since(wait)
    )


def _since(wait: WaitView | None) -> datetime | None:
    return _time(wait.started_at) if wait else None


def _event(step: StepRecord) -> str:
    """The event that a step waits for: ``event order/paid with data.order = 17``."""
    wait = pending_wait(step)
    if wait is None:
        return "an event"
    if isinstance(wait.values, dict):
        compared = " and ".join(f"{path} = {cut(dumps(value).decode(), 100)}" for path, value in wait.values.items())
        match = f" with {compared}"
    else:
        match = f" with the same {', '.join(wait.match)}" if wait.match else ""
    return f"event {wait.event}{match}" + (f" if {wait.condition}" if wait.condition else "")
