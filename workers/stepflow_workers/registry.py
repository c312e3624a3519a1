"""The registry of functions as this worker has read it; scripts refuse to act on an old reading."""

from __future__ import annotations

from stepflow_broker.async_broker import AsyncBroker
from stepflow_broker.functions import FunctionConfig, read_functions, registry_version
from stepflow_broker.keys import Keys

__all__ = ["Registry"]


class Registry:
    """All functions of all apps.

    Attributes:
        version: of the reading; -1: none yet.
        functions: by ``app/id``.
    """

    def __init__(self, broker: AsyncBroker, keys: Keys) -> None:
        self._broker = broker
        self._keys = keys
        self.version = -1
        self.functions: dict[str, FunctionConfig] = {}

    async def read(self) -> None:
        """Read it again. The version first: a change in between makes the reading look older than it is."""
        version = await self._broker.run(registry_version(self._keys))
        self.functions = {config.name: config for config in await self._broker.run(read_functions(self._keys))}
        self.version = version
