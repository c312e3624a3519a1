"""The options of steps: what ``step.with_options`` and ``step.map`` take, and the settings that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from stepflow.options.keywords import check_keywords
from stepflow.options.queue import checked_queue
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.isolation import Isolation, isolation
from stepflow_engine.placement import Placement, placement
from stepflow_engine.retry_policy import Retry, combined_retries
from stepflow_engine.step_cache import CacheOptions, cache_options

__all__ = ["MapOptions", "StepOptions", "StepSettings", "Undo", "step_settings"]

Undo = Callable[[Any], Any]


class StepOptions(TypedDict, total=False):
    """The options of steps: arguments of ``step.with_options``.

    An option that is left out, or is ``None``, stays as it is.

    Attributes:
        retries: attempts after the first, 0 to 20, with the delays and errors of the function; or a `Retry`.
            ``None``: those of the function.
        timeout: the longest duration of one attempt, at least 1 ms; a longer attempt fails with ``TimeoutError``.
        heartbeat_timeout: the longest time between two calls of ``step.heartbeat``; an attempt without a heartbeat
            for longer fails with ``TimeoutError``.
        undo: the undo handler of ``step.run``; see there. Other steps have none.
        isolate: ``"process"``: the handler runs in a process of its own, and what it does to that process, it does
            not do to the worker. A timeout then ends a plain ``def`` handler too.
        memory_limit: above how much resident memory the process of an isolated handler is ended; bytes, or a size
            such as ``"2G"``, at least ``"100M"``. The attempt fails with ``MemoryError``.
        queue: the queue of the step, in place of that of the run. Workers that serve the queue and have the
            function execute the step. Other steps have none.
        slots: how many slots of ``stepflow-worker --concurrency`` the handler takes of its worker, 1 or more. It
            waits until so many are free, and the worker takes no other job meanwhile. On a worker with fewer
            slots it takes all of them.
        cache: how long other runs of the function use the result of this ``step.run`` instead of calling the
            handler; a duration, or seconds. Other steps have none.
        cache_key: what the result depends on, JSON data; ``None``: the arguments of the handler. Another function
            and another step id have results of their own.

    Example::

        await ctx.step.with_options(retries=0, timeout="10s").run("charge", charge, order)
    """

    retries: int | Retry | None
    timeout: Duration | None
    heartbeat_timeout: Duration | None
    undo: Undo | None
    isolate: Literal["process"] | None
    memory_limit: int | str | None
    queue: str | None
    slots: int | None
    cache: Duration | None
    cache_key: Any


class MapOptions(TypedDict, total=False):
    """The options of ``step.map``.

    Attributes:
        at_once: how many items may be open at once: executing, ready, waiting for a child or for a retry. 1 to
            1,000; ``None``: 1,000.
        tolerate: how many items may fail: an integer, or a float from 0.0 to 1.0 as their share; by default, none. If
            more fail, no further item begins, and the step fails when those that execute have ended. Children
            continue.

    Example::

        counts = await ctx.step.map("count", count, names, at_once=20, tolerate=0.05)
    """

    at_once: int | None
    tolerate: float


@dataclass(frozen=True, slots=True)
class StepSettings:
    """How steps are executed: checked options. ``None``: as the function or the run has it.

    Attributes:
        retries: how often, and after which errors, a handler is called again.
        timeout_ms: the longest duration of an attempt, in milliseconds.
        heartbeat_timeout_ms: the longest time without a heartbeat, in milliseconds.
        undo: the undo handler.
        isolation: that the handler has a process of its own.
        placement: where the handler is executed.
        cache: how the result is cached.
    """

    retries: int | Retry | None = None
    timeout_ms: int | None = None
    heartbeat_timeout_ms: int | None = None
    undo: Undo | None = None
    isolation: Isolation | None = None
    placement: Placement | None = None
    cache: CacheOptions | None = None


def step_settings(known: StepSettings, options: StepOptions) -> StepSettings:
    """The settings that options of ``with_options`` make of those that are known.

    Raises:
        TypeError: there is no such option.
        ValueError: a value is out of range, a memory limit is set for a handler that is not isolated, or
            ``cache_key`` is set without ``cache``.
        ConfigurationError: a value of the `Retry` is out of range.
    """
    check_keywords("with_options", options, StepOptions)
    retries, undo, queue = options.get("retries"), options.get("undo"), options.get("queue")
    timeout, heartbeat_timeout = options.get("timeout"), options.get("heartbeat_timeout")
    return StepSettings(
        known.retries if retries is None else combined_retries(known.retries, retries),
        _timeout_ms("timeout", timeout, known.timeout_ms),
        _timeout_ms("heartbeat_timeout", heartbeat_timeout, known.heartbeat_timeout_ms),
        known.undo if undo is None else undo,
        isolation(known.isolation, options.get("isolate"), options.get("memory_limit")),
        placement(known.placement, None if queue is None else checked_queue(queue), options.get("slots")),
        cache_options(known.cache, options.get("cache"), options.get("cache_key")),
    )


def _timeout_ms(name: str, timeout: Duration | None, known_ms: int | None) -> int | None:
    return known_ms if timeout is None else duration_ms(timeout, name=name, least_ms=1)
