"""Describes the error of an isolated handler as JSON, and makes an error of the description that is retried alike.

The process of the handler sends, for each error of a group, the names of its classes. The worker looks for the first of
them that is an exception which it has imported itself. So ``Retry(on=…)`` finds the class, or a base of it. The error
in the worker has the message, but no other attribute of the original.
"""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from stepflow_engine.durations import MAX_DURATION_MS
from stepflow_engine.errors import RetryAfterError
from stepflow_engine.failure import Failure, group_parts
from stepflow_engine.http_retry_after import http_retry_after_ms
from stepflow_engine.retry_policy import error_parts
from stepflow_engine.user_code import EscapedError

__all__ = ["describe_error", "error_of"]

_MAX_LEAVES = 100
_MAX_CLASSES = 50
_TOO_MANY_REQUESTS = 429


def describe_error(error: BaseException) -> dict[str, Any]:
    """The description of an error, as plain JSON data."""
    leaves = [part for part in error_parts(error) if not group_parts(part)][:_MAX_LEAVES]
    return {"failure": Failure.of(error).to_json(), "leaves": [_describe_leaf(leaf) for leaf in leaves]}


def error_of(description: object) -> Exception:
    """An error of the described classes. Its stored form is the described failure.

    Args:
        description: what the process has sent: any JSON data.
    """
    fields: dict[str, Any] = description if isinstance(description, dict) else {}
    failure = Failure.from_hostile(fields.get("failure"))
    described = fields.get("leaves")
    leaves = [_leaf(leaf, failure) for leaf in described[:_MAX_LEAVES]] if isinstance(described, list) else []
    error = leaves[0] if len(leaves) == 1 else ExceptionGroup(failure.message, leaves) if leaves else Exception()
    vars(error)["failure"] = failure
    return error


def _describe_leaf(error: BaseException) -> dict[str, Any]:
    now_ms = round(time.time() * 1000)
    described: dict[str, Any] = {
        "classes": [f"{kind.__module__}:{kind.__qualname__}" for kind in type(error).__mro__[:_MAX_CLASSES]],
        "http_ms": http_retry_after_ms(error, now_ms),
    }
    if isinstance(error, RetryAfterError):
        with contextlib.suppress(Exception):  # user code: a subclass
            described["after_ms"] = max(0, int(error.delay_ms(now_ms)))
    return described


def _leaf(described: object, failure: Failure) -> Exception:
    fields: dict[str, Any] = described if isinstance(described, dict) else {}
    if (after_ms := _delay_ms(fields.get("after_ms"))) is not None:
        return RetryAfterError(failure.message, timedelta(milliseconds=after_ms))
    classes = fields.get("classes")
    error = _made_of(classes[:_MAX_CLASSES] if isinstance(classes, list) else [], failure.message)
    if (http_ms := _delay_ms(fields.get("http_ms"))) is not None:
        headers = {"Retry-After": str(-(-http_ms // 1000))}
        vars(error)["response"] = SimpleNamespace(status_code=_TOO_MANY_REQUESTS, headers=headers)
    return error


def _delay_ms(value: object) -> int | None:
    is_delay = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_DURATION_MS
    return value if is_delay and isinstance(value, int) else None


def _made_of(classes: list[object], message: str) -> Exception:
    """An error of the first class that this process knows. Its ``__init__`` is not called: it may need arguments."""
    for name in classes:
        kind = _known(name)
        if kind is None:
            continue
        try:
            error = kind.__new__(kind, message)
        except Exception:  # noqa: BLE001, S112  user code
            continue
        if type(error) is kind:
            return error
    return Exception(message)


def _known(name: object) -> type[Exception] | None:
    """The class of errors with a name, of a module that is imported."""
    module, _, qualified = name.partition(":") if isinstance(name, str) else ("", "", "")
    candidate: Any = sys.modules.get(module)
    for part in qualified.split("."):
        candidate = None if candidate is None else getattr(candidate, "__dict__", {}).get(part)
    is_error = isinstance(candidate, type) and issubclass(candidate, Exception) and candidate is not EscapedError
    return candidate if is_error and isinstance(candidate, type) else None
