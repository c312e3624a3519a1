"""What a program says to a live run, and what the run says of itself: signals and values."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from stepflow.signals import check_signal
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation
from stepflow_broker.transitions.runs.run_state import read_status, read_values
from stepflow_broker.transitions.steps.signals import send_signal
from stepflow_broker.views.run_view import run_ended, run_not_found
from stepflow_engine.encryption_scopes import signal_scope, values_scope
from stepflow_engine.errors import RunNotFoundError, SignalError
from stepflow_engine.limits import check_id

if TYPE_CHECKING:
    from stepflow.client.backend import Backend

__all__ = ["LiveRun"]

T = TypeVar("T")


class LiveRun:
    """The part of the handle of a run that is about a live run. `Run` has the rest.

    Attributes:
        id: the id of the run.
    """

    def __init__(self, backend: Backend, run_id: str) -> None:
        self.id = run_id
        self._backend = backend
        self._is_checked = False

    def signal(self, name: str, data: Any = None, *, id: str | None = None) -> bool:
        """Send the run a signal, which one ``wait_for_signal`` for its name receives.

        A signal that arrives before the wait is kept, also if the run has not started. Signals of a name are received
        in the order of their arrival. A run keeps at most 1,000 signals that no wait has received, of 4 MiB in all.

        Args:
            name: the name of the signal.
            data: JSON data, at most as large as that of an event.
            id: makes the call repeatable: a run receives one signal with this id.

        Returns:
            False if the run was sent a signal with this ``id`` before.

        Raises:
            SignalError: an argument is invalid, the data is not JSON or over the limit, or the run keeps too many.
            RunEndedError: the run has ended.
            RunNotFoundError: no run has this id, or its retention is over.
            BackendUnavailableError: the server does not answer. With an ``id``, it is safe to repeat the call.

        Example::

            app.run(run_id).signal("address", {"street": "Via Roma 1"})
        """
        return run_operation(self._backend.broker, self._signal(name, data, id))

    async def asignal(self, name: str, data: Any = None, *, id: str | None = None) -> bool:
        """The asyncio twin of `signal`."""
        return await arun_operation(self._backend.abroker, self._signal(name, data, id))

    def _signal(self, name: str, data: Any, own_id: str | None) -> Operation[bool]:
        run_id, backend = self._checked_id(), self._backend
        payload = check_signal(run_id, name, data, own_id, limit_bytes=backend.declared.limits.event_bytes)
        signal_id = own_id or uuid.uuid4().hex
        sealed = backend.cipher.seal(payload, signal_scope(run_id, signal_id))
        call = send_signal(backend.partition, run_id=run_id, name=name, signal_id=signal_id, data=sealed)
        ((code, text),) = yield [call]
        match code:
            case ScriptStatus.NO_RUN if text:
                raise run_ended(run_id, text, f"signal {name!r}")
            case ScriptStatus.NO_RUN:
                raise self._not_found()
            case ScriptStatus.FULL:
                raise SignalError(
                    f"signal {name!r} is not stored: run {run_id} keeps {text} that no wait has received, which is the "
                    "most: let its code wait for them, or send less",
                    run_id=run_id,
                    signal=name,
                )
        return code is ScriptStatus.DONE or own_id is None

    def values(self) -> dict[str, Any]:
        """What the code of the run has set with ``ctx.set``: plain JSON data by key. Empty: it has set nothing.

        It can be called while the run is live, and after its end until its retention is over.

        Raises:
            RunNotFoundError: no run has this id, or its retention is over.
            DecryptionError: the values are encrypted, and this process does not have the key.
            BackendUnavailableError: the server does not answer.

        Example::

            print(app.run(run_id).values().get("stage"))
        """
        return self._execute(self._values())

    async def avalues(self) -> dict[str, Any]:
        """The asyncio twin of `values`."""
        return await self._aexecute(self._values())

    def _values(self) -> Operation[dict[str, Any]]:
        run_id, partition = self._checked_id(), self._backend.partition
        status, values = yield [read_status(partition, run_id), read_values(partition, run_id)]
        if status is None:
            raise self._not_found()
        return dict(self._backend.cipher.open(values, values_scope(run_id)) or {})

    def _execute(self, operation: Operation[T]) -> T:
        return run_operation(self._backend.broker, operation)

    async def _aexecute(self, operation: Operation[T]) -> T:
        return await arun_operation(self._backend.abroker, operation)

    def _checked_id(self) -> str:
        """The id, if a run can have it."""
        if not self._is_checked:
            try:
                check_id(self.id, "run id")
            except ValueError:
                raise self._not_found() from None
            self._is_checked = True
        return self.id

    def _not_found(self) -> RunNotFoundError:
        return run_not_found(self.id)
