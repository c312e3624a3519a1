"""The cache of step results: by which key the result of a step is found by other runs, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepflow_engine.codec import dumps_checked, loads
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import StepUsageError

__all__ = ["CacheOptions", "StepCache", "cache_options", "step_cache"]

_LONGEST_KEY = 1_000_000


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """The options of a step whose result is cached.

    Attributes:
        ttl_ms: how long a result is used, in milliseconds.
        key: what the result depends on, as JSON text; ``None``: the arguments of the handler.
    """

    ttl_ms: int
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class StepCache:
    """What a worker needs to find and to store the result of a step.

    Attributes:
        key: the canonical JSON text of what the result depends on.
        ttl_ms: how long it is used, in milliseconds.
    """

    key: bytes
    ttl_ms: int


def cache_options(known: CacheOptions | None, cache: Duration | None, cache_key: Any) -> CacheOptions | None:
    """The options of ``with_options(cache=, cache_key=)`` on top of those that are known.

    Raises:
        ValueError: the duration is invalid, or there is a key without a duration.
        StepUsageError: the key is not JSON.
    """
    if cache is None and cache_key is None:
        return known
    if cache is not None:
        ttl_ms = duration_ms(cache, name="cache", least_ms=1)
    elif known is not None:
        ttl_ms = known.ttl_ms
    else:
        raise ValueError('cache_key needs cache=, how long a result is used: cache="24h"')
    key = known.key if known and cache_key is None else None
    return CacheOptions(ttl_ms, key if cache_key is None else _canonical(cache_key, "with_options: cache_key"))


def step_cache(step_id: str, options: CacheOptions, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> StepCache:
    """The place in the cache of one call of a step.

    Raises:
        StepUsageError: there is no key, and the arguments are not JSON.
    """
    if options.key is not None:
        return StepCache(options.key, options.ttl_ms)
    what = f"step {step_id!r}: the arguments of a cached step without cache_key"
    return StepCache(_canonical([list(args), dict(kwargs)], what), options.ttl_ms)


def _canonical(value: Any, what: str) -> bytes:
    """The JSON text of a value, the same for equal values."""
    text = dumps_checked(value, what=what, limit_bytes=_LONGEST_KEY, refuse=StepUsageError)
    return dumps_checked(_sorted(loads(text)), what=what, limit_bytes=_LONGEST_KEY, refuse=StepUsageError)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value
