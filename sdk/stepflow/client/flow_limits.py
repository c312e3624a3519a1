"""FlowLimits: what lists, changes and resets the limits of flow control at run time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from stepflow.client.backend import Backend
from stepflow.client.function_names import local_config, require_config, split_name
from stepflow.client.pauses import check_reason
from stepflow.functions.function import Function
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation, single
from stepflow_broker.registry.flow_control import DeclaredLimit
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import read_function, read_functions
from stepflow_broker.transitions.limits import ChangedLimit, read_all_limits, reset_limit, set_limit
from stepflow_engine.counts import check_count
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.times import utc_time

__all__ = ["FlowLimit", "FlowLimits", "flow_limits"]

LimitKind = Literal["concurrency", "rate_limit", "throttle"]
_KINDS: dict[LimitKind, str] = {"concurrency": "concurrency", "rate_limit": "rate", "throttle": "throttle"}
Listed = list["FlowLimit"]  # within the class, the name `list` is that of its method


@dataclass(frozen=True, slots=True)
class FlowLimit:
    """A limit of a function, as it is now.

    Attributes:
        function: the function, as ``app/id``.
        kind: ``concurrency``, ``rate_limit`` or ``throttle``.
        of: what a concurrency counts: ``steps`` or ``runs``; ``starts`` for the other kinds.
        key: the key whose values have limits of their own; ``""``: none.
        declared: the limit that the code declares.
        limit: the limit that holds.
        changed: whether it was changed by hand.
        until: when the change ends, in UTC; ``None``: when it is reset.
        reason: why it was changed; ``""``: no reason was given.

    Example::

        changed = [limit for limit in app.flow_limits.list() if limit.changed]
    """

    function: str
    kind: LimitKind
    of: str
    key: str
    declared: int
    limit: int
    changed: bool = False
    until: datetime | None = None
    reason: str = ""


class FlowLimits:
    """The limits of flow control, and their changes at run time: `Stepflow.flow_limits`.

    A change holds for all workers and producers at once, and survives restarts and deployments. It ends by itself, or
    when it is reset. Each method has an asyncio twin with an ``a`` before its name.

    Example::

        app.flow_limits.set("sync", concurrency=2, for_="2h", reason="the API is slow")
        app.flow_limits.reset("sync")
    """

    def __init__(self, app_id: str, functions: Mapping[str, Function[Any, Any]], backend: Backend) -> None:
        self._app_id = app_id
        self._functions = functions
        self._backend = backend

    def list(self, function: Function[Any, Any] | str | None = None) -> Listed:
        """The limits of a function; ``None``: those of all registered functions, of all apps.

        Raises:
            FunctionNotFoundError: neither this app nor any worker has registered the function.
            BackendUnavailableError: the server does not answer.

        Example::

            for limit in app.flow_limits.list():
                print(limit.function, limit.kind, limit.limit, limit.until)
        """
        return run_operation(self._backend.broker, self._list(function))

    async def alist(self, function: Function[Any, Any] | str | None = None) -> Listed:
        """The asyncio twin of `list`."""
        return await arun_operation(self._backend.abroker, self._list(function))

    def set(
        self,
        function: Function[Any, Any] | str,
        *,
        concurrency: int | None = None,
        rate_limit: int | None = None,
        throttle: int | None = None,
        key: str | None = None,
        of: str | None = None,
        for_: Duration | None = None,
        reason: str = "",
    ) -> Listed:
        """Change limits that a function declares. What has started is not interrupted.

        A higher concurrency starts what waits at once; with a ``key``, when the next step or run of the value ends or
        starts. A rate limit and a throttle hold for the next starts, in their period; runs that a throttle has delayed
        keep their time. A concurrency of scope ``app`` or ``global`` changes for all functions that share it.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            concurrency, rate_limit, throttle: the new limit, 1 or more.
            key, of: which limit, if the function has several concurrency limits: the one with this key, and of
                ``"steps"`` or ``"runs"``.
            for_: for how long; a duration, or seconds. ``None``: until it is reset.
            reason: is shown, and recorded in the audit log.

        Returns:
            The limits that were changed.

        Raises:
            ConfigurationError: a value is out of range, or the function declares no such limit: a limit can be
                changed, not added.
            FunctionNotFoundError: neither this app nor any worker has registered the function.
            BackendUnavailableError: the server does not answer. It is safe to repeat the call.

        Example::

            app.flow_limits.set("sync", concurrency=5, throttle=10, for_="30m")
        """
        limits = _checked({"concurrency": concurrency, "rate_limit": rate_limit, "throttle": throttle})
        operation = self._set(function, _Change(limits, key, of, _for_ms(for_), check_reason(reason)))
        return run_operation(self._backend.broker, operation)

    async def aset(
        self,
        function: Function[Any, Any] | str,
        *,
        concurrency: int | None = None,
        rate_limit: int | None = None,
        throttle: int | None = None,
        key: str | None = None,
        of: str | None = None,
        for_: Duration | None = None,
        reason: str = "",
    ) -> Listed:
        """The asyncio twin of `set`."""
        limits = _checked({"concurrency": concurrency, "rate_limit": rate_limit, "throttle": throttle})
        operation = self._set(function, _Change(limits, key, of, _for_ms(for_), check_reason(reason)))
        return await arun_operation(self._backend.abroker, operation)

    def reset(self, function: Function[Any, Any] | str) -> Listed:
        """End all changes of the limits of a function. Returns the limits that were changed, as they are now.

        Raises:
            FunctionNotFoundError: neither this app nor any worker has registered the function.
            BackendUnavailableError: the server does not answer. It is safe to repeat the call.

        Example::

            app.flow_limits.reset("sync")
        """
        return run_operation(self._backend.broker, self._reset(function))

    async def areset(self, function: Function[Any, Any] | str) -> Listed:
        """The asyncio twin of `reset`."""
        return await arun_operation(self._backend.abroker, self._reset(function))

    # -- operations --------------------------------------------------------------

    def _list(self, function: Function[Any, Any] | str | None) -> Operation[Listed]:
        if function is None:
            configs = yield from single(read_functions(self._backend.partition.keys))
        else:
            configs = [(yield from self._config(function))]
        return flow_limits(configs, (yield from read_all_limits(self._backend.partition)))

    def _set(self, function: Function[Any, Any] | str, change: _Change) -> Operation[Listed]:
        config = yield from self._config(function)
        named: dict[LimitKind, DeclaredLimit] = {kind: _find(config, kind, change) for kind in change.limits}
        partition, who = self._backend.partition, self._backend.actor
        for kind, one in named.items():
            limit, for_ms = change.limits[kind], change.for_ms
            yield from set_limit(partition, one.subject, limit, for_ms=for_ms, reason=change.reason, who=who)
        changed = yield from read_all_limits(partition)
        return [_limit(config.name, one, changed.get(one.subject)) for one in named.values()]

    def _reset(self, function: Function[Any, Any] | str) -> Operation[Listed]:
        config = yield from self._config(function)
        changed = yield from read_all_limits(self._backend.partition)
        named = [one for one in config.declared_limits() if one.subject in changed]
        for one in named:
            yield from reset_limit(self._backend.partition, one.subject, who=self._backend.actor)
        return [_limit(config.name, one, None) for one in named]

    def _config(self, function: Function[Any, Any] | str) -> Operation[FunctionConfig]:
        known = local_config(function, self._app_id, self._functions)
        if known is not None:
            return known
        names = split_name(function, self._app_id)
        config = yield from single(read_function(self._backend.partition.keys, *names))
        return require_config(str(function), config)


@dataclass(frozen=True, slots=True)
class _Change:
    """What a call changes: the new limits by kind, which concurrency, for how long (0: until it is reset), and why."""

    limits: Mapping[LimitKind, int]
    key: str | None
    of: str | None
    for_ms: int
    reason: str


def _checked(limits: Mapping[LimitKind, int | None]) -> dict[LimitKind, int]:
    """The limits that a call changes.

    Raises:
        ConfigurationError: there are none, or one is not an integer of at least 1.
    """
    wanted: dict[LimitKind, int] = {kind: limit for kind, limit in limits.items() if limit is not None}
    if not wanted:
        raise ConfigurationError("set: takes at least one of concurrency, rate_limit and throttle, got none")
    for kind, limit in wanted.items():
        try:
            check_count(limit, f"set: {kind}")
        except ValueError as error:
            raise ConfigurationError(f"{error}: to stop a function, pause it") from None
    return wanted


def _for_ms(value: Duration | None) -> int:
    try:
        milliseconds = 0 if value is None else duration_ms(value, name="set: for_")
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    if value is not None and not milliseconds:
        raise ConfigurationError(f"set: for_ must be longer than 0, got {value!r}")
    return milliseconds


def _find(config: FunctionConfig, kind: LimitKind, change: _Change) -> DeclaredLimit:
    """The limit of a function that a call names.

    Raises:
        ConfigurationError: the function has no such limit, or several.
    """
    declared = config.declared_limits()
    named = [one for one in declared if one.kind == _KINDS[kind]]
    if kind == "concurrency":
        named = [one for one in named if change.key in (None, one.key) and change.of in (None, one.of)]
    if len(named) == 1:
        return named[0]
    has = "; ".join(_text(one) for one in declared) or "no limits"
    if named:
        raise ConfigurationError(
            f"function {config.name} has several such limits: name one with key= and of=: it has {has}"
        )
    raise ConfigurationError(
        f"function {config.name} declares no such {kind}, and a limit can be changed, not added: it has {has}"
    )


def _text(one: DeclaredLimit) -> str:
    return f"{_kind(one)} of {one.of}: {one.limit}" + (f" per {one.key}" if one.key else "")


def _kind(one: DeclaredLimit) -> LimitKind:
    """The public name of the kind of a limit."""
    kinds: dict[str, LimitKind] = {stored: kind for kind, stored in _KINDS.items()}
    return kinds[one.kind]


def flow_limits(configs: Iterable[FunctionConfig], changed: Mapping[str, ChangedLimit]) -> Listed:
    """The limits of functions, of which some were changed."""
    return [
        _limit(config.name, one, changed.get(one.subject)) for config in configs for one in config.declared_limits()
    ]


def _limit(function: str, one: DeclaredLimit, changed: ChangedLimit | None) -> FlowLimit:
    kind = _kind(one)
    if changed is None:
        return FlowLimit(function, kind, one.of, one.key, one.limit, one.limit)
    until = utc_time(changed.until_ms) if changed.until_ms else None
    return FlowLimit(function, kind, one.of, one.key, one.limit, changed.limit, True, until, changed.reason)
