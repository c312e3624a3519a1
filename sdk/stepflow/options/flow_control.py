"""Flow control: whether, when, and how many runs of a function are executed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stepflow_broker.registry.flow_control import (
    BatchConfig,
    ConcurrencyConfig,
    DebounceConfig,
    FlowConfig,
    RateConfig,
    SingletonConfig,
    ThrottleConfig,
)
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.expression import expression

__all__ = ["Batch", "Concurrency", "Debounce", "RateLimit", "Singleton", "Throttle", "flow_config"]

Scope = Literal["function", "app", "global"]
Mode = Literal["skip", "cancel"]
_MOST_GATES = 2
_MOST_BATCHED = 1_000


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``limit`` runs start in any span of ``period``; those over it are skipped.

    A skipped run is kept with its reason; who invoked it gets `InvokeSkippedError`.

    Attributes:
        limit: how many; 1 or more.
        period: the span.
        key: an expression on the event, such as ``"event.data.user_id"``: each value has a limit of its own.
    """

    limit: int
    period: Duration
    key: str | None = None

    def to_config(self) -> RateConfig:
        """What the registry is told.

        Raises:
            ConfigurationError: a value is out of range.
        """
        return RateConfig(
            _count(self.limit, "RateLimit"), _period(self.period, "RateLimit"), _key(self.key, "RateLimit")
        )


@dataclass(frozen=True, slots=True)
class Throttle:
    """``limit`` runs start in each ``period``, spread evenly over it; those that come too early wait. None is dropped.

    Attributes:
        limit: how many; 1 or more.
        period: the span.
        burst: how many may start at once after a pause; then in any span of ``period``, ``limit + burst - 1`` may.
        key: an expression on the event: each value has a throttle of its own.
    """

    limit: int
    period: Duration
    burst: int = 1
    key: str | None = None

    def to_config(self) -> ThrottleConfig:
        """What the registry is told.

        Raises:
            ConfigurationError: a value is out of range.
        """
        limit, burst = _count(self.limit, "Throttle"), _count(self.burst, "Throttle", what="burst")
        return ThrottleConfig(limit, _period(self.period, "Throttle"), burst, _key(self.key, "Throttle"))


@dataclass(frozen=True, slots=True)
class Debounce:
    """Of runs that come within ``period`` of one another only the last starts, ``period`` after it has come.

    The last is the one whose event has the latest time. The others are skipped, and kept with that reason.

    Attributes:
        period: how long nothing else may come.
        timeout: the longest that the first of them is put off; ``None``: for ever.
        key: an expression on the event: each value is debounced by itself.
    """

    period: Duration
    timeout: Duration | None = None
    key: str | None = None

    def to_config(self) -> DebounceConfig:
        """What the registry is told.

        Raises:
            ConfigurationError: a value is out of range.
        """
        timeout_ms = 0 if self.timeout is None else _period(self.timeout, "Debounce", what="timeout")
        return DebounceConfig(_period(self.period, "Debounce"), timeout_ms, _key(self.key, "Debounce"))


@dataclass(frozen=True, slots=True)
class Singleton:
    """One live run at a time, from its start to its end.

    Attributes:
        key: an expression on the event: one for each value.
        mode: what gives way: ``skip`` the new run, or ``cancel`` the one that is live.
    """

    key: str | None = None
    mode: Mode = "skip"

    def to_config(self) -> SingletonConfig:
        """What the registry is told.

        Raises:
            ConfigurationError: the mode or the key is not one.
        """
        if self.mode not in get_args(Mode):
            raise ConfigurationError(f"the mode of a Singleton is 'skip' or 'cancel', not {self.mode!r}")
        return SingletonConfig(self.mode, _key(self.key, "Singleton"))


@dataclass(frozen=True, slots=True)
class Batch:
    """Runs that are executed as one: the code is called once, with all their events as ``ctx.events``.

    The batch is a run of its own. When it ends, each of its runs ends as it does, with the same result: so everybody
    who has started or invoked one of them is answered. Its events have at most 10 MiB together.

    Attributes:
        max_size: with how many it starts at once; 1 to 1,000.
        timeout: how long after the first it starts with those that have come.
        key: an expression on the event: each value has batches of its own.
    """

    max_size: int
    timeout: Duration
    key: str | None = None

    def to_config(self) -> BatchConfig:
        """What the registry is told.

        Raises:
            ConfigurationError: a value is out of range.
        """
        size = _count(self.max_size, "Batch", what="max_size")
        if size > _MOST_BATCHED:
            raise ConfigurationError(f"the max_size of a Batch is at most {_MOST_BATCHED:,}, not {size:,}")
        return BatchConfig(size, _period(self.timeout, "Batch", what="timeout"), _key(self.key, "Batch"))


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most ``limit`` steps are executed at once; a run that sleeps or waits does not count.

    Those that find no room stand in line, older runs first, and go on in the moment in which one is done. With a
    ``key``, each value has a line of its own: however many runs one has, they do not delay the others'.

    Attributes:
        limit: how many; 1 or more.
        key: an expression on the event: each value has a limit of its own.
        scope: what is counted together: the function's steps, its app's, or, with the same key, everybody's.
    """

    limit: int
    key: str | None = None
    scope: Scope = "function"

    def to_config(self) -> ConcurrencyConfig:
        """What the registry is told.

        Raises:
            ConfigurationError: a value is out of range.
        """
        if self.scope not in get_args(Scope):
            raise ConfigurationError(f"the scope of a Concurrency is 'function', 'app' or 'global', not {self.scope!r}")
        if self.scope == "global" and self.key is None:
            raise ConfigurationError("a Concurrency with scope 'global' needs a key, by which functions share it")
        return ConcurrencyConfig(_count(self.limit, "Concurrency"), _key(self.key, "Concurrency"), self.scope)


def flow_config(
    *,
    rate_limit: RateLimit | None,
    throttle: Throttle | None,
    debounce: Debounce | None,
    singleton: Singleton | None,
    concurrency: int | Concurrency | Sequence[Concurrency] | None,
    idempotency: str | None,
    priority: str | None,
    batch: Batch | None,
) -> FlowConfig | None:
    """The flow control of a function; ``None``: there is none.

    Raises:
        ConfigurationError: a value is out of range, or two of them cannot go together.
    """
    if debounce and throttle:
        raise ConfigurationError("debounce and throttle cannot go together: both say when a run starts")
    if batch:
        _check_batched(
            debounce=debounce, throttle=throttle, rate_limit=rate_limit, singleton=singleton, priority=priority
        )
    config = FlowConfig(
        rate_limit.to_config() if rate_limit else None,
        throttle.to_config() if throttle else None,
        debounce.to_config() if debounce else None,
        singleton.to_config() if singleton else None,
        tuple(one.to_config() for one in _gates(concurrency)),
        _key(idempotency, "idempotency"),
        _key(priority, "priority"),
        batch.to_config() if batch else None,
    )
    return None if config == FlowConfig() else config


def _check_batched(**others: object) -> None:
    wrong = next((name for name, one in others.items() if one), None)
    if wrong:
        raise ConfigurationError(f"batch and {wrong} cannot go together: one is about many runs, the other about each")


def _gates(concurrency: int | Concurrency | Sequence[Concurrency] | None) -> list[Concurrency]:
    match concurrency:
        case None:
            return []
        case Concurrency():
            return [concurrency]
        case int():
            return [Concurrency(concurrency)]
    found = list(concurrency)
    if len(found) > _MOST_GATES or not all(isinstance(one, Concurrency) for one in found):
        raise ConfigurationError(f"concurrency is a number, a Concurrency, or at most two of them, not {concurrency!r}")
    return found


def _count(value: Any, of: str, *, what: str = "limit") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"the {what} of a {of} must be a whole number from 1, not {value!r}")
    return value


def _period(value: Duration, of: str, *, what: str = "period") -> int:
    try:
        period_ms = duration_ms(value, name=f"the {what} of a {of}")
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    if not period_ms:
        raise ConfigurationError(f"the {what} of a {of} must be longer than 0")
    return period_ms


def _key(value: str | None, of: str) -> str:
    if value is None:
        return ""
    text = expression(value).text
    if not re.search(r"\bevent\b", text):
        raise ConfigurationError(f"the key {value!r} of {of} says nothing of the event: write it as event.data.user_id")
    return text
