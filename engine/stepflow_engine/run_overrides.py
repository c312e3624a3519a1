"""What one run has in place of the settings of its function: the options of its start."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stepflow_engine.codec import dumps, loads

__all__ = ["RunOverrides"]


@dataclass(frozen=True, slots=True)
class RunOverrides:
    """What one run has in place of the settings of its function. ``None`` or ``""``: as the function has it.

    Attributes:
        priority_ms: by how much earlier than it was created the run is queued, in milliseconds; may be negative.
        queue: the queue of its jobs.
        retention_ms: how long the ended run is kept, in milliseconds.
        start_ms: how long the run may wait before it executes for the first time, in milliseconds.
        finish_ms: how long it may take from then on, in milliseconds.
    """

    priority_ms: int | None = None
    queue: str = ""
    retention_ms: int | None = None
    start_ms: int | None = None
    finish_ms: int | None = None

    def to_json(self) -> bytes:
        """The stored form: the options that were given."""
        return dumps({name: value for name, value in asdict(self).items() if value not in (None, "")})

    @classmethod
    def from_json(cls, text: bytes) -> RunOverrides:
        """Read the stored form. Unknown options, of a newer stepflow, are ignored."""
        value = loads(text)
        return cls(
            value.get("priority_ms"),
            value.get("queue", ""),
            value.get("retention_ms"),
            value.get("start_ms"),
            value.get("finish_ms"),
        )
