"""What the code of a run, or its worker, notes in the run: tags, values, decisions at patches, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping

from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.tags import pack_subjects, tag_subject
from stepflow_engine.codec import dumps
from stepflow_engine.patches import PatchDecision
from stepflow_engine.state_machine import RunStatus

__all__ = ["forget_deaths", "note_closing", "note_patches", "note_undo", "patches_text", "set_values", "tag_run"]


def forget_deaths(partition: Partition, run_id: str) -> Command[int]:
    """Forget which workers died with this run: its code was suspended since, so it did not kill them."""
    return command(int, "HDEL", partition.run_key("RUN", run_id), "deaths")


def tag_run(partition: Partition, *, run_id: str, fence: int, tags: Mapping[str, str]) -> Command[ScriptStatus]:
    """Give a run tags, each in the place of one of the same name. DONE, NO_RUN or STALE_FENCE."""
    subjects = pack_subjects(tag_subject(name, value) for name, value in tags.items())
    return run_script("tag_run", ScriptStatus, partition.run_keys(run_id, "RUN"), run_id, fence, subjects)


def set_values(partition: Partition, *, run_id: str, fence: int, values: bytes) -> Command[ScriptStatus]:
    """Store what the code of a run has set, as JSON text, in place of earlier values. DONE, NO_RUN or STALE_FENCE."""
    return run_script("set_values", ScriptStatus, partition.run_keys(run_id, "RUN"), run_id, fence, values)


def note_undo(partition: Partition, *, run_id: str, fence: int) -> Command[ScriptStatus]:
    """Note that the code of a run has requested a step with an undo handler. DONE, NO_RUN or STALE_FENCE."""
    return run_script("note_undo", ScriptStatus, partition.run_keys(run_id, "RUN"), run_id, fence)


def note_patches(
    partition: Partition, *, run_id: str, fence: int, patches: Mapping[str, PatchDecision]
) -> Command[ScriptStatus]:
    """Store all that a run has decided at the patches of its code. DONE, NO_RUN or STALE_FENCE."""
    keyed = partition.run_keys(run_id, "RUN")
    return run_script("note_patches", ScriptStatus, keyed, run_id, fence, patches_text(patches))


def patches_text(patches: Mapping[str, PatchDecision]) -> bytes:
    """The stored form of decisions at patches; ``b""``: there are none."""
    return dumps({patch_id: decision.to_json() for patch_id, decision in patches.items()}) if patches else b""


def note_closing(partition: Partition, *, run_id: str, fence: int, status: RunStatus) -> Command[ScriptStatus]:
    """Note how the code of a run has ended, while the run waits for its children. DONE, NO_RUN or STALE_FENCE."""
    return run_script("note_closing", ScriptStatus, partition.run_keys(run_id, "RUN"), run_id, fence, status)
