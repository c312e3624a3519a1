"""Forks: new runs with memos of other runs. Each is one script: after a crash of the caller, it exists, or it does not.

The fork is in the partition of its source, so that memos are copied on the server. It passes the flow control of its
function as any new run does, apart from the idempotency key: the caller wants another run on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.function_config import DEDUPE_MS, FunctionConfig
from stepflow_broker.transitions.runs.run_notes import patches_text
from stepflow_engine.patches import PatchDecision

__all__ = ["ForkStart", "fork_run"]


@dataclass(frozen=True, slots=True)
class ForkStart:
    """A fork to create.

    Attributes:
        run_id: the id of the new run, in the partition of the source.
        source: the run whose memos it gets.
        event: the event of the new run as JSON text.
        replaces_event: whether the event differs from that of the source.
        memos: key and text of each memo, in their order; ``b""``: copied as it is; ``b',"name":value'``: copied, with
            that JSON text at its end.
        forked_at: the step before which the source was cut; ``""``: not by a step.
        forked_by: who has made the fork, and why.
        keys_of: the run whose idempotency keys it uses; ``""``: it has its own.
        takes_events: whether its waits also take events that came since the source was created.
        who: who forks, for the audit log; ``""``: it is not recorded.
        action, reason, details: what is recorded; the details as JSON text.
        dedupe: whether the caller chose the id. Then the same id returns the same run for 24 hours at least.
        patches: what it has decided at patches already, with the positions of its own memos.
        only_first: whether it is not created if the source has another fork.
        unchecked_memos: how many of the memos are not compared with the code, which may not request their steps.
    """

    run_id: str
    source: str
    event: bytes
    replaces_event: bool = False
    memos: Sequence[tuple[str, bytes]] = ()
    forked_at: str = ""
    forked_by: str = ""
    keys_of: str = ""
    takes_events: bool = False
    who: str = ""
    action: str = "fork"
    reason: str = ""
    details: bytes = b"{}"
    dedupe: bool = False
    patches: Mapping[str, PatchDecision] = field(default_factory=dict)
    only_first: bool = False
    unchecked_memos: int = 0


def fork_run(partition: Partition, config: FunctionConfig, fork: ForkStart) -> Command[ScriptStatus]:
    """Create a fork.

    DONE, ALREADY (it exists), RESOLVED (it was skipped), NO_RUN (the source has been forgotten), or FORKED (the source
    has another fork).

    Raises:
        EventError: the event has no value for a key of the flow control.
        DecryptionError: the event's data is needed, and cannot be decrypted.
    """
    memos = [part for memo in fork.memos for part in memo]
    return run_script(
        "fork_run",
        ScriptStatus,
        partition.run_keys(fork.run_id, "RUN"),
        partition.clock.script_ms(),
        fork.run_id,
        fork.source,
        config.app,
        config.id,
        config.queue,
        DEDUPE_MS if fork.dedupe else 0,
        config.retention_ms,
        fork.event if fork.replaces_event else b"",
        fork.forked_at,
        fork.forked_by,
        fork.keys_of,
        fork.who,
        fork.action,
        fork.reason,
        fork.details,
        1 if fork.takes_events else 0,
        1 if fork.only_first else 0,
        patches_text(fork.patches),
        fork.unchecked_memos,
        len(fork.memos),
        *memos,
        *config.rules(fork.event, partition.cipher, repeats=True),
    )
