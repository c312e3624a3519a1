"""Collects the results of a map whose items have ended: the memo of the map has them all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepflow_broker.protocol.command import in_chunks
from stepflow_broker.transitions.steps.maps import MapRecord, read_items, read_map
from stepflow_engine.cipher import MARK
from stepflow_engine.codec import dumps, loads
from stepflow_engine.encryption_scopes import map_failures_scope, open_memo, step_scope
from stepflow_engine.errors import LimitError, MapFailedError, MapItemsError, StepKindError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import item_key, run_id_for, with_partition_prefix
from stepflow_engine.memo import Memo, memo_of_data, memo_of_error, read_memo
from stepflow_engine.steps import InvokeRequest, MapRequest, RunRequest, StepCall
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.steps.run import StepFinished, seal_step_failure
from stepflow_workers.state.run_cache import CachedRun

__all__ = ["collect_map"]

_CHUNK = 1_000
"""How many results one command reads. Other jobs of the worker continue between two."""
_SUCCESS, _SEALED = b'{"data":', b'{"data":{"%b":' % MARK.encode()
_NO_RESULT = b"null"
_FACTS = ("attempts", "function", "run_id", "outcome", "reason")
"""What is kept of a failed item beside its error."""


@dataclass(slots=True)
class _Results:
    """What the items became: the JSON text of each result, ``null`` for the others; and the failures."""

    texts: list[bytes] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    ended_at: int = 0

    @property
    def completed(self) -> int:
        return sum(text is not _NO_RESULT for text in self.texts)


async def collect_map(context: JobContext, run: CachedRun, call: StepCall, request: MapRequest) -> StepFinished:
    """The end of a map, as it is stored.

    Raises:
        StepKindError: the step is not a map.
        MapItemsError: the code has other items.
        CorruptDataError, DecryptionError: what is stored of an item cannot be read.
    """
    state, limit = context.state, run.function.limits.run_state_bytes
    record = await state.broker.execute(read_map(state.partition, run.run_id, call.key))
    if not record.digest:
        raise StepKindError(call.id, stored=RunRequest.kind, requested=request.kind)
    if record.digest != request.items.digest:
        raise MapItemsError(call.id, began_with=record.count, has=len(request.items.values))
    results = await _read_results(context, run, call, request, record)
    results.ended_at = state.clock.now_ms()
    if record.is_too_large:
        return _failed(run, call, record, results, _too_large(call, limit))
    if len(results.failures) > request.tolerated:
        return _failed(run, call, record, results, _too_many_failed(record, request, results))
    data = b"[" + b",".join(results.texts) + b"]"
    memo = Memo(call.id, data=loads(data), detail=_detail(record, results))
    sealed = run.function.cipher.seal(data, step_scope(run.run_id, call.key))
    text = memo_of_data(sealed, _sealed_detail(run, call, memo.detail))
    if not run.has_room(len(text)):
        return _failed(run, call, record, results, _too_large(call, limit))
    return StepFinished(text, memo)


def _failed(run: CachedRun, call: StepCall, record: MapRecord, results: _Results, failure: Failure) -> StepFinished:
    detail = _detail(record, results)
    if failure.name == LimitError.__name__:
        detail.pop("failures", None)
    sealed = seal_step_failure(run.function, run.run_id, call.key, failure)
    text = memo_of_error(sealed, _sealed_detail(run, call, detail))
    return StepFinished(text, Memo(call.id, failure=failure, detail=detail))


def _detail(record: MapRecord, results: _Results) -> dict[str, Any]:
    detail = {**loads(b"{" + record.detail), "ended_at": results.ended_at, "count": record.count}
    detail |= {"completed": results.completed, "failed": len(results.failures)}
    return {**detail, "failures": results.failures} if results.failures else detail


def _sealed_detail(run: CachedRun, call: StepCall, detail: dict[str, Any]) -> dict[str, Any]:
    if "failures" not in detail:
        return detail
    sealed = run.function.cipher.seal(dumps(detail["failures"]), map_failures_scope(run.run_id, call.key))
    return {**detail, "failures": loads(sealed)}


def _too_large(call: StepCall, limit: int) -> Failure:
    return Failure(
        LimitError.__name__,
        f"the memos of a run must be at most {limit:,} bytes, exceeded by the results of the items of step "
        f"{call.id!r}: return references instead of data, or use several runs",
    )


def _too_many_failed(record: MapRecord, request: MapRequest, results: _Results) -> Failure:
    failed, first = len(results.failures), results.failures[0]
    cause = Failure.from_json(first["error"])
    missing = record.count - failed - results.completed
    text = f"{failed:,} of {record.count:,} items failed, and {request.tolerated:,} may fail"
    text += f"; {missing:,} were not executed" if missing else ""
    text += f"; the first is item {first['index']:,}: {cause.name}: {cause.message}"
    return Failure(MapFailedError.__name__, text, cause=cause)


async def _read_results(
    context: JobContext, run: CachedRun, call: StepCall, request: MapRequest, record: MapRecord
) -> _Results:
    state, results, reader = context.state, _Results(), _ItemReader(context, run, call.key, request)
    for indexes in in_chunks(range(record.count), _CHUNK):
        texts = await state.broker.execute(read_items(state.partition, run.run_id, call.key, indexes))
        for index, text in zip(indexes, texts, strict=True):
            if text is None:
                results.texts.append(_NO_RESULT)
            elif text.startswith(_SUCCESS):
                results.texts.append(reader.result(index, text))
            else:
                results.texts.append(_NO_RESULT)
                results.failures.append(reader.failure(index, text))
    return results


@dataclass(frozen=True, slots=True)
class _ItemReader:
    """Reads what is stored of the items of a map."""

    context: JobContext
    run: CachedRun
    key: str
    request: MapRequest

    def result(self, index: int, text: bytes) -> bytes:
        """The JSON text of the result of an item."""
        if not text.startswith(_SEALED):
            return text[len(_SUCCESS) : -1]
        key = self._key(index)
        memo = read_memo(text, key)
        if self.request.function:
            memo.detail.update(kind=InvokeRequest.kind, function=self.request.function, run_id=self._child(key))
        return dumps(open_memo(self.context.state.partition.cipher, self.run.run_id, key, memo).data)

    def failure(self, index: int, text: bytes) -> dict[str, Any]:
        """The failure of an item, as the memo of the map has it."""
        memo = self.context.state.read_memo(self.run.run_id, self._key(index), text)
        error = memo.failure.to_json() if memo.failure else None
        return {"index": index, "error": error, **{name: memo.detail[name] for name in _FACTS if name in memo.detail}}

    def _key(self, index: int) -> str:
        return item_key(self.key, self.request.items.digest, index)

    def _child(self, key: str) -> str:
        """The run of an item that invokes a function."""
        run_id = self.run.run_id
        registry = self.context.registries.of(self.context.state.partition.of(run_id))
        config = registry.functions.get(self.request.function)
        return with_partition_prefix((config and config.pinned_partition) or run_id, run_id_for(run_id, key))
