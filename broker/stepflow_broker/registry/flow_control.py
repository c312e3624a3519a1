"""Flow control of a function: its stored form, and the rules that a script receives for one start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from stepflow_broker.protocol.command import Arg
from stepflow_broker.registry.event_values import digest, value_of
from stepflow_engine.codec import dumps
from stepflow_engine.errors import EventError

__all__ = [
    "RUNS",
    "STEPS",
    "BatchConfig",
    "ConcurrencyConfig",
    "DebounceConfig",
    "DeclaredLimit",
    "FlowConfig",
    "RateConfig",
    "Rule",
    "SingletonConfig",
    "ThrottleConfig",
    "known",
]

C = TypeVar("C")
STEPS = "steps"
RUNS = "runs"
"""What a concurrency limit counts."""
_PARTS = ("rate_limit", "throttle", "debounce", "singleton", "batch")
_LONGEST_VALUE = 200
_IDEMPOTENCY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule for the start of a run; ``lua/lib/start_rules.lua`` says what each kind means.

    Attributes:
        kind: what the rule does.
        name: what it counts or names.
        fields: its settings by name. The script reads them as ``rule.<name>``.
    """

    kind: str
    name: str
    fields: Mapping[str, Arg] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, name: str, /, **fields: Arg) -> Rule:
        """A rule with these fields."""
        return cls(kind, name, fields)

    @property
    def args(self) -> tuple[Arg, ...]:
        """The rule as a script reads it: kind, name, number of fields, then each field with its value."""
        return (self.kind, self.name, len(self.fields), *(part for pair in self.fields.items() for part in pair))


@dataclass(frozen=True, slots=True)
class RateConfig:
    """At most ``limit`` starts in any ``period_ms``, for each value of ``key``. Further starts are skipped."""

    limit: int
    period_ms: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class ThrottleConfig:
    """``limit`` starts in ``period_ms``, evenly spaced after ``burst`` at once, per value of ``key``. Others wait."""

    limit: int
    period_ms: int
    burst: int = 1
    key: str = ""


@dataclass(frozen=True, slots=True)
class DebounceConfig:
    """Of runs with gaps shorter than ``period_ms``, only the last starts, for each value of ``key``.

    It starts ``period_ms`` after it was requested, and at most ``timeout_ms`` after the first of them (0: no limit).
    """

    period_ms: int
    timeout_ms: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class SingletonConfig:
    """One live run for each value of ``key``. ``mode``: ``skip`` or ``attach`` new ones, or ``cancel`` the live one."""

    mode: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """Execute up to ``max_size`` runs as one, after at most ``timeout_ms``, for each value of ``key``."""

    max_size: int
    timeout_ms: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class ConcurrencyConfig:
    """At most ``limit`` at once for each value of ``key``, counted per ``scope``: function, app or global.

    ``of``: ``steps``, jobs that execute, or ``runs``, which count from their start to their end.
    """

    limit: int
    key: str = ""
    scope: str = "function"
    of: str = STEPS


@dataclass(frozen=True, slots=True)
class DeclaredLimit:
    """A limit that a function declares, and that can be changed by hand.

    Attributes:
        kind: ``concurrency``, ``rate`` or ``throttle``.
        form: what its names begin with: the whole name of one without a key, else ``name:key=``.
        limit: how many.
        key: the key whose values have limits of their own; ``""``: none.
        of: what a concurrency counts: ``steps`` or ``runs``; ``starts`` for the other kinds.
        period_ms: the period of a rate limit or a throttle, in milliseconds; 0 for a concurrency.
    """

    kind: str
    form: str
    limit: int
    key: str
    of: str = "starts"
    period_ms: int = 0

    @property
    def subject(self) -> str:
        """The name of its change in Redis."""
        return f"{self.kind} {self.form}"


@dataclass(frozen=True, slots=True)
class FlowConfig:
    """All flow control of a function. ``idempotency`` and ``priority`` are expressions on the event; ``""``: none."""

    rate_limit: RateConfig | None = None
    throttle: ThrottleConfig | None = None
    debounce: DebounceConfig | None = None
    singleton: SingletonConfig | None = None
    concurrency: tuple[ConcurrencyConfig, ...] = ()
    idempotency: str = ""
    priority: str = ""
    batch: BatchConfig | None = None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FlowConfig:
        """Read the stored form, parsed from JSON."""
        rate, throttle, debounce, singleton, batch = (value.get(name) for name in _PARTS)
        return cls(
            known(RateConfig, rate) if rate else None,
            known(ThrottleConfig, throttle) if throttle else None,
            known(DebounceConfig, debounce) if debounce else None,
            known(SingletonConfig, singleton) if singleton else None,
            tuple(known(ConcurrencyConfig, one) for one in value.get("concurrency", ())),
            value.get("idempotency", ""),
            value.get("priority", ""),
            known(BatchConfig, batch) if batch else None,
        )

    def rules(self, name: str, app: str, event: dict[str, Any], *, retention_ms: int) -> Iterator[Rule]:
        """The rules for the start of a run by an event.

        Args:
            name: the function, as ``app/id``.

        Raises:
            EventError: the event has no value for a key.
        """
        if self.idempotency:
            yield Rule.of("idempotency", _named(name, self.idempotency, event), period_ms=_IDEMPOTENCY_MS)
        if singleton := self.singleton:
            counted = _named(name, singleton.key, event)
            yield Rule.of("singleton", counted, mode=singleton.mode, retention_ms=retention_ms)
        if rate := self.rate_limit:
            yield Rule.of("rate", _named(name, rate.key, event), limit=rate.limit, period_ms=rate.period_ms)
        if debounce := self.debounce:
            counted, event_ms = _named(name, debounce.key, event), int(event["ts"])
            period_ms, timeout_ms = debounce.period_ms, debounce.timeout_ms
            yield Rule.of("debounce", counted, period_ms=period_ms, timeout_ms=timeout_ms, event_ms=event_ms)
        if throttle := self.throttle:
            counted, limit = _named(name, throttle.key, event), throttle.limit
            yield Rule.of("throttle", counted, limit=limit, period_ms=throttle.period_ms, burst=throttle.burst)
        if batch := self.batch:
            yield Rule.of("batch", _named(name, batch.key, event), max_size=batch.max_size, timeout_ms=batch.timeout_ms)
        if self.concurrency:
            yield Rule.of("field", "concurrency", value=self._concurrency_field(name, app, event))
        if self.priority:
            yield Rule.of("field", "priority_ms", value=_priority_ms(value_of(self.priority, event)))

    def pinned_partition(self, name: str, app: str) -> str:
        """What the limits count together: the function, its app (``app/``), everything (``/``); ``""``: no limits.

        Runs that are counted together must be in one partition.
        """
        scopes = {one.scope for one in self.concurrency}
        if "global" in scopes:
            return "/"
        if "app" in scopes:
            return f"{app}/"
        return name if scopes or self.idempotency or any(getattr(self, part) for part in _PARTS) else ""

    def _concurrency_field(self, name: str, app: str, event: dict[str, Any]) -> bytes:
        """The run's field ``concurrency``: each limit, the length of its name in bytes, and its name."""
        named = [(one.limit, limit.encode()) for one, limit in self.limits(name, app, event)]
        return b"".join(b"%d %d %b" % (limit, len(text), text) for limit, text in named)

    def limits(self, name: str, app: str, event: dict[str, Any]) -> Iterator[tuple[ConcurrencyConfig, str]]:
        """The concurrency limits of a run, and their names, in the order in which its jobs acquire slots.

        Limits of runs come first, and narrower limits. With another order, two jobs could wait for each other's slots.
        """
        scopes = _scopes(name, app)

        def order(one: ConcurrencyConfig) -> tuple[object, ...]:
            return (one.of != RUNS, list(scopes).index(one.scope), not one.key, one.key)

        for one in sorted(self.concurrency, key=order):
            yield one, _of(one, _named(scopes[one.scope], one.key, event))

    def declared_limits(self, name: str, app: str) -> Iterator[DeclaredLimit]:
        """The limits that can be changed by hand."""
        for one, form in zip(self.concurrency, self.limit_forms(name, app), strict=True):
            yield DeclaredLimit("concurrency", form, one.limit, one.key, one.of)
        for kind, start in (("rate", self.rate_limit), ("throttle", self.throttle)):
            if start:
                form = f"{name}:{start.key}=" if start.key else name
                yield DeclaredLimit(kind, form, start.limit, start.key, period_ms=start.period_ms)

    def limit_forms(self, name: str, app: str) -> list[str]:
        """What the names of the limits begin with: the whole name of one without a key, else ``name:key=``."""
        scopes = _scopes(name, app)
        return [_of(one, scopes[one.scope] + (f":{one.key}=" if one.key else "")) for one in self.concurrency]


def _of(one: ConcurrencyConfig, name: str) -> str:
    """The name of a limit. A limit of runs has a word before it: no app has a space in its name."""
    return f"{RUNS} {name}" if one.of == RUNS else name


def _scopes(name: str, app: str) -> dict[str, str]:
    return {"function": name, "app": f"{app}/", "global": "/"}


def _named(name: str, key: str, event: dict[str, Any]) -> str:
    """The name of a limit for one value of its key: the name and the value as JSON, or the digest of a long value."""
    if not key:
        return name
    found = value_of(key, event)
    if found is None:
        raise EventError(
            f"the event has no value for {key}, which controls the runs of {name}: send it with one, or write "
            f'has({key}) ? {key} : "none"'
        )
    value = dumps(found)
    return f"{name}:{key}={value.decode() if len(value) <= _LONGEST_VALUE else digest(value)}"


def _priority_ms(value: object) -> int:
    """Seconds, limited to -600 to 600, in milliseconds. A value that is not a number counts as 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(max(-600, min(600, value)) * 1000)


def known(kind: type[C], value: dict[str, Any]) -> C:
    """A configuration from its parsed form. Unknown fields, of a newer stepflow, are ignored."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: one for name, one in value.items() if name in names})
