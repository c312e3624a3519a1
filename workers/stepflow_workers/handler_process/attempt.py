"""Executes one attempt of an isolated handler: sends its call to a process, follows it, and ends it when it must."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import time

from stepflow_engine.codec import loads
from stepflow_engine.durations import show_duration
from stepflow_engine.errors import HandlerProcessError, StepUsageError
from stepflow_engine.handler_control import HandlerControl, StepCancelled
from stepflow_engine.isolation import Isolation
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.sizes import show_size
from stepflow_engine.step_attempt import Result, handler_result
from stepflow_engine.steps import RunRequest
from stepflow_workers.handler_process.described_error import error_of
from stepflow_workers.handler_process.frames import FrameKind
from stepflow_workers.handler_process.pickled_call import HandlerCall, dump_call
from stepflow_workers.handler_process.process import HandlerProcess, can_read_memory
from stepflow_workers.handler_process.processes import HandlerProcesses

__all__ = ["attempt_in_process"]

_log = logging.getLogger(WORKER_LOGGER)
_POLL_S = 0.1
_MEMORY_POLL_S = 0.05
_LOAD_S = 60.0
"""How long a process may take to start and to import a handler."""
_FRAME_PAUSE_S = 0.001
"""After each message of a handler that executes, so that one that sends them without end does not block the worker."""
_LAST_FRAMES_S = 0.5
"""How long what an ended process has sent is still read."""


async def attempt_in_process(
    processes: HandlerProcesses,
    request: RunRequest,
    call: HandlerCall,
    control: HandlerControl,
    *,
    cancel_grace_s: float,
) -> Result:
    """Execute a handler once in a process of its own.

    Args:
        processes: where the process comes from. The times of the handler begin when it is there and has loaded it.
        request: the options of the step.
        call: the call.
        control: the heartbeats of the handler, and its cancellation.
        cancel_grace_s: how long the handler may go on after its run was cancelled, in seconds.

    Raises:
        StepUsageError: the handler or its arguments cannot be pickled, or the system has no memory limit.
        TimeoutError: the attempt took too long, or sent no heartbeat. Its process has ended.
        MemoryError: the process was over its memory limit.
        HandlerProcessError: the process has ended before the handler.
        RuntimeError: nobody needs the result any more.
        Exception: the error of the handler.
    """
    isolation = request.isolation or Isolation()
    if isolation.memory_bytes and not can_read_memory():
        raise StepUsageError(f"step {control.step_id!r}: memory_limit needs Linux: this system has no /proc")
    text = dump_call(call)
    async with processes.one(control, memory_bytes=isolation.memory_bytes) as process:
        followed = _FollowedCall(process, request, call, control, cancel_grace_s=cancel_grace_s)
        kind, answer = await followed.answer(text)
    if kind == FrameKind.FAILURE:
        raise error_of(_json_of(answer))
    return handler_result(control.step_id, _json_of(answer), None, limit_bytes=call.limit_bytes)


def _json_of(text: bytes) -> object:
    """What a process has sent as JSON text.

    Raises:
        HandlerProcessError: it is not JSON.
    """
    try:
        return loads(text)
    except ValueError:
        raise HandlerProcessError("the process of the handler has sent a result that is not JSON") from None


class _FollowedCall:
    """A call, from its start to its result."""

    def __init__(
        self,
        process: HandlerProcess,
        request: RunRequest,
        call: HandlerCall,
        control: HandlerControl,
        *,
        cancel_grace_s: float,
    ) -> None:
        self._process = process
        self._request = request
        self._call = call
        self._control = control
        self._memory_bytes = request.isolation.memory_bytes if request.isolation else 0
        self._cancel_grace_s = cancel_grace_s
        self._loaded_at = math.inf
        self._sent_at = time.monotonic()
        self._cancel_at = math.inf
        self._dead_at = math.inf

    async def answer(self, text: bytes) -> tuple[int, bytes]:
        """Send the call and wait for its result or its failure: the kind of the frame, and its text."""
        self._process.call(text)
        reading = asyncio.get_running_loop().create_task(self._read())
        try:
            while not reading.done():
                await self._end_if_needed()
                await asyncio.wait({reading}, timeout=self._next_poll_s())
        finally:
            reading.add_done_callback(_drop_error)
            reading.cancel()
        try:
            return reading.result()
        except (asyncio.IncompleteReadError, OSError, ValueError) as error:
            raise await self._ended(error) from None

    async def _read(self) -> tuple[int, bytes]:
        while True:
            kind, text = await self._process.read(limit_bytes=self._call.limit_bytes)
            if kind in (FrameKind.RESULT, FrameKind.FAILURE):
                return kind, text
            if kind == FrameKind.LOADED:
                self._loaded_at = self._control.beat_at = time.monotonic()
            elif kind == FrameKind.BEAT:
                with contextlib.suppress(StepCancelled, StepUsageError):  # too large, or no longer needed
                    self._control.beat(loads(text) if text else None)
            await asyncio.sleep(_FRAME_PAUSE_S)

    async def _end_if_needed(self) -> None:
        """Look at the process and its times, and end it if one is over."""
        process, now = self._process, time.monotonic()
        if not process.is_alive:
            self._dead_at = min(self._dead_at, now)
            if now - self._dead_at > _LAST_FRAMES_S:  # a process that it has started holds the connection
                raise await self._ended(EOFError())
        if self._memory_bytes and (used := process.memory_bytes()) > self._memory_bytes:
            await process.kill()
            limit, most = show_size(self._memory_bytes), show_size(used)
            self._log_end(f"memory_limit {limit}")
            raise MemoryError(f"the handler used {most} of memory, more than its memory_limit of {limit}")
        if self._control.cancelled and self._cancel_at == math.inf:
            self._cancel_at = now + self._cancel_grace_s
            process.cancel(self._control.cancelled)
        if now >= self._cancel_at:
            await self._terminate(self._control.cancelled)
            raise RuntimeError(self._control.cancelled)
        if late := self._late(now):
            await self._terminate(late)
            raise TimeoutError(late)

    def _late(self, now: float) -> str:
        """Why the handler is late; ``""``: it is not."""
        timeout_ms, beats_ms = self._request.timeout_ms, self._request.heartbeat_timeout_ms
        if self._loaded_at == math.inf:
            late = now - self._sent_at >= _LOAD_S
            return f"the process of the handler did not load it within {_LOAD_S:.0f}s" if late else ""
        if timeout_ms is not None and (now - self._loaded_at) * 1000 >= timeout_ms:
            return f"the handler did not finish within {show_duration(timeout_ms)}"
        if beats_ms is not None and (now - self._control.beat_at) * 1000 >= beats_ms:
            return f"the handler sent no heartbeat for {show_duration(beats_ms)}"
        return ""

    def _next_poll_s(self) -> float:
        timeout_ms = self._request.timeout_ms
        ends_at = math.inf if timeout_ms is None else self._loaded_at + timeout_ms / 1000
        most = _MEMORY_POLL_S if self._memory_bytes else _POLL_S
        return max(0.0, min(most, ends_at - time.monotonic()))

    async def _terminate(self, why: str) -> None:
        self._log_end(why)
        self._process.cancel(why)
        await self._process.terminate()

    async def _ended(self, error: Exception) -> HandlerProcessError:
        """The error for a process that has ended, or has sent what it must not send."""
        process = self._process
        if isinstance(error, ValueError):
            how = f"has sent what is not understood ({error})"
        elif await process.has_ended(1.0):
            how = _how_ended(process.exit_code)
        else:
            how = "has closed its connection"
        code = process.exit_code
        self._log_end(how)
        await process.kill()
        return HandlerProcessError(f"the process of the handler {how}", code)

    def _log_end(self, why: str) -> None:
        attempt = self._call.attempt
        _log.warning(
            "handler_process_ended",
            extra={
                "run_id": attempt.run_id,
                "function": attempt.function,
                "step_id": attempt.step_id,
                "pid": self._process.pid,
                "why": why,
            },
        )


def _drop_error(reading: asyncio.Task[tuple[int, bytes]]) -> None:
    if not reading.cancelled():
        reading.exception()


def _how_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
