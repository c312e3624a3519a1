"""Context managers of an app around each attempt of a step: in the handler's own thread, or in its task.

They are the place for what belongs to the thread or the task of a handler, such as the connections of an ORM.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from stepflow_engine.callables import undecorated
from stepflow_engine.errors import ConfigurationError

__all__ = ["NOTHING_AROUND", "AroundAttempt", "Attempt"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a step, as `Stepflow.around_attempt` shows it to a context manager.

    Attributes:
        function: the function of the run, as ``app/id``.
        run_id: the id of the run.
        step_id: the id of the step.
        number: the number of the attempt, 0-based.

    Example::

        @app.around_attempt
        def warn_of_retries(attempt: Attempt) -> Iterator[None]:
            if attempt.number > 0:
                logging.warning("attempt %d of step %s", attempt.number + 1, attempt.step_id)
            yield
    """

    function: str
    run_id: str
    step_id: str
    number: int


class AroundAttempt:
    """The context managers of one app. The first is the outermost.

    Attributes:
        has_sync: whether there are any for handlers in threads.
        has_async: whether there are any for handlers in tasks.
    """

    def __init__(self) -> None:
        self._sync: dict[Any, Callable[[Attempt], Any]] = {}
        self._async: dict[Any, Callable[[Attempt], Any]] = {}
        self._managers: dict[Any, Callable[[Attempt], Any]] = {}
        self.has_sync = False
        self.has_async = False

    def add(self, manager: Callable[[Attempt], Any], *, key: object = None) -> None:
        """Add a context manager. One that was added with the same key is replaced.

        Raises:
            ConfigurationError: it is no context manager, and no generator function that can become one.
        """
        key = id(manager) if key is None else key
        for factories, factory in zip((self._sync, self._async), _factories(manager), strict=True):
            if factory is None:
                factories.pop(key, None)
            else:
                factories[key] = factory
        self._managers[key] = manager
        self.has_sync, self.has_async = bool(self._sync), bool(self._async)

    @property
    def managers(self) -> list[Callable[[Attempt], Any]]:
        """The context managers as they were added, in order."""
        return list(self._managers.values())

    def call(self, attempt: Attempt, handler: Callable[[], T]) -> T:
        """Call a handler inside the context managers. Called in the thread of the handler.

        An error of a manager is the error of the attempt. A manager may replace the error of the handler, but it cannot
        turn it into a success, because then there would be no result.
        """
        failed: BaseException | None = None
        with contextlib.ExitStack() as stack:
            try:
                for factory in self._sync.values():
                    stack.enter_context(factory(attempt))
                return handler()
            except BaseException as error:
                failed = error
                raise
        return _raise(failed)

    async def wait(self, attempt: Attempt, result: Callable[[], Awaitable[T]]) -> T:
        """Await a handler inside the context managers; see `call`. Awaited in the task of the handler."""
        failed: BaseException | None = None
        async with contextlib.AsyncExitStack() as stack:
            try:
                for factory in self._async.values():
                    await stack.enter_async_context(factory(attempt))
                return await result()
            except BaseException as error:
                failed = error
                raise
        return _raise(failed)


NOTHING_AROUND = AroundAttempt()
"""No context managers."""


def _raise(error: BaseException | None) -> Any:
    try:
        raise error or RuntimeError("a context manager around the attempt has lost its error")
    finally:
        del error  # the traceback refers to this frame, a cycle


def _factories(
    manager: Callable[[Attempt], Any],
) -> tuple[Callable[[Attempt], Any] | None, Callable[[Attempt], Any] | None]:
    """What makes the context manager of an attempt, for handlers in threads and for those in tasks."""
    if inspect.isclass(manager):
        sync = manager if hasattr(manager, "__enter__") and hasattr(manager, "__exit__") else None
        asynchronous = manager if hasattr(manager, "__aenter__") and hasattr(manager, "__aexit__") else None
        if sync or asynchronous:
            return sync, asynchronous
    elif callable(manager):
        behind = undecorated(manager)
        if inspect.isasyncgenfunction(behind):
            is_plain = inspect.isasyncgenfunction(manager)
            return None, contextlib.asynccontextmanager(manager) if is_plain else manager
        if inspect.isgeneratorfunction(behind):
            return contextlib.contextmanager(manager) if inspect.isgeneratorfunction(manager) else manager, None
    raise ConfigurationError(
        "around_attempt must be on a generator function with one yield and one parameter, the attempt (def for plain "
        f"def handlers, async def for async def handlers), or on a class of context managers, got {manager!r:.200}"
    )
