"""A history as a file: JSON that is small, stable and readable, so that it can be kept beside the tests of an app."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepflow.replay.history import PlannedStep, RunHistory
from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import HistoryFileError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import step_key
from stepflow_engine.memo import Memo
from stepflow_engine.patches import PatchDecision
from stepflow_engine.product import NAME
from stepflow_engine.steps import StepKind, stored_kind

__all__ = ["FORMAT", "file_name", "read_history_file", "read_history_json", "to_json", "to_text"]

FORMAT = 1
_MARK = f"{NAME}_history"
_NOT_STORED = frozenset({"kind", "worker", "version", "attempts", "started_at"})
"""Facts of a memo that no code sees, and that differ between runs of the same shape."""


def file_name(history: RunHistory) -> str:
    """The name of the file of a history: ``order-3f9a12bc.json``."""
    safe = "".join(one if one.isalnum() or one in "-_." else "_" for one in history.function.partition("/")[2])
    return f"{safe}-{history.run_id[:8]}.json"


def to_json(history: RunHistory, *, version: str = "") -> dict[str, Any]:
    """The JSON form of a history.

    Args:
        version: the version of the code that began it; ``""``: unknown.
    """
    return {
        _MARK: FORMAT,
        "function": history.function,
        "run_id": history.run_id,
        "version": version or None,
        "status": history.ended or None,
        "attempt": history.attempt,
        "round": history.round,
        "started_ms": history.started_ms,
        "undoing": history.undoing or None,
        "events": [loads(text) for text in history.events],
        "patches": {name: decision.to_json() for name, decision in history.patches.items()},
        "steps": [_step_json(key, memo) for key, memo in history.memos],
        "planned": [_planned_json(step) for step in history.planned],
    }


def to_text(value: Mapping[str, Any]) -> str:
    """The text of a file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_history_file(path: Path) -> RunHistory:
    """Read a file.

    Raises:
        HistoryFileError: it cannot be read, or is not a history of this format.
    """
    try:
        value = loads(path.read_bytes())
    except OSError as error:
        raise HistoryFileError(f"history {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise HistoryFileError(f"history {path} is not JSON: {error}") from None
    try:
        return read_history_json(value)
    except HistoryFileError as error:
        raise HistoryFileError(f"history {path}: {error}") from None


def read_history_json(value: Any) -> RunHistory:
    """Read the JSON form.

    Raises:
        HistoryFileError: it is not a history of this format.
    """
    if not isinstance(value, dict) or _MARK not in value:
        raise HistoryFileError(f"it has no {_MARK!r}: write it with '{NAME} export'")
    if value[_MARK] != FORMAT:
        raise HistoryFileError(f"its format is {value[_MARK]!r:.20}, and this version reads {FORMAT}: export it again")
    try:
        return RunHistory(
            function=str(value["function"]),
            run_id=str(value["run_id"]),
            events=tuple(dumps(event) for event in value["events"]),
            memos=tuple(_memo(step) for step in value["steps"]),
            planned=tuple(_planned(step) for step in value["planned"]),
            patches={name: PatchDecision.from_json(one) for name, one in value["patches"].items()},
            attempt=int(value["attempt"]),
            round=int(value["round"]),
            started_ms=int(value["started_ms"]),
            undoing=str(value["undoing"] or ""),
            ended=str(value["status"] or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HistoryFileError(f"a field is missing or has another form: {type(error).__name__} {error}") from None


def _step_json(key: str, memo: Memo) -> dict[str, Any]:
    step: dict[str, Any] = {
        "id": memo.id,
        **({} if key == step_key(memo.id) else {"key": key}),
        "kind": stored_kind(memo.detail),
    }
    if memo.failure is None:
        step["data"] = memo.data
    else:
        step["error"] = _without_tracebacks(memo.failure.to_json())
    more = {name: value for name, value in memo.detail.items() if name not in _NOT_STORED}
    return {**step, "more": more} if more else step


def _without_tracebacks(error: dict[str, Any]) -> dict[str, Any]:
    cause = error["cause"]
    short = {"name": error["name"], "message": error["message"]}
    return {**short, "cause": _without_tracebacks(cause)} if cause else short


def _memo(step: Mapping[str, Any]) -> tuple[str, Memo]:
    step_id, kind = str(step["id"]), StepKind(step["kind"])
    detail = dict(step.get("more", {}))
    if kind is not StepKind.RUN:
        detail["kind"] = str(kind)
    failure = Failure.from_json(step["error"]) if "error" in step else None
    return str(step.get("key") or step_key(step_id)), Memo(step_id, step.get("data"), failure, detail)


def _planned_json(step: PlannedStep) -> dict[str, Any]:
    key = {} if step.key == step_key(step.id) else {"key": step.key}
    return {"id": step.id, **key, "kind": step.kind, **({"items": step.digest} if step.digest else {})}


def _planned(step: Mapping[str, Any]) -> PlannedStep:
    key = str(step.get("key") or step_key(step["id"]))
    return PlannedStep(key, str(step["id"]), str(StepKind(step["kind"])), str(step.get("items", "")))
