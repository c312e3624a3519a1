"""Child: what the process of a handler does. It reads calls from its worker and executes one after the other.

A handler executes in the main thread, so that signals reach it. A second thread reads what the worker sends meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, BinaryIO

from stepflow_engine.around_attempt import AroundAttempt
from stepflow_engine.callables import is_async_callable
from stepflow_engine.codec import dumps, result_adapter
from stepflow_engine.errors import HandlerProcessError
from stepflow_engine.handler_control import HandlerControl, StepCancelled
from stepflow_engine.product import NAME
from stepflow_engine.step_attempt import enter_handler, handler_result
from stepflow_workers.handler_process.described_error import describe_error
from stepflow_workers.handler_process.frames import HEADER, FrameKind, frame
from stepflow_workers.handler_process.pickled_call import HandlerCall, load_call
from stepflow_workers.logs import configure_logging

__all__ = ["Child"]

_ENDED = "the worker has ended the handler"
_FRAME_S = 0.5
"""How long after SIGTERM the message of the worker may come."""


class _ChildControl(HandlerControl):
    """The control of a handler, whose heartbeats go to the worker."""

    __slots__ = ("_send",)

    def __init__(self, call: HandlerCall, send: Callable[[bytes], None]) -> None:
        super().__init__(call.attempt.step_id, call.idempotency_key, call.last_heartbeat)
        self._send = send

    def beat(self, detail: Any = None) -> None:
        """Record a heartbeat and send it."""
        super().beat(detail)
        self._send(b"" if detail is None else self.detail)


class Child:
    """The process of a handler, seen from inside.

    Args:
        connection: the connection to the worker.
        frames: reads from it.
        log_level: the lowest level that is logged.
    """

    def __init__(self, connection: socket.socket, frames: BinaryIO, *, log_level: str) -> None:
        self._connection = connection
        self._frames = frames
        self._log_level = log_level
        self._calls: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = 0
        self._control: HandlerControl | None = None
        self._is_cancelled = threading.Event()
        self._is_ended = False
        self._pid = os.getpid()

    def serve(self) -> None:
        """Execute calls until the worker closes the connection."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        threading.Thread(target=self._read, name=f"{NAME} worker", daemon=True).start()
        while True:
            number, text = self._calls.get()
            self._running = number
            with contextlib.suppress(StepCancelled):  # SIGTERM may come after the handler
                self._execute(number, text)
            self._running, self._control = 0, None
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):  # user code may have replaced or closed it
                    stream.flush()
            if self._is_ended:
                os._exit(0)
            if self._is_forked:
                return

    @property
    def _is_forked(self) -> bool:
        """Whether this is a process that a handler has forked, and that has come back from the handler.

        It ends like a program. What it returns or raises is no answer to the worker.
        """
        return os.getpid() != self._pid

    def _read(self) -> None:
        """Read what the worker sends. When the connection ends, so does this process, with those it has started."""
        try:
            while len(header := self._frames.read(HEADER.size)) == HEADER.size:
                kind, number, size = HEADER.unpack(header)
                body = self._frames.read(size)
                if kind == FrameKind.CALL:
                    self._calls.put((number, body))
                elif number == self._running:
                    self._cancel(body.decode())
        finally:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    def _cancel(self, reason: str) -> None:
        if self._control is not None:
            self._control.cancel(reason)
        self._is_cancelled.set()

    def _send(self, kind: FrameKind, number: int, body: bytes = b"") -> None:
        if self._is_forked:
            return
        with self._lock:
            if number == self._running:  # not of a thread that an earlier handler has left behind
                self._connection.sendall(frame(kind, number, body))

    def _execute(self, number: int, text: bytes) -> None:
        try:
            try:
                call = load_call(text)
            except (Exception, SystemExit) as error:
                kind, message = type(error).__name__, str(error)
                raise HandlerProcessError(f"the process cannot load the handler: {kind}: {message}") from error
            configure_logging(self._log_level)  # after the import of the handler, which may configure logging too
            control = self._control = _ChildControl(call, functools.partial(self._send, FrameKind.BEAT, number))
            self._send(FrameKind.LOADED, number)
            result = contextvars.Context().run(self._perform, call, control)
            self._send(FrameKind.RESULT, number, result)
        except BaseException as error:  # user code
            if self._is_forked:
                raise
            self._send(FrameKind.FAILURE, number, dumps(describe_error(error)))
        finally:
            signal.signal(signal.SIGTERM, self._on_terminate)  # an event loop has changed it

    def _perform(self, call: HandlerCall, control: HandlerControl) -> bytes:
        """The result of a call, as JSON text."""
        enter_handler(call.attempt.number, control)
        around = AroundAttempt()
        for manager in call.managers:
            around.add(manager)
        handler = functools.partial(call.handler, *call.args, **call.kwargs)
        if is_async_callable(call.handler):
            value = asyncio.run(self._await(lambda: around.wait(call.attempt, handler)))
        else:
            value = around.call(call.attempt, handler)
            if inspect.isawaitable(value):
                value = asyncio.run(self._await(lambda: around.wait(call.attempt, lambda: value)))
        adapter = result_adapter(call.handler)
        return handler_result(call.attempt.step_id, value, adapter, limit_bytes=call.limit_bytes).text

    async def _await(self, result: Callable[[], Awaitable[Any]]) -> Any:
        """Await a handler. When the worker ends it, it is cancelled at its next ``await``."""
        task = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._end_task, task)
        return await result()

    def _end_task(self, task: asyncio.Task[Any] | None) -> None:
        if self._must_end() and task is not None:
            task.cancel()

    def _on_terminate(self, _number: int, _frame: FrameType | None) -> None:
        """Unwind the handler. The worker kills the process if that takes too long."""
        if not self._is_ended and self._must_end():
            raise StepCancelled(_ENDED)

    def _must_end(self) -> bool:
        """Whether a SIGTERM is from the worker, which has cancelled the handler before.

        A service manager sends it to all processes of a worker that stops. The handlers then have the grace period.
        """
        self._is_ended |= self._is_cancelled.wait(_FRAME_S)
        return self._is_ended
