"""How the code of a run differs from its history, as people and scripts see it."""

from __future__ import annotations

from typing import Any

from stepflow_broker.transitions.runs.run_record import RunRecord
from stepflow_engine.product import NAME

__all__ = ["accept_command", "is_set_aside", "mismatch_json", "mismatch_text"]


def mismatch_json(run: RunRecord) -> dict[str, Any] | None:
    """The fields of the JSON output; ``None``: its code does not differ, as far as is known."""
    return {**run.mismatch.to_json(), "accepted": run.has_accepted_mismatch} if run.mismatch else None


def mismatch_text(run: RunRecord) -> str:
    """The mismatch as a sentence; ``""``: there is none."""
    if run.mismatch is None:
        return ""
    return f"{run.mismatch}; it was accepted" if run.has_accepted_mismatch else str(run.mismatch)


def is_set_aside(run: RunRecord) -> bool:
    """Whether the run waits for code that fits, or for somebody who accepts the mismatch."""
    return bool(run.blocked) and run.mismatch is not None and not run.has_accepted_mismatch


def accept_command(run_id: str) -> str:
    """The command that accepts the mismatch."""
    return f"{NAME} runs accept {run_id}"
