"""What a function can ask for: the closed union of step requests, and a request that waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepflow_engine.memo import Memo

__all__ = ["InvokeRequest", "RunRequest", "StepCall", "StepRequest"]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """``step.run``: call a handler.

    Attributes:
        handler, args, kwargs: what to call, and with what.
        retries: attempts after the first; ``None`` means the function's.
        timeout_ms: the longest an attempt may take, in milliseconds; ``None`` means no bound.
    """

    handler: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retries: int | None = None
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class InvokeRequest:
    """``step.invoke``: run another function and wait for it.

    Attributes:
        app, function: whose function, and which.
        data: its input as JSON text.
        timeout_ms: the longest wait, in milliseconds.
    """

    app: str
    function: str
    data: bytes
    timeout_ms: int


StepRequest = RunRequest | InvokeRequest


@dataclass(slots=True, eq=False)
class StepCall:
    """A step that the code asked for and that has no end yet.

    Attributes:
        key: its memo key.
        id: the id that the code gave it.
        request: what was asked for.
        future: given the memo when the step has ended.
    """

    key: str
    id: str
    request: StepRequest
    future: asyncio.Future[Memo]
