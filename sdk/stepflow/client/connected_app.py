"""The base of the client: the connections of an app, and the settings of its functions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from stepflow.client.backend import Backend
from stepflow.client.function_names import DeclaredFunctions, local_config, require_config, split_name
from stepflow.functions.function import Function
from stepflow_broker.protocol.command import Command
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import read_function
from stepflow_engine.cipher import Cipher
from stepflow_engine.limits import Limits

__all__ = ["ConnectedApp"]


class ConnectedApp:
    """An app with its connections; see `Client` for the attributes."""

    def __init__(
        self,
        app_id: str,
        redis_url: str | None,
        *,
        retention_ms: int,
        limits: Limits,
        cipher: Cipher,
        replica_timeout_ms: int = 0,
    ) -> None:
        self.id = app_id
        self.functions: dict[str, Function[Any, Any]] = {}
        self.limits = limits
        self.backend = Backend(
            redis_url,
            retention_ms=retention_ms,
            cipher=cipher,
            declared=DeclaredFunctions(app_id, self.functions, limits),
            replica_timeout_ms=replica_timeout_ms,
        )

    # -- closing -----------------------------------------------------------------

    def close(self) -> None:
        """Close the connections of this process, and those of event loops that have ended.

        An app needs no closing at the end of a program. A later call opens new connections, so a call of another thread
        is not disturbed.

        Example::

            app.send("shop/order.placed", {"order": 17})
            app.close()
        """
        self.backend.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and those that `close` closes.

        The end of `asyncio.run` closes those of its event loop by itself.

        Example::

            await app.asend("shop/order.placed", {"order": 17})
            await app.aclose()
        """
        await self.backend.aclose()

    @contextlib.asynccontextmanager
    async def lifespan(self, server: object = None) -> AsyncIterator[None]:
        """Close the connections at the end of a block, or of an ASGI application.

        Args:
            server: the application that an ASGI framework passes; not used.

        Example::

            api = FastAPI(lifespan=app.lifespan)
        """
        del server
        try:
            yield
        finally:
            await self.aclose()

    # -- the registry ------------------------------------------------------------

    def _config(self, function: Any) -> FunctionConfig:
        """The settings of a function: declared in this process, else read from the registry."""
        known = local_config(function, self.id, self.functions)
        return known or require_config(function, self.backend.broker.execute_any(self._read_config(function)))

    async def _aconfig(self, function: Any) -> FunctionConfig:
        known = local_config(function, self.id, self.functions)
        return known or require_config(function, await self.backend.abroker.execute_any(self._read_config(function)))

    def _read_config(self, function: str) -> list[Command[FunctionConfig | None]]:
        """Read a function in any partition: each has all functions."""
        names = split_name(function, self.id)
        return [read_function(one.keys, *names) for one in self.backend.partition.all]
