"""Pauses: functions, queues and keys for which no job executes until they are resumed.

Each partition has its own record of all pauses, and its scripts read only that one. A pause is written to every
partition. If one cannot be reached, the pause is incomplete there. Repeat the call to complete it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_engine.times import utc_time

__all__ = [
    "PAUSE_KINDS",
    "Pause",
    "PauseKind",
    "pause",
    "pause_everywhere",
    "pause_subject",
    "read_all_pauses",
    "read_pauses",
    "resume",
    "resume_everywhere",
]

PauseKind = Literal["function", "queue", "key"]
PAUSE_KINDS: tuple[PauseKind, ...] = ("function", "queue", "key")


@dataclass(frozen=True, slots=True)
class Pause:
    """A paused function, queue or key.

    Attributes:
        kind, name: what: a function by ``app/id``, a queue, or a key of a concurrency, as in
            ``shop/sync:event.data.shop=17``.
        since: since when, in UTC.
        reason: why; ``""``: none was given.
        complete: whether all partitions agree. If not, a pause or a resume was interrupted: call it again.
    """

    kind: PauseKind
    name: str
    since: datetime
    reason: str
    complete: bool = True

    @property
    def subject(self) -> str:
        """The name of the pause in Redis."""
        return pause_subject(self.kind, self.name)


def pause_subject(kind: PauseKind, name: str) -> str:
    """The name of a pause in Redis: ``function shop/buy``."""
    return f"{kind} {name}"


def pause(partition: Partition, kind: PauseKind, name: str, *, reason: str, who: str = "") -> Command[bool]:
    """Pause something in one partition. False if it was already paused; the reason is updated.

    Args:
        who: for the audit log; ``""``: the pause is not recorded.
    """
    subject, keys = pause_subject(kind, name), (partition.keys("PAUSED"),)
    return run_script("pause", bool, keys, partition.clock.script_ms(), subject, reason, who)


def resume(partition: Partition, kind: PauseKind, name: str, *, who: str = "") -> Command[bool]:
    """Resume something in one partition, which queues its jobs again. False if it was not paused."""
    subject, keys = pause_subject(kind, name), (partition.keys("PAUSED"),)
    return run_script("resume", bool, keys, partition.clock.script_ms(), subject, who)


def read_pauses(partition: Partition) -> Command[dict[str, Pause]]:
    """All pauses of one partition by subject, oldest first."""

    def read(reply: Any) -> dict[str, Pause]:
        pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
        found = [one for subject, value in pairs if (one := _pause(subject, value)) is not None]
        return {one.subject: one for one in sorted(found, key=lambda one: one.since)}

    return command(read, "HGETALL", partition.keys("PAUSED"))


# -- in all partitions ---------------------------------------------------------


def pause_everywhere(
    partition: Partition, kind: PauseKind, name: str, *, reason: str, who: str = ""
) -> Operation[bool]:
    """Pause something in all partitions. False if each had the pause; the reason is updated.

    The audit log of the first partition records it.
    """
    new = yield [
        pause(one, kind, name, reason=reason, who="" if number else who) for number, one in enumerate(partition.all)
    ]
    return any(new)


def resume_everywhere(partition: Partition, kind: PauseKind, name: str, *, who: str = "") -> Operation[bool]:
    """Resume something in all partitions. False if no partition had the pause."""
    was_paused = yield [resume(one, kind, name, who="" if number else who) for number, one in enumerate(partition.all)]
    return any(was_paused)


def read_all_pauses(partition: Partition) -> Operation[list[Pause]]:
    """The pauses of all partitions, oldest first."""
    found: list[dict[str, Pause]] = yield [read_pauses(one) for one in partition.all]
    subjects = {subject for pauses in found for subject in pauses}
    merged = [_merged([pauses.get(subject) for pauses in found]) for subject in subjects]
    return sorted(merged, key=lambda one: (one.since, one.subject))


def _merged(found: Sequence[Pause | None]) -> Pause:
    """The pause of one subject, from what each partition has: the first time, and the last reason."""
    pauses = sorted(filter(None, found), key=lambda one: one.since)
    same = len({one.reason for one in pauses}) == 1
    return replace(pauses[0], reason=pauses[-1].reason, complete=same and len(pauses) == len(found))


def _pause(subject: bytes, value: bytes) -> Pause | None:
    """A pause; ``None`` for a field that stepflow has not written."""
    try:
        kind, _, name = subject.decode().partition(" ")
        since, _, reason = value.decode().partition(" ")
        return next((Pause(one, name, utc_time(int(since)), reason) for one in PAUSE_KINDS if one == kind), None)
    except (ValueError, OverflowError):
        return None
