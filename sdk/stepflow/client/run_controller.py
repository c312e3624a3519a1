"""What changes runs by hand: fork, answer, cancel, pause and resume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from typing_extensions import TypeVar

from stepflow.client.asks import answer_operation
from stepflow.client.bulk_cancel import cancel_operation
from stepflow.client.connected_app import ConnectedApp
from stepflow.client.fork_request import SAME_DATA, Children, ForkRequest, Keys
from stepflow.client.forks import acreate_fork, create_fork
from stepflow.client.pauses import check_one_subject, check_reason, pause_target
from stepflow.client.run import Run, id_of
from stepflow.functions.function import Function
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation
from stepflow_broker.transitions.pauses import Pause, PauseKind, pause_everywhere, read_all_pauses, resume_everywhere

__all__ = ["RunController"]

O = TypeVar("O", default=Any)  # noqa: E741  output


class RunController(ConnectedApp):
    """Repeats, answers, cancels, pauses and resumes runs."""

    # -- forking -----------------------------------------------------------------

    def fork(
        self,
        run: Run[O] | str,
        *,
        before: str | None = None,
        failed: bool = False,
        data: Any = SAME_DATA,
        results: Mapping[str, Any] | None = None,
        keys: Keys = "auto",
        children: Children = "adopt",
        id: str | None = None,
        reason: str = "",
    ) -> Run[O]:
        """Run again, from a step on, as a new run. The earlier run is not changed.

        The new run has the stored results of the earlier run up to a point, so these steps are not executed again. It
        passes the flow control of its function as any new run does, with the settings that the function has now; only
        its ``idempotency`` does not count. `Run.retry` and `Run.rerun` are the two most common forks.

        Args:
            run: the run, or its id. It must have ended, unless ``before`` is given.
            before: the id of a step. The fork has the results that were stored before that of the step, and executes
                the step and what follows. ``"charge#2"`` is the second step with the id ``charge``.
            failed: keep the results of all steps that succeeded and were not undone, and execute the others again.
            data: other input data; by default the event of the run as it is.
            results: results by step id, in place of stored ones, or of steps that are not to be executed.
            keys: the idempotency keys of the steps. ``"keep"``: those of the earlier run, so another system sees a step
                that is executed again as the same request. ``"new"``: others. ``"auto"``: keep with ``failed``, unless
                the earlier run has undone steps; new otherwise.
            children: ``"adopt"``: an ``invoke`` whose result is kept is not invoked again. If its child completed after
                the earlier run had ended, the fork gets that result. ``"again"``: each is invoked again.
            id: makes the call repeatable, as in `start`.
            reason: is stored with the new run.

        Returns:
            The handle of the new run.

        Raises:
            ForkError: the run has no such step, has not ended, or an argument is invalid.
            RunNotFoundError: no run has this id, or its retention is over.
            EventError: the data is not JSON, over the limit, or not what the function takes; or the id is invalid.
            StepOutputError: a result is not JSON, over the limit, or not what the invoked function returns.
            DecryptionError: a stored result is encrypted, and this process does not have the key.
            BackendUnavailableError: the server does not answer. With an ``id``, it is safe to repeat the call.

        Example::

            app.fork(run, before="charge", results={"price": 12}, reason="the price was wrong")
        """
        request = ForkRequest(before, failed, data, results or {}, keys, children, id, reason)
        fork = create_fork(self.backend, id_of(run), request)
        return Run(self.backend, fork.run_id, fork.output)

    async def afork(
        self,
        run: Run[O] | str,
        *,
        before: str | None = None,
        failed: bool = False,
        data: Any = SAME_DATA,
        results: Mapping[str, Any] | None = None,
        keys: Keys = "auto",
        children: Children = "adopt",
        id: str | None = None,
        reason: str = "",
    ) -> Run[O]:
        """The asyncio twin of `fork`."""
        request = ForkRequest(before, failed, data, results or {}, keys, children, id, reason)
        fork = await acreate_fork(self.backend, id_of(run), request)
        return Run(self.backend, fork.run_id, fork.output)

    # -- answering ---------------------------------------------------------------

    def answer(self, run: Run[Any] | str, step_id: str, data: Any, *, by: str | None = None) -> None:
        """Answer a step that waits for a person. The first answer counts; the run continues with it.

        The answer is checked with the JSON schema of the step before anything is stored. The audit log records it.

        Args:
            run: the run, or its id.
            step_id: the id of the step, as `asks` lists it. ``"approve#2"`` is the second step with the id ``approve``.
            data: the answer; JSON data, at most as large as the data of an event.
            by: who answers; by default the app. It is stored with the answer.

        Raises:
            AnswerError: the answer does not fit the schema, or is not JSON; the step was answered before, has timed
                out, or waits for no answer.
            RunEndedError: the run has ended.
            RunNotFoundError: no run has this id, or its retention is over.
            DecryptionError: the schema is encrypted, and this process does not have the key.
            BackendUnavailableError: the server does not answer. The answer may be stored; repeat the call to find out.

        Example::

            app.answer(run, "approve", {"approved": True}, by="ada")
        """
        run_id = id_of(run)
        run_operation(self.backend.broker, answer_operation(self.backend, run_id, step_id, data, by=by))

    async def aanswer(self, run: Run[Any] | str, step_id: str, data: Any, *, by: str | None = None) -> None:
        """The asyncio twin of `answer`."""
        run_id = id_of(run)
        await arun_operation(self.backend.abroker, answer_operation(self.backend, run_id, step_id, data, by=by))

    # -- cancelling --------------------------------------------------------------

    def cancel_many(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        statuses: Iterable[str] = (),
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        if_: str | None = None,
        all: bool = False,
        reason: str = "",
        children: bool = True,
        dry_run: bool = False,
        limit: int | None = None,
    ) -> list[str]:
        """Cancel the live runs that match all filters, oldest first. At least one filter or ``all=True`` is required.

        The call first finds all matching runs, then cancels them, many in a round trip. A run that changes its status
        in between is still cancelled. Runs that start during the call may be missed. Handlers that are executing
        are interrupted as by `Run.cancel`. If the server becomes unavailable half-way, the runs cancelled so far stay
        cancelled, and the same call cancels the rest.

        Args:
            function: filter: a function, an id of this app, or ``"app/function"`` for another app. ``None``: any
                function of this app.
            statuses: filter: ``queued``, ``running``, ``waiting``; empty: any.
            created_before: filter: only runs created before this time; with a time zone.
            created_after: filter: only runs created at this time or later; with a time zone.
            if_: filter: a CEL expression on the run's ``event``, such as ``"event.data.tenant == 17"``.
            all: cancel every live run of the app; cannot be combined with a filter.
            reason: becomes the message of the runs' failure.
            children: also cancel the children that the runs wait for, whether they match or not.
            dry_run: return the matching runs and cancel nothing.
            limit: the largest number of runs, the oldest first; not a filter.

        Returns:
            The ids of the runs that were cancelled, or would be. Runs that ended during the call, and children that
            do not match themselves, are not included.

        Raises:
            ConfigurationError: an argument is invalid, or no filter is given; nothing is cancelled.
            BackendUnavailableError: the server does not answer.

        Example::

            app.cancel_many("order", if_="event.data.tenant == 17", dry_run=True)
            app.cancel_many(all=True, reason="the shop is closed")
        """
        operation = cancel_operation(
            self.backend,
            self.id,
            function,
            statuses=statuses,
            created_before=created_before,
            created_after=created_after,
            if_=if_,
            all=all,
            reason=reason,
            children=children,
            dry_run=dry_run,
            limit=limit,
        )
        return run_operation(self.backend.broker, operation)

    async def acancel_many(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        statuses: Iterable[str] = (),
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        if_: str | None = None,
        all: bool = False,
        reason: str = "",
        children: bool = True,
        dry_run: bool = False,
        limit: int | None = None,
    ) -> list[str]:
        """The asyncio twin of `cancel_many`."""
        operation = cancel_operation(
            self.backend,
            self.id,
            function,
            statuses=statuses,
            created_before=created_before,
            created_after=created_after,
            if_=if_,
            all=all,
            reason=reason,
            children=children,
            dry_run=dry_run,
            limit=limit,
        )
        return await arun_operation(self.backend.abroker, operation)

    # -- pausing -----------------------------------------------------------------

    def pause(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        queue: str | None = None,
        key: str | None = None,
        reason: str = "",
    ) -> bool:
        """Stop executing a function, a queue or a concurrency key until `resume`. Takes exactly one of the three.

        Queued work is kept: events still start runs of a paused function, and these runs wait. A step that is
        executing finishes, and its result is stored. An invoke of a paused function raises `InvokeSkippedError`. A
        paused function's schedule starts no runs. The pause is stored in Redis and survives restarts.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            queue: the name of a queue.
            key: a value of a `Concurrency` key as `Run.explain` shows it: ``"shop/sync:event.data.shop=17"``.
            reason: shown by `pauses` and `Run.explain`.

        Returns:
            False if it was already paused; the reason is updated.

        Raises:
            ConfigurationError: none or several of function, queue and key are given, or one of them is invalid.
            FunctionNotFoundError: no worker has registered the function.
            BackendUnavailableError: the server or a cluster node does not answer. Partitions on that node are not
                paused; repeat the call to complete the pause.

        Example::

            app.pause("sync", reason="the API is down")
            app.pause(key="shop/sync:event.data.shop=17")
        """
        check_one_subject("pause", function, queue, key)
        kind, name = self._pause_target(function, queue, key)
        reason = check_reason(reason)
        return run_operation(self.backend.broker, self._pause(kind, name, reason))

    async def apause(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        queue: str | None = None,
        key: str | None = None,
        reason: str = "",
    ) -> bool:
        """The asyncio twin of `pause`."""
        check_one_subject("apause", function, queue, key)
        kind, name = await self._apause_target(function, queue, key)
        operation = self._pause(kind, name, check_reason(reason))
        return await arun_operation(self.backend.abroker, operation)

    def resume(
        self, function: Function[Any, Any] | str | None = None, *, queue: str | None = None, key: str | None = None
    ) -> bool:
        """Resume what `pause` has paused; waiting runs continue in their order. False if it was not paused.

        See `pause` for arguments and errors.

        Example::

            app.resume("sync")
        """
        check_one_subject("resume", function, queue, key)
        kind, name = self._pause_target(function, queue, key)
        return run_operation(self.backend.broker, self._resume(kind, name))

    async def aresume(
        self, function: Function[Any, Any] | str | None = None, *, queue: str | None = None, key: str | None = None
    ) -> bool:
        """The asyncio twin of `resume`."""
        check_one_subject("aresume", function, queue, key)
        kind, name = await self._apause_target(function, queue, key)
        return await arun_operation(self.backend.abroker, self._resume(kind, name))

    def pauses(self) -> list[Pause]:
        """All pauses on the server, of all apps, oldest first.

        Raises:
            BackendUnavailableError: the server or a cluster node does not answer.

        Example::

            for pause in app.pauses():
                print(pause.kind, pause.name, pause.reason)
        """
        return run_operation(self.backend.broker, read_all_pauses(self.backend.partition))

    async def apauses(self) -> list[Pause]:
        """The asyncio twin of `pauses`."""
        return await arun_operation(self.backend.abroker, read_all_pauses(self.backend.partition))

    def _pause(self, kind: PauseKind, name: str, reason: str) -> Operation[bool]:
        return pause_everywhere(self.backend.partition, kind, name, reason=reason, who=self.backend.actor)

    def _resume(self, kind: PauseKind, name: str) -> Operation[bool]:
        return resume_everywhere(self.backend.partition, kind, name, who=self.backend.actor)

    def _pause_target(
        self, function: Function[Any, Any] | str | None, queue: str | None, key: str | None
    ) -> tuple[PauseKind, str]:
        return pause_target(self._config(function) if function is not None else None, queue, key)

    async def _apause_target(
        self, function: Function[Any, Any] | str | None, queue: str | None, key: str | None
    ) -> tuple[PauseKind, str]:
        return pause_target(await self._aconfig(function) if function is not None else None, queue, key)
