"""The registry of functions, as this worker has read it. Scripts reject calls with an old version."""

from __future__ import annotations

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import read_functions, registry_version

__all__ = ["Registries", "Registry"]


class Registry:
    """All functions of all apps, as one partition stores them.

    Attributes:
        version: the version that was read; -1: none yet.
        functions: by ``app/id``.
    """

    def __init__(self, broker: AsyncBroker, partition: Partition) -> None:
        self._broker = broker
        self._keys = partition.keys
        self.version = -1
        self.functions: dict[str, FunctionConfig] = {}

    async def read(self) -> None:
        """Read it again, the version first: after a change in between it then has an old version, and is read again."""
        version = await self._broker.execute(registry_version(self._keys))
        self.functions = {config.name: config for config in await self._broker.execute(read_functions(self._keys))}
        self.version = version


class Registries:
    """The registries of all partitions. While a worker registers a function, they may differ."""

    def __init__(self, broker: AsyncBroker, partition: Partition) -> None:
        self._registries = {one: Registry(broker, one) for one in partition.all}

    def of(self, partition: Partition) -> Registry:
        """The registry of a partition."""
        return self._registries[partition]
