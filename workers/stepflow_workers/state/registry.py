"""The registry of functions as this worker has read it; scripts refuse to act on an old reading."""

from __future__ import annotations

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.registry.functions import FunctionConfig, read_functions, registry_version

__all__ = ["Registries", "Registry"]


class Registry:
    """All functions of all apps, as one partition has them.

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
        version = await self._broker.execute(registry_version(self._keys))
        self.functions = {config.name: config for config in await self._broker.execute(read_functions(self._keys))}
        self.version = version


class Registries:
    """The readings of all partitions. While a worker registers a function, not all of them know it yet."""

    def __init__(self, broker: AsyncBroker, keys: Keys) -> None:
        self._found = {one: Registry(broker, one) for one in keys.all}

    def of(self, keys: Keys) -> Registry:
        """That of a partition."""
        return self._found[keys]
