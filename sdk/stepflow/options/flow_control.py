"""Flow control: which runs of a function start, when they start, and how many steps execute at once."""

from __future__ import annotations

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
from stepflow_engine.counts import check_count
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.expression import expression

__all__ = ["Batch", "Concurrency", "Debounce", "RateLimit", "Singleton", "Throttle", "flow_config"]

Scope = Literal["function", "app", "global"]
CountOf = Literal["steps", "runs"]
Mode = Literal["skip", "cancel", "attach"]
_MAX_LIMITS = 2
_MAX_BATCHED = 1_000


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Start at most ``limit`` runs in any ``period``; skip the rest.

    A skipped run is stored with its reason. An invoke of it raises `InvokeSkippedError`. The count is in Redis: all
    workers share it, and it survives their restarts.

    Attributes:
        limit: the number of runs; 1 or more.
        period: a duration, or seconds.
        key: a CEL expression on the event, such as ``"event.data.user_id"``; each value has its own limit.

    Raises:
        ConfigurationError: a value is out of range; raised when the function is declared.

    Example::

        @app.function("sync", event="shop/sync", rate_limit=RateLimit(10, "1m", key="event.data.user_id"))
    """

    limit: int
    period: Duration
    key: str | None = None

    def to_config(self) -> RateConfig:
        """The form in which the registry stores it.

        Raises:
            ConfigurationError: a value is out of range.
        """
        return RateConfig(
            _count(self.limit, "rate_limit"), _period(self.period, "rate_limit"), _key(self.key, "rate_limit")
        )


@dataclass(frozen=True, slots=True)
class Throttle:
    """Start ``limit`` runs in each ``period``, spread evenly; delay the rest. No run is dropped.

    A delayed run is stored in Redis and starts when its delay is over, on any worker.

    Attributes:
        limit: the number of runs; 1 or more.
        period: a duration, or seconds.
        burst: how many runs may start at once after an idle time. Any ``period`` then has at most
            ``limit + burst - 1`` starts.
        key: a CEL expression on the event; each value has its own throttle.

    Raises:
        ConfigurationError: a value is out of range; raised when the function is declared.

    Example::

        @app.function("call-api", event="api/call", throttle=Throttle(60, "1m", burst=5))
    """

    limit: int
    period: Duration
    burst: int = 1
    key: str | None = None

    def to_config(self) -> ThrottleConfig:
        """The form in which the registry stores it.

        Raises:
            ConfigurationError: a value is out of range.
        """
        limit, burst = _count(self.limit, "throttle"), _count(self.burst, "throttle", what="burst")
        return ThrottleConfig(limit, _period(self.period, "throttle"), burst, _key(self.key, "throttle"))


@dataclass(frozen=True, slots=True)
class Debounce:
    """Wait until no event has arrived for ``period``, then start only the run of the latest event.

    The latest event is the one with the greatest ``ts``. The other runs are skipped and stored with that reason. The
    waiting run is stored in Redis and survives a crash.

    Attributes:
        period: how long no event may arrive; a duration, or seconds.
        timeout: the longest delay, counted from the first event; ``None``: no limit.
        key: a CEL expression on the event; each value is debounced on its own.

    Raises:
        ConfigurationError: a value is out of range; raised when the function is declared.

    Example::

        @app.function("index", event="doc/edited", debounce=Debounce("10s", timeout="1m", key="event.data.doc"))
    """

    period: Duration
    timeout: Duration | None = None
    key: str | None = None

    def to_config(self) -> DebounceConfig:
        """The form in which the registry stores it.

        Raises:
            ConfigurationError: a value is out of range.
        """
        timeout_ms = 0 if self.timeout is None else _period(self.timeout, "debounce", what="timeout")
        return DebounceConfig(_period(self.period, "debounce"), timeout_ms, _key(self.key, "debounce"))


@dataclass(frozen=True, slots=True)
class Singleton:
    """Allow one live run at a time, from its start to its end, including all waits and retries.

    Attributes:
        key: a CEL expression on the event; one live run for each value.
        mode: what happens to a new run while another is live: ``skip`` it, ``cancel`` the live one, or ``attach`` its
            caller to the live one: `Stepflow.start` returns the handle of the live run. A run that an event or an
            invoke would start is skipped.

    Raises:
        ConfigurationError: the mode or the key is invalid; raised when the function is declared.

    Example::

        @app.function("import", event="shop/import", singleton=Singleton("event.data.shop", mode="cancel"))
    """

    key: str | None = None
    mode: Mode = "skip"

    def to_config(self) -> SingletonConfig:
        """The form in which the registry stores it.

        Raises:
            ConfigurationError: the mode or the key is invalid.
        """
        if self.mode not in get_args(Mode):
            raise ConfigurationError(f"singleton: mode must be 'skip', 'cancel' or 'attach', got {self.mode!r}")
        return SingletonConfig(self.mode, _key(self.key, "singleton"))


@dataclass(frozen=True, slots=True)
class Batch:
    """Execute several runs as one: the code is called once, with all their events in ``ctx.events``.

    The batch is a run of its own. When it ends, each of its member runs ends with the same status and result, so every
    caller that has started or invoked a member gets it. The events of a batch have at most 10 MiB together. A batch
    that is being collected is stored in Redis and survives a crash.

    Attributes:
        max_size: a batch with this many runs starts at once; 1 to 1,000.
        timeout: the time after the first run at which an incomplete batch starts; a duration, or seconds.
        key: a CEL expression on the event; each value has its own batches.

    Raises:
        ConfigurationError: a value is out of range; raised when the function is declared.

    Example::

        @app.function("insert-rows", event="row/added", batch=Batch(100, "5s"))
    """

    max_size: int
    timeout: Duration
    key: str | None = None

    def to_config(self) -> BatchConfig:
        """The form in which the registry stores it.

        Raises:
            ConfigurationError: a value is out of range.
        """
        size = _count(self.max_size, "batch", what="max_size")
        if size > _MAX_BATCHED:
            raise ConfigurationError(f"batch: max_size must be at most {_MAX_BATCHED:,}, got {size:,}")
        return BatchConfig(size, _period(self.timeout, "batch", what="timeout"), _key(self.key, "batch"))


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Execute at most ``limit`` steps at once, or have at most ``limit`` live runs.

    A run that sleeps or waits executes no step, and is live. Steps or runs without a slot wait in order, older runs
    first, and start as soon as a slot is free. With a ``key``, each value has its own wait list, so the runs of one
    value do not delay those of another. A slot of a step is a lease: after a crash of its worker it becomes free again.
    A run has its slot from its start to its end.

    Attributes:
        limit: the number of steps or runs; 1 or more.
        key: a CEL expression on the event; each value has its own limit.
        scope: what shares the limit: the steps of the ``function``, of its ``app``, or ``global``, of all functions
            with the same key.
        of: what is counted: ``steps`` that execute, or ``runs`` that are live: started and not ended.

    Raises:
        ConfigurationError: a value is out of range; raised when the function is declared.

    Example::

        @app.function("resize", event="image/added", concurrency=Concurrency(4, key="event.data.tenant"))
    """

    limit: int
    key: str | None = None
    scope: Scope = "function"
    of: CountOf = "steps"

    def to_config(self) -> ConcurrencyConfig:
        """The form in which the registry stores it.

        Raises:
            ConfigurationError: a value is out of range.
        """
        if self.scope not in get_args(Scope):
            raise ConfigurationError(f"concurrency: scope must be 'function', 'app' or 'global', got {self.scope!r}")
        if self.scope == "global" and self.key is None:
            raise ConfigurationError("concurrency: scope 'global' needs a key, which the functions share")
        if self.of not in get_args(CountOf):
            raise ConfigurationError(f"concurrency: of must be 'steps' or 'runs', got {self.of!r}")
        return ConcurrencyConfig(_count(self.limit, "concurrency"), _key(self.key, "concurrency"), self.scope, self.of)


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
    """The flow control of a function; ``None``: it has none.

    Raises:
        ConfigurationError: a value is out of range, or two options cannot be combined.
    """
    if debounce and throttle:
        raise ConfigurationError("debounce: cannot be combined with throttle: both set the time at which a run starts")
    if batch:
        _check_batched(
            debounce=debounce, throttle=throttle, rate_limit=rate_limit, singleton=singleton, priority=priority
        )
    config = FlowConfig(
        rate_limit.to_config() if rate_limit else None,
        throttle.to_config() if throttle else None,
        debounce.to_config() if debounce else None,
        singleton.to_config() if singleton else None,
        tuple(one.to_config() for one in _limits(concurrency)),
        _key(idempotency, "idempotency"),
        _key(priority, "priority"),
        batch.to_config() if batch else None,
    )
    return None if config == FlowConfig() else config


def _check_batched(**others: object) -> None:
    wrong = next((name for name, one in others.items() if one), None)
    if wrong:
        raise ConfigurationError(f"batch: cannot be combined with {wrong}, which applies to single runs")


def _limits(concurrency: int | Concurrency | Sequence[Concurrency] | None) -> list[Concurrency]:
    match concurrency:
        case None:
            return []
        case Concurrency():
            return [concurrency]
        case int():
            return [Concurrency(concurrency)]
    limits = list(concurrency)
    if not all(isinstance(one, Concurrency) for one in limits) or any(
        [one.of for one in limits].count(of) > _MAX_LIMITS for of in get_args(CountOf)
    ):
        raise ConfigurationError(
            "concurrency: must be an integer, a Concurrency, or a list of at most two Concurrency of steps and two of "
            f"runs, got {concurrency!r}"
        )
    return limits


def _count(value: Any, of: str, *, what: str = "limit") -> int:
    try:
        return check_count(value, f"{of}: {what}")
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _period(value: Duration, of: str, *, what: str = "period") -> int:
    try:
        return duration_ms(value, name=f"{of}: {what}", least_ms=1)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _key(value: str | None, of: str) -> str:
    if value is None:
        return ""
    compiled = expression(value)
    if not compiled.binding.paths and not compiled.binding.tests:
        raise ConfigurationError(f"{of}: expression must use the event, got {value!r}: write it as event.data.user_id")
    return compiled.text
