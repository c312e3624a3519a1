"""HandlerControl: heartbeats of a handler to its worker, and the cancellation of the handler by the worker."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from typing import Any

from stepflow_engine.codec import dumps_checked
from stepflow_engine.errors import StepUsageError

__all__ = ["HANDLER", "MAX_HEARTBEAT_BYTES", "HandlerControl", "StepCancelled", "current_handler"]

MAX_HEARTBEAT_BYTES = 16 * 1024
"""The largest detail of a heartbeat, in bytes of JSON."""


class StepCancelled(BaseException):
    """Raised by a heartbeat in a handler whose result nobody needs any more: it unwinds the handler.

    Not an `Exception`, so that ``except Exception`` in a handler lets it pass.

    Example::

        try:
            ctx.step.heartbeat()
        except StepCancelled:
            upload.abort()
            raise
    """


class HandlerControl:
    """One attempt of a handler.

    Args:
        step_id: the id of the step.
        idempotency_key: the key that all attempts of the step have.
        last_heartbeat: the detail of the last heartbeat of the attempts before, as plain JSON data.
        on_beat: called after each heartbeat with a detail, in the thread of the handler.

    Attributes:
        on_beat: see the argument; ``None``: the attempt has ended, or nobody follows it.
        beat_at: the time of the last heartbeat, on the clock of `time.monotonic`, in seconds.
        detail: the detail of the last heartbeat that had one, as JSON text; ``b""``: none yet.
        cancelled: why nobody needs the result any more; ``""``: it is needed.
        task: the task of an async handler, while it runs.
        is_noted: whether the worker is about to look at the last detail.
        log: what the worker has stored of the heartbeats; ``None``: nothing yet.
    """

    __slots__ = (
        "beat_at",
        "cancelled",
        "detail",
        "idempotency_key",
        "is_noted",
        "last_heartbeat",
        "log",
        "on_beat",
        "step_id",
        "task",
    )

    def __init__(
        self,
        step_id: str,
        idempotency_key: str = "",
        last_heartbeat: Any = None,
        on_beat: Callable[[HandlerControl], None] | None = None,
    ) -> None:
        self.step_id = step_id
        self.idempotency_key = idempotency_key
        self.last_heartbeat = last_heartbeat
        self.on_beat = on_beat
        self.beat_at = 0.0
        self.detail = b""
        self.cancelled = ""
        self.is_noted = False
        self.task: Any = None
        self.log: Any = None

    def beat(self, detail: Any = None) -> None:
        """Record a heartbeat.

        Raises:
            StepCancelled: nobody needs the result any more.
            StepUsageError: the detail is not JSON, or is too large.
        """
        if self.cancelled:
            raise StepCancelled(self.cancelled)
        if detail is not None:
            self.detail = dumps_checked(
                detail,
                what=f"the heartbeat of step {self.step_id!r}: detail",
                limit_bytes=MAX_HEARTBEAT_BYTES,
                refuse=StepUsageError,
            )
        self.beat_at = time.monotonic()
        if detail is not None and (on_beat := self.on_beat) is not None:
            on_beat(self)

    def cancel(self, reason: str) -> None:
        """Let the next heartbeat raise `StepCancelled`. Callable from any thread."""
        self.cancelled = reason


HANDLER: contextvars.ContextVar[HandlerControl | None] = contextvars.ContextVar("handler", default=None)
"""The attempt whose handler runs in this context; ``None``: no handler runs."""


def current_handler(what: str) -> HandlerControl:
    """The attempt of the handler that calls.

    Args:
        what: the call, for the error.

    Raises:
        StepUsageError: the call is not in the handler of a step.
    """
    handler = HANDLER.get()
    if handler is None:
        raise StepUsageError(
            f"{what}: there is none outside of the handler of a step: "
            "use it in the handler that is passed to ctx.step.run"
        )
    return handler
