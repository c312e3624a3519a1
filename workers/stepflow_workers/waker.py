"""The waker: sees to finished events, so that every child's end wakes its parent.

Who ends a child resolves its parent's step in the same round trip. The events on the stream are for when it died in
between: every worker looks at the stream, and takes over what another worker took and did not see to.
"""

from __future__ import annotations

import asyncio
import contextlib

from stepflow_broker.async_broker import AsyncBroker
from stepflow_broker.batches import end_batch
from stepflow_broker.call import Call
from stepflow_broker.invokes import Finished, Resolved, read_finished, take_over_finished, wake_parent
from stepflow_broker.keys import Keys
from stepflow_broker.streams import create_group
from stepflow_engine.cipher import PLAIN, Cipher
from stepflow_engine.errors import DecryptionError, ServerError, UnreadableError
from stepflow_engine.memo import read_memo
from stepflow_engine.payloads import open_memo
from stepflow_workers.held import HeldRuns

__all__ = ["Waker"]

_TAKE_OVER_MS = 10_000
_LIMIT = 500


class Waker:
    """Wakes parents, for one worker.

    Args:
        held: the runs in this worker's memory; those among them are given the memo at once.
        cipher: opens payloads.
    """

    def __init__(self, broker: AsyncBroker, keys: Keys, worker: str, held: HeldRuns, cipher: Cipher = PLAIN) -> None:
        self._cipher = cipher
        self._broker = broker
        self._keys = keys
        self._worker = worker
        self._held = held

    async def prepare(self, keys: Keys) -> None:
        """Make sure that the stream of a partition and its group exist."""
        with contextlib.suppress(ServerError):  # they exist already
            await self._broker.run(create_group(keys, "FINISHED"))

    async def wake(self, child: str) -> None:
        """See to a child that has ended."""
        resolved = await self._broker.run(wake_parent(self._keys, child, worker=self._worker))
        if resolved is not None:
            self.hand_over(resolved)

    async def end_batch(self, batch: str) -> None:
        """See to the runs of a batch that has ended."""
        while await self._broker.run(end_batch(self._keys, batch)):
            pass

    def hand_over(self, resolved: Resolved) -> None:
        """Give the memo to the parent's code, if that is in memory; one that cannot be opened is for who loads it."""
        held = self._held.get(resolved.run_id)
        if held is None:
            return
        try:
            memo = open_memo(self._cipher, resolved.run_id, resolved.key, read_memo(resolved.memo))
        except (DecryptionError, UnreadableError):
            self._held.drop(held)
        else:
            held.learn(resolved.position, resolved.key, memo, len(resolved.memo))

    async def look(self, keys: Keys) -> None:
        """See to the finished events of a partition that nobody has seen to."""
        await self._see_to(keys, read_finished(keys, self._worker, limit=_LIMIT))

    async def take_over(self, keys: Keys) -> None:
        """See to the finished events of a partition that a worker took and left, because it died."""
        await self._see_to(keys, take_over_finished(keys, self._worker, idle_ms=_TAKE_OVER_MS, limit=_LIMIT))

    async def _see_to(self, keys: Keys, call: Call[list[Finished]]) -> None:
        try:
            found = await self._broker.run(call)
        except ServerError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.prepare(keys)  # the server was emptied, or lost the group
            return
        seen = [self.end_batch(one.run_id) if one.is_batch else self.wake(one.run_id) for one in found]
        await asyncio.gather(*seen)
