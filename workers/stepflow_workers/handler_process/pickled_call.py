"""HandlerCall: the call of an isolated handler, as the worker pickles it and the process of the handler reads it.

A context (``ctx``) among the arguments cannot be pickled. Its parts go instead, and the process makes one of them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepflow import Context, SyncContext
from stepflow.functions.context import context_parts, detached_context
from stepflow_engine.around_attempt import Attempt
from stepflow_engine.errors import StepUsageError
from stepflow_workers.handler_process.frames import MAX_CALL_BYTES

__all__ = ["HandlerCall", "dump_call", "load_call"]


@dataclass(frozen=True, slots=True)
class HandlerCall:
    """One attempt of an isolated handler.

    Attributes:
        attempt: the attempt.
        handler, args, kwargs: the handler and its arguments.
        managers: the context managers of the app around the attempt.
        idempotency_key, last_heartbeat: see `HandlerControl`.
        limit_bytes: the largest size of the result, in bytes of JSON.
    """

    attempt: Attempt
    handler: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    managers: list[Callable[[Attempt], Any]]
    idempotency_key: str
    last_heartbeat: Any
    limit_bytes: int


def dump_call(call: HandlerCall) -> bytes:
    """The pickle of a call.

    Raises:
        StepUsageError: the handler or an argument cannot be pickled, or the pickle is too large.
    """
    what, stream = f"step {call.attempt.step_id!r}", io.BytesIO()
    try:
        _CallPickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(call)
    except Exception as error:  # user code: any object may be an argument
        raise StepUsageError(
            f"{what}: an isolated handler and its arguments must be picklable ({type(error).__name__}: {error}): "
            "pass plain data, and open connections and files in the handler"
        ) from error
    text = stream.getvalue()
    if len(text) > MAX_CALL_BYTES:
        raise StepUsageError(
            f"{what}: the arguments of an isolated handler must be at most {MAX_CALL_BYTES:,} bytes as a pickle, got "
            f"{len(text):,}: store the data elsewhere and pass a reference to it"
        )
    return text


def load_call(text: bytes) -> HandlerCall:
    """Read a pickle of the worker. It imports the module of the handler."""
    call = _CallUnpickler(io.BytesIO(text)).load()
    assert isinstance(call, HandlerCall)  # noqa: S101  the worker has sent it
    return call


class _CallPickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return context_parts(obj) if type(obj) in (Context, SyncContext) else None


class _CallUnpickler(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        return detached_context(pid)
