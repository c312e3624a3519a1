"""Pauses: functions, queues and keys of which nothing is executed until they are resumed.

Each partition has its own record of what is paused, which its scripts ask. Who pauses something tells all of them;
when one of them does not answer, saying it again completes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation

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
    """Something that is paused.

    Attributes:
        kind, name: what: a function by ``app/id``, a queue, or a key of a concurrency, as in
            ``shop/sync:event.data.shop=17``.
        since: in milliseconds since the epoch.
        reason: why; ``""``: nobody has said.
        complete: whether all partitions agree. If not, a pause or a resume was interrupted: call it again.
    """

    kind: PauseKind
    name: str
    since: int
    reason: str
    complete: bool = True

    @property
    def subject(self) -> str:
        """What it is known by."""
        return pause_subject(self.kind, self.name)


def pause_subject(kind: PauseKind, name: str) -> str:
    """What a pause is known by."""
    return f"{kind} {name}"


def pause(partition: Partition, kind: PauseKind, name: str, *, reason: str) -> Command[bool]:
    """Pause something in one partition; false if it was paused, and has only the new reason."""
    return run_script("pause", bool, (partition.keys("PAUSED"),), partition.now_ms(), pause_subject(kind, name), reason)


def resume(partition: Partition, kind: PauseKind, name: str) -> Command[bool]:
    """Let it go on in one partition; false if it was not paused."""
    return run_script("resume", bool, (partition.keys("PAUSED"),), partition.now_ms(), pause_subject(kind, name))


def read_pauses(partition: Partition) -> Command[dict[str, Pause]]:
    """All that is paused in one partition, by subject, the oldest first."""

    def read(reply: Any) -> dict[str, Pause]:
        pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
        found = [one for subject, value in pairs if (one := _pause(subject, value)) is not None]
        return {one.subject: one for one in sorted(found, key=lambda one: one.since)}

    return command(read, "HGETALL", partition.keys("PAUSED"))


# -- in all partitions ---------------------------------------------------------


def pause_everywhere(partition: Partition, kind: PauseKind, name: str, *, reason: str) -> Operation[bool]:
    """Pause something in all partitions; false if it was paused in each, and has only the new reason."""
    new = yield [pause(one, kind, name, reason=reason) for one in partition.all]
    return any(new)


def resume_everywhere(partition: Partition, kind: PauseKind, name: str) -> Operation[bool]:
    """Let it go on in all partitions; false if it was paused in none."""
    was_paused = yield [resume(one, kind, name) for one in partition.all]
    return any(was_paused)


def read_all_pauses(partition: Partition) -> Operation[list[Pause]]:
    """All that is paused in any partition, the oldest first."""
    found: list[dict[str, Pause]] = yield [read_pauses(one) for one in partition.all]
    subjects = {subject for pauses in found for subject in pauses}
    merged = [_merged([pauses.get(subject) for pauses in found]) for subject in subjects]
    return sorted(merged, key=lambda one: (one.since, one.subject))


def _merged(told: Sequence[Pause | None]) -> Pause:
    """What the partitions say of one thing that is paused, as one: since the first time, with the last reason."""
    pauses = sorted(filter(None, told), key=lambda one: one.since)
    same = len({one.reason for one in pauses}) == 1
    return replace(pauses[0], reason=pauses[-1].reason, complete=same and len(pauses) == len(told))


def _pause(subject: bytes, value: bytes) -> Pause | None:
    """A pause, or ``None`` for what stepflow has not written."""
    try:
        kind, _, name = subject.decode().partition(" ")
        since, _, reason = value.decode().partition(" ")
        return next((Pause(one, name, int(since), reason) for one in PAUSE_KINDS if one == kind), None)
    except ValueError:
        return None
