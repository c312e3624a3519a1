"""Pausing and resuming functions, queues and keys."""

from __future__ import annotations

from typing import Any

from stepflow.client.client import StartsRuns
from stepflow.functions.function import Function
from stepflow_broker.redis_client.operation import arun_operation, run_operation
from stepflow_broker.registry.functions import FunctionConfig
from stepflow_broker.transitions.pauses import Pause, PauseKind, pause_everywhere, read_all_pauses, resume_everywhere
from stepflow_engine.errors import ConfigurationError

__all__ = ["PausesRuns"]


class PausesRuns(StartsRuns):
    """The part of an app that holds runs up and lets them go on."""

    def pause(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        queue: str | None = None,
        key: str | None = None,
        reason: str = "",
    ) -> bool:
        """Let nothing more be executed of a function, from a queue, or for a key, until it is resumed.

        Nothing is lost: events start runs of a paused function as ever, and these wait. A step that is executing ends,
        and is kept. Who invokes a paused function gets `InvokeSkippedError`; its schedule rests.

        Args:
            function: a function, or the id of one, of this app or ``"app/function"``.
            queue: the name of a queue.
            key: one value of the key of a `Concurrency`, as `Run.explain` names it: ``"shop/sync:event.data.shop=17"``.
            reason: why, for those who wonder.

        Returns:
            False if it was paused already; then it has the new reason.

        Raises:
            ConfigurationError: not one of function, queue and key is given.
            FunctionNotFoundError: no worker has registered the function.
            BackendUnavailableError: the server, or a node of a cluster, does not answer. The partitions of that node
                are not paused; the same call again completes the pause.
        """
        kind, name = self._subject(function, queue, key)
        return run_operation(self.backend.broker, pause_everywhere(self.backend.keys, kind, name, reason=reason))

    async def apause(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        queue: str | None = None,
        key: str | None = None,
        reason: str = "",
    ) -> bool:
        """As `pause`, without blocking the event loop."""
        kind, name = await self._asubject(function, queue, key)
        dialogue = pause_everywhere(self.backend.keys, kind, name, reason=reason)
        return await arun_operation(self.backend.abroker, dialogue)

    def resume(
        self, function: Function[Any, Any] | str | None = None, *, queue: str | None = None, key: str | None = None
    ) -> bool:
        """Let what was paused go on, in its order; false if it was not paused. See `pause`."""
        kind, name = self._subject(function, queue, key)
        return run_operation(self.backend.broker, resume_everywhere(self.backend.keys, kind, name))

    async def aresume(
        self, function: Function[Any, Any] | str | None = None, *, queue: str | None = None, key: str | None = None
    ) -> bool:
        """As `resume`, without blocking the event loop."""
        kind, name = await self._asubject(function, queue, key)
        return await arun_operation(self.backend.abroker, resume_everywhere(self.backend.keys, kind, name))

    def pauses(self) -> list[Pause]:
        """All that is paused on the server, the oldest first."""
        return run_operation(self.backend.broker, read_all_pauses(self.backend.keys))

    async def apauses(self) -> list[Pause]:
        """As `pauses`, without blocking the event loop."""
        return await arun_operation(self.backend.abroker, read_all_pauses(self.backend.keys))

    def _subject(
        self, function: Function[Any, Any] | str | None, queue: str | None, key: str | None
    ) -> tuple[PauseKind, str]:
        _check_one(function, queue, key)
        return _subject(self._config(function) if function is not None else None, queue, key)

    async def _asubject(
        self, function: Function[Any, Any] | str | None, queue: str | None, key: str | None
    ) -> tuple[PauseKind, str]:
        _check_one(function, queue, key)
        return _subject(await self._aconfig(function) if function is not None else None, queue, key)


def _check_one(*given: object) -> None:
    if sum(one is not None for one in given) != 1:
        raise ConfigurationError("name one thing that is paused: a function, queue=, or key=")


def _subject(function: FunctionConfig | None, queue: str | None, key: str | None) -> tuple[PauseKind, str]:
    if function is not None:
        return "function", function.name
    return ("queue", queue) if queue is not None else ("key", key or "")
