"""Partition: where a call acts. It has the keys of one partition, the cipher of the payloads and the clock.

The keys of a server are divided into one or more partitions, and the id of a run says in which one the run lives. A
process makes this value once, for the first partition of its server, and finds the others from it. A call that concerns
a run takes any of them and uses the one of the run (`Partition.run_keys`). A call that concerns a queue, a stream or a
timer acts in the partition that it is given.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from stepflow_broker.protocol.clock import REAL_CLOCK, Clock
from stepflow_broker.protocol.keys import Keys
from stepflow_engine.cipher import Cipher

__all__ = ["Partition"]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """One partition of a server. Two partitions are equal only if they are the same object. Make them with `first_of`.

    Attributes:
        keys: builds the keys of this partition.
        cipher: opens the payloads that this process has to read. It has no default: a missing cipher would leave
            encrypted payloads unread. A process that opens none says `NO_ENCRYPTION`.
        clock: gives the time of runs, timers and events.
    """

    keys: Keys
    cipher: Cipher
    clock: Clock
    _by_keys: dict[Keys, Partition] = field(repr=False)
    _lost: frozenset[str] = frozenset()

    @classmethod
    def first_of(cls, keys: Keys, cipher: Cipher, clock: Clock = REAL_CLOCK) -> Partition:
        """The partition that has these keys. It knows the other partitions of the server."""
        found: dict[Keys, Partition] = {}
        for one in keys.all:
            found[one] = cls(one, cipher, clock, found)
        return found[keys]

    @property
    def tag(self) -> str:
        """What every key of this partition starts with; ``""`` if the server has one partition."""
        return self.keys.partition

    @property
    def all(self) -> tuple[Partition, ...]:
        """All partitions of the server, in order; this one is among them."""
        return tuple(one for one in self._by_keys.values() if one.tag not in self._lost)

    def without(self, lost: Collection[Partition]) -> Partition:
        """A partition of the same server that leaves these out of `all`. `of` and `at` still find them."""
        tags = frozenset(one.tag for one in lost)
        first = next(one for one in self._by_keys.values() if one.tag not in tags)
        return replace(first, _lost=tags)

    def of(self, run_id: str) -> Partition:
        """The partition of a run, or of one of its jobs."""
        return self._by_keys[self.keys.of(run_id)]

    def at(self, name: str) -> Partition:
        """The partition to which a name belongs: an event's id, or a function."""
        return self._by_keys[self.keys.at(name)]

    def run_key(self, kind: str, run_id: str) -> str:
        """A key of a run, in the partition of the run."""
        return self.keys.of(run_id)(kind, run_id)

    def run_keys(self, run_id: str, *kinds: str) -> tuple[str, ...]:
        """Several keys of a run, in the partition of the run."""
        return self.keys.of(run_id).several(run_id, kinds)
