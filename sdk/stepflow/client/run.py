"""The handle of a run: its result, its status, its steps, why it waits, and how to cancel it; see also `LiveRun`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, cast

from typing_extensions import TypeVar

from stepflow.client.bulk_cancel import cancelling
from stepflow.client.fork_request import SAME_DATA, ForkRequest
from stepflow.client.forks import Fork, acreate_fork, create_fork
from stepflow.client.live_run import LiveRun
from stepflow.client.result_error import result_error
from stepflow.client.run_info import AttemptInfo, RunInfo, StepInfo, attempt_info, run_info, step_info
from stepflow.event import Event, read_event
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.runs.run_control import cancel_run
from stepflow_broker.transitions.runs.run_record import RunRecord, read_run
from stepflow_broker.views.explain import Reason, explain_run
from stepflow_broker.views.run_reads import read_attempt_views, read_children_views, read_run_view, read_step_views
from stepflow_broker.views.run_view import RunView, run_not_found
from stepflow_engine.codec import Restore, restore
from stepflow_engine.durations import Duration, duration_ms, show_value
from stepflow_engine.encryption_scopes import end_scopes, open_event
from stepflow_engine.state_machine import RunStatus

if TYPE_CHECKING:
    from stepflow.client.backend import Backend
    from stepflow_broker.protocol.command import Command

__all__ = ["Run", "id_of"]

O = TypeVar("O", default=Any)  # noqa: E741  output


class Run(LiveRun, Generic[O]):
    """A handle of a run, made by `Stepflow.start` and `Stepflow.run`. It is cheap and holds no connection.

    The run lives in Redis: a handle for the same id in another process, or after a crash, shows the same run. An ended
    run is kept for the app's ``retention``; after that, each method raises `RunNotFoundError`.

    Attributes:
        id: the id of the run.
        listed: the run as `Stepflow.runs` or `children` has read it; ``None``: the handle was made otherwise. It does
            not change; `info` reads the run again.
        attached: whether `Stepflow.start` has found this live run, and has started none: see `Singleton`.

    Example::

        run = app.start("import-images", {"urls": []})
        print(run.id, run.status())
    """

    def __init__(
        self,
        backend: Backend,
        run_id: str,
        output: Restore | None = None,
        *,
        listed: RunInfo | None = None,
        attached: bool = False,
    ) -> None:
        super().__init__(backend, run_id)
        self.listed = listed
        self.attached = attached
        self._output = output

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    def result(self, timeout: Duration | None = None) -> O:
        """Wait until the run ends and return its result, restored to the declared type.

        Args:
            timeout: the longest wait, a duration or seconds; ``None``: no limit. The run continues after a timeout.

        Raises:
            StepUsageError: the call is in an ``async def`` that a worker executes; await `aresult` there.
            RunFailedError: the run failed; with the name and message of the error.
            RunCancelledError: the run was cancelled.
            RunSkippedError: flow control has skipped the run.
            RunNotFoundError: no run has this id, or its retention is over.
            ResultTimeoutError: the run has not ended in time.
            DecryptionError: the result is encrypted, and this process does not have the key.
            BackendUnavailableError: the server does not answer.

        Example::

            total = app.start(main, {"urls": []}).result(timeout="30s")
        """
        self._backend.refuse_to_block("run.result", "await run.aresult()")
        timeout_ms = _timeout_ms(timeout)
        self._backend.wait(self._checked_id(), timeout_ms)
        return self._read_result(self._backend.broker.execute(self._read()), timeout_ms)

    async def aresult(self, timeout: Duration | None = None) -> O:
        """The asyncio twin of `result`."""
        timeout_ms = _timeout_ms(timeout)
        await self._backend.await_end(self._checked_id(), timeout_ms)
        return self._read_result(await self._backend.abroker.execute(self._read()), timeout_ms)

    def status(self) -> RunStatus:
        """The current status of the run.

        Raises:
            RunNotFoundError: no run has this id, or its retention is over.
            BackendUnavailableError: the server does not answer.

        Example::

            if run.status().ended:
                print(run.result())
        """
        return self._known(self._backend.broker.execute(self._read())).status

    async def astatus(self) -> RunStatus:
        """The asyncio twin of `status`."""
        return self._known(await self._backend.abroker.execute(self._read())).status

    def cancel(self, reason: str = "", *, children: bool = True) -> bool:
        """Cancel the run. False if it had already ended, or already undoes its steps.

        The result of a step that is executing is dropped. Its handler is interrupted: its next
        ``ctx.step.heartbeat`` raises, and an ``async def`` handler is cancelled after 5 seconds.
        A run that has completed steps with an undo handler ends when they are undone.

        Args:
            reason: becomes the message of `RunCancelledError`.
            children: also cancel the children that the run waits for, and their children.

        Raises:
            ConfigurationError: the reason is not valid Unicode, or is longer than 10 kB.
            RunNotFoundError: no run has this id, or its retention is over.
            BackendUnavailableError: the server does not answer.

        Example::

            run.cancel("the order was withdrawn")
        """
        return self._cancelled(self._backend.broker.execute(self._cancel(reason, children)))

    async def acancel(self, reason: str = "", *, children: bool = True) -> bool:
        """The asyncio twin of `cancel`."""
        return self._cancelled(await self._backend.abroker.execute(self._cancel(reason, children)))

    def retry(self, *, id: str | None = None, reason: str = "") -> Run[O]:
        """Run again from the failure, as a new run: steps that succeeded keep their results, all others are executed.

        The steps keep their idempotency keys, so another system sees a failed step as the same request. See
        `Stepflow.fork` for more choices and all errors.

        Args:
            id: makes the call repeatable: the same id returns the same run.
            reason: is stored with the new run.

        Raises:
            ForkError: the run has not ended, or has not failed.
            RunNotFoundError: no run has this id, or its retention is over.

        Example::

            print(run.retry(reason="the bank is back").result(timeout="30s"))
        """
        request = ForkRequest(failed=True, id=id, reason=reason, action="retry")
        return self._forked(create_fork(self._backend, self.id, request))

    async def aretry(self, *, id: str | None = None, reason: str = "") -> Run[O]:
        """The asyncio twin of `retry`."""
        request = ForkRequest(failed=True, id=id, reason=reason, action="aretry")
        return self._forked(await acreate_fork(self._backend, self.id, request))

    def rerun(self, *, data: Any = SAME_DATA, id: str | None = None, reason: str = "") -> Run[O]:
        """Run again from the start, as a new run with the same event. All steps are executed, with new keys.

        Args:
            data: other input data; by default the event of the run as it is.
            id: makes the call repeatable: the same id returns the same run.
            reason: is stored with the new run.

        Raises:
            ForkError: the run has not ended.
            RunNotFoundError: no run has this id, or its retention is over.

        Example::

            print(run.rerun().id)
        """
        request = ForkRequest(data=data, id=id, reason=reason, action="rerun")
        return self._forked(create_fork(self._backend, self.id, request))

    async def arerun(self, *, data: Any = SAME_DATA, id: str | None = None, reason: str = "") -> Run[O]:
        """The asyncio twin of `rerun`."""
        request = ForkRequest(data=data, id=id, reason=reason, action="arerun")
        return self._forked(await acreate_fork(self._backend, self.id, request))

    def _forked(self, fork: Fork) -> Run[O]:
        return Run(self._backend, fork.run_id, self._output or fork.output)

    def info(self) -> RunInfo:
        """The run as it is now: its function, status, times, tags and error, without its event and its output.

        A failure that this process cannot decrypt is replaced by a text that says so.

        Raises:
            RunNotFoundError: no run has this id, or its retention is over.
            BackendUnavailableError: the server does not answer.

        Example::

            info = run.info()
            print(info.status, info.tags, info.error)
        """
        return run_info(self._execute(read_run_view(self._backend.partition, self._checked_id())))

    async def ainfo(self) -> RunInfo:
        """The asyncio twin of `info`."""
        return run_info(await self._aexecute(read_run_view(self._backend.partition, self._checked_id())))

    def steps(self) -> list[StepInfo]:
        """The steps of the run: those that have ended, in the order of their results, then the others.

        A result or a failure that this process cannot decrypt is replaced by a text that says so.

        Raises:
            RunNotFoundError: no run has this id, or its retention is over.
            BackendUnavailableError: the server does not answer.

        Example::

            for step in run.steps():
                print(step.id, step.state, step.attempts, step.worker)
        """
        views = self._execute(read_step_views(self._backend.partition, self._checked_id()))
        return [step_info(view) for view in views]

    async def asteps(self) -> list[StepInfo]:
        """The asyncio twin of `steps`."""
        views = await self._aexecute(read_step_views(self._backend.partition, self._checked_id()))
        return [step_info(view) for view in views]

    def attempts(self) -> list[AttemptInfo]:
        """The attempts of the code between steps that are kept, the oldest first; those of a step are in `steps`.

        Raises:
            RunNotFoundError: no run has this id, or its retention is over.
            BackendUnavailableError: the server does not answer.

        Example::

            for attempt in run.attempts():
                print(attempt.number, attempt.outcome, attempt.version, attempt.error)
        """
        views = self._execute(read_attempt_views(self._backend.partition, self._checked_id()))
        return [attempt_info(view) for view in views]

    async def aattempts(self) -> list[AttemptInfo]:
        """The asyncio twin of `attempts`."""
        views = await self._aexecute(read_attempt_views(self._backend.partition, self._checked_id()))
        return [attempt_info(view) for view in views]

    def children(self) -> list[Run[Any]]:
        """The runs that this run has invoked, the oldest first, without those whose retention is over.

        Raises:
            RunNotFoundError: no run has this id, or its retention is over.
            BackendUnavailableError: the server does not answer.

        Example::

            failed = [child for child in run.children() if child.listed.status == "failed"]
        """
        return self._listed(self._execute(read_children_views(self._backend.partition, self._checked_id())))

    async def achildren(self) -> list[Run[Any]]:
        """The asyncio twin of `children`."""
        return self._listed(await self._aexecute(read_children_views(self._backend.partition, self._checked_id())))

    def _listed(self, views: Sequence[RunView]) -> list[Run[Any]]:
        return [Run(self._backend, view.id, listed=run_info(view)) for view in views]

    @property
    def event(self) -> Event[Any]:
        """The event that started the run, with plain JSON data. It is read at each use; `aevent` is its asyncio twin.

        Raises:
            RunNotFoundError: no run has this id, or its retention is over.
            DecryptionError: the event is encrypted, and this process does not have the key.
            BackendUnavailableError: the server does not answer.

        Example::

            app.start(run.info().function, run.event.data)
        """
        return self._event(self._known(self._backend.broker.execute(self._read())))

    async def aevent(self) -> Event[Any]:
        """The asyncio twin of `event`: ``await run.aevent()``."""
        return self._event(self._known(await self._backend.abroker.execute(self._read())))

    def _event(self, record: RunRecord) -> Event[Any]:
        return read_event(open_event(self._backend.cipher, record.event))

    @property
    def output(self) -> O | None:
        """The output of a completed run, restored to the declared type; ``None``: the run has not completed.

        It does not wait, as `result` does. It is read at each use; `aoutput` is its asyncio twin.

        Raises:
            RunNotFoundError: no run has this id, or its retention is over.
            DecryptionError: the output is encrypted, and this process does not have the key.
            BackendUnavailableError: the server does not answer.

        Example::

            print(app.run(run_id).output)
        """
        return self._opened_output(self._known(self._backend.broker.execute(self._read())))

    async def aoutput(self) -> O | None:
        """The asyncio twin of `output`: ``await run.aoutput()``."""
        return self._opened_output(self._known(await self._backend.abroker.execute(self._read())))

    def _opened_output(self, record: RunRecord) -> O | None:
        if record.status is not RunStatus.COMPLETED:
            return None
        output = self._backend.cipher.open(record.output, *end_scopes(self.id, record.name, failed=False))
        result: O = restore(self._output, output, what=f"function {record.name!r}")
        return result

    def explain(self) -> Reason:
        """Why the run is in its current state: what it waits for, and what that waits for in turn.

        Raises:
            RunNotFoundError: no run has this id, or its retention is over.
            BackendUnavailableError: the server does not answer.

        Example::

            print(run.explain().text)  # shop/sync is paused since 2026-01-31 09:30:00+00:00
        """
        reason = explain_run(self._backend.broker, self._backend.partition, self._checked_id())
        if reason is None:
            raise self._not_found()
        return reason

    async def aexplain(self) -> Reason:
        """The asyncio twin of `explain`; it reads in a thread."""
        return await asyncio.to_thread(self.explain)

    def _read(self) -> Command[RunRecord | None]:
        return read_run(self._backend.partition, self._checked_id())

    def _cancel(self, reason: str, children: bool) -> Command[ScriptStatus]:
        request = cancelling(reason, retention_ms=self._backend.retention_ms, children=children)
        return cancel_run(
            self._backend.partition,
            run_id=self._checked_id(),
            failure=request.failure,
            retention_ms=request.retention_ms,
            children=request.children,
            who=self._backend.actor,
            reason=reason,
        )

    def _cancelled(self, code: ScriptStatus) -> bool:
        if code is ScriptStatus.NO_RUN:
            raise self._not_found()
        return code is ScriptStatus.DONE

    def _known(self, record: RunRecord | None) -> RunRecord:
        if record is None:
            raise self._not_found()
        return record

    def _read_result(self, reply: RunRecord | None, timeout_ms: int | None) -> O:
        record = self._known(reply)
        if record.status is not RunStatus.COMPLETED:
            raise result_error(record, self._backend.cipher, timeout_ms)
        return cast(O, self._opened_output(record))


def _timeout_ms(timeout: Duration | None) -> int | None:
    return None if timeout is None else duration_ms(timeout, name="timeout")


def id_of(run: Run[Any] | str) -> str:
    """The id of a run that is passed as its handle or as its id.

    Raises:
        RunNotFoundError: it is neither.
    """
    if not isinstance(run, Run | str):
        raise run_not_found(show_value(run))
    return run.id if isinstance(run, Run) else run
