"""The names of the events that stepflow sends when a run ends."""

from __future__ import annotations

from stepflow_engine.product import NAME

__all__ = ["CANCELLED", "FAILED", "UNDO_FAILED"]

FAILED = f"{NAME}/function.failed"
"""The name of the event of a failed run; its data has ``function``, ``run_id``, ``error`` and ``event``."""
CANCELLED = f"{NAME}/function.cancelled"
"""The name of the event of a cancelled run; its data has the same fields. The error says why it was cancelled."""
UNDO_FAILED = f"{NAME}/function.undo_failed"
"""The name of the event of a run of which undo handlers have failed; its data has ``function``, ``run_id``, ``status``,
``steps`` (a list with ``id`` and ``error`` of each) and ``event``."""
