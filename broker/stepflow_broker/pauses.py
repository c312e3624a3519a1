"""Pauses: functions, queues and keys of which nothing is executed until they are resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepflow_broker.call import Call, command, run_script
from stepflow_broker.keys import Keys

__all__ = ["PAUSE_KINDS", "Pause", "PauseKind", "pause", "pause_subject", "read_pauses", "resume"]

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
    """

    kind: PauseKind
    name: str
    since: int
    reason: str

    @property
    def subject(self) -> str:
        """What it is known by."""
        return pause_subject(self.kind, self.name)


def pause_subject(kind: PauseKind, name: str) -> str:
    """What a pause is known by."""
    return f"{kind} {name}"


def pause(keys: Keys, kind: PauseKind, name: str, *, reason: str, now_ms: int = 0) -> Call[bool]:
    """Pause something; false if it was paused, and has only the new reason."""
    return run_script("pause", bool, (keys("PAUSED"),), now_ms, pause_subject(kind, name), reason)


def resume(keys: Keys, kind: PauseKind, name: str, *, now_ms: int = 0) -> Call[bool]:
    """Let it go on; false if it was not paused."""
    return run_script("resume", bool, (keys("PAUSED"),), now_ms, pause_subject(kind, name))


def read_pauses(keys: Keys) -> Call[dict[str, Pause]]:
    """All that is paused, by subject."""

    def read(reply: Any) -> dict[str, Pause]:
        pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
        found = [one for subject, value in pairs if (one := _pause(subject, value)) is not None]
        return {one.subject: one for one in sorted(found, key=lambda one: one.since)}

    return command(read, "HGETALL", keys("PAUSED"))


def _pause(subject: bytes, value: bytes) -> Pause | None:
    """A pause, or ``None`` for what stepflow has not written."""
    try:
        kind, _, name = subject.decode().partition(" ")
        since, _, reason = value.decode().partition(" ")
        return next((Pause(one, name, int(since), reason) for one in PAUSE_KINDS if one == kind), None)
    except ValueError:
        return None
