"""What a handler of ``step.run`` calls while it is executed: its idempotency key, heartbeats, whether to go on."""

from __future__ import annotations

from typing import Any

from stepflow_engine.handler_control import current_handler

__all__ = ["HandlerCalls"]


class HandlerCalls:
    """Calls inside the handler of a step. They are no steps."""

    @property
    def idempotency_key(self) -> str:
        """In a step's handler: an idempotency key for calls to other systems, ``<run id>:<memo key of the step>``.

        All attempts of the step have the same key, on every worker, and no other step has it. A system that accepts
        idempotency keys therefore executes a request once, also if the handler runs again after a crash.

        Raises:
            StepUsageError: the code is not inside a handler of ``step.run``.

        Example::

            payments.charge(order, idempotency_key=ctx.step.idempotency_key)
        """
        return current_handler("idempotency_key").idempotency_key

    def heartbeat(self, detail: Any = None) -> None:
        """In a step's handler: report that it still works, and how far it is. Not awaited, also in async handlers.

        With ``with_options(heartbeat_timeout=…)`` an attempt that sends no heartbeat for that time fails, and is
        retried. The next attempt can read the last detail as `last_heartbeat` and continue from there. The detail is
        stored at once, then at most once a second; when the attempt fails, the last one is stored.

        Args:
            detail: JSON of at most 16 KiB; ``None``: the last detail stays.

        Raises:
            StepCancelled: nobody needs the result any more: the run has ended, another worker has the step, the
                attempt took too long, or the worker stops. Let it pass.
            StepUsageError: the detail is not JSON, or is too large, or the code is not inside a handler of
                ``step.run``.

        Example::

            for number in range((ctx.step.last_heartbeat or 0) + 1, 1001):
                upload(part=number)
                ctx.step.heartbeat(number)
        """
        current_handler("heartbeat").beat(detail)

    @property
    def last_heartbeat(self) -> Any:
        """In a step's handler: the detail of the last heartbeat of the attempts before; ``None``: there is none.

        Raises:
            StepUsageError: the code is not inside a handler of ``step.run``.

        Example::

            done = ctx.step.last_heartbeat or 0
        """
        return current_handler("last_heartbeat").last_heartbeat

    @property
    def cancelled(self) -> bool:
        """In a step's handler: whether nobody needs its result any more, so that it should end soon.

        The run has ended, another worker has the step, the attempt took too long, or the worker stops. A handler in a
        thread cannot be interrupted: it can look here between two pieces of its work, or call `heartbeat`, which
        raises.

        Raises:
            StepUsageError: the code is not inside a handler of ``step.run``.

        Example::

            while not ctx.step.cancelled and (part := queue.next()):
                handle(part)
        """
        return bool(current_handler("cancelled").cancelled)
