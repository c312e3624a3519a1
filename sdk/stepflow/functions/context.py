"""The context: the argument of a function's code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from random import Random
from typing import Any, Generic, Never
from uuid import UUID, uuid5

from typing_extensions import TypeVar

from stepflow.event import Event
from stepflow.functions.step_tools import StepTools
from stepflow.functions.sync_step_tools import SyncStepTools
from stepflow.functions.values import set_value
from stepflow_broker.registry.tags import MAX_TAGS, check_tag_name, tag_value
from stepflow_engine.errors import LimitError, StepUsageError
from stepflow_engine.execution import HANDLER_ATTEMPT, Execution
from stepflow_engine.limits import Limits
from stepflow_engine.patches import check_patch_id
from stepflow_engine.product import RUN_LOGGER
from stepflow_engine.rounds import ContinueAsNew
from stepflow_engine.threads import DetachedThreads
from stepflow_engine.times import utc_time

__all__ = ["Context", "ContextParts", "SyncContext", "context_parts", "detached_context"]

T = TypeVar("T", default=Any)

_LOGGER = logging.getLogger(RUN_LOGGER)
_UUIDS = UUID("8b9f4c1e-60a7-5c0d-9c59-3f5d6a1f2b44")


class _RunContext(Generic[T]):
    """The part of a context that both kinds of function have.

    Attributes:
        event: the event that started the run; its ``data`` has the type ``T``.
        events: the events of a batch in the order of their arrival, of which ``event`` is the first; else only it.
        run_id: the id of the run.
        round: how often the run has continued as new; see `continue_as_new`.
    """

    def __init__(
        self,
        execution: Execution,
        events: Sequence[Event[T]],
        *,
        run_id: str,
        function: str,
        attempt: int,
        declared_tags: int = 0,
        round: int = 0,
        next_data: Callable[[Any], bytes] | None = None,
    ) -> None:
        self.event = events[0]
        self.events = list(events)
        self.run_id = run_id
        self.round = round
        self._next_data = next_data
        self._execution = execution
        self._function = function
        self._attempt = attempt
        self._declared_tags = declared_tags
        self._uuids = 0
        self._random: Random | None = None

    @cached_property
    def logger(self) -> RunLogger:
        """A logger that adds the run's id and function to each record.

        It is silent while the code is replayed or unwound. So a message between steps is logged once, unless a worker
        dies: then it may be logged again, or be missing. In the handler of a step, each attempt logs.
        """
        return RunLogger(_LOGGER, {"run_id": self.run_id, "function": self._function}, self._execution)

    def tag(self, name: str, value: str | int | bool) -> None:
        """Give the run a tag, by which ``app.runs(tags=…)`` finds it. A later value takes the place of an earlier one.

        Call it in the code between steps. The tag is stored when the code next waits for a step, or ends. It is
        stored in clear, also with ``encryption=``: use no secrets.

        Args:
            name: 1 to 64 letters, digits, ``_``, ``.`` or ``-``, the first a letter or ``_``.
            value: text of at most 128 bytes, an integer, or a boolean.

        Raises:
            StepUsageError: the name or the value is invalid, or the call is in the handler of a step.
            LimitError: the run would have more than 10 tags, or more than the function leaves by those that it
                declares.

        Example::

            ctx.tag("carrier", "dhl")
        """
        if HANDLER_ATTEMPT.get() is not None:
            raise StepUsageError(f"ctx.tag({name!r}) is in the handler of a step: call it in the code between steps")
        try:
            text = tag_value(check_tag_name(name), value)
        except ValueError as error:
            raise StepUsageError(f"ctx.tag: {error}") from None
        tags = self._execution.tags
        if name not in tags and len(tags) >= MAX_TAGS - self._declared_tags:
            raise LimitError(
                f"ctx.tag({name!r}): a run has at most {MAX_TAGS} tags, those that its function declares included: "
                "use fewer names"
            )
        tags[name] = text

    def now(self) -> datetime:
        """The time, in UTC, with the same value on every replay. Use it between steps in the place of the clock.

        It is the time at which the last step ended whose result the code has received, and the start of the run before
        the first. It stands still between two steps.

        Raises:
            StepUsageError: the call is in the handler of a step, where the clock itself is right.

        Example::

            overdue = ctx.now() > ctx.event.data.due
        """
        self._refuse_in_handler("now", "datetime.now(UTC)")
        return utc_time(self._execution.now_ms())

    def uuid(self) -> UUID:
        """A new UUID, with the same value on every replay. Use it between steps in the place of `uuid.uuid4`.

        The nth call of a run returns the nth UUID that is derived from the id of the run and its round (version 5), so
        it is unique, but whoever knows the id of the run can compute it: use no such UUID as a secret.

        Raises:
            StepUsageError: the call is in the handler of a step.

        Example::

            order_id = ctx.uuid()
        """
        self._refuse_in_handler("uuid", "uuid4()")
        self._uuids += 1
        return uuid5(_UUIDS, f"{self._seed}/{self._uuids}")

    def random(self) -> Random:
        """A generator of random numbers, with the same numbers on every replay. Each call returns the same generator.

        Its seed is the id of the run, and its round. Use it between steps in the place of the functions of `random`.

        Raises:
            StepUsageError: the call is in the handler of a step.

        Example::

            in_experiment = ctx.random().random() < 0.1
        """
        self._refuse_in_handler("random", "random")
        if self._random is None:
            self._random = Random(self._seed)
        return self._random

    @property
    def _seed(self) -> str:
        return f"{self.run_id}/round {self.round}" if self.round else self.run_id

    def continue_as_new(self, data: T | Mapping[str, Any] | None = None, *, keep_version: bool = False) -> Never:
        """Go on as a new round of this run, with new data and without the results of the steps so far.

        Write ``return ctx.continue_as_new(data)``: the round ends when the code returns the value. The code then begins
        again, with ``data`` as the data of its event. The run keeps its id, so a program that waits for it, its parent,
        its tags and its singleton key do not notice. A loop without an end needs no more memory than one round.

        For type checkers it does not return, so the code may declare the type of its last result.

        Args:
            data: the data of the event of the next round; JSON.
            keep_version: a run that is pinned to a version of the code stays with it. By default its next round is
                pinned to the version that starts new runs now.

        Raises:
            EventError: the data is not JSON, over the limit, or not what the function takes.
            StepUsageError: the function executes batches, or the call is in the handler of a step.

        Example::

            return ctx.continue_as_new({"cursor": cursor})
        """
        if HANDLER_ATTEMPT.get() is not None or self._next_data is None:
            raise StepUsageError("ctx.continue_as_new is in the handler of a step: call it in the code between steps")
        data_json = self._next_data(data)
        self._execution.has_continued = True
        return ContinueAsNew(data_json, keep_version)  # type: ignore[misc]

    def _refuse_in_handler(self, name: str, instead: str) -> None:
        if HANDLER_ATTEMPT.get() is not None:
            raise StepUsageError(
                f"ctx.{name}() is in the handler of a step: handlers are not replayed, so use {instead} there, or call "
                f"ctx.{name}() between steps and pass its value to the handler"
            )

    def set(self, key: str, value: Any) -> None:
        """Say something of the live run, such as its stage, which `Run.values` reads. A later value of a key counts.

        Call it in the code between steps. The values are stored when the code next waits for a step, or ends, and are
        kept with the run. With ``encryption=`` they are encrypted.

        Args:
            key: the name of the value, at most 128 bytes.
            value: JSON data. The values of a run are at most 100, and at most 256 KiB of JSON in all.

        Raises:
            StepUsageError: the key is invalid, the value is not JSON, or the call is in the handler of a step.
            LimitError: there would be too many values, or they would be too large.

        Example::

            ctx.set("stage", "waiting for the bank")
        """
        if HANDLER_ATTEMPT.get() is not None:
            raise StepUsageError(f"ctx.set({key!r:.80}) is in the handler of a step: call it in the code between steps")
        set_value(self._execution.values, key, value)

    def patched(self, id: str) -> bool:
        """Whether this run takes the new way at a change of the code. Each run decides once, and stores it.

        True: the run has reached this point with the new code first. False: it has passed this point with code that
        did not have the patch, so its stored results are those of the old way. All later calls with the same ``id`` in
        the run return the same, also after crashes and in forks that keep a result of a step after this point.
        ``stepflow check`` lists the patches and says which live runs still need the old way.

        Args:
            id: names the change; at most 128 bytes. A run has at most 100 patches.

        Raises:
            StepUsageError: the id is invalid, or the call is in the handler of a step.
            LimitError: the run would have too many patches.

        Example::

            if ctx.patched("charge-with-tax"):
                await ctx.step.run("charge-with-tax", charge_with_tax, order)
            else:
                await ctx.step.run("charge", charge, order)
        """
        self._check_patch("patched", id)
        return self._ask_run(lambda: self._execution.patched(id))

    def deprecate_patch(self, id: str) -> None:
        """Say that the old way of a patch is gone from the code.

        It takes the place of ``ctx.patched(id)`` when no live run needs the old way any more. A run that has taken the
        old way is left to a worker with other code, if there is one. Otherwise it fails, instead of continuing with
        results that belong to other code. Remove the call when no run that could have taken the old way is forked or
        retried any more.

        Args:
            id: the id of the patch.

        Raises:
            StepUsageError: the run has taken the old way, the id is invalid, or the call is in the handler of a step.

        Example::

            ctx.deprecate_patch("charge-with-tax")
            await ctx.step.run("charge-with-tax", charge_with_tax, order)
        """
        self._check_patch("deprecate_patch", id)
        if not self._ask_run(lambda: self._execution.patched(id)):
            self._execution.has_other_kind = True
            raise StepUsageError(
                f"run {self.run_id} has taken the old way at patch {id!r}, which the code does not have any more: "
                "bring it back with ctx.patched, then retry the run"
            )

    def _check_patch(self, method: str, id: str) -> None:
        if HANDLER_ATTEMPT.get() is not None:
            raise StepUsageError(f"ctx.{method}({id!r:.80}) is in the handler of a step: ask in the code between steps")
        check_patch_id(id, method)

    def _ask_run(self, question: Callable[[], bool]) -> bool:
        return question()

    @property
    def attempt(self) -> int:
        """The 0-based number of the attempt: of the step in a step's handler, otherwise of the function.

        Example::

            if ctx.attempt > 0:
                ctx.logger.info("retrying")
        """
        in_handler = HANDLER_ATTEMPT.get()
        if in_handler is not None:
            return in_handler
        self._execution.depends_on_attempt = self._attempt > 0
        return self._attempt


class Context(_RunContext[T]):
    """The context of an ``async def`` function. ``Context[T]`` declares the type of the event's data.

    Attributes:
        step: the step tools; their methods are awaited.

    Example::

        @app.function("square", event="calculate/square")
        async def square(ctx: Context[Number]) -> int:
            return ctx.event.data.number ** 2
    """

    def __init__(
        self,
        execution: Execution,
        events: Sequence[Event[T]],
        step: StepTools,
        *,
        run_id: str,
        function: str,
        attempt: int,
        declared_tags: int = 0,
        round: int = 0,
        next_data: Callable[[Any], bytes] | None = None,
    ) -> None:
        super().__init__(
            execution,
            events,
            run_id=run_id,
            function=function,
            attempt=attempt,
            declared_tags=declared_tags,
            round=round,
            next_data=next_data,
        )
        self.step = step


class SyncContext(_RunContext[T]):
    """The context of a plain ``def`` function. ``SyncContext[T]`` declares the type of the event's data.

    Attributes:
        step: the step tools; their methods block the function's thread.

    Example::

        @app.function("cube", event="calculate/cube")
        def cube(ctx: SyncContext[Number]) -> int:
            return ctx.event.data.number ** 3
    """

    def __init__(
        self,
        execution: Execution,
        events: Sequence[Event[T]],
        step: SyncStepTools,
        *,
        run_id: str,
        function: str,
        attempt: int,
        declared_tags: int = 0,
        round: int = 0,
        next_data: Callable[[Any], bytes] | None = None,
    ) -> None:
        super().__init__(
            execution,
            events,
            run_id=run_id,
            function=function,
            attempt=attempt,
            declared_tags=declared_tags,
            round=round,
            next_data=next_data,
        )
        self.step = step

    def _ask_run(self, question: Callable[[], bool]) -> bool:
        return self.step._bridge.ask(question)


@dataclass(frozen=True, slots=True)
class ContextParts:
    """What another process needs of a context to make one for a handler: see `detached_context`."""

    is_async: bool
    events: list[Event[Any]]
    run_id: str
    function: str
    attempt: int
    round: int = 0


def context_parts(ctx: Context[Any] | SyncContext[Any]) -> ContextParts:
    """The parts of a context."""
    return ContextParts(isinstance(ctx, Context), ctx.events, ctx.run_id, ctx._function, ctx._attempt, ctx.round)


def detached_context(parts: ContextParts) -> Context[Any] | SyncContext[Any]:
    """A context for a handler in another process. As in any handler, its steps are refused."""
    execution = Execution(_no_code)
    tools = StepTools(execution, app_id=parts.function.partition("/")[0], event={}, limits=Limits())
    named: Any = {"run_id": parts.run_id, "function": parts.function, "attempt": parts.attempt, "round": parts.round}
    if parts.is_async:
        return Context(execution, parts.events, tools, **named)
    return SyncContext(execution, parts.events, SyncStepTools(tools, DetachedThreads()), **named)


async def _no_code(_execution: Execution) -> None: ...


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds the run's fields and is silent during replay."""

    def __init__(self, logger: logging.Logger, fields: dict[str, str], execution: Execution) -> None:
        super().__init__(logger, fields)
        self._execution = execution

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  logging's name
        """Whether a message would be logged now."""
        is_new = HANDLER_ATTEMPT.get() is not None or self._execution.may_log
        return is_new and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the run's fields to those of the message."""
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs
