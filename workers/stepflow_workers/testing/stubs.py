"""Stubs: what a test puts in the place of the handlers of steps, and the calls of all handlers."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepflow import Function, NonRetriableError
from stepflow_engine.around_attempt import Attempt
from stepflow_engine.callables import is_async_callable
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.steps import RunRequest

__all__ = ["MISSING", "StepCallRecord", "Stub", "Stubs", "UnstubbedStepError", "action", "named_function"]

MISSING: Any = object()
"""A value that was not given: ``None`` is one that can be."""


class UnstubbedStepError(NonRetriableError):
    """A step was called that has no stub, in a harness with ``steps="stub"``. It fails the step at once.

    Attributes:
        step_id: the id of the step.
    """

    def __init__(self, step_id: str) -> None:
        super().__init__(f'step {step_id!r} has no stub: write h.stub({step_id!r}, returns=...), or use steps="run"')
        self.step_id = step_id


@dataclass(frozen=True, slots=True)
class StepCallRecord:
    """One call of the handler of a step, or of its stub.

    Attributes:
        step_id: the id of the step.
        args, kwargs: the arguments.
        attempt: the number of the attempt, from 1.
        run_id: the run.
        function: its function, as ``app/id``.
    """

    step_id: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    attempt: int
    run_id: str
    function: str


@dataclass(slots=True, eq=False)
class Stub:
    """What stands in for a step. Make it with `Harness.stub`.

    Attributes:
        step: the id of the step, or its handler.
        function: only in runs of this function, as ``app/id``; ``""``: of any.
        times: for how many calls; ``None``: for all.
        used: how many calls it has had.
    """

    step: str | Callable[..., Any]
    act: Callable[..., Any]
    function: str = ""
    times: int | None = None
    used: int = 0

    def fits(self, attempt: Attempt, handler: Callable[..., Any]) -> bool:
        """Whether it stands in for this call."""
        is_named = self.step == attempt.step_id if isinstance(self.step, str) else self.step is handler
        return is_named and self.function in ("", attempt.function) and (self.times is None or self.used < self.times)

    def __str__(self) -> str:
        return repr(self.step) if isinstance(self.step, str) else getattr(self.step, "__name__", repr(self.step))


@dataclass(slots=True)
class Stubs:
    """The stubs of a harness, and the calls that it has seen.

    Attributes:
        is_needed: whether a step without a stub fails.
    """

    is_needed: bool = False
    stubs: list[Stub] = field(default_factory=list)
    calls: list[StepCallRecord] = field(default_factory=list)

    def add(self, stub: Stub) -> Stub:
        """Add a stub. The latest one that fits stands in."""
        self.stubs.append(stub)
        return stub

    @property
    def unused(self) -> list[Stub]:
        """The stubs that no step has used."""
        return [stub for stub in self.stubs if not stub.used]

    def replace(self, attempt: Attempt, request: RunRequest) -> RunRequest:
        """The request to execute in place of that of the code: it notes the call, and calls the stub if there is one.

        A stub takes the place of the handler alone: its result is stored, checked against the type that the handler
        declares, retried and timed out as that of the handler would be.
        """
        number = attempt.number + 1
        names = (number, attempt.run_id, attempt.function)
        self.calls.append(StepCallRecord(attempt.step_id, request.args, request.kwargs, *names))
        stub = next((one for one in reversed(self.stubs) if one.fits(attempt, request.handler)), None)
        if stub is not None:
            stub.used += 1
            return dataclasses.replace(request, handler=_awaited(stub.act), isolation=None)
        if self.is_needed:
            return dataclasses.replace(request, handler=_refusing(attempt.step_id), isolation=None)
        return request


def action(returns: Any, raises: Any, calls: Any, each: Any) -> Callable[..., Any]:
    """What a stub does, from the one argument that says it.

    Raises:
        ConfigurationError: none of them is given, or several are, or it is not what it must be.
    """
    options = {"returns": returns, "raises": raises, "calls": calls, "each": each}
    options = {name: value for name, value in options.items() if value is not MISSING}
    if len(options) != 1:
        got = ", ".join(options) or "none"
        raise ConfigurationError(f"stub: takes one of returns, raises, calls and each, got {got}")
    match options:
        case {"returns": value}:
            return lambda *_, **__: value
        case {"raises": error} if isinstance(error, BaseException) or (
            isinstance(error, type) and issubclass(error, BaseException)
        ):
            return _raising(error)
        case {"calls": function} if callable(function):
            called: Callable[..., Any] = function
            return called
        case {"each": items} if isinstance(items, Sequence) and not isinstance(items, str | bytes) and items:
            return _each(iter(items))
    ((name, value),) = options.items()
    wanted = {"raises": "an exception", "calls": "a callable", "each": "a list of results and exceptions"}[name]
    raise ConfigurationError(f"stub: {name} must be {wanted}, got {value!r:.100}")


def named_function(function: Function[Any, Any] | str | None) -> str:
    """The name of a function, as ``app/id``; ``""``: any."""
    return function.name if isinstance(function, Function) else function or ""


def _raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def act(*_: Any, **__: Any) -> Any:
        raise error

    return act


def _each(items: Iterator[Any]) -> Callable[..., Any]:
    def act(*_: Any, **__: Any) -> Any:
        try:
            item = next(items)
        except StopIteration:
            raise NonRetriableError("the stub has no further result: give each= more, or times=") from None
        if isinstance(item, BaseException):
            raise item
        return item

    return act


def _refusing(step_id: str) -> Callable[..., Any]:
    async def act(*_: Any, **__: Any) -> Any:
        raise UnstubbedStepError(step_id)

    return act


def _awaited(act: Callable[..., Any]) -> Callable[..., Any]:
    """The action as an ``async def``, so that a plain ``def`` needs no thread."""
    if is_async_callable(act):
        return act

    async def call(*args: Any, **kwargs: Any) -> Any:
        result = act(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return call
