"""The server of ``stepflow dev``: it is started again when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_cli.formatting import print_status
from stepflow_engine.errors import BackendUnavailableError

__all__ = ["DevServer"]

_MOST_ENDS = 3
_WITHIN_S = 60.0


class DevServer:
    """Watches the server, which keeps its data and its port when it is started again.

    Args:
        server: the running server.
        now_s: the time in seconds, by a clock that only grows.
    """

    def __init__(self, server: EmbeddedServer, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._now_s = now_s
        self._ended_s: list[float] = []

    def restart_if_ended(self) -> None:
        """Start the server again if it has ended, and say so with the last lines of its log.

        Raises:
            BackendUnavailableError: it cannot start, or it has ended three times within a minute.
        """
        how = self._server.how_it_ended()
        if not how:
            return
        now_s = self._now_s()
        self._ended_s = [*(one for one in self._ended_s if now_s - one < _WITHIN_S), now_s]
        print_status("server", f"{how}; the last lines of its log, {self._server.log}:")
        for line in self._server.last_log_lines():
            print_status("", line)
        if len(self._ended_s) >= _MOST_ENDS:
            raise BackendUnavailableError(
                f"the embedded server has ended {_MOST_ENDS} times within a minute: see {self._server.log}"
            )
        self._server.start()
        print_status("server", f"{self._server.url} was started again, with its data")
