"""Finds the result of a step in the cache, and stores it there for other runs.

The cache is no truth: a result that is lost, damaged or of another type is computed again, and a worker that cannot
store one continues without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepflow_broker.transitions.steps.step_cache import cache_result, read_cached_result
from stepflow_engine.codec import dumps, loads, restore
from stepflow_engine.encryption_scopes import cache_scope
from stepflow_engine.errors import BackendUnavailableError, DecryptionError, StepOutputError
from stepflow_engine.step_cache import StepCache
from stepflow_engine.steps import RunRequest
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["CachedResult", "find_cached", "store_cached"]

_LARGEST = 262_144


@dataclass(frozen=True, slots=True)
class CachedResult:
    """A result of an earlier run: the run, and the plain JSON data."""

    run_id: str
    data: Any


async def find_cached(state: WorkerState, attempt: StepAttempt[RunRequest], cache: StepCache) -> CachedResult | None:
    """The result that an earlier run has stored for this step; ``None``: there is none that can be used."""
    digest = _digest(attempt, cache)
    text = await state.broker.execute(read_cached_result(state.partition, digest))
    if not text:
        return None
    try:
        stored = loads(text)
        data = attempt.run.function.cipher.open(stored["data"], cache_scope(digest))
        if (adapter := attempt.request.adapter) is not None:
            restore(adapter, data, what=f"step {attempt.id!r}")
        return CachedResult(str(stored["run_id"]), data)
    except (ValueError, KeyError, TypeError, DecryptionError, StepOutputError):
        return None


async def store_cached(state: WorkerState, attempt: StepAttempt[RunRequest], cache: StepCache, result: bytes) -> None:
    """Store the result of a step, JSON text, for other runs, if it is not too large."""
    if len(result) > _LARGEST:
        return
    digest = _digest(attempt, cache)
    sealed = attempt.run.function.cipher.seal(result, cache_scope(digest))
    text = dumps({"run_id": attempt.run.run_id})[:-1] + b',"data":' + sealed + b"}"
    try:
        await state.broker.execute(cache_result(state.partition, digest, text, ttl_ms=cache.ttl_ms))
    except BackendUnavailableError:  # the result itself is stored with the step
        return


def _digest(attempt: StepAttempt[RunRequest], cache: StepCache) -> str:
    function = attempt.run.function
    return function.cipher.digest(cache.key, ("cached", function.name, attempt.id))
