"""A caller that dies between two of its round trips to the server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stepflow_broker.redis_client.broker import Broker

__all__ = ["DyingCaller"]


class _DeathError(Exception):
    """The caller dies."""


class DyingCaller:
    """Ends a call at one of its round trips, before or after the server has executed the commands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._dies_at: tuple[int, bool] | None = None
        self._count = 0
        self._execute_all = Broker.execute_all
        caller = self

        def execute_all(self: Broker, calls: Any) -> Any:
            return caller._execute(self, calls)

        monkeypatch.setattr(Broker, "execute_all", execute_all)

    def _execute(self, broker: Broker, calls: Any) -> Any:
        number, self._count = self._count, self._count + 1
        if self._dies_at == (number, False):
            raise _DeathError
        answers = self._execute_all(broker, calls)
        if self._dies_at == (number, True):
            raise _DeathError
        return answers

    def deaths(self, call: Callable[[str], Any]) -> Iterator[str]:
        """Let a call die once at each round trip, before and after the server has executed it.

        Args:
            call: is told a name of its own each time.

        Yields:
            The name of each call that has died.
        """
        self._count = 0
        call("not counted")
        for number, executed in itertools.product(range(self._count), (False, True)):
            name = f"{number} {executed}"
            self._dies_at, self._count = (number, executed), 0
            with pytest.raises(_DeathError):
                call(name)
            self._dies_at = None
            yield name
