"""Retry policies: how many attempts follow, when, and after which errors."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from stepflow_engine.callables import is_async_callable
from stepflow_engine.durations import Duration, duration_ms, show_duration, show_value
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.failure import group_parts
from stepflow_engine.limits import MAX_ATTEMPTS, check_retries

__all__ = ["Backoff", "Matcher", "Matchers", "Retry", "combined_retries", "error_parts", "is_retried"]

Matcher = type[BaseException] | Callable[[BaseException], object]
"""A class of errors, or a predicate: a function that takes the error and returns whether it matches."""
Matchers = Matcher | tuple[Matcher, ...]

_MAX_PARTS = 10_000
_MAX_FACTOR = 100.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays of ``first_ms * factor ** attempt``, at most ``max_ms``. Jitter shortens each.

    Attributes:
        first_ms: the delay after the first attempt, in milliseconds.
        max_ms: the longest delay, in milliseconds.
        factor: by how much each delay is longer than the one before.
        jitter: the largest part of a delay by which it is shortened, from 0 to 1.
    """

    first_ms: int = 1_000
    max_ms: int = 3_600_000
    factor: float = 2.0
    jitter: float = 0.5

    def delay_ms(self, attempt: int, chance: float) -> int:
        """The delay after attempt number ``attempt`` (0-based); ``chance`` is a random number in [0, 1)."""
        try:
            whole = min(self.first_ms * self.factor**attempt, self.max_ms)
        except OverflowError:
            whole = self.max_ms if self.first_ms else 0
        return round(whole * (1 - chance * self.jitter))


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy: of a step, of a function, or of all functions of an app.

    The delay after the nth attempt is ``initial * factor ** (n - 1)``, at most ``maximum``. An error whose HTTP
    response has the header ``Retry-After`` delays the next attempt for that time at least, up to ``maximum``.
    `NonRetriableError` and `RetryAfterError` hold whatever the policy says.

    Attributes:
        attempts: the largest number of attempts, the first one included; 1 to 10,000.
        initial: the delay after the first attempt; a duration, or seconds.
        factor: by how much each delay is longer than the one before; 1 to 100. 1: all delays are equal.
        maximum: the longest delay; a duration, or seconds.
        jitter: the largest part by which a delay is shortened at random, 0 to 1. 0: no jitter.
        budget: no attempt begins later than this after the first one has failed; a duration, or seconds. ``None``: no
            limit.
        on: the errors after which an attempt follows: a class of errors, a predicate that takes the error and returns
            whether it matches, or a tuple of them. Of a group of errors each must match. ``()``: all.
        unless: the errors after which no attempt follows, in the same form. Of a group of errors one is enough.

    Predicates are called in the event loop of the worker and must be quick. One that raises is ignored, and the error
    of the attempt gets a note about it.

    Raises:
        ConfigurationError: a value is invalid.

    Example::

        @app.function("sync", retries=Retry(10, initial="1s", maximum="5m", budget="1h", on=(TimeoutError, OSError)))
        async def sync(ctx: Context) -> None:
            await ctx.step.with_options(retries=Retry(3, factor=1)).run("fetch", fetch)
    """

    attempts: int
    initial: Duration = "1s"
    factor: float = 2.0
    maximum: Duration = "1h"
    jitter: float = 0.5
    budget: Duration | None = None
    on: Matchers = ()
    unless: Matchers = ()

    def __post_init__(self) -> None:
        if not _is_integer(self.attempts) or not 1 <= self.attempts <= MAX_ATTEMPTS:
            raise ConfigurationError(
                f"retry: attempts must be an integer from 1 to {MAX_ATTEMPTS:,}, got {show_value(self.attempts)}"
            )
        _check_number("factor", self.factor, 1, _MAX_FACTOR)
        _check_number("jitter", self.jitter, 0, 1)
        first_ms, longest_ms = _milliseconds("initial", self.initial), _milliseconds("maximum", self.maximum)
        if longest_ms < first_ms:
            raise ConfigurationError(
                f"retry: maximum must not be shorter than initial, got {self.maximum!r} and {self.initial!r}"
            )
        if self.budget is not None and _milliseconds("budget", self.budget, least_ms=1) < first_ms * (1 - self.jitter):
            raise ConfigurationError(
                f"retry: budget must leave time for a second attempt after {show_duration(first_ms)}, "
                f"got {show_value(self.budget)}"
            )
        _check_matchers("on", self.on)
        _check_matchers("unless", self.unless)

    @property
    def retries(self) -> int:
        """The number of attempts after the first."""
        return self.attempts - 1

    @property
    def budget_ms(self) -> int | None:
        """The budget, in milliseconds."""
        return None if self.budget is None else duration_ms(self.budget)

    @property
    def backoff(self) -> Backoff:
        """The delays."""
        return Backoff(duration_ms(self.initial), duration_ms(self.maximum), float(self.factor), float(self.jitter))


def combined_retries(outer: int | Retry | None, retries: int | Retry) -> int | Retry:
    """The option ``retries=`` where an outer one holds too: a number keeps the delays and the errors of the outer one.

    Raises:
        ValueError: it is neither a valid number of retries nor a `Retry`.
    """
    if isinstance(retries, Retry):
        return retries
    check_retries(retries)
    return replace(outer, attempts=retries + 1) if isinstance(outer, Retry) else retries


def is_retried(policy: Retry, error: BaseException) -> bool:
    """Whether ``on`` and ``unless`` of a policy allow another attempt after this error."""
    if policy.unless and any(_matches(part, policy.unless, "unless", broken=False) for part in _leaves(error)):
        return False
    return not policy.on or all(_matches(part, policy.on, "on", broken=True) for part in _leaves(error))


def error_parts(error: BaseException) -> Iterator[BaseException]:
    """The error, and those of its group and of the groups in it, in order; at most 10,000."""
    left = [error]
    for _ in range(_MAX_PARTS):
        if not left:
            return
        part = left.pop()
        yield part
        left += reversed(group_parts(part))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors that are no groups."""
    return (part for part in error_parts(error) if not group_parts(part))


def _matches(error: BaseException, matchers: Matchers, name: str, *, broken: bool) -> bool:
    """Whether an error matches one of the classes and predicates.

    Args:
        broken: the result for a predicate that raises: it must not take an attempt from the step.
    """
    for matcher in matchers if isinstance(matchers, tuple) else (matchers,):
        try:
            if issubclass(type(error), matcher) if isinstance(matcher, type) else _answer(matcher(error)):
                return True
        except BaseException as mistake:  # noqa: BLE001  user code
            _note(error, f"{name}={_shown(matcher)} was ignored: it raised {type(mistake).__name__}")
            if broken:
                return True
    return False


def _answer(result: object) -> object:
    if inspect.iscoroutine(result):  # it would count as true
        result.close()
        raise TypeError("a predicate must not be a coroutine")
    return result


def _note(error: BaseException, text: str) -> None:
    try:
        BaseException.add_note(error, text)
    except BaseException:  # noqa: BLE001  user code: its class may define __notes__
        return


def _shown(matcher: object) -> str:
    try:
        return str(getattr(matcher, "__qualname__", type(matcher).__name__))[:100]
    except BaseException:  # noqa: BLE001  user code: an object with __getattr__
        return type(matcher).__name__[:100]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    is_number = _is_integer(value) or (isinstance(value, float) and math.isfinite(value))
    if not is_number or not least <= value <= most:
        raise ConfigurationError(f"retry: {name} must be a number from {least:g} to {most:g}, got {show_value(value)}")


def _milliseconds(name: str, value: Duration, *, least_ms: int = 0) -> int:
    try:
        return duration_ms(value, name=f"retry: {name}", least_ms=least_ms)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _check_matchers(name: str, matchers: object) -> None:
    for matcher in matchers if isinstance(matchers, tuple) else (matchers,):
        is_class = isinstance(matcher, type) and issubclass(matcher, BaseException)
        is_predicate = callable(matcher) and not isinstance(matcher, type) and not is_async_callable(matcher)
        if not (is_class or is_predicate):
            raise ConfigurationError(
                f"retry: {name} must be a class of errors, a plain function that takes the error, or a tuple of them, "
                f"got {show_value(matcher)}"
            )
