"""The pauses, as a worker knows them. The scripts check the originals; this copy is for runs in memory."""

from __future__ import annotations

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.transitions.pauses import Pause, pause_subject, read_pauses
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import loads
from stepflow_engine.encryption_scopes import open_event
from stepflow_workers.state.run_cache import CachedRun

__all__ = ["Pauses"]


class Pauses:
    """The pauses, read when a notification says that they have changed, and periodically."""

    def __init__(self, broker: AsyncBroker, partition: Partition) -> None:
        self._broker = broker
        self._partition = partition
        self._pauses: dict[Partition, dict[str, Pause]] = {}
        self._has_pauses = False

    async def refresh(self, partition: Partition) -> None:
        """Read the pauses of a partition. Every partition has all pauses."""
        self._pauses[partition] = await self._broker.execute(read_pauses(partition))
        self._has_pauses = any(self._pauses.values())

    def is_paused(self, run: CachedRun) -> bool:
        """Whether the function of a run, its queue or one of its keys is paused."""
        if not self._has_pauses:  # each step asks
            return False
        known = self._pauses.get(self._partition.of(run.run_id), {})
        return bool(known) and any(subject in known for subject in _subjects(run, self._partition.cipher))


def _subjects(run: CachedRun, cipher: Cipher) -> list[str]:
    config = run.function.config
    limits = config.limit_names(open_event(cipher, loads(run.event)))
    return [
        pause_subject("function", config.name),
        pause_subject("queue", config.queue),
        *(pause_subject("key", limit) for limit in limits),
    ]
